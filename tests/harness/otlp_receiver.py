"""An OTLP receiver that decodes and keeps what it is sent, over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass
class GotSpan:
    """One span, with the service that sent it."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    error: bool
    state: str
    attributes: dict[str, Any] = field(default_factory=dict)


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


class OtlpReceiver:
    """``answer_status`` other than 200 refuses; ``rejects`` spans of each request are said not to be taken."""

    def __init__(self) -> None:
        self.spans: list[GotSpan] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.resources: list[dict[str, Any]] = []
        self.requests = 0
        self.answer_status = 200
        self.answer_text = ""
        self.rejects = 0
        self._grpc: Any = None

    # ---- over HTTP

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/traces", self._traces)
        app.router.add_post("/v1/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", port)
        await self._site.start()
        self.url = self._site.name

    async def stop(self) -> None:
        if self._grpc is not None:
            await asyncio.to_thread(self._grpc.stop(None).wait)
        await self._runner.cleanup()

    async def _body(self, request: web.Request) -> bytes:
        self.requests += 1
        assert request.headers["content-type"] == "application/x-protobuf"
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return await request.read()  # aiohttp's server decodes gzip

    async def _traces(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if self.answer_status != 200:
            return web.Response(status=self.answer_status, text=self.answer_text)
        self.take_traces(body)
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = self.rejects
        return web.Response(body=answer.SerializeToString(), content_type="application/x-protobuf")

    async def _metrics(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if self.answer_status != 200:
            return web.Response(status=self.answer_status, text=self.answer_text)
        self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        return web.Response(content_type="application/x-protobuf")

    # ---- over gRPC

    def start_grpc(self) -> str:
        """Serve gRPC, too; its address."""
        self._grpc = grpc.server(ThreadPoolExecutor(2))
        service = "opentelemetry.proto.collector.{}.v1.{}Service"
        for signal, name, take in (("trace", "Trace", self._grpc_traces), ("metrics", "Metrics", self._grpc_metrics)):
            handler = grpc.unary_unary_rpc_method_handler(take)
            full = service.format(signal, name)
            self._grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(full, {"Export": handler}),))
        port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        return f"http://127.0.0.1:{port}"

    def _grpc_traces(self, body: bytes, context: Any) -> bytes:
        self._grpc_headers(context)
        self.take_traces(body)
        return b""

    def _grpc_metrics(self, body: bytes, context: Any) -> bytes:
        self._grpc_headers(context)
        self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        return b""

    def _grpc_headers(self, context: Any) -> None:
        self.requests += 1
        self.headers.append(dict(context.invocation_metadata()))
        if self.answer_status != 200:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, self.answer_text)

    # ---- what came

    def take_traces(self, body: bytes) -> None:
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = values(resource_spans.resource.attributes)
            self.resources.append(resource)
            for scope_spans in resource_spans.scope_spans:
                self.spans += [
                    GotSpan(
                        service=str(resource["bursar.service"]),
                        name=each.name,
                        kind=each.kind,
                        trace_id=each.trace_id.hex(),
                        span_id=each.span_id.hex(),
                        parent_id=each.parent_span_id.hex(),
                        start_ns=each.start_time_unix_nano,
                        end_ns=each.end_time_unix_nano,
                        error=each.status.code == 2,
                        state=each.trace_state,
                        attributes=values(each.attributes),
                    )
                    for each in scope_spans.spans
                ]

    async def until(self, enough: Callable[[], bool], within_s: float = 60.0) -> None:
        async with asyncio.timeout(within_s):
            while not enough():
                await asyncio.sleep(0.02)

    async def wait_spans(self, count: int, within_s: float = 60.0) -> list[GotSpan]:
        await self.until(lambda: len(self.spans) >= count, within_s)
        return self.spans
