"""An upstream that speaks the provider's API, for trying Bursar without an account and for every test.

``POST /v1/messages`` (JSON and server-sent events), ``POST /v1/messages/count_tokens``, ``GET /v1/models``, ``HEAD /``.
Each answer follows a plan (:mod:`bursar.simulator_plan`): ``x-sim-*`` headers of the request, over the plans queued by
``POST /sim/next``, over the defaults set by ``POST /sim/defaults``. ``GET /sim/served`` and ``GET /sim/totals`` tell
what was received and what a provider would bill for it; ``POST /sim/reset`` forgets all of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from bursar import simulator_answer as answers
from bursar.simulator_plan import Plan, PlanError, plan_of, plan_of_headers
from bursar.simulator_served import DEFAULT_RECORDS, Answering, Served, ServedRequests
from bursar.simulator_stream import Dropped, drop, send_stream
from bursar_common.service import until_signalled

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Twice what a gateway lets through: a gateway that lets more through must be seen doing it."""
MAX_QUEUED_PLANS = 10_000

MODELS = {
    "claude-opus-4-8": "Claude Opus 4.8",
    "claude-opus-4-6": "Claude Opus 4.6",
    "claude-sonnet-4-6": "Claude Sonnet 4.6",
    "claude-haiku-4-5": "Claude Haiku 4.5",
}
"""What ``GET /v1/models`` lists; any model name is answered."""


class _Head(msgspec.Struct):
    """The fields of a request that an answer depends on."""

    model: str
    stream: bool = False


_decode_head = msgspec.json.Decoder(_Head).decode


class Simulator:
    """State of one simulated provider. ``instance`` makes ids of different simulators differ."""

    def __init__(self, *, instance: str = "0", records: int = DEFAULT_RECORDS) -> None:
        self.instance = instance
        self.defaults = Plan()
        self.queued: deque[Plan] = deque()
        self.served = ServedRequests(records)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/messages", self.messages)
        app.router.add_post("/v1/messages/count_tokens", self.count_tokens)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{model}", self.models)
        app.router.add_get("/", self.hello)
        app.router.add_get("/api/hello", self.hello)
        app.router.add_get("/sim/served", self.get_served)
        app.router.add_get("/sim/totals", self.get_totals)
        app.router.add_get("/sim/defaults", self.get_defaults)
        app.router.add_post("/sim/defaults", self.set_defaults)
        app.router.add_post("/sim/next", self.set_next)
        app.router.add_post("/sim/reset", self.reset)
        app.router.add_route("*", "/{tail:.*}", self.unknown)
        return app

    # -- the provider's API ------------------------------------------------------------------------------------

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        answering, record = self._begin(request, body)
        try:
            base = self.queued.popleft() if self.queued else self.defaults
            plan = plan_of_headers(request.headers.items(), base)
            head = _decode_head(body)
        except PlanError as error:
            return self._refuse(answering, f"simulator: {error}")
        except msgspec.DecodeError as error:
            return self._refuse(answering, f"{error}")
        record.model, record.stream, record.served_model = head.model, head.stream, plan.model or head.model
        counts = answers.counts_of(plan, len(body))
        try:
            if plan.head_delay_ms:
                await asyncio.sleep(plan.head_delay_ms / 1000)
            kind, _ = plan.drop_at()
            if kind == "before-head":
                raise Dropped
            if plan.status != 200:
                return self._error(answering, plan)
            record.message_id = f"msg_sim{self.instance}{record.index:012d}"
            record.status = 200
            headers = self._headers(record, plan)
            if head.stream:
                events = answers.stream_answer(plan, counts, model=head.model, message_id=record.message_id)
                return await send_stream(request, answering, plan, counts, events, headers)
            return await self._json_message(request, answering, plan, counts, headers)
        except Dropped:
            answering.close("cut")
            return await drop(request, plan)
        except (asyncio.CancelledError, ConnectionError):
            answering.close("client_gone")
            raise

    async def _json_message(
        self,
        request: web.Request,
        answering: Answering,
        plan: Plan,
        counts: answers.Counts,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        record = answering.record
        body = answers.json_answer(plan, counts, model=record.model, message_id=record.message_id)
        if plan.compress or plan.drop or plan.chunk_bytes or plan.cut_at:
            event = answers.Event(body, counts.output_tokens, final=True)
            return await send_stream(request, answering, plan, counts, [event], headers, whole=True)
        if plan.usage == "full":
            record.usage = answers.late_counts(plan, counts)
            record.iterations = answers.iterations_of(plan)
        answering.wrote(body)
        answering.close("completed")
        return web.Response(body=body, headers=headers, content_type="application/json")

    def _error(self, answering: Answering, plan: Plan) -> web.Response:
        record = answering.record
        record.status = plan.status
        body = answers.error_answer(plan, request_id=record.request_id)
        headers = {"content-type": "application/json"} | self._headers(record, plan)
        answering.wrote(body)
        answering.close("error")
        return web.Response(status=plan.status, body=body, headers=headers)

    def _refuse(self, answering: Answering, message: str, status: int = 400) -> web.Response:
        return self._error(answering, Plan(status=status, error_message=message))

    async def count_tokens(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        answering, _ = self._begin(request, body)
        try:
            plan = plan_of_headers(request.headers.items(), Plan())
            _decode_head(body)
        except (PlanError, msgspec.DecodeError) as error:
            return self._refuse(answering, f"{error}")
        if plan.status != 200:
            return self._error(answering, plan)
        tokens = (
            plan.input_tokens if plan.input_tokens is not None else answers.counts_of(Plan(), len(body)).input_tokens
        )
        return self._json(answering, {"input_tokens": tokens})

    async def models(self, request: web.Request) -> web.StreamResponse:
        answering, _ = self._begin(request, b"")
        listed = [
            {"type": "model", "id": name, "display_name": title, "created_at": "2026-01-01T00:00:00Z"}
            for name, title in MODELS.items()
        ]
        wanted = request.match_info.get("model")
        if wanted is None:
            page: dict[str, Any] = {"data": listed, "has_more": False}
            return self._json(answering, page | {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]})
        for entry in listed:
            if entry["id"] == wanted:
                return self._json(answering, entry)
        return self._refuse(answering, f"model: {wanted}", 404)

    async def hello(self, request: web.Request) -> web.StreamResponse:
        answering, _ = self._begin(request, b"")
        return self._json(answering, {"message": "hello", "simulator": True})

    async def unknown(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        answering, _ = self._begin(request, body)
        return self._refuse(answering, "Not found: the simulator does not know this path.", 404)

    def _begin(self, request: web.Request, body: bytes) -> tuple[Answering, Served]:
        index = self.served.take_index()
        record = Served(
            index=index,
            request_id=f"req_sim{self.instance}{index:012d}",
            method=request.method,
            path=request.raw_path,
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers],
            body_bytes=len(body),
            body_sha256=hashlib.sha256(body).hexdigest(),
        )
        return self.served.begin(record), record

    def _json(self, answering: Answering, value: Any) -> web.Response:
        body = msgspec.json.encode(value)
        answering.record.status = 200
        answering.wrote(body)
        answering.close("completed")
        headers = self._headers(answering.record, Plan())
        return web.Response(body=body, content_type="application/json", headers=headers)

    def _headers(self, record: Served, plan: Plan) -> dict[str, str]:
        headers = {"request-id": record.request_id, "anthropic-organization-id": "simulator"}
        if plan.headers:
            headers |= {name: str(value) for name, value in msgspec.json.decode(plan.headers).items()}
        return headers

    # -- steering and counting ---------------------------------------------------------------------------------

    async def get_served(self, request: web.Request) -> web.Response:
        """``?since=<index>`` leaves out older records, ``?path=<prefix>`` other paths."""
        since, path = int(request.query.get("since", "0")), request.query.get("path", "")
        records = [r for r in self.served.records if r.index >= since and r.path.startswith(path)]
        return _control(records)

    async def get_totals(self, _request: web.Request) -> web.Response:
        return _control(self.served.totals())

    async def get_defaults(self, _request: web.Request) -> web.Response:
        return _control(self.defaults)

    async def set_defaults(self, request: web.Request) -> web.Response:
        """The body is an object of plan fields: the defaults from now on, from scratch."""
        try:
            self.defaults = plan_of(msgspec.json.decode(await request.read(), type=dict[str, Any]))
        except (PlanError, msgspec.DecodeError) as error:
            return _control({"error": str(error)}, 400)
        return _control(self.defaults)

    async def set_next(self, request: web.Request) -> web.Response:
        """The body is a list of objects of plan fields: one for each of the next messages, over the defaults."""
        try:
            wanted = msgspec.json.decode(await request.read(), type=list[dict[str, Any]])
            plans = [plan_of(values, self.defaults) for values in wanted]
        except (PlanError, msgspec.DecodeError) as error:
            return _control({"error": str(error)}, 400)
        if len(self.queued) + len(plans) > MAX_QUEUED_PLANS:
            return _control({"error": f"At most {MAX_QUEUED_PLANS} plans can be queued."}, 400)
        self.queued.extend(plans)
        return _control({"queued": len(self.queued)})

    async def reset(self, _request: web.Request) -> web.Response:
        self.defaults = Plan()
        self.queued.clear()
        self.served.reset()
        return _control({})


def _control(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def runner(simulator: Simulator) -> web.AppRunner:
    """A runner as the simulator needs it: bodies as they come, no access log, told when its client leaves."""
    return web.AppRunner(
        simulator.application(), access_log=None, auto_decompress=False, handler_cancellation=True, shutdown_timeout=1.0
    )


async def serve(
    simulator: Simulator, *, host: str, port: int, ready: Callable[[str], None], fd: int | None = None
) -> int:
    """Serve until SIGTERM or Ctrl-C, on an address or on a listening socket that was handed over (``fd``). ``ready`` is
    told the URL once connections are accepted."""
    serving = runner(simulator)
    await serving.setup()
    try:
        if fd is not None:
            await web.SockSite(serving, socket.socket(fileno=fd), backlog=1024).start()
        else:
            await web.TCPSite(serving, host, port, backlog=1024, reuse_address=True).start()
        bound = serving.addresses[0]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{bound[1]}")
        await until_signalled()
    finally:
        await serving.cleanup()
    return 0


def new_instance() -> str:
    """A short name for a simulator whose ids should not meet another's."""
    return os.urandom(4).hex()
