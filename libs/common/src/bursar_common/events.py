"""Events of the log: CloudEvents 1.0 JSON envelopes (structured mode) around frozen, versioned data.

``docs/events.md`` lists each with a golden example, which the tests of every consumer decode. A field may be added
(with a default); none may change its meaning. Names are as of the request's admission; of people only ids are kept.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from bursar_common.wire import Amounts

GOVERNANCE_TOPIC = "bursar.governance.v1"
USAGE_TOPIC = "bursar.usage.v1"
CORRECTIONS_TOPIC = "bursar.corrections.v1"
SNAPSHOTS_TOPIC = "bursar.ledger-snapshots.v1"
ALERTS_TOPIC = "bursar.alerts.v1"
CONTENT_TOPIC = "bursar.content.v1"

USAGE_RECORDED = "bursar.usage.recorded.v1"
USAGE_EXPIRED = "bursar.usage.expired.v1"
USAGE_DENIED = "bursar.usage.denied.v1"
CONTENT_RECORDED = "bursar.content.recorded.v1"

Outcome: TypeAlias = Literal[
    "completed", "interrupted", "unreadable", "unknown", "expired", "upstream_error", "not_sent", "refused"
]
Billing: TypeAlias = Literal["metered", "subscription", "customer", "imported"]

NO_REGION = "not_available"
"""What providers answer as the region of a model that has no choice of it."""


def region_of(said: str) -> str:
    """The region as events name it: none where there is no choice."""
    return "" if said == NO_REGION else said


OUTBOX_HEADER = "bursar-outbox"
"""Kafka record header ``<outbox id>:<sequence>`` on shipped events: a relay that repeats itself after a crash repeats
the same sequence numbers, and consumers skip what they have seen."""

RETRY_HEADER = "bursar-retry-of"
"""Record header ``<dead-letter topic>:<partition>:<offset>`` on a record that was set aside and appended again. For the
aggregator, which could not read it. The ledger passes over it: its request was settled by the edge, or expired."""

DEAD_LETTER_RETRIED = "bursar.dead_letter.retried.v1"
"""A :class:`GovernanceData` whose entity is ``dead_letter``, and whose id is ``dead-letter:`` and the value of
:data:`RETRY_HEADER`: its version makes sure that a letter is retried once."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """CloudEvents 1.0, structured mode. ``data`` is left raw: each type has a struct of its own."""

    id: str
    """``usage:<request id>``, ``expired:<request id>``, ``denied:<request id>``, ``content:<request id>``, others a
    UUIDv7."""
    source: str
    """``bursar/edge``, ``bursar/enforcer``, ``bursar/admin`` (no host names)."""
    type: str
    time: str
    """RFC 3339, UTC."""
    data: msgspec.Raw
    specversion: str = "1.0"
    datacontenttype: str = "application/json"
    subject: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Data of ``bursar.usage.{recorded,expired,denied}.v1``: one request, all that a rebuild of any store needs.

    ``None`` is unknown, never zero. Money in nano-dollars."""

    request_id: str
    started_at_ms: int
    """Minted by the edge at admission, the same on every event of the request."""
    virtual_key_id: str
    outcome: Outcome

    upstream_request_id: str = ""
    message_id: str = ""
    ended_at_ms: int | None = None
    customer: str = ""
    customer_id: str = ""
    team: str = ""
    team_id: str = ""
    user_id: str = ""
    virtual_key: str = ""
    session_id: str = ""
    agent_id: str = ""
    parent_agent_id: str = ""
    project: str = ""
    repository: str = ""
    branch: str = ""
    environment: str = ""
    cost_center: str = ""
    tags: dict[str, str] = {}
    provider: str = ""
    """Provider entity's name, or ``simulator`` where Bursar's own simulator answered."""
    provider_credential: str = ""
    """The credential's reference (``env:NAME``), never its value; ``client`` for the caller's own."""
    model: str = ""
    """The model that served, as far as known, else the requested one."""
    requested_model: str = ""
    stream: bool = False
    max_tokens: int | None = None
    tools_offered: int | None = None
    """Entries of the request's ``tools``."""
    effort: str = ""
    speed: str = ""
    service_tier: str = ""
    inference_geo: str = ""
    status: int | None = None
    """HTTP status the client was given; None where none was sent."""
    error_type: str = ""
    """``error.type`` of the answer, never its text."""
    refused_by: str = ""
    """Refusal reason, see :data:`bursar_common.wire.RefusalReason` and ``EdgeReason``."""
    would_refuse: str = ""
    """Counter id of an ``observe`` budget that had no room and let the request pass, else empty."""
    estimated: bool = False
    attempts: int = 1
    billing: Billing = "metered"
    client_version: str = ""
    device_id: str = ""

    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_5m_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    output_tokens: int | None = None
    thinking_tokens: int | None = None
    web_searches: int | None = None
    tool_uses: int | None = None
    """Blocks of the answer that call a tool, the provider's own included; of a cut answer those that came."""

    cost_nusd: int = 0
    """Billed cost: what every budget in ``charged_to`` was charged."""
    list_cost_nusd: int = 0
    """Cost before discounts; for ``subscription`` and ``customer`` billing what it would have cost."""
    held_nusd: int = 0
    bound_nusd: int = 0
    amounts: Amounts = Amounts()
    """What each unit's counters are charged; ``amounts.n == cost_nusd``."""
    charged_to: tuple[str, ...] = ()
    """Counter ids (:mod:`bursar_common.scopes`): budget or limit id and window."""
    price_book_id: str = ""
    text_bytes: int = 0
    latency_ms: int | None = None
    time_to_first_token_ms: int | None = None


class ContentPart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One piece of a prompt or of an answer, secrets taken out."""

    role: str
    """``system``, ``user``, ``assistant`` or ``tools``; of an answer ``assistant``."""
    kind: str
    """``text``, ``thinking``, ``tool_use``, ``tool_result``, ``image``, ``document``, ``error`` or another block's
    type."""
    name: str
    """Of a tool its name, of an image its media type; else empty."""
    text: str


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """Data of ``bursar.content.recorded.v1``: what one request said and was answered. Written only where content is on
    for its key; secrets were taken out before it left the edge."""

    request_id: str
    started_at_ms: int
    virtual_key_id: str
    team_id: str = ""
    customer_id: str = ""
    user_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    model: str = ""
    prompt: tuple[ContentPart, ...] = ()
    """Oldest first; where not all of it is stored, the oldest is missing."""
    answer: tuple[ContentPart, ...] = ()
    prompt_bytes: int = 0
    """Size of the request's body as it came."""
    answer_bytes: int = 0
    """Size of the answer as it came; of a stream with the transfer framing of chunks that came whole."""
    prompt_cut: bool = False
    """Some of the prompt is not stored."""
    answer_cut: bool = False
    redacted: int = 0
    """Secrets taken out of what is stored."""


class GovernanceData(msgspec.Struct, frozen=True, kw_only=True):
    """Data of ``bursar.<entity>.{created,changed,deleted}.v1``, see :mod:`bursar_common.governance`."""

    entity: str
    """``customer``, ``team``, ``user``, ``virtual_key``, ``provider``, ``config``, ``price_book``, ``dead_letter``."""
    entity_id: str
    actor: str
    """Who asked: ``admin-token``, ``local``, ``system``."""
    seen: dict[str, int]
    """Versions the writer judged by: version id -> version (0: does not exist). The event applies only if all match."""
    bumps: tuple[str, ...] = ()
    """Version ids raised by one when the event applies, besides the entity's own."""
    document: dict[str, Any] | None = None
    """The entity after the change, whole; None when deleted."""


_usage_decoder = msgspec.json.Decoder(Usage)
_content_decoder = msgspec.json.Decoder(Content)
_governance_decoder = msgspec.json.Decoder(GovernanceData)
_envelope_decoder = msgspec.json.Decoder(Envelope)
_encode = msgspec.json.Encoder().encode


def encode_event(*, id: str, source: str, type: str, time: str, subject: str, data: msgspec.Struct) -> bytes:
    """The bytes of one event as they stand in the log."""
    return _encode(
        Envelope(id=id, source=source, type=type, time=time, subject=subject, data=msgspec.Raw(_encode(data)))
    )


def decode_envelope(value: bytes) -> Envelope:
    """Raises msgspec.DecodeError / ValidationError: poison."""
    return _envelope_decoder.decode(value)


def decode_usage(envelope: Envelope) -> Usage:
    """Raises msgspec.DecodeError / ValidationError: poison."""
    return _usage_decoder.decode(envelope.data)


def decode_content(envelope: Envelope) -> Content:
    """Raises msgspec.DecodeError / ValidationError: poison."""
    return _content_decoder.decode(envelope.data)


def decode_governance(envelope: Envelope) -> GovernanceData:
    """Raises msgspec.DecodeError / ValidationError: poison."""
    return _governance_decoder.decode(envelope.data)
