"""From what happened to a request, the usage event that says so, and what it charges. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from bursar_common.charging import amounts_of, largest_held
from bursar_common.events import Billing, Outcome, Usage, region_of
from bursar_common.pricing import PriceBook, cost
from bursar_common.wire import Admitted, Amounts, HoldEntry, Refused, UsageCounts
from bursar_edge.attribution import Attribution
from bursar_edge.request_head import RequestHead
from bursar_edge.usage_reader import UsageReader


class Facts(msgspec.Struct):
    """What is known of one request as it goes. Times are Unix milliseconds."""

    request_id: str
    started_at_ms: int
    head: RequestHead
    attribution: Attribution
    admitted: Admitted | None = None
    hold: tuple[HoldEntry, ...] = ()
    """As of the last renewal."""
    provider: str = ""
    credential: str = ""
    billing: Billing = "metered"
    upstream_request_id: str = ""
    status: int | None = None
    """What the client was given."""
    error_type: str = ""
    first_byte_ms: int | None = None
    reader: UsageReader | None = None


class Closing(NamedTuple):
    """A finished request: its event, what it charges, and the provider's own counts if they are not estimates."""

    usage: Usage
    amounts: Amounts
    counted: UsageCounts | None
    unpriced: bool
    """The model that served has no price: to be alarmed."""


def close(facts: Facts, outcome: Outcome, book: PriceBook | None, ended_at_ms: int) -> Closing:
    """What the request ends as. ``completed`` means that the answer came to its end: without readable usage it becomes
    ``unreadable`` here. ``book`` None: prices cannot be had, so the cost is what was held."""
    admitted = facts.admitted
    assert admitted is not None
    reader = facts.reader
    if outcome in ("not_sent", "upstream_error"):
        amounts = Amounts(r=1 if outcome == "upstream_error" else 0)
        usage = _event(facts, outcome, ended_at_ms, UsageCounts(), amounts, 0, estimated=False)
        return Closing(usage, amounts, None, False)
    counts: UsageCounts | None = None
    exact = False
    if outcome == "completed":
        exact = reader is not None and reader.finished
        outcome = "completed" if exact else "unreadable"
    if reader is not None and (exact or (outcome == "interrupted" and reader.started)):
        counts = reader.counts()
        if not exact:
            counts = msgspec.structs.replace(
                counts, output_tokens=reader.estimated_output_tokens(facts.head.max_tokens)
            )
    if counts is None or reader is None or book is None:
        return _held(facts, outcome if book is not None or not exact else "unreadable", ended_at_ms, counts)
    price = cost(
        book,
        reader.model or facts.head.model,
        counts,
        started_at_ms=facts.started_at_ms,
        speed=reader.speed,
        inference_geo=reader.inference_geo,
        iterations=reader.iterations() if exact else (),
    )
    if price is None:
        largest = max((entry.bound for entry in facts.hold if entry.counter[0] == "n"), default=admitted.bound_nusd)
        list_nusd = billed_nusd = largest
    else:
        list_nusd, billed_nusd = price
    if facts.billing != "metered":
        billed_nusd = 0
    amounts = amounts_of(counts, billed_nusd, True)
    estimated = not exact or price is None
    usage = _event(facts, outcome, ended_at_ms, counts, amounts, list_nusd, estimated=estimated)
    return Closing(usage, amounts, counts if exact else None, price is None)


def _held(facts: Facts, outcome: Outcome, ended_at_ms: int, counts: UsageCounts | None) -> Closing:
    """Nobody knows what it cost: what was held is charged, as an estimate."""
    assert facts.admitted is not None
    amounts = largest_held(facts.hold, unheld_nusd=facts.admitted.expected_nusd)
    list_nusd = amounts.n
    if facts.billing != "metered":
        amounts = msgspec.structs.replace(amounts, n=0)
    usage = _event(facts, outcome, ended_at_ms, counts, amounts, list_nusd, estimated=True)
    return Closing(usage, amounts, None, False)


def _cut(counts: UsageCounts, facts: Facts, reader: UsageReader) -> UsageCounts:
    """The counts of a stream that is not at its end: how much it has produced is an estimate."""
    return msgspec.structs.replace(counts, output_tokens=reader.estimated_output_tokens(facts.head.max_tokens))


def so_far(facts: Facts, now_ms: int) -> Usage:
    """The event of a request still running, for its renewal: what is charged if this process dies."""
    reader = facts.reader
    counts: UsageCounts | None = None
    if reader is not None and reader.started:
        counts = msgspec.structs.replace(
            reader.counts(), output_tokens=reader.estimated_output_tokens(facts.head.max_tokens)
        )
    return _event(facts, "expired", now_ms, counts, Amounts(), 0, estimated=True)


def denied(facts: Facts, refused: Refused, status: int, error_type: str, now_ms: int) -> Usage:
    """The event of a refused request of a known owner."""
    owners = refused.owners
    assert owners is not None
    head, attribution = facts.head, facts.attribution
    return Usage(
        request_id=facts.request_id,
        started_at_ms=facts.started_at_ms,
        ended_at_ms=now_ms,
        virtual_key_id=owners.virtual_key_id,
        virtual_key=owners.virtual_key,
        team_id=owners.team_id,
        team=owners.team,
        customer_id=owners.customer_id,
        customer=owners.customer,
        user_id=owners.user_id,
        outcome="refused",
        refused_by=refused.reason,
        status=status,
        error_type=error_type,
        attempts=0,
        provider=head.provider,
        model=head.model,
        requested_model=head.model,
        stream=head.stream,
        max_tokens=head.max_tokens,
        tools_offered=head.tools_offered,
        effort=head.effort,
        speed=head.features.speed,
        inference_geo=head.features.geo,
        text_bytes=head.features.text_bytes,
        latency_ms=now_ms - facts.started_at_ms,
        **attribution.fields,
    )


def _event(
    facts: Facts,
    outcome: Outcome,
    ended_at_ms: int,
    counts: UsageCounts | None,
    amounts: Amounts,
    list_nusd: int,
    *,
    estimated: bool,
) -> Usage:
    admitted, head, reader = facts.admitted, facts.head, facts.reader
    assert admitted is not None
    owners = admitted.owners
    first_ms = facts.first_byte_ms
    return Usage(
        request_id=facts.request_id,
        started_at_ms=facts.started_at_ms,
        ended_at_ms=ended_at_ms,
        virtual_key_id=owners.virtual_key_id,
        virtual_key=owners.virtual_key,
        team_id=owners.team_id,
        team=owners.team,
        customer_id=owners.customer_id,
        customer=owners.customer,
        user_id=owners.user_id,
        outcome=outcome,
        upstream_request_id=facts.upstream_request_id,
        message_id=reader.message_id if reader is not None else "",
        provider=facts.provider,
        provider_credential=facts.credential,
        model=(reader.model if reader is not None else "") or head.model,
        requested_model=head.model,
        stream=head.stream,
        max_tokens=head.max_tokens,
        tools_offered=head.tools_offered,
        effort=head.effort,
        speed=(reader.speed if reader is not None else "") or head.features.speed,
        service_tier=reader.service_tier if reader is not None else "",
        inference_geo=region_of((reader.inference_geo if reader is not None else "") or head.features.geo),
        status=facts.status,
        error_type=facts.error_type or (reader.error_type if reader is not None else ""),
        would_refuse=admitted.would_refuse,
        estimated=estimated,
        attempts=0 if outcome == "not_sent" else 1,
        billing=facts.billing,
        input_tokens=counts.input_tokens if counts is not None else None,
        cache_read_tokens=counts.cache_read_tokens if counts is not None else None,
        cache_write_5m_tokens=counts.cache_write_5m_tokens if counts is not None else None,
        cache_write_1h_tokens=counts.cache_write_1h_tokens if counts is not None else None,
        output_tokens=counts.output_tokens if counts is not None else None,
        thinking_tokens=counts.thinking_tokens if counts is not None else None,
        web_searches=counts.web_searches if counts is not None else None,
        tool_uses=reader.tool_uses if reader is not None and reader.started else None,
        cost_nusd=amounts.n,
        list_cost_nusd=list_nusd,
        held_nusd=admitted.expected_nusd,
        bound_nusd=admitted.bound_nusd,
        amounts=amounts,
        charged_to=tuple([entry.counter for entry in facts.hold]),
        price_book_id=admitted.price_book_id,
        text_bytes=head.features.text_bytes,
        latency_ms=ended_at_ms - facts.started_at_ms,
        time_to_first_token_ms=None if first_ms is None else first_ms - facts.started_at_ms,
        **facts.attribution.fields,
    )
