"""OpenTelemetry's exporters as they are set up here: what of the environment they must not read again, what they must
not say, and receivers that misbehave."""

from __future__ import annotations

import asyncio
import io
import logging

import pytest
from aiohttp import web

from bursar_common import delivery as delivery_module
from bursar_common.delivery import Delivery, NotSent
from bursar_common.otlp import destination
from bursar_common.otlp_exporters import OtlpExporter, Source
from bursar_common.spans import SERVER, Context, Span
from bursar_common.tracing import SpanExport, open_tracing
from tests.harness.otlp_receiver import OtlpReceiver

SECRET = "s3cr3t-of-the-receiver"
SOURCE = Source({"service.name": "edge", "bursar.service": "edge"}, "bursar", "1")
SPAN = Span(Context("1" * 32, "2" * 16, True), "", "x", SERVER, 1, 2, {})


@pytest.fixture
async def receiver():
    made = OtlpReceiver()
    await made.start()
    yield made
    await made.stop()


async def send(environ):
    to = destination(environ, "traces", [])
    exporter = OtlpExporter(to)
    try:
        return await asyncio.to_thread(exporter.send, SOURCE.spans([SPAN]))
    finally:
        exporter.close()


@pytest.fixture
def said():
    """What a service would write to its log."""
    written = io.StringIO()
    handler, level = logging.StreamHandler(written), logging.root.level
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.DEBUG)
    yield written.getvalue
    logging.root.removeHandler(handler)
    logging.root.setLevel(level)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_what_we_did_not_understand_the_exporter_does_not_read(monkeypatch, receiver, said, capfd, protocol):
    """It reads the process' environment itself, otherwise than we do."""
    endpoint = receiver.start_grpc() if protocol == "grpc" else receiver.url
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_HEADERS": f'x-good=1,x bad="{SECRET}",x-split=a%0d%0ax: {SECRET}',
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "soon",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "60000",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "",
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": "",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    await send(environ)
    (got,) = receiver.headers
    assert got["x-good"] == "1"
    assert not {"x bad", "x-split", "content-encoding"} & set(got)
    (span,) = receiver.spans
    assert span.name == "x"
    assert SECRET not in said() + "".join(capfd.readouterr())


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_neither_secrets_nor_a_receivers_words_are_logged(receiver, said, capfd, protocol):
    endpoint = receiver.start_grpc() if protocol == "grpc" else receiver.url
    receiver.answer_status, receiver.answer_text = 401, f"wrong token {SECRET}"
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={SECRET}",
    }
    with pytest.raises(NotSent, match=r"status 401|gRPC UNAUTHENTICATED") as failed:
        await send(environ)
    assert not failed.value.retryable
    assert receiver.headers[0]["api-key"] == SECRET
    assert SECRET not in said() + "".join(capfd.readouterr()) + str(failed.value)


async def test_credentials_in_the_address_and_none_of_the_machines_own(monkeypatch, tmp_path, receiver):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login stranger password of-another\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with_user = receiver.url.replace("http://", "http://user:p%40ss@")
    await send({"OTEL_EXPORTER_OTLP_ENDPOINT": with_user})
    await send({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20x"})
    await send({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    assert [each.get("authorization") for each in receiver.headers] == ["Basic dXNlcjpwQHNz", "Bearer x", None]


async def answering(answer):
    app = web.Application()
    app.router.add_post("/v1/traces", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, site.name


@pytest.mark.parametrize(
    ("status", "headers", "retryable", "after_s"),
    [
        (302, {"location": "/elsewhere"}, False, 0.0),
        (400, {}, False, 0.0),
        (429, {"retry-after": "7"}, True, 7.0),
        (503, {"retry-after": "tomorrow"}, True, 0.0),
    ],
)
async def test_what_may_be_tried_again(status, headers, retryable, after_s):
    asked = 0

    async def answer(_):
        nonlocal asked
        asked += 1
        return web.Response(status=status, headers=headers)

    runner, url = await answering(answer)
    try:
        with pytest.raises(NotSent, match=f"status {status}") as failed:
            await send({"OTEL_EXPORTER_OTLP_ENDPOINT": url})
    finally:
        await runner.cleanup()
    assert (failed.value.retryable, failed.value.after_s) == (retryable, after_s)
    assert asked == 1  # one call is one attempt


async def test_a_receiver_that_says_nothing_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(delivery_module, "STOP_S", 0.2)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer(_):
        asked.set()
        await go_on.wait()
        return web.Response()

    runner, url = await answering(answer)
    to = destination({"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_TIMEOUT": "100000"}, "traces", [])
    export = SpanExport(Delivery(OtlpExporter(to), to), SOURCE.spans, delay_s=0.01, batch_spans=1)
    export.start()
    export.add(SPAN, SPAN, SPAN)
    async with asyncio.timeout(20):
        await asked.wait()
        await export.stop()
    assert (export.sent, export.waiting) == (0, 2)
    go_on.set()
    await runner.cleanup()


async def test_a_span_that_cannot_be_converted_costs_its_batch_only(receiver):
    to = destination({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}, "traces", [])
    export = SpanExport(Delivery(OtlpExporter(to), to), SOURCE.spans, delay_s=0.01, batch_spans=2)
    export.start()
    export.add(SPAN._replace(parent_id="no hex"), SPAN)
    export.add(SPAN, SPAN)
    await receiver.until(lambda: export.sent == 2)
    await export.stop()
    assert (export.sent, export.dropped) == (2, 2)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_address_that_is_none_is_no_trouble_at_start(protocol):
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    tracing = open_tracing(environ, "edge-proxy")
    assert tracing is not None
