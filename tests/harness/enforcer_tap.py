"""Stands between edge and enforcer, to break something at one exact step of a request's way."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import ClientSession, web

from bursar_common import wire

Watch = Callable[[wire.Operation, wire.Reply | None], bool]
"""Told of every operation before it is passed on (no reply yet) and again with its reply before that is passed back;
True: break now, pass nothing on."""


class EnforcerTap:
    """A relay of the batch endpoint. ``watch`` says when to break, ``breaking`` is what happens then (once)."""

    def __init__(self, enforcer_url: str, watch: Watch, breaking: Callable[[], None]) -> None:
        self._target = enforcer_url
        self._watch = watch
        self._break = breaking
        self.broken = False
        self.url = ""

    async def __aenter__(self) -> EnforcerTap:
        self._session = ClientSession()
        app = web.Application(client_max_size=wire.MAX_BATCH_BYTES)
        app.router.add_route("*", "/{tail:.*}", self._relay)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._runner.cleanup()

    def _breaks(self, operation: wire.Operation, reply: wire.Reply | None) -> bool:
        if self.broken or not self._watch(operation, reply):
            return False
        self.broken = True
        self._break()
        return True

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        batch = wire.decode_operations(body) if request.path == wire.BATCH_PATH else []
        if any(self._breaks(operation, None) for operation in batch):
            return web.Response(status=503)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() in (wire.INTERNAL_TOKEN_HEADER, "content-type")
        }
        async with self._session.request(
            request.method, self._target + request.raw_path, data=body, headers=headers
        ) as answer:
            content = await answer.read()
        if batch and answer.status == 200:
            replies = wire.decode_replies(content)
            if any(self._breaks(operation, reply) for operation, reply in zip(batch, replies, strict=True)):
                return web.Response(status=503)
        return web.Response(status=answer.status, body=content, content_type=answer.content_type)
