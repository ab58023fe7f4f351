"""The messages between edge-proxy and budget-enforcer (``POST /internal/v1/batch``).

A batch is a JSON list of operations; the answer is a list of replies in the same order. Structs are
tagged by ``op`` (requests) and ``reply`` (answers), so that a list decodes straight into the union types
:data:`Operation` and :data:`Reply`.

Amounts are integers in the unit of their counter (see :mod:`bursar_common.scopes`): nano-dollars, tokens or
requests. Times are Unix time in the unit their name ends with.

No struct here can be part of a reference cycle (they hold values and each other only), so none is tracked by the
garbage collector (``gc=False``): a batch makes thousands of them.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

BATCH_PATH = "/internal/v1/batch"
PRICE_BOOK_PATH = "/internal/v1/price-books/{price_book_id}"
STATE_PATH = "/internal/v1/state"
"""For admin-api: ``{"status", "admission"?, "why"?, "open_holds", "positions": {"governance", "usage:<n>"}}``."""
INTERNAL_TOKEN_HEADER = "x-bursar-internal-token"  # noqa: S105 - a header's name, not a secret

MAX_BATCH_OPERATIONS = 512
"""Operations in one batch; more wait for the next round trip. Bounds one pipeline to Redis to a few ms."""
MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Bytes of one batch body, of either direction."""


def batch_head_start(token: str) -> bytes:
    """The head of every batch, up to its host and length: both sides know it by heart."""
    head = f"POST {BATCH_PATH} HTTP/1.1\r\n{INTERNAL_TOKEN_HEADER}: {token}\r\n"
    return f"{head}content-type: application/json\r\nhost: ".encode()


def batch_head(token: str, host: str) -> bytes:
    """The head of a batch up to the digits of its length; after them two line ends."""
    return b"%b%b\r\ncontent-length: " % (batch_head_start(token), host.encode())


def batch_answer(status: int, content: bytes) -> bytes:
    """The answer to a batch as it goes over the wire."""
    reason = b"OK" if status == 200 else b"Refused"
    head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, reason, len(content)) + content


class KeyHash(msgspec.Struct, gc=False, frozen=True, array_like=True):
    """A credential as the client presented it: the header it came in and the hex SHA-256 of its value."""

    header: str
    """``x-bf-vk``, ``authorization`` or ``x-api-key``."""
    sha256: str


class ServerTool(msgspec.Struct, gc=False, frozen=True, array_like=True):
    """A tool the provider runs by itself; ``max_uses`` is None where the request sets no limit."""

    name: str
    max_uses: int | None = None


class Features(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """What the request's body says about its possible cost, without its content."""

    text_bytes: int = 0
    """Bytes of the body that can become text tokens (all of it but inline base64 data)."""
    images: int = 0
    documents: int = 0
    url_sources: int = 0
    """Images or documents given by URL or file id: their size is unknown."""
    cache_ttl_1h: bool = False
    server_tools: tuple[ServerTool, ...] = ()
    tools: int = 0
    geo: str = ""
    speed: str = ""
    betas: tuple[str, ...] = ()
    unbounded: str = ""
    """Name of the first feature that has no upper bound (``mcp_servers``, ``compact_20260112`` ...), else empty."""


class Admit(msgspec.Struct, gc=False, frozen=True, tag_field="op", tag="admit"):
    """Ask to start a paid request. Idempotent by ``request_id``."""

    request_id: str
    key_hashes: tuple[KeyHash, ...]
    """Empty: the request carried no credential. Without a key of ours among them the request is the default key's
    where keys are not enforced, else refused (``no_key``, ``unknown_key``)."""
    model: str
    """Model name without a ``provider/`` prefix."""
    max_tokens: int
    features: Features
    started_at_ms: int
    provider: str = ""
    """Provider named by the model's prefix; empty: the key's own choice."""
    stream: bool = False
    session: str = ""
    agent: str = ""
    tags: dict[str, str] = {}
    trace: str | msgspec.UnsetType = msgspec.UNSET
    """``traceparent`` of the edge's span around this admission; absent where the request's trace is not recorded."""
    trace_state: str | msgspec.UnsetType = msgspec.UNSET
    """The caller's ``tracestate``; absent where there is none, or no ``trace``."""


class Authorize(msgspec.Struct, gc=False, frozen=True, tag_field="op", tag="authorize"):
    """Ask who a caller is and what it may use; no money is involved (models, count_tokens)."""

    key_hashes: tuple[KeyHash, ...]
    """As in :class:`Admit`: may be empty."""
    model: str = ""
    """Empty: any; the answer lists what is allowed."""
    provider: str = ""
    list_models: bool = False


class HoldEntry(msgspec.Struct, gc=False, frozen=True, array_like=True):
    """What one request holds on one counter."""

    counter: str
    """Counter id, see :func:`bursar_common.scopes.counter_id`."""
    expected: int
    bound: int
    strict: bool = False
    """The counter's owner holds the bound: a renewal keeps ``expected`` = ``bound`` here."""


class UsageCounts(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """Tokens by kind, as the provider reports them. ``input_tokens`` excludes cached tokens;
    ``output_tokens`` includes ``thinking_tokens``."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    web_searches: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Size of the prompt: what tiers look at."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens


class Amounts(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """What a finished request charges to every counter of each unit (one figure per unit, never per counter)."""

    n: int = 0
    """Nano-dollars (billed cost)."""
    t: int = 0
    """Tokens without cache reads."""
    T: int = 0
    """Tokens with cache reads."""
    r: int = 0
    """Requests: 1, or 0 where nothing was sent."""


class Renew(msgspec.Struct, gc=False, frozen=True, tag_field="op", tag="renew"):
    """Keep a hold alive and let it follow the stream. Re-creates a hold that Redis lost."""

    request_id: str
    hold: tuple[HoldEntry, ...]
    event: msgspec.Raw
    """Every field of the usage event (:class:`bursar_common.events.Usage`) known so far, as JSON."""
    prompt_known: bool = False
    """``message_start`` was seen: the event's prompt counts are exact."""


class Settle(msgspec.Struct, gc=False, frozen=True, tag_field="op", tag="settle"):
    """Close a hold with what the request cost. Sent only after its usage event is durable in the outbox."""

    request_id: str
    hold: tuple[HoldEntry, ...]
    amounts: Amounts
    outcome: str
    virtual_key_id: str = ""
    model: str = ""
    session: str = ""
    agent: str = ""
    text_bytes: int = 0
    usage: UsageCounts | None = None
    """The provider's own counts; None where they are estimated (nothing is learned from estimates)."""
    quiet: bool = False
    """Nobody reads the balances after it: the answer comes without."""


class Release(msgspec.Struct, gc=False, frozen=True, tag_field="op", tag="release"):
    """Give a hold back: nothing was or will be sent. Leaves a tombstone: a late ``admit`` is refused."""

    request_id: str
    hold: tuple[HoldEntry, ...] = ()


class Balances(msgspec.Struct, gc=False, frozen=True, tag_field="op", tag="balances"):
    """Read counters (admin-api)."""

    counters: tuple[str, ...]


class GovernancePosition(msgspec.Struct, gc=False, frozen=True, tag_field="op", tag="governance_position"):
    """Ask up to which offset of the governance topic Redis has been brought (admin-api waits on it)."""


Operation: TypeAlias = Admit | Authorize | Renew | Settle | Release | Balances | GovernancePosition


class Owners(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """Everyone a request belongs to, names as of now. Of people only the id."""

    virtual_key_id: str
    virtual_key: str
    team_id: str = ""
    team: str = ""
    customer_id: str = ""
    customer: str = ""
    user_id: str = ""


class Route(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """Where the request goes."""

    provider: str
    """Provider entity's name, e.g. ``anthropic``."""
    provider_id: str
    base_url: str = ""
    """Empty: the kind's public address (edge settings may override it)."""
    credential: str = ""
    """References, comma separated, first that resolves wins (``env:NAME``, ``file:NAME``), or ``client``."""
    kind: str = "anthropic"


class Admitted(msgspec.Struct, gc=False, frozen=True, tag_field="reply", tag="admitted"):
    hold: tuple[HoldEntry, ...]
    header: str
    """Which of ``key_hashes`` held the key; empty: none, the request is the default key's."""
    price_book_id: str
    route: Route
    owners: Owners
    ttl_s: int
    expected_nusd: int
    bound_nusd: int
    """The cost estimates themselves, also where no counter applies."""
    would_refuse: str = ""
    """Counter id of an ``observe`` budget that had no room, else empty."""
    content: bool = False
    """Prompt and answer are to be stored (:func:`bursar_common.governance.content_stored`)."""


class ModelEntry(msgspec.Struct, gc=False, frozen=True):
    id: str
    display_name: str = ""


class Authorized(msgspec.Struct, gc=False, frozen=True, tag_field="reply", tag="authorized"):
    header: str
    owners: Owners
    route: Route
    models: tuple[ModelEntry, ...] = ()
    """Priced models the key may use; only where ``list_models`` was asked."""


class Refused(msgspec.Struct, gc=False, frozen=True, tag_field="reply", tag="refused", omit_defaults=True):
    """A final no. ``reason`` is one of :data:`RefusalReason`; the edge turns it into status and sentence."""

    reason: str
    owner_kind: str = ""
    owner: str = ""
    """Name of the owner whose limit is short (``platform-engineering``)."""
    budget_id: str = ""
    spent: int = 0
    limit: int = 0
    needed: int = 0
    """What the request is expected to take (under ``strict``: could take), in the counter's unit."""
    strict: bool = False
    unit: str = "n"
    window: str = ""
    resets_at_s: int = 0
    retry_after_s: int = 0
    allowed: tuple[str, ...] = ()
    """Models or providers that would be allowed."""
    subject: str = ""
    """The model, provider or feature refused."""
    owners: Owners | None = None
    """Who asked, for the ``denied`` event; None where no key was recognised."""


class Reserved(msgspec.Struct, gc=False, frozen=True, tag_field="reply", tag="reserved"):
    """It would fit without the holds in flight: wait your turn and ask again."""

    counter: str
    retry_in_ms: int
    refusal: Refused
    """What to answer when waiting is over."""


class Ok(msgspec.Struct, gc=False, frozen=True, tag_field="reply", tag="ok", omit_defaults=True):
    """Renewed (``hold`` is the new whole hold), settled or released."""

    hold: tuple[HoldEntry, ...] = ()
    balances: tuple[Balance, ...] = ()


class Balance(msgspec.Struct, gc=False, frozen=True):
    counter: str
    spent: int
    held: int
    exposed: int
    open_holds: int = 0
    overshoot_bound: int | None = None
    """What spent may exceed the limit by, as promised: final spent minus (spent + held) at the window's last
    admission. Final once ``open_holds`` is 0 and the window has ended."""


class Closed(msgspec.Struct, gc=False, frozen=True, tag_field="reply", tag="closed"):
    """The hold was closed already (renewal refused)."""

    state: str


class Unavailable(msgspec.Struct, gc=False, frozen=True, tag_field="reply", tag="unavailable"):
    """Cannot decide now (Redis down, admission closed, policy not loaded): nothing was held; ask again."""

    why: str


class Invalid(msgspec.Struct, gc=False, frozen=True, tag_field="reply", tag="invalid"):
    """The operation itself is malformed; asking again will not help."""

    why: str


class Position(msgspec.Struct, gc=False, frozen=True, tag_field="reply", tag="position"):
    next_offset: int
    """Offset of the first governance event not yet applied to Redis."""


Reply: TypeAlias = Admitted | Authorized | Refused | Reserved | Ok | Closed | Unavailable | Invalid | Position

RefusalReason = Literal[
    "no_key",
    "unknown_key",
    "conflicting_keys",
    "inactive_key",
    "expired_key",
    "inactive_owner",
    "provider_not_allowed",
    "unknown_provider",
    "model_not_allowed",
    "unpriced_model",
    "no_bound",
    "budget_spent",
    "budget_too_large",
    "budget_reserved",
    "requests_limited",
    "tokens_limited",
    "tokens_too_large",
    "tokens_reserved",
    "released",
]
"""The enforcer's."""

EdgeReason = Literal[
    "no_client_credential",
    "bad_request",
    "bad_http",
    "wrong_content_type",
    "too_large",
    "slow_request",
    "not_supported",
    "model_not_found",
    "loop",
    "memory_full",
    "ledger_unreachable",
    "outbox_full",
    "stopping",
    "no_credential",
    "upstream_refused",
    "upstream_unreachable",
    "upstream_died",
    "upstream_silent",
    "upstream_cut",
    "admin_unreachable",
    "internal",
]
"""The edge's own; with the enforcer's all there are (``docs/refusals.md``)."""

decode_operations = msgspec.json.Decoder(list[Operation]).decode
decode_replies = msgspec.json.Decoder(list[Reply]).decode
encode = msgspec.json.Encoder().encode
