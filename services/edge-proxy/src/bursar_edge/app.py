"""The edge's process: routes, limits, start, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

import structlog
from aiohttp import web

from bursar_common.clock import Clock, SystemClock
from bursar_common.eventlog import LOG_FILE, open_log
from bursar_common.eventlog.port import EventLog, LogUnavailable
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.ids import IdMinter, uuid7
from bursar_common.otlp_metrics import open_telemetry
from bursar_common.service import listen, run, until_signalled
from bursar_common.settings import Settings, SettingsError, load_settings
from bursar_common.telemetry import configure_logging
from bursar_common.tracing import open_tracing
from bursar_common.wire import Authorize, Refused
from bursar_edge import health
from bursar_edge.admission import LEDGER_TRIES_S, Enforcer
from bursar_edge.bodies import BodyMemory, BodyProblem, Limits, leave_unread, read_body
from bursar_edge.books import FETCH_S, PriceBooks
from bursar_edge.connection import ClientServer
from bursar_edge.content import content_settings
from bursar_edge.credentials import CredentialStore
from bursar_edge.exchange import Exchange, Parts, send
from bursar_edge.free_calls import count_tokens, list_models, one_model, who_asks
from bursar_edge.head_facts import HeadFacts, facts_of
from bursar_edge.health import Neighbour
from bursar_edge.incoming import ClientGone, Incoming, answer_headers
from bursar_edge.management_relay import relay_to_admin
from bursar_edge.meter import Meter, tag_labels
from bursar_edge.metrics_endpoint import MetricsEndpoint
from bursar_edge.outbox import COMMIT_PACE_S, OUTBOX_FILE, Outbox
from bursar_edge.refusals import say
from bursar_edge.relay import Times
from bursar_edge.request_head import BadHead, read_head
from bursar_edge.routes import route
from bursar_edge.single_spans import traced
from bursar_edge.upstream import Upstreams

log = structlog.get_logger()

SERVICE = "edge-proxy"
"""As log lines and telemetry name it."""
MAX_HEADER_BYTES = 16 * 1024
"""One line of a request's head: the longest real ones are tokens and beta lists of a few kB."""
MAX_HEADERS = 128
"""Headers of one request."""
IDLE_CONNECTION_S = 120.0
"""A kept-alive connection without a request."""
LINGER_S = 2.0
"""How long an unwanted body is read after its refusal, so that the client sees the answer and not a reset."""
CLEANUP_S = 2.0
"""For handlers to end after their connection was closed at stop."""
ASKED_FIRST_BYTES = 1 << 20
"""Bytes of a body from which on it is asked whose it is before memory is set aside for it: declaring a length costs
nothing, and few requests are longer, so that the round trip is not felt."""
GC_ALLOCATIONS = 10_000
"""Container objects between two looks of the cycle collector: some tens of requests. Requests leave hardly any cycles,
and the interpreter's own 700 would mean a look with every request or two."""
NOT_SHIPPED = 3
"""Exit code when the outbox could not be shipped at stop."""


class Waits(NamedTuple):
    """Waits, in seconds; the defaults are what runs, tests set smaller ones."""

    ping_s: float = 15.0
    silence_s: float = 600.0
    """An upstream silent for longer is dead: providers ping their streams, and answers without one take minutes."""
    answer_s: float = 600.0
    """From sending a request to its answer's head; the client's own limit."""
    ledger_s: float = LEDGER_TRIES_S
    book_s: float = FETCH_S
    drain_s: float = 300.0
    """Running streams at stop."""
    ship_s: float = 30.0
    """The outbox at stop."""


class Edge:
    """The service, between ``start`` and ``stop``."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        limits: Limits | None = None,
        waits: Waits | None = None,
        clock: Clock | None = None,
        new_id: IdMinter = uuid7,
        remote: EventLog | None = None,
    ) -> None:
        self.settings = settings
        self._limits = limits or Limits()
        self._waits = waits or Waits()
        self._clock = clock or SystemClock()
        self._new_id = new_id
        token = settings.internal_token.get_secret_value()
        self._token = token
        self.memory = BodyMemory(self._limits.all_bodies_bytes, self._limits.memory_wait_s)
        self.upstreams = Upstreams(
            anthropic_base_url=settings.anthropic_base_url,
            simulator_url=settings.simulator_url,
            allow=settings.upstream_allow_hosts(),
            ca_file=settings.ca_file,
            loop_secret=token,
        )
        self.enforcer = Enforcer(
            settings.enforcer_url,
            token,
            admission_wait_s=settings.admission_wait_s,
            tries_s=self._waits.ledger_s,
            ca_file=settings.ca_file,
        )
        self.outbox = make_outbox(settings, remote)
        self.parts = Parts(
            enforcer=self.enforcer,
            outbox=self.outbox,
            upstreams=self.upstreams,
            credentials=CredentialStore(environ, settings.credential_names(), settings.secrets_dir),
            books=PriceBooks(self.enforcer, fetch_s=self._waits.book_s),
            clock=self._clock,
            new_id=new_id,
            times=Times(self._waits.ping_s, self._waits.silence_s, self._clock.now_ms),
            answer_s=self._waits.answer_s,
            renew_s=settings.hold_ttl_s / 6,
            content=content_settings(settings),
            meter=_meter(settings),
            tracing=open_tracing(environ, SERVICE),
        )
        self.enforcer.on_settled = self.parts.meter.settle_lag.observe
        self._neighbours: dict[str, Neighbour] = {}
        self._simulator: dict[str, Neighbour] = {}
        self._active = 0
        self._idle = asyncio.Event()
        self._stopping = False
        self._runner: web.ServerRunner | None = None
        self._server: ClientServer | None = None
        self._metrics = MetricsEndpoint(self)
        self._telemetry = open_telemetry(environ, self._metrics.metrics, self.parts.tracing)

    async def start(self) -> None:
        """Open the outbox, connect, listen. Raises LogUnavailable, OSError."""
        await self.outbox.start()
        await self.upstreams.start()
        await self.enforcer.start()
        self._telemetry.start()
        settings = self.settings
        if settings.single_machine:
            for name, url in (
                ("budget-enforcer", settings.enforcer_url),
                ("admin-api", settings.admin_url),
                ("usage-aggregator", settings.aggregator_url),
            ):
                if url:
                    self._neighbours[name] = Neighbour(url, self._token)
            if settings.simulator_url:  # a part of the machine's health, and nobody whom the internal token is sent to
                self._simulator["simulator"] = health.SimulatorPart(settings.simulator_url)
        self._server = ClientServer(
            self._handle,
            head_s=self._limits.head_s,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=IDLE_CONNECTION_S,
            lingering_time=LINGER_S,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=CLEANUP_S)
        await self._runner.setup()
        await listen(self._runner, settings.edge_listen)

    async def stop(self) -> int:
        """Unready; finish streams, settle, ship the outbox; how many events could not be shipped."""
        runner, self._runner = self._runner, None
        assert runner is not None
        assert self._server is not None
        self._stopping = True
        for site in list(runner.sites):
            await site.stop()
        self._server.close_idle()
        if self._active:
            self._idle.clear()
            try:
                async with asyncio.timeout(self._waits.drain_s):
                    await self._idle.wait()
            except TimeoutError:
                log.warning("streams_cut_at_stop", count=self._active)
        self._server.close_all()
        await runner.cleanup()
        try:
            async with asyncio.timeout(self._waits.ship_s):
                await self.parts.finished()
                await self.enforcer.drained()
        except TimeoutError:
            log.warning("settlements_left_to_the_log")
        left = await self.outbox.ship_all(self._waits.ship_s)
        await self.parts.books.close()
        await self.enforcer.close()
        await self.upstreams.close()
        for neighbour in (*self._neighbours.values(), *self._simulator.values()):
            await neighbour.close()
        await self._telemetry.stop()
        await self.outbox.close()
        return left

    # ---- requests

    async def _handle(self, incoming: Incoming) -> Incoming:
        self._active += 1
        try:
            if self.parts.tracing is None:
                await self._route(incoming)
            else:
                await traced(self.parts.tracing, incoming, self._route)
        except ClientGone:
            incoming.keep_alive = False
        except Exception:
            incoming.request_id = incoming.request_id or self._new_id()
            log.exception("request_failed", request_id=incoming.request_id)
            self._fail(incoming)
        finally:
            self._left()
            if self._stopping:
                incoming.keep_alive = False
        return incoming

    def _left(self) -> None:
        self._active -= 1
        if self._stopping and not self._active:
            self._idle.set()

    def _fail(self, incoming: Incoming) -> None:
        incoming.keep_alive = False
        try:
            if incoming.started:
                incoming.abort()
            else:
                self._refuse(incoming, Refused("internal"), incoming.request_id)
        except ClientGone:
            pass

    async def _route(self, incoming: Incoming) -> None:
        known = incoming.known
        if known is not None and known.facts is not None and not self._stopping:
            incoming.request_id = self._new_id()
            await self._inference(incoming, incoming.request_id, known.facts)
            return
        kind, target, path = route(incoming.method, incoming.target)
        if self._stopping:
            incoming.keep_alive = False
        if kind == "hello":
            incoming.answer(200, answer_headers(self._new_id()), b"{}")
            return
        if kind == "metrics":
            await self._metrics.answer(incoming, self._neighbours)
            return
        if kind in ("live", "ready", "health"):
            await self._health(incoming, kind)
            return
        request_id = incoming.request_id = self._new_id()
        via = incoming.headers.get("via")
        if via is not None and self.upstreams.via in via:
            incoming.keep_alive = False
            self._refuse(incoming, Refused("loop"), request_id)
            return
        try:
            if kind == "messages" or kind == "count_tokens":
                facts = facts_of(incoming, target, paid=kind == "messages")
                await self._inference(incoming, request_id, facts)
            elif kind == "models":
                await list_models(self.parts, incoming, request_id)
            elif kind == "model":
                await one_model(self.parts, incoming, request_id, target)
            elif kind == "admin" and (admin := self._neighbours.get("admin-api")) is not None:
                self._left()  # a page's open event stream or socket does not hold up a stop
                try:
                    await relay_to_admin(incoming, admin, self._limits, self.memory, request_id)
                finally:
                    self._active += 1
            else:
                if not incoming.payload.is_eof():
                    incoming.keep_alive = False
                detail = f"{incoming.method} {path[:100]}"
                detail = detail if detail.isprintable() else incoming.method
                self._refuse(incoming, Refused("not_supported"), request_id, detail)
        except BodyProblem as problem:
            self._refuse(incoming, Refused(problem.reason), request_id, problem.detail)

    async def _inference(self, incoming: Incoming, request_id: str, told: HeadFacts) -> None:
        if not told.key_hashes or self._is_large(incoming):
            # Asked before its body may take memory: nobody's request does not. Without a key only a default key lets it
            # in. What a known owner is refused for is decided, and recorded, at its admission.
            named = bool(told.key_hashes)
            who = await who_asks(self.parts, Authorize(told.key_hashes), request_id, decided_later=named)
            if isinstance(who, Refused) and (not named or who.owners is None):
                if not incoming.payload.is_eof():
                    incoming.keep_alive = False
                send(incoming, say(who, request_id), request_id)
                return
        try:
            if not told.is_json:
                leave_unread(incoming)
                raise BodyProblem("wrong_content_type")
            body, lease = await read_body(incoming, self._limits, self.memory)
        except BodyProblem as problem:
            self._refuse(incoming, Refused(problem.reason), request_id, problem.detail)
            return
        try:
            try:
                head = read_head(body, betas=told.betas, needs_max_tokens=told.paid)
            except BadHead as problem:
                self._refuse(incoming, Refused("bad_request"), request_id, problem.problem)
                return
            del body
            if told.paid:
                await Exchange(self.parts, incoming, request_id, told, head, lease).run()
            else:
                await count_tokens(self.parts, incoming, request_id, told, head)
        finally:
            lease.release()

    def _is_large(self, incoming: Incoming) -> bool:
        length = incoming.length
        if length is None:
            return not incoming.payload.is_eof()
        return ASKED_FIRST_BYTES < length <= self._limits.body_bytes

    @property
    def active(self) -> int:
        """Requests being answered."""
        return self._active

    @property
    def problem(self) -> str:
        """Why it is not ready, empty if it is."""
        if self._stopping:
            return "stopping"
        return "" if self.outbox.writable else "the outbox takes no more events"

    def _refuse(self, incoming: Incoming, refused: Refused, request_id: str, detail: str = "") -> None:
        """Answer with a refusal that nobody asked the enforcer about."""
        self.parts.meter.refused(refused.reason)
        send(incoming, say(refused, request_id, detail=detail), request_id)

    async def _health(self, incoming: Incoming, kind: str) -> None:
        problem = self.problem
        if kind == "live":
            status, body = 200, b'{"status":"ok"}'
        elif kind == "health" and self.settings.single_machine:
            upstream = "simulator" if self.settings.simulator_url else "anthropic"
            status, body = await health.sum_of(self._neighbours | self._simulator, problem, upstream)
        else:
            status, body = health.own(problem)
        incoming.answer(status, [(b"content-type", b"application/json")], body)


def _meter(settings: Settings) -> Meter:
    """Raises SettingsError."""
    try:
        return Meter(tags=tag_labels(settings.metrics_tags), most=settings.metrics_label_sets)
    except ValueError as problem:
        raise SettingsError(f"BURSAR_METRICS_TAGS: {problem}.") from None


def make_outbox(settings: Settings, remote: EventLog | None = None) -> Outbox:
    """The outbox these settings name. Raises SettingsError."""
    if settings.kafka_bootstrap or remote is not None:
        folder = settings.outbox_dir or settings.home
        if folder is None:
            raise SettingsError(
                "BURSAR_OUTBOX_DIR is not set: the edge needs a folder that outlives the process for events that are"
                " not in Kafka yet."
            )
        local = SqliteEventLog(folder / OUTBOX_FILE, pace_s=COMMIT_PACE_S)
        return Outbox(local, remote or open_log(settings), max_bytes=settings.outbox_max_bytes)
    if settings.home is None:
        raise SettingsError("Neither BURSAR_KAFKA_BOOTSTRAP nor BURSAR_HOME is set, so there is no event log to use.")
    local = SqliteEventLog(settings.home / LOG_FILE, pace_s=COMMIT_PACE_S)
    return Outbox(local, None, max_bytes=settings.outbox_max_bytes)


async def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. The exit code."""
    try:
        edge = Edge(settings, os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    try:
        await edge.start()
    except (LogUnavailable, OSError) as error:
        print(f"edge-proxy cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    log.info("edge_started", listen=settings.edge_listen)
    gc.collect()
    gc.freeze()  # what start-up made lives for ever: not to be looked at again and again
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)
    await until_signalled()
    left = await edge.stop()
    if left:
        print(  # noqa: T201
            f"{left} events are still in the outbox {edge.outbox.path}; keep it, the next start ships them.",
            file=sys.stderr,
        )
        return NOT_SHIPPED
    return 0


def main() -> int:
    """Entry of ``python -m bursar_edge``."""
    try:
        settings = load_settings(os.environ, required=("enforcer_url", "internal_token"))
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    configure_logging(SERVICE, settings.log_level)
    return run(lambda: serve(settings))
