"""One paid request's way: admit, forward, relay, record, settle.

What a crash or a cancellation between two steps does: before the request is sent, the hold is released (a crash leaves
it to expire). Once it is sent, recording and settling (``recorder``) happen whatever becomes of the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import structlog

from bursar_common.clock import Clock, rfc3339
from bursar_common.events import USAGE_DENIED, Billing, Outcome, encode_event
from bursar_common.ids import IdMinter
from bursar_common.tracing import Tracing
from bursar_common.wire import Admit, Admitted, Ok, Refused, Release, Renew, encode
from bursar_edge.admission import Enforcer, LedgerUnreachable
from bursar_edge.attribution import with_user_id
from bursar_edge.bodies import Lease
from bursar_edge.books import PriceBooks
from bursar_edge.content import ContentSettings, ContentStore, Kept
from bursar_edge.credentials import CredentialStore, own_login
from bursar_edge.equal_waits import EqualWaits
from bursar_edge.head_facts import HeadFacts
from bursar_edge.incoming import REASONS, ClientGone, Incoming, answer_headers
from bursar_edge.link import AnswerLate, Header, NoAnswer, NotConnected, Origin, Reply, answer_is_late, exchange
from bursar_edge.meter import Meter
from bursar_edge.outbox import Outbox
from bursar_edge.recorder import Ended, Recorder
from bursar_edge.refusals import Said, say
from bursar_edge.relay import Times, UpstreamCut, reader_for, relay
from bursar_edge.request_head import RequestHead
from bursar_edge.samples import DeniedSample
from bursar_edge.upstream import AddressRefused, Upstreams, down_headers, listed_in_connection, up_head
from bursar_edge.usage_event import Facts, denied, so_far

log = structlog.get_logger()


class Parts:
    """What every exchange uses."""

    def __init__(
        self,
        *,
        enforcer: Enforcer,
        outbox: Outbox,
        upstreams: Upstreams,
        credentials: CredentialStore,
        books: PriceBooks,
        clock: Clock,
        new_id: IdMinter,
        times: Times,
        answer_s: float,
        renew_s: float,
        meter: Meter,
        content: ContentSettings,
        tracing: Tracing | None = None,
    ) -> None:
        self.tracing = tracing
        self.enforcer = enforcer
        self.outbox = outbox
        self.upstreams = upstreams
        self.credentials = credentials
        self.books = books
        self.clock = clock
        self.new_id = new_id
        self.times = times
        self.answer_s: EqualWaits[Any] = EqualWaits(answer_s, answer_is_late)
        self.renewals: EqualWaits[Exchange] = EqualWaits(renew_s, Exchange.renew)
        self.meter = meter
        self.samples = DeniedSample()
        self._finishing: set[asyncio.Task[None]] = set()
        self.content = ContentStore(content, outbox, clock.now_ms, self.spawn)
        self.recorder = Recorder(
            outbox=outbox, enforcer=enforcer, books=books, meter=meter, clock=clock, spawn=self.spawn
        )

    def spawn(self, work: Coroutine[Any, Any, None], request_id: str = "") -> None:
        """Run to its end whatever happens to the handler; drained at stop."""
        task = asyncio.get_running_loop().create_task(work, name=request_id)
        self._finishing.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._finishing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("record_failed", request_id=task.get_name(), exc_info=error)

    async def finished(self) -> None:
        """Return when everything spawned is done, and everything recorded."""
        await self.recorder.finished()
        while self._finishing:
            await asyncio.wait(set(self._finishing))


class Exchange:
    """One ``POST /v1/messages``."""

    def __init__(
        self,
        parts: Parts,
        incoming: Incoming,
        request_id: str,
        told: HeadFacts,
        head: RequestHead,
        lease: Lease,
    ) -> None:
        self._parts = parts
        self._incoming = incoming
        self._lease = lease
        self._told = told
        started_at_ms = parts.clock.now_ms()
        attribution = with_user_id(told.attribution, head.user_id)
        if attribution.dropped_tags:
            parts.samples.counts["tags_dropped"] += attribution.dropped_tags
        self._facts = Facts(request_id, started_at_ms, head, attribution)
        self._began_s = parts.clock.monotonic_s()
        self._sent_s = 0.0
        self._closed = False
        self._trace = None if incoming.trace is None else incoming.trace.taken_over()

    async def run(self) -> None:
        """Answer the request. Raises ClientGone and CancelledError when the client left."""
        parts, facts = self._parts, self._facts
        if not parts.outbox.reserve():
            self._refuse(Refused("outbox_full"))
            return
        try:
            admitted = await self._admit()
        except BaseException as error:
            parts.outbox.free()
            if isinstance(error, LedgerUnreachable):
                log.warning("ledger_unreachable", why=str(error), request_id=facts.request_id)
                self._refuse(Refused("ledger_unreachable"))
                return
            if self._trace is not None:
                self._trace.gone(facts)
            raise
        if self._trace is not None:
            self._trace.decided()
        if isinstance(admitted, Refused):
            parts.outbox.free()
            self._refuse(admitted)
            return
        facts.admitted, facts.hold, facts.provider = admitted, admitted.hold, admitted.route.provider
        parts.books.prefetch(admitted.price_book_id)
        if parts.upstreams.simulator_url and facts.provider == "anthropic":
            facts.provider = "simulator"
        outcome: Outcome = "not_sent"
        try:
            ready = self._ready(admitted)
            if ready is not None:
                origin, credential = ready
                outcome = await self._forward(origin, credential)
        except (ClientGone, asyncio.CancelledError):
            outcome = self._left
            raise
        finally:
            self._finish(outcome)

    _left: Outcome = "not_sent"
    """What the request ends as if the client leaves now."""
    _kept: Kept | None = None
    """What of its content is to be stored."""

    # ---- admit

    async def _admit(self) -> Admitted | Refused:
        facts, attribution = self._facts, self._facts.attribution
        head = facts.head
        ask = Admit(
            request_id=facts.request_id,
            key_hashes=self._told.key_hashes,
            model=head.model,
            max_tokens=head.max_tokens,
            features=head.features,
            started_at_ms=facts.started_at_ms,
            provider=head.provider,
            stream=head.stream,
            session=attribution.session,
            agent=attribution.agent,
            tags=attribution.tags,
            trace=msgspec.UNSET if self._trace is None else self._trace.asking(),
            trace_state=msgspec.UNSET if self._trace is None else self._trace.context.state or msgspec.UNSET,
        )
        try:
            return await self._parts.enforcer.admit(ask)
        except BaseException:
            # Nobody knows whether it was admitted: take it back. A late admission of this id is then refused.
            self._parts.enforcer.tell(Release(facts.request_id))
            raise

    def _refuse(self, refused: Refused, detail: str = "") -> None:
        facts, parts = self._facts, self._parts
        said = say(refused, facts.request_id, detail=detail)
        facts.status, facts.error_type = said.status, said.type
        usage = None
        if facts.admitted is None and refused.owners is not None:
            usage = denied(facts, refused, said.status, said.type, parts.clock.now_ms())
            value = encode_event(
                id=f"denied:{facts.request_id}",
                source="bursar/edge",
                type=USAGE_DENIED,
                time=rfc3339(facts.started_at_ms),
                subject=usage.virtual_key_id,
                data=usage,
            )
            parts.spawn(parts.outbox.append(usage.virtual_key_id, value), facts.request_id)
        elif facts.admitted is None:
            parts.samples.refused(said.reason, self._told.key_hashes, facts.request_id)
        admitted = facts.admitted
        parts.meter.refused(
            said.reason,
            refused.owners if admitted is None else admitted.owners,
            provider=facts.provider or facts.head.provider,
            model=facts.head.model,
            tags=facts.attribution.tags,
            decided=admitted is None,
        )
        if self._trace is not None and facts.admitted is None:
            self._trace.refused(facts, said.reason, usage)
        send(self._incoming, said, facts.request_id)

    # ---- forward and relay

    def _ready(self, admitted: Admitted) -> tuple[Origin, list[Header]] | None:
        """Address and credential; None after answering that there are none."""
        parts, facts, route = self._parts, self._facts, admitted.route
        credential: list[Header] = []
        if route.credential == "client":
            facts.credential = "client"
            credential, billing = own_login(self._incoming.headers, admitted.header)
            if not credential:
                self._refuse(Refused("no_client_credential"))
                return None
            facts.billing = _billing(billing)
        elif facts.provider != "simulator":
            resolved = parts.credentials.resolve(route.credential)
            if resolved is not None:
                facts.credential = resolved.reference
                credential = [(b"x-api-key", resolved.value.encode())]
            elif not parts.upstreams.overridden(route):
                self._refuse(Refused("no_credential", subject=route.provider))
                return None
        try:
            return parts.upstreams.origin(route), credential
        except AddressRefused as problem:
            self._refuse(Refused("upstream_refused", subject=route.provider), str(problem))
            return None

    async def _forward(self, origin: Origin, credential: list[Header]) -> Outcome:
        parts, facts = self._parts, self._facts
        head = up_head(
            "POST",
            origin.base_path + self._told.target,
            origin,
            self._told.passing,
            credential,
            parts.upstreams.via,
            len(facts.head.body),
            readable=True,
        )
        parts.renewals.begin(self)
        if self._trace is not None:
            self._trace.to = origin
        try:
            reply = await exchange(
                parts.upstreams.connector,
                origin,
                head,
                facts.head.body,
                answer_s=parts.answer_s,
                sending=self._sending,
            )
        except NotConnected as problem:
            log.warning("upstream_unreachable", provider=facts.provider, why=str(problem), request_id=facts.request_id)
            self._refuse(Refused("upstream_unreachable", subject=facts.provider))
            return self._left
        except NoAnswer as problem:
            reason = "upstream_silent" if isinstance(problem, AnswerLate) else "upstream_died"
            log.warning(reason, provider=facts.provider, why=str(problem), request_id=facts.request_id)
            self._refuse(Refused(reason, subject=facts.provider))
            return self._left
        if facts.admitted is not None and facts.admitted.content:
            self._kept = parts.content.keep(facts, self._incoming.headers, credential)
        facts.head.body = b""
        self._lease.release()
        return await self._relay(reply)

    def _sending(self) -> None:
        self._sent_s = self._parts.clock.monotonic_s()
        self._left = "unknown"
        if self._trace is not None:
            self._trace.sending()

    async def _relay(self, reply: Reply) -> Outcome:
        facts, incoming = self._facts, self._incoming
        facts.status = reply.status
        facts.upstream_request_id = reply.headers.get("request-id", "")[:128]
        good = 200 <= reply.status < 300
        self._left = "interrupted" if good else "upstream_error"
        headers = down_headers(reply.raw_headers, listed_in_connection(reply.headers))
        headers.append((b"x-bursar-request-id", facts.request_id.encode()))
        reader, feeds = reader_for(reply)
        facts.reader = reader
        if self._kept is not None:
            feeds = self._kept.over(feeds, reply)
        try:
            await relay(incoming, reply, headers, facts, feeds, self._parts.times)
        except UpstreamCut as problem:
            log.warning("upstream_cut", provider=facts.provider, why=str(problem), request_id=facts.request_id)
            return self._left
        if not good:
            return "upstream_error"
        return "interrupted" if reader.error_type and not reader.finished else "completed"

    # ---- renew

    def renew(self) -> None:
        """Tell the enforcer that the request still runs, and what it has used; and once more after the same time."""
        self._parts.renewals.begin(self)
        self._parts.spawn(self._renew(), self._facts.request_id)

    async def _renew(self) -> None:
        facts, parts = self._facts, self._parts
        if self._closed:
            return
        event = msgspec.Raw(encode(so_far(facts, parts.clock.now_ms())))
        known = facts.reader is not None and facts.reader.started
        give_up_s = parts.clock.monotonic_s() + parts.renewals.wait_s
        try:
            reply = await parts.enforcer.ask(encode(Renew(facts.request_id, facts.hold, event, known)), give_up_s)
        except LedgerUnreachable:
            return  # the next renewal carries the whole hold, too
        if isinstance(reply, Ok) and reply.hold and not self._closed:
            facts.hold = reply.hold

    # ---- end

    def _finish(self, outcome: Outcome) -> None:
        parts = self._parts
        ended_s = parts.clock.monotonic_s()
        self._closed = True
        parts.renewals.end(self)
        if self._trace is not None:
            self._trace.ended()
        if self._kept is not None:
            parts.content.finish(self._kept)
        parts.recorder.ended(Ended(self._facts, outcome, self._began_s, self._sent_s, ended_s, self._trace))


def _billing(kind: str) -> Billing:
    return "subscription" if kind == "subscription" else "customer"


def send(incoming: Incoming, said: Said, request_id: str) -> None:
    """Answer with a refusal."""
    if incoming.trace is not None:
        incoming.trace.reason = said.reason
    incoming.answer(said.status, [*answer_headers(request_id), *said.headers], said.body, REASONS.get(said.status, ""))
