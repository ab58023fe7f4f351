"""OTLP over TLS: a receiver's own certificate authority, and the client's certificate, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from bursar_common.delivery import NotSent
from bursar_common.otlp import destination
from bursar_common.otlp_exporters import OtlpExporter, Source
from bursar_common.spans import SERVER, Context, Span
from tests.harness.certificates import make_certificates

BATCH = Source({"service.name": "edge"}, "bursar", "1").spans(
    [Span(Context("1" * 32, "2" * 16, True), "", "x", SERVER, 1, 2, {})]
)
REJECTED = 3


def answer(body: bytes) -> bytes:
    """What a receiver says that got the batch."""
    (got,) = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert got.name == "x"
    made = ExportTraceServiceResponse()
    made.partial_success.rejected_spans = REJECTED
    return made.SerializeToString()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder, "server", "client")
    return folder


def environ(certificates: Path, endpoint: str, *, protocol: str = "http/protobuf", **more: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificates / "ca.pem"),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(certificates / "client.key"),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(certificates / "client.crt"),
        **more,
    }


async def send(variables: dict[str, str]) -> int:
    to = destination(variables, "traces", [])
    assert to is not None
    exporter = OtlpExporter(to)
    try:
        return await asyncio.to_thread(exporter.send, BATCH)
    finally:
        exporter.close()


@pytest.fixture
async def https(certificates: Path):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")

    async def take(request: web.Request) -> web.Response:
        return web.Response(body=answer(await request.read()))

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    yield f"https://localhost:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_https_with_certificates_of_ones_own(certificates: Path, https: str) -> None:
    assert await send(environ(certificates, https)) == REJECTED
    without = environ(certificates, https)
    del without["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"]
    with pytest.raises(NotSent):
        await send(without)
    unknown = environ(certificates, https)
    del unknown["OTEL_EXPORTER_OTLP_CERTIFICATE"]
    with pytest.raises(NotSent, match="SSLError"):
        await send(unknown)


@pytest.fixture
def grpcs(certificates: Path):
    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(lambda body, _: answer(body))
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    pair = ((certificates / "server.key").read_bytes(), (certificates / "server.crt").read_bytes())
    credentials = grpc.ssl_server_credentials((pair,), (certificates / "ca.pem").read_bytes(), True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"localhost:{port}"
    server.stop(None)


@pytest.mark.parametrize("scheme", ["https://", ""])
async def test_grpc_with_certificates_of_ones_own(certificates: Path, grpcs: str, scheme: str) -> None:
    assert await send(environ(certificates, scheme + grpcs, protocol="grpc")) == REJECTED
    unknown = environ(certificates, scheme + grpcs, protocol="grpc", OTEL_EXPORTER_OTLP_TIMEOUT="2000")
    del unknown["OTEL_EXPORTER_OTLP_CERTIFICATE"]
    with pytest.raises(NotSent, match=r"gRPC (UNAVAILABLE|DEADLINE_EXCEEDED)"):
        await send(unknown)
