"""Traces of the edge at a real OTLP receiver: who is whose child, what they say, and that requests never feel it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import msgspec
import pytest

from bursar_common import delivery, wire
from bursar_common.spans import CLIENT, SERVER
from tests.harness.edge_stand_ins import (
    KEY,
    MODEL,
    OWNERS,
    SMALL,
    START,
    TOKEN,
    WAIT_S,
    StandInEnforcer,
    Upstream,
    delta,
    finish,
    json_answer,
    message,
    post,
)
from tests.harness.edge_stand_ins import patient_world as world
from tests.harness.otlp_receiver import OtlpReceiver, values
from tests.harness.processes import free_port

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
SECRET = "s3cr3t-of-the-receiver"


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """What waits at the end of an edge is sent, however long the machine pauses."""
    monkeypatch.setattr(delivery, "STOP_S", WAIT_S)


@pytest.fixture
async def receiver():
    made = OtlpReceiver()
    await made.start()
    yield made
    await made.stop()


@contextlib.asynccontextmanager
async def traced(home, receiver, endpoint=None, **environ):
    """An edge that exports, quickly."""
    own = {
        "ANTHROPIC_API_KEY": "sk-ant-provider",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint or receiver.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-api-token={SECRET}",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        **environ,
    }
    async with world(home, environ=own) as around:
        yield around


def named(spans, name):
    (found,) = [each for each in spans if each.name == name]
    return found


async def test_one_request_is_one_trace(tmp_path, receiver):
    async with traced(tmp_path, receiver) as around:
        around.upstream.streams(START, delta("hello"), finish(42))
        body = SMALL[:-1] + b',"stream":true}'
        answer = await around.raw(
            post(
                body,
                f"traceparent: {TRACEPARENT}",
                "tracestate: vendor=1",
                "x-claude-code-session-id: session-1",
                "x-bursar-project: ledger",
                "x-bursar-tag-ticket: ABC-1",
            )
        )
        assert b"200 OK" in answer
        event = await around.event()
        spans = await receiver.wait_spans(3)
        (admit,) = around.enforcer.of(wire.Admit)
        upstream_url = around.upstream.url
    assert len(spans) == 3
    request, admission, call = named(spans, "POST /v1/messages"), named(spans, "admit"), named(spans, f"chat {MODEL}")
    assert {each.trace_id for each in spans} == {TRACE}
    assert {each.state for each in spans} == {"vendor=1"}
    assert [each.kind for each in (request, admission, call)] == [SERVER, CLIENT, CLIENT]
    assert request.parent_id == CALLER
    assert admission.parent_id == call.parent_id == request.span_id
    assert len({each.span_id for each in spans}) == 3
    assert admit.trace == f"00-{TRACE}-{admission.span_id}-01"
    assert request.start_ns <= admission.start_ns <= admission.end_ns <= call.start_ns <= call.end_ns <= request.end_ns
    assert not any(each.error for each in spans)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/messages",
        "url.path": "/v1/messages",
        "http.response.status_code": 200,
        "gen_ai.request.model": MODEL,
        "gen_ai.conversation.id": "session-1",
        "bursar.request_id": event.request_id,
        "bursar.outcome": "completed",
        "bursar.key": "alice",
        "bursar.key_id": "key-1",
        "bursar.team": "platform",
        "bursar.team_id": "team-1",
        "bursar.project": "ledger",
        "bursar.tag.ticket": "ABC-1",
        "bursar.billing": "metered",
        "bursar.provider": "anthropic",
        "bursar.estimated": False,
        "bursar.cost_nusd": event.cost_nusd,
        "bursar.list_cost_nusd": event.list_cost_nusd,
    }
    assert event.cost_nusd > 0
    assert call.attributes.pop("gen_ai.response.time_to_first_chunk") >= 0
    port = call.attributes.pop("server.port")
    assert upstream_url.endswith(f":{port}")
    assert call.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.stream": True,
        "gen_ai.response.model": MODEL,
        "gen_ai.response.id": "msg_1",
        "gen_ai.conversation.id": "session-1",
        "gen_ai.usage.input_tokens": 12 + 15000 + 5000,  # the conventions count cached tokens in
        "gen_ai.usage.cache_read.input_tokens": 15000,
        "gen_ai.usage.cache_creation.input_tokens": 5000,
        "gen_ai.usage.output_tokens": 42,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "bursar.request_id": event.request_id,
        "bursar.upstream_request_id": "req_upstream",
        "bursar.key": "alice",
        "bursar.key_id": "key-1",
        "bursar.team": "platform",
        "bursar.team_id": "team-1",
        "bursar.estimated": False,
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
    }
    assert {each["x-api-token"] for each in receiver.headers} == {SECRET}
    assert receiver.resources[0]["service.name"] == "bursar-edge-proxy"


async def test_the_callers_trace_headers_go_up_as_they_came_and_none_is_added(tmp_path, receiver):
    async with traced(tmp_path, receiver) as around:
        await around.raw(post(SMALL, f"TraceParent: {TRACEPARENT}", "tracestate:  a=1, b=2"))
        await around.raw(post(SMALL))
        first, second = around.upstream.got
        spans = await receiver.wait_spans(6)
    assert f"TraceParent: {TRACEPARENT}" in first.header_lines
    assert [line for line in first.header_lines if line.startswith("tracestate:")] != []
    assert not second.header("traceparent")
    other = {each.trace_id for each in spans} - {TRACE}
    assert len(other) == 1
    assert [each.parent_id for each in spans if each.trace_id in other and each.kind == SERVER] == [""]


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        (["tracestate: a=1, b@c=2"], "a=1, b@c=2"),
        (["tracestate: a=1", "TraceState: b=2"], "a=1,b=2"),
        (["tracestate: a=1", "tracestate: A=2"], ""),
        (["tracestate: a=1,a=2"], ""),
        (["tracestate: nonsense"], ""),
        (["tracestate: \xff\xfe=1"], ""),
    ],
)
@pytest.mark.parametrize("flags", ["00", "01"])
async def test_a_tracestate_is_passed_on_whole_or_not_at_all(tmp_path, receiver, flags, lines, state):
    async with traced(tmp_path, receiver) as around:
        await around.raw(post(SMALL, f"traceparent: 00-{TRACE}-{CALLER}-{flags}", *lines))
        (got,) = around.upstream.got
        (admit,) = around.enforcer.of(wire.Admit)
        await around.event()
        spans = await receiver.wait_spans(3) if flags == "01" else []
    assert got.header("traceparent") == [f"00-{TRACE}-{CALLER}-{flags}"]
    assert [line for line in got.header_lines if line.lower().startswith("tracestate")] == (lines if state else [])
    if flags == "01":
        assert (admit.trace_state or "") == state
        assert {each.state for each in spans} == {state}
    else:
        assert (admit.trace, admit.trace_state, receiver.spans) == (msgspec.UNSET, msgspec.UNSET, [])


@pytest.mark.parametrize(
    ("flags", "environ", "recorded"),
    [
        ("00", {}, False),
        ("01", {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, True),
        ("01", {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, False),
        ("00", {"OTEL_TRACES_SAMPLER": "always_on"}, True),
    ],
)
async def test_who_decides_what_is_recorded(tmp_path, receiver, flags, environ, recorded):
    async with traced(tmp_path, receiver, **environ) as around:
        await around.raw(post(SMALL, f"traceparent: 00-{TRACE}-{CALLER}-{flags}"))
        await around.event()
        (admit,) = around.enforcer.of(wire.Admit)
        await around.enforcer.wait_for(wire.Settle)
        if recorded:
            await receiver.wait_spans(3)
    assert len(receiver.spans) == (3 if recorded else 0)
    assert isinstance(admit.trace, str) is recorded


async def test_refused_requests_are_traces_too(tmp_path, receiver):
    async with traced(tmp_path, receiver) as around:
        around.enforcer.decide = lambda ask: wire.Refused("budget_spent", owner_kind="team", owner="platform",
                                                          owners=OWNERS)  # fmt: skip
        assert b"402" in await around.raw(post(SMALL))
        spans = list(await receiver.wait_spans(2))
        receiver.spans.clear()
        around.enforcer.decide = lambda ask: wire.Refused("unknown_key")
        assert b"401" in await around.raw(post(SMALL))
        strangers = await receiver.wait_spans(2)
    request, admission = named(spans, "POST /v1/messages"), named(spans, "admit")
    assert request.attributes["bursar.outcome"] == "refused"
    assert request.attributes["bursar.refused_by"] == "budget_spent"
    assert request.attributes["bursar.team"] == "platform"
    assert request.attributes["http.response.status_code"] == 402
    assert request.attributes["bursar.cost_nusd"] == 0
    assert not request.error  # the caller's doing, not the server's
    assert admission.attributes["bursar.admission"] == "budget_spent"
    assert named(strangers, "POST /v1/messages").attributes["bursar.refused_by"] == "unknown_key"


@pytest.mark.parametrize(
    ("request_bytes", "name", "told"),
    [
        (
            post(SMALL, path="/anthropic/v1/messages/count_tokens?beta=true"),
            "POST /v1/messages/count_tokens",
            {"bursar.outcome": "completed", "http.response.status_code": 200, "gen_ai.request.model": MODEL,
             "bursar.key": "alice", "bursar.team": "platform", "url.path": "/v1/messages/count_tokens"},
        ),
        (
            b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: %b\r\nconnection: close\r\n\r\n" % KEY.encode(),
            "GET /v1/models",
            {"bursar.outcome": "completed", "http.response.status_code": 200, "bursar.key": "alice"},
        ),
        (
            b"GET /v1/models/%b HTTP/1.1\r\nhost: x\r\nx-api-key: %b\r\nconnection: close\r\n\r\n"
            % (SECRET.encode(), KEY.encode()),
            "GET /v1/models/{model_id}",
            {"bursar.outcome": "refused", "bursar.refused_by": "model_not_found", "http.response.status_code": 404},
        ),
        (
            post(b"{no json"),
            "POST /v1/messages",
            {"bursar.outcome": "refused", "bursar.refused_by": "bad_request", "http.response.status_code": 400},
        ),
        (
            post(SMALL, key=""),
            "POST /v1/messages",
            {"bursar.outcome": "refused", "bursar.refused_by": "no_key", "http.response.status_code": 401},
        ),
        (
            post(SMALL, path=f"/v1/{SECRET}"),
            "POST",
            {"bursar.outcome": "refused", "bursar.refused_by": "not_supported", "http.response.status_code": 404},
        ),
    ],
)  # fmt: skip
async def test_what_is_never_admitted_is_one_span(tmp_path, receiver, request_bytes, name, told):
    head, _, rest = request_bytes.partition(b"\r\n")
    async with traced(tmp_path, receiver) as around:
        around.upstream.answers(json_answer(b'{"input_tokens":3}'))
        answer = await around.raw(head + b"\r\ntraceparent: " + TRACEPARENT.encode() + b"\r\n" + rest)
        await around.raw(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await receiver.wait_spans(1)
    (span,) = receiver.spans
    assert (span.name, span.kind, span.trace_id, span.parent_id) == (name, SERVER, TRACE, CALLER)
    assert {key: span.attributes.get(key) for key in told} == told
    assert f"x-bursar-request-id: {span.attributes['bursar.request_id']}".encode() in answer
    assert span.start_ns < span.end_ns
    assert not span.error
    assert SECRET not in repr(span)


async def test_what_is_never_admitted_follows_the_callers_sampling_too(tmp_path, receiver):
    async with traced(tmp_path, receiver) as around:
        await around.raw(post(b"{no json", f"traceparent: 00-{TRACE}-{CALLER}-00"))
    assert receiver.spans == []


async def test_a_client_that_leaves_before_its_body_is_there(tmp_path, receiver):
    async with traced(tmp_path, receiver) as around:
        _, writer = await asyncio.open_connection("127.0.0.1", around.port)
        writer.write(post(SMALL)[:-10])
        async with asyncio.timeout(WAIT_S):
            while not around.edge.active:
                await asyncio.sleep(0.01)
        writer.close()
        (span,) = await receiver.wait_spans(1)
    assert (span.name, span.attributes["bursar.outcome"]) == ("POST /v1/messages", "gone")
    assert "http.response.status_code" not in span.attributes


async def test_failures_of_the_provider_are_errors(tmp_path, receiver):
    async with traced(tmp_path, receiver) as around:
        error = b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'
        around.upstream.answers(json_answer(error, status="529 Overloaded"))
        assert b"529" in await around.raw(post(SMALL))
        spans = list(await receiver.wait_spans(3))
        receiver.spans.clear()

        async def silent(got, writer):
            writer.close()

        around.upstream.respond = silent
        assert b"502" in await around.raw(post(SMALL))
        unanswered = await receiver.wait_spans(3)
    call = named(spans, f"chat {MODEL}")
    assert call.error
    assert call.attributes["error.type"] == "overloaded_error"
    assert call.attributes["http.response.status_code"] == 529
    assert named(spans, "POST /v1/messages").attributes["bursar.outcome"] == "upstream_error"
    assert named(unanswered, f"chat {MODEL}").error
    assert named(unanswered, "POST /v1/messages").error
    assert named(unanswered, "POST /v1/messages").attributes["bursar.estimated"] is True


async def test_over_grpc_and_compressed(tmp_path, receiver):
    address = receiver.start_grpc()
    more = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
    async with traced(tmp_path, receiver, address, **more) as around:
        await around.raw(post(SMALL))
        assert len(await receiver.wait_spans(3)) == 3
    assert receiver.headers[0]["x-api-token"] == SECRET


async def test_compressed_over_http(tmp_path, receiver):
    async with traced(tmp_path, receiver, OTEL_EXPORTER_OTLP_COMPRESSION="gzip") as around:
        await around.raw(post(SMALL))
        assert len(await receiver.wait_spans(3)) == 3
    assert receiver.headers[0]["content-encoding"] == "gzip"


async def test_a_receiver_that_is_down_is_not_felt(tmp_path, receiver, capsys):
    gone = f"http://user:{SECRET}@127.0.0.1:{free_port()}"
    async with traced(tmp_path, receiver, gone, OTEL_BSP_MAX_QUEUE_SIZE="7", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="3") as (
        around
    ):
        for _ in range(12):
            assert b"200 OK" in await around.raw(post(SMALL))
        assert len(await around.events(12)) == 12
        export = around.edge.parts.tracing.export
        async with asyncio.timeout(WAIT_S):
            while not export.dropped:
                await asyncio.sleep(0.01)
        assert export.waiting <= 7
    assert export.sent == 0
    assert export.dropped == 36
    words = "".join(capsys.readouterr())
    assert "telemetry_not_delivered" in words
    assert SECRET not in words


async def test_what_a_receiver_refuses_is_counted_and_its_words_are_not_repeated(tmp_path, receiver, capsys):
    receiver.answer_status, receiver.answer_text = 401, f"wrong token {SECRET}"
    async with traced(tmp_path, receiver) as around:
        await around.raw(post(SMALL))
        export = around.edge.parts.tracing.export
        async with asyncio.timeout(WAIT_S):
            while not export.dropped:
                await asyncio.sleep(0.01)
        receiver.answer_status, receiver.rejects = 200, 2
        await around.raw(post(SMALL))
        async with asyncio.timeout(WAIT_S):
            while export.sent + export.dropped < 6:
                await asyncio.sleep(0.01)
    assert (export.sent, export.dropped) == (1, 5)
    words = "".join(capsys.readouterr())
    assert "status 401" in words
    assert "telemetry_delivered_again" in words
    assert SECRET not in words


async def test_a_busy_receiver_is_tried_again(tmp_path, receiver):
    receiver.answer_status = 503
    async with traced(tmp_path, receiver) as around:
        await around.raw(post(SMALL))
        await receiver.until(lambda: receiver.requests >= 1)
        assert receiver.spans == []
        receiver.answer_status = 200
        assert len(await receiver.wait_spans(3)) == 3
        assert around.edge.parts.tracing.export.dropped == 0


OFF = """
import asyncio, sys
from bursar_common import delivery
from bursar_edge import app
delivery.STOP_S = 60.0
seen = []
until = app.until_signalled
async def signalled():
    await until()
    print(sorted(name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "grpc", "google", "requests")))
app.until_signalled = signalled
sys.exit(app.main())
"""


@pytest.mark.parametrize("on", [False, True])
async def test_off_nothing_of_it_is_loaded_and_what_waits_is_sent_at_the_end(tmp_path, receiver, on):
    enforcer, upstream = StandInEnforcer(), Upstream()
    await enforcer.start()
    await upstream.start()
    port = free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "BURSAR_HOME": str(tmp_path),
        "BURSAR_ENFORCER_URL": enforcer.url,
        "BURSAR_INTERNAL_TOKEN": TOKEN,
        "BURSAR_ANTHROPIC_BASE_URL": upstream.url,
        "BURSAR_EDGE_LISTEN": f"127.0.0.1:{port}",
        "ANTHROPIC_API_KEY": "sk-ant-provider",
        **({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"} if on else {}),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OFF, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(2 * WAIT_S):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except OSError:
                    assert process.returncode is None, await process.communicate()
                    await asyncio.sleep(0.05)
            writer.write(post(SMALL))
            assert b"200 OK" in await reader.read()
            writer.close()
            await enforcer.wait_for(wire.Settle)
            process.send_signal(signal.SIGTERM)
            out, words = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
        await enforcer.stop()
        await upstream.stop()
    assert process.returncode == 0, words
    (admit,) = enforcer.of(wire.Admit)
    (got,) = upstream.got
    assert not got.header("traceparent")
    assert KEY not in words.decode()
    if on:
        assert len(receiver.spans) == 3
    else:
        assert out.decode().strip() == "[]"
        assert receiver.requests == 0
        assert not isinstance(admit.trace, str)


async def test_a_gone_client_leaves_its_trace(tmp_path, receiver):
    async with traced(tmp_path, receiver) as around:
        asked = asyncio.Event()

        def reserve(ask):
            asked.set()
            return wire.Reserved("n:budget-1:1700000000:1800000000", 50, wire.Refused("budget_reserved"))

        around.enforcer.decide = reserve
        _, writer = await asyncio.open_connection("127.0.0.1", around.port)
        writer.write(post(SMALL))
        async with asyncio.timeout(WAIT_S):
            await asked.wait()
        writer.close()
        spans = await receiver.wait_spans(2)
    assert named(spans, "POST /v1/messages").attributes["bursar.outcome"] == "gone"
    assert "http.response.status_code" not in named(spans, "POST /v1/messages").attributes


def test_a_certificate_that_is_not_there_refuses_to_start(tmp_path):
    from bursar_common.settings import SettingsError
    from bursar_common.tracing import open_tracing

    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "missing.pem"),
        "OTEL_EXPORTER_OTLP_HEADERS": f"a={SECRET}",
    }
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_CERTIFICATE") as raised:
        open_tracing(environ, "edge-proxy")
    assert SECRET not in str(raised.value)


async def test_an_answer_is_the_same_with_and_without(tmp_path, receiver):
    (tmp_path / "on").mkdir()
    (tmp_path / "off").mkdir()
    heads = []
    async with traced(tmp_path / "on", receiver) as around, world(tmp_path / "off") as plain:
        for each in (around, plain):
            each.upstream.answers(json_answer(message()))
            answer = await each.raw(post(SMALL))
            (got,) = each.upstream.got
            head = got.head.decode("latin-1").split("\r\n")
            heads.append(([line.split(":")[0] for line in head], got.body, answer.partition(b"\r\n\r\n")[2]))
    assert heads[0] == heads[1]


async def test_metrics_are_pushed_as_they_stand_on_the_page(tmp_path, receiver):
    async with traced(tmp_path, receiver, OTEL_METRIC_EXPORT_INTERVAL="50", OTEL_TRACES_EXPORTER="none") as around:
        await around.raw(post(SMALL))
        await around.event()
        await around.enforcer.wait_for(wire.Settle)
        seen = len(receiver.metrics)
        await receiver.until(lambda: len(receiver.metrics) > seen + 1)
        assert around.edge.parts.tracing is None
    assert receiver.spans == []
    (resource_metrics,) = receiver.metrics[-1].resource_metrics
    assert values(resource_metrics.resource.attributes)["bursar.service"] == "edge-proxy"
    found = {each.name: each for each in resource_metrics.scope_metrics[0].metrics}
    (requests,) = found["bursar_edge_requests_total"].sum.data_points
    labels = values(requests.attributes)
    assert (labels["model"], labels["team"], labels["key"]) == (MODEL, "platform", "alice")
    assert requests.as_int == 1
    (sent,) = found["bursar_otlp_failures_total"].sum.data_points
    assert (values(sent.attributes), sent.as_int) == ({"signal": "metrics"}, 0)
    assert found["process_cpu_seconds_total"].sum.data_points[0].as_double > 0
    assert any(each.WhichOneof("data") == "histogram" for each in found.values())


async def test_deltas_say_each_request_once(tmp_path, receiver):
    delta = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta", "OTEL_METRIC_EXPORT_INTERVAL": "30"}
    async with traced(tmp_path, receiver, **delta) as around:
        for number in range(6):
            receiver.answer_status = 503 if number == 3 else 200  # what is lost then is said later
            await around.raw(post(SMALL))
            await asyncio.sleep(0.05)
        receiver.answer_status = 200
        await around.events(6)
        await receiver.until(lambda: len(receiver.metrics) > 2)
        await around.enforcer.wait_for(wire.Settle, 6)
    total = sum(
        point.as_int
        for each in receiver.metrics
        for metric in each.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "bursar_edge_requests_total"
        for point in metric.sum.data_points
    )
    assert total == 6
    assert len(receiver.metrics) > 2


async def test_a_trace_that_cannot_be_written_is_nobodys_trouble(tmp_path, receiver, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("odd")

    monkeypatch.setattr("bursar_edge.tracing.RequestTrace._spans", fail)
    async with traced(tmp_path, receiver) as around:
        assert b"200 OK" in await around.raw(post(SMALL))
        around.enforcer.decide = lambda ask: wire.Refused("unknown_key")
        assert b"401" in await around.raw(post(SMALL))
        await around.event()
        await around.enforcer.wait_for(wire.Settle)
    assert receiver.spans == []
    assert "trace_not_written" in "".join(capsys.readouterr())


async def test_what_a_provider_says_is_cut(tmp_path, receiver):
    async with traced(tmp_path, receiver) as around:
        error = b'{"type":"error","error":{"type":"%b","message":"busy"}}' % (b"x" * 5000)
        around.upstream.answers(json_answer(error, status="500 Oops"))
        await around.raw(post(SMALL))
        spans = await receiver.wait_spans(3)
    said = [each.attributes["error.type"] for each in spans if "error.type" in each.attributes]
    assert said
    assert all(set(each) == {"x"} and len(each) <= 256 for each in said)
