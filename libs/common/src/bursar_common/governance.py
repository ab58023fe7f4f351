"""Governance entities and the one projector that every reader uses.

Documents are what governance events carry and what Redis keeps: the whole entity after the change. The projector is
pure and frozen: it accepts an event whose seen versions all match and rejects any other; it never validates, so that
a new release judges old events as before. Validation is admin-api's, before the event is written.

Version ids: an entity's own id; ``<id>:children`` (bumped when a child is created, moved or deleted, so that "delete
an empty team" and "add a key to it" collide); ``root:<entity>`` for names without a parent; ``hmac:<hex>`` for a key's
value. A version that was never bumped is 0; deletion bumps too, so an id is never reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from bursar_common.events import GovernanceData
from bursar_common.finance import FINANCE_TYPES

Enforcement: TypeAlias = Literal["standard", "strict", "observe"]
ContentRule: TypeAlias = Literal["on", "off", ""]
"""Whether prompts and answers are stored; empty: says nothing."""

CONFIG_ID = "config"
"""Entity id of the one installation-wide configuration."""


class Budget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    limit_nusd: int
    window: str
    """``1M``, ``90m`` ... see :mod:`bursar_common.windows`."""
    anchored_at_s: int
    """Start of the first window of an anchored budget (its creation)."""
    calendar_aligned: bool = False
    enforcement: Enforcement = "standard"
    max_overshoot_nusd: int | None = None
    opening_nusd: int = 0
    """Spent before this budget id existed, in the window ``opening_window_start_s``: set when a window was changed."""
    opening_window_start_s: int = 0
    opening_window_end_s: int = 0


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Either half may be absent (None). Each half has an id of its own, because its window may change alone."""

    id: str
    anchored_at_s: int
    token_limit_id: str = ""
    token_max: int | None = None
    token_window: str = ""
    count_cache_reads: bool = False
    request_limit_id: str = ""
    request_max: int | None = None
    request_window: str = ""
    calendar_aligned: bool = False


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    provider: str
    """Provider entity's name."""
    weight: float = 1.0
    allowed_models: tuple[str, ...] | None = None
    """None: every priced model; empty: none."""
    credential: Literal["gateway", "client"] = "gateway"
    budgets: tuple[Budget, ...] = ()
    rate_limit: RateLimit | None = None


class VirtualKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    name: str
    hmac: str
    """Hex HMAC-SHA256, keyed with BURSAR_KEY_SECRET, of the hex SHA-256 of the value."""
    created_at_s: int
    description: str = ""
    team_id: str = ""
    customer_id: str = ""
    user_id: str = ""
    is_active: bool = True
    expires_at_s: int | None = None
    provider_configs: tuple[ProviderConfig, ...] | None = None
    """None: every configured provider, all priced models; empty: none."""
    budgets: tuple[Budget, ...] = ()
    rate_limit: RateLimit | None = None
    content: ContentRule = ""


class Team(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    name: str
    created_at_s: int
    customer_id: str = ""
    timezone: str = ""
    """IANA name; empty: the customer's, else UTC."""
    budgets: tuple[Budget, ...] = ()
    rate_limit: RateLimit | None = None
    content: ContentRule = ""


class Customer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    name: str
    created_at_s: int
    timezone: str = ""
    budgets: tuple[Budget, ...] = ()
    rate_limit: RateLimit | None = None


class User(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Name and e-mail address are personal: they stay in governance and never enter a usage event."""

    id: str
    name: str
    created_at_s: int
    email: str = ""
    team_id: str = ""


class PriceOverride(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A negotiated or missing price. Rates are decimal strings in dollars per million tokens (web search: per
    thousand); absent rates fall back to the catalogue's, or for an unknown model to the family's multiples of
    ``input`` (see :mod:`bursar_common.pricing`)."""

    model: str
    input: str
    output: str
    cache_read: str = ""
    cache_write_5m: str = ""
    cache_write_1h: str = ""
    web_search: str = ""
    effective_from_s: int = 0
    context_window: int | None = None


class Provider(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    name: str
    kind: Literal["anthropic"]
    created_at_s: int
    base_url: str = ""
    credential: str = ""
    """References, comma separated, first that resolves wins: ``env:NAME``, ``file:NAME``; or ``client``."""
    price_overrides: tuple[PriceOverride, ...] = ()
    discount_percent: str = "0"
    """Decimal string, 0 to 100: billed cost is list cost less this."""
    unpriced_models: Literal["refuse", "dearest_of_family"] = "refuse"


class Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    enforce_auth_on_inference: bool = True
    default_virtual_key_id: str = ""
    """Key that requests without one are booked on when enforcement is off."""
    content: Literal["on", "off"] = "off"
    """Whether prompts and answers are stored where neither team nor key says otherwise."""


class ContentDeletion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Document of ``bursar.content_deletion.created.v1``: content of whom is to be deleted, whatever is replayed later.
    One of the three ids is set."""

    id: str
    created_at_ms: int
    before_ms: int
    """Content of requests that started before this is deleted, also where it arrives later."""
    user_id: str = ""
    virtual_key_id: str = ""
    session_id: str = ""

    def covers(self, user_id: str, virtual_key_id: str, session_id: str, started_at_ms: int) -> bool:
        """Whether the content of such a request is deleted."""
        return started_at_ms < self.before_ms and (
            (self.user_id != "" and user_id == self.user_id)
            or (self.virtual_key_id != "" and virtual_key_id == self.virtual_key_id)
            or (self.session_id != "" and session_id == self.session_id)
        )


CONTENT_DELETION = "content_deletion"
"""Entity of governance events that delete content. Its documents are kept by no store but the log."""


DOCUMENT_TYPES: dict[str, type[msgspec.Struct]] = {
    "customer": Customer,
    "team": Team,
    "user": User,
    "virtual_key": VirtualKey,
    "provider": Provider,
    "config": Config,
}


def read_document(entity: str, document: Mapping[str, Any]) -> Any:
    """The typed document. Unknown fields are ignored: an older release may read a newer event."""
    return msgspec.convert(document, DOCUMENT_TYPES.get(entity) or FINANCE_TYPES[entity], strict=False)


def content_stored(config: Config, team: Team | None, key: VirtualKey) -> bool:
    """Whether prompts and answers of a key's requests are stored: any of the three switches it on, and who says ``off``
    below the installation, key or team, forbids it whatever the others say."""
    below = (key.content, team.content if team is not None else "")
    return "off" not in below and ("on" in below or config.content == "on")


def effective_timezone(team: Team | None, customer: Customer | None) -> str:
    """The zone in which the windows of an owner are computed, and of the keys below it: the team's, else the customer's
    (of a team: the team's own customer), else UTC (empty). For a customer itself pass ``team=None``."""
    if team is not None and team.timezone:
        return team.timezone
    return customer.timezone if customer is not None else ""


class Applied(msgspec.Struct, frozen=True):
    """What an accepted event changes: new versions, and the entity's document (None: deleted)."""

    versions: dict[str, int]
    entity: str
    entity_id: str
    document: dict[str, Any] | None


class Rejected(msgspec.Struct, frozen=True):
    """A version did not match: the event has no effect, for any reader, for ever."""

    version_id: str
    seen: int
    current: int


def project(event: GovernanceData, versions: Mapping[str, int]) -> Applied | Rejected:
    """Judge one event against the versions before it. ``versions`` needs only the ids in ``event.seen``,
    ``event.bumps`` and ``event.entity_id``; an absent id has version 0."""
    for version_id, seen in event.seen.items():
        current = versions.get(version_id, 0)
        if current != seen:
            return Rejected(version_id, seen, current)
    raised = {event.entity_id, *event.bumps}
    return Applied(
        versions={version_id: versions.get(version_id, 0) + 1 for version_id in raised},
        entity=event.entity,
        entity_id=event.entity_id,
        document=event.document,
    )
