"""The shapes of answers about the log, its dead letters, the system, prices and previews."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from bursar_admin.retention import KeptAnswer


class ChangeAnswer(TypedDict):
    field: str
    before: Any
    after: Any


class EventAnswer(TypedDict):
    """One event of the governance log."""

    id: str
    offset: int
    time: str
    type: str
    entity: str
    entity_id: str
    name: Annotated[str, Field(description="The entity's name after the event; of a deleted one, before it.")]
    action: str
    actor: str
    outcome: Annotated[
        Literal["applied", "overtaken"],
        Field(description="`overtaken`: another writer was faster, the event has no effect for anybody."),
    ]
    overtaken_by: NotRequired[str]
    changes: list[ChangeAnswer]
    changes_count: int


class EventOneAnswer(EventAnswer):
    document: Annotated[dict[str, Any] | None, Field(description="The entity after it, without secrets.")]
    seen: Annotated[dict[str, int], Field(description="The versions the writer judged by.")]


class EventPageAnswer(TypedDict):
    events: list[EventAnswer]
    count: int
    next_cursor: str | None
    complete: Annotated[
        bool, Field(description="False: there are events so old that nothing is told of them; the log has them.")
    ]
    looked_back_to: Annotated[
        str | None,
        Field(
            description="Where a page ended because enough was looked through, maybe with fewer events than asked for: "
            "the time of the oldest one looked at. next_cursor goes on from there."
        ),
    ]
    sorted_since: Annotated[
        str | None,
        Field(
            description="Sorted otherwise than newest first, where the log is too long for that: events before this "
            "time are not among them."
        ),
    ]
    corrections_since: Annotated[
        str | None,
        Field(
            description="Where there are more corrections than are kept (5,000): those before this time are not among "
            "the events. /api/finance/corrections has them by month."
        ),
    ]
    corrections_known: Annotated[
        bool, Field(description="False: the analytics do not answer, so corrections of requests may be missing here.")
    ]


class EventOne(TypedDict):
    event: EventOneAnswer


class RetriedAnswer(TypedDict):
    time: str
    actor: str
    event_id: str


class DeadLetterAnswer(TypedDict):
    id: str
    topic: str
    key: str
    reason: str
    set_aside_at: str
    position: Annotated[str, Field(description="Where it was read: topic, partition, offset.")]
    bytes: int
    cut: Annotated[bool, Field(description="Only its beginning was kept here.")]
    retry_of: Annotated[str | None, Field(description="The letter whose retry this is, if it is one.")]
    retried: RetriedAnswer | None
    content: Annotated[str | None, Field(description="Its beginning; null where records are private.")]


class DeadLetterPageAnswer(TypedDict):
    dead_letters: list[DeadLetterAnswer]
    count: int
    total_count: int
    waiting_count: Annotated[int, Field(description="Those that were not retried.")]
    next_cursor: str | None


class DeadLetterDoneAnswer(TypedDict):
    message: str
    dead_letter: DeadLetterAnswer
    appended: Annotated[bool, Field(description="False: it had been retried before, nothing was done.")]
    event_id: NotRequired[str]


class PartAnswer(TypedDict):
    name: str
    status: Literal["ok", "degraded", "down", "unknown"]
    why: str


class LagAnswer(TypedDict):
    reader: str
    topic: str
    end: int | None
    behind: int | None


class SystemAnswer(TypedDict):
    """Figures are null where they cannot be asked for: unknown, not zero."""

    status: Literal["ok", "degraded"]
    as_of: str
    parts: list[PartAnswer]
    lags: list[LagAnswer]
    open_holds: int | None
    admission: str | None
    dead_letters_waiting: int | None


class AccessAnswer(TypedDict):
    actor: Annotated[str, Field(description="As whom your changes are noted in the log.")]
    signed_in_with: Literal["cookie", "token", "loopback"]
    hosts: list[str]


class InstallationAnswer(TypedDict):
    version: str
    shape: Literal["one_machine", "cluster"]
    event_log: Literal["sqlite", "kafka"]
    usage_kept_days: Annotated[int, Field(description="Of requests in the event log.")]
    content_kept_days: Annotated[int, Field(description="Of stored prompts and answers, where content is on.")]
    kept: Annotated[list[KeptAnswer], Field(description="What is kept how long, where, and which setting says so.")]
    content_max_bytes: int
    analytics: bool
    public_url: Annotated[str | None, Field(description="Where clients reach the gateway; null: elsewhere than this.")]
    access: AccessAnswer


class RateAnswer(TypedDict):
    over_tokens: Annotated[int | None, Field(description="Prompts larger than this; null: any.")]
    input: str
    cache_read: str
    cache_write_5m: str
    cache_write_1h: str
    output: str
    web_search: str


class ModelPriceAnswer(TypedDict):
    id: str
    display_name: str
    context_window: int
    overridden: bool
    list: Annotated[list[RateAnswer], Field(description="Dollars per million tokens (web search: per thousand).")]
    billed: Annotated[list[RateAnswer], Field(description="The same after the provider's discount.")]


class PricesAnswer(TypedDict):
    provider: str
    price_book_id: str
    catalogue_version: str
    discount_percent: str
    unpriced_models: str
    models: list[ModelPriceAnswer]


class PreviewAnswer(TypedDict):
    """What a budget would have done, had it been there."""

    days: int
    requests: int
    would_refuse: int
    spent_nusd: int
    first_refused_at: str | None
