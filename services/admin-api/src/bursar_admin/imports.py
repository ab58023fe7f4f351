"""Local logs of Claude Code to usage events. Pure.

An imported request costs nobody anything here: ``billing: imported``, billed cost 0, no counter charged; its list cost
is computed. Its id is made of the message's and the request's ids and of its time, so importing twice writes the same
events, which every reader counts once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import Field

from bursar_admin.schemas import Body
from bursar_common.clock import rfc3339
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import USAGE_RECORDED, USAGE_TOPIC, Usage, encode_event, region_of
from bursar_common.governance import Customer, Team, VirtualKey
from bursar_common.ids import uuid7_from
from bursar_common.pricing import PriceBook, cost
from bursar_common.wire import Amounts, UsageCounts

MAX_ENTRIES: Final = 1_000
"""Requests of one import call: some 400 kB."""
EARLIEST_MS: Final = 1_672_531_200_000
"""2023-01-01: before there was a Claude Code."""
AHEAD_MS: Final = 3_600_000
"""How far a laptop's clock may be ahead."""

Text = Annotated[str, Field(max_length=200, pattern=r"^[ -~]*$")]
Label = Annotated[str, Field(max_length=200)]
Tokens = Annotated[int, Field(ge=0, le=1_000_000_000)]


class ImportEntry(Body):
    """One request as a local log has it."""

    message_id: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
    upstream_request_id: Text = ""
    session_id: Text = ""
    agent_id: Text = ""
    started_at_ms: int
    model: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
    project: Label = ""
    branch: Label = ""
    client_version: Text = ""
    service_tier: Text = ""
    speed: Text = ""
    inference_geo: Text = ""
    input_tokens: Tokens = 0
    cache_read_tokens: Tokens = 0
    cache_write_5m_tokens: Tokens = 0
    cache_write_1h_tokens: Tokens = 0
    output_tokens: Tokens = 0
    web_searches: Tokens = 0
    tool_uses: Tokens | None = None


class ImportBody(Body):
    """Requests of local logs to be recorded."""

    virtual_key: str | None = Field(
        None, description="Id or name of the key to book them on; not with a virtual key's own call."
    )
    entries: list[ImportEntry] = Field(default_factory=list, max_length=MAX_ENTRIES)
    dry_run: bool = Field(False, description="Say what would be recorded, and record nothing.")


def usage_of(
    entry: ImportEntry, key: VirtualKey, team: Team | None, customer: Customer | None, book: PriceBook
) -> Usage | None:
    """The event; None where the model has no price: unknown is not free."""
    counts = UsageCounts(
        input_tokens=entry.input_tokens,
        cache_read_tokens=entry.cache_read_tokens,
        cache_write_5m_tokens=entry.cache_write_5m_tokens,
        cache_write_1h_tokens=entry.cache_write_1h_tokens,
        output_tokens=entry.output_tokens,
        web_searches=entry.web_searches,
    )
    priced = cost(
        book,
        entry.model,
        counts,
        started_at_ms=entry.started_at_ms,
        speed=entry.speed,
        inference_geo=entry.inference_geo,
    )
    if priced is None:
        return None
    return Usage(
        request_id=import_id(entry),
        started_at_ms=entry.started_at_ms,
        virtual_key_id=key.id,
        virtual_key=key.name,
        team_id=key.team_id,
        team=team.name if team is not None else "",
        customer_id=customer.id if customer is not None else "",
        customer=customer.name if customer is not None else "",
        user_id=key.user_id,
        outcome="completed",
        message_id=entry.message_id,
        upstream_request_id=entry.upstream_request_id,
        session_id=entry.session_id,
        agent_id=entry.agent_id,
        project=printable(entry.project),
        branch=printable(entry.branch),
        provider="anthropic",
        provider_credential="client",
        model=entry.model,
        requested_model=entry.model,
        stream=True,
        speed=entry.speed,
        service_tier=entry.service_tier,
        inference_geo=region_of(entry.inference_geo),
        billing="imported",
        client_version=entry.client_version,
        input_tokens=entry.input_tokens,
        cache_read_tokens=entry.cache_read_tokens,
        cache_write_5m_tokens=entry.cache_write_5m_tokens,
        cache_write_1h_tokens=entry.cache_write_1h_tokens,
        output_tokens=entry.output_tokens,
        web_searches=entry.web_searches,
        tool_uses=entry.tool_uses,
        cost_nusd=0,
        list_cost_nusd=priced.list_nusd,
        amounts=Amounts(),
        price_book_id=book.id,
    )


def import_id(entry: ImportEntry) -> str:
    """The same for the same request, whoever imports it and however often."""
    digest = hashlib.sha256(f"{entry.message_id}\n{entry.upstream_request_id}".encode()).digest()
    return uuid7_from(entry.started_at_ms, digest[:10])


def record_of(usage: Usage) -> NewRecord:
    value = encode_event(
        id=f"usage:{usage.request_id}",
        source="bursar/admin",
        type=USAGE_RECORDED,
        time=rfc3339(usage.started_at_ms),
        subject=usage.request_id,
        data=usage,
    )
    return NewRecord(USAGE_TOPIC, usage.virtual_key_id, value)


def is_known(entry: ImportEntry, known: Mapping[str, set[str]]) -> bool:
    """Whether the request is recorded already: the same message, and no other request of it."""
    requests = known.get(entry.message_id)
    if requests is None:
        return False
    return not entry.upstream_request_id or entry.upstream_request_id in requests or "" in requests


def printable(text: str) -> str:
    """A label from a file system as attribution accepts it."""
    return "".join(each for each in text if each.isprintable())[:200]


def in_time(entry: ImportEntry, now_ms: int) -> bool:
    return EARLIEST_MS <= entry.started_at_ms <= now_ms + AHEAD_MS
