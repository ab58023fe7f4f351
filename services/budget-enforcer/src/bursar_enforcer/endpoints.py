"""HTTP: six paths, without a router: most of a small batch's time would go into finding its way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from bursar_common.metrics_endpoint import METRICS_PATH, Metrics, MetricsAccess
from bursar_common.metrics_endpoint import answer as metrics_answer
from bursar_common.service import internal_token_ok
from bursar_common.tracing import Tracing
from bursar_common.wire import (
    BATCH_PATH,
    MAX_BATCH_BYTES,
    MAX_BATCH_OPERATIONS,
    PRICE_BOOK_PATH,
    STATE_PATH,
    encode,
)
from bursar_enforcer.admission import Admission
from bursar_enforcer.batch_server import BatchServer
from bursar_enforcer.books import Books
from bursar_enforcer.operations import decode_operations
from bursar_enforcer.redis_checks import UnsafeRedis
from bursar_enforcer.redis_connection import RedisUnavailable
from bursar_enforcer.tracing import now_ns, trace_batch

_BOOKS = PRICE_BOOK_PATH.partition("{")[0]
_JSON = {"Content-Type": "application/json"}


class Endpoints:
    def __init__(
        self,
        admission: Admission,
        books: Books,
        health: Callable[[], Awaitable[dict[str, str]]],
        state: Callable[[], Awaitable[dict[str, Any]]],
        token: str,
        metrics: Metrics,
        access: MetricsAccess,
        tracing: Tracing | None = None,
    ) -> None:
        self._metrics = metrics
        self._access = access
        self._admission = admission
        self._books = books
        self._health = health
        self._state = state
        self._token = token
        self._tracing = tracing

    def server(self) -> web.Server:
        """To be called, and served, on the running event loop."""
        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BATCH_BYTES)

        return BatchServer(self.answer, self.batch, self._token, request_factory=request, access_log=None)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == "/livez":
            return web.json_response({"status": "ok"})
        if path == "/readyz":
            health = await self._health()
            return web.json_response(health, status=200 if health["status"] == "ok" else 503)
        if path == BATCH_PATH and request.method == "POST":
            return await self._batch(request)
        if path.startswith(_BOOKS) and request.method == "GET":
            return await self._price_book(request, path[len(_BOOKS) :])
        if path == METRICS_PATH and request.method == "GET":
            return await metrics_answer(self._metrics, self._access, request)
        if path == STATE_PATH and request.method == "GET":
            return await self._whole_state(request)
        return web.Response(status=404, text="there is nothing here")

    async def _batch(self, request: web.BaseRequest) -> web.Response:
        if not internal_token_ok(request, self._token):
            return _no_token()
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return web.Response(status=413, text=f"at most {MAX_BATCH_BYTES} bytes a batch")
        status, content = await self.batch(body)
        return web.Response(status=status, body=content, headers=_JSON)

    async def batch(self, body: bytes) -> tuple[int, bytes]:
        """Answer one batch: status and body."""
        try:
            operations = decode_operations(body)
        except msgspec.MsgspecError as error:
            return 400, encode({"error": str(error)[:300]})
        if len(operations) > MAX_BATCH_OPERATIONS:
            return 413, encode({"error": f"at most {MAX_BATCH_OPERATIONS} operations a batch"})
        if self._tracing is None:
            return 200, encode(await self._admission.decide(operations))
        started_ns = now_ns()
        replies = await self._admission.decide(operations)
        trace_batch(self._tracing, operations, replies, started_ns)
        return 200, encode(replies)

    async def _price_book(self, request: web.BaseRequest, book_id: str) -> web.Response:
        if not internal_token_ok(request, self._token):
            return _no_token()
        try:
            encoded = await self._books.encoded(book_id)
        except (RedisUnavailable, UnsafeRedis) as error:
            return web.Response(status=503, text=str(error))
        if encoded is None:
            return web.Response(status=404, text="no such price book")
        return web.Response(body=encoded, headers=_JSON)

    async def _whole_state(self, request: web.BaseRequest) -> web.Response:
        if not internal_token_ok(request, self._token):
            return _no_token()
        try:
            return web.json_response({**await self._health(), **await self._state()})
        except (RedisUnavailable, UnsafeRedis) as error:
            return web.Response(status=503, text=str(error))


def _no_token() -> web.Response:
    return web.Response(status=401, text="the internal token is missing or wrong")
