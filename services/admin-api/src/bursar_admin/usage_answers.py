"""Shapes of usage answers, for the OpenAPI document. ``_nusd`` are whole nano-dollars, ``_usd`` exact decimal text."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict


class CountsAnswer(TypedDict):
    tokens: int | None
    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_5m_tokens: int | None
    cache_write_1h_tokens: int | None
    output_tokens: int | None
    thinking_tokens: int | None
    web_searches: int | None


class CostsAnswer(TypedDict):
    cost_nusd: int
    cost_usd: str
    list_cost_nusd: int
    list_cost_usd: str


class LogEntryAnswer(CountsAnswer, CostsAnswer):
    id: str
    started_at: str
    started_at_ms: int
    user: str
    user_id: str
    customer: str
    customer_id: str
    team: str
    team_id: str
    virtual_key: str
    virtual_key_id: str
    session_id: str
    agent_id: str
    parent_agent_id: str
    project: str
    repository: str
    branch: str
    environment: str
    cost_center: str
    tags: dict[str, str]
    provider: str
    simulated: bool
    model: str
    requested_model: str
    stream: bool
    effort: str
    speed: str
    outcome: str
    status: int | None
    error_type: str
    refused_by: str
    would_refuse: str
    estimated: bool
    billing: str
    price_book_id: str
    tools_offered: int | None
    tool_uses: int | None
    corrections: int
    corrected_nusd: Annotated[int, Field(description="What corrections added; cost_nusd contains it.")]
    corrected_usd: str
    latency_ms: int | None
    time_to_first_token_ms: int | None


class LogPageAnswer(TypedDict):
    logs: list[LogEntryAnswer]
    count: int
    limit: int
    offset: int
    next_cursor: str | None
    looked_back_to: Annotated[
        str | None,
        Field(
            description="Where a search for text ended because its time was up, maybe with fewer requests than asked "
            "for: those from here on were looked at. next_cursor goes on from there. Null: the page is whole."
        ),
    ]
    notice: Annotated[
        str | None,
        Field(description="Says from when on requests are kept, where those of before were asked for. Null: all are."),
    ]


class ArithmeticLineAnswer(TypedDict):
    kind: str
    label: str
    count: int
    rate: str
    per: str
    amount_usd: str


class ArithmeticAnswer(TypedDict):
    lines: list[ArithmeticLineAnswer]
    agrees: bool | None
    note: str
    price_book_id: NotRequired[str]
    priced_as: NotRequired[str]
    prompt_tokens: NotRequired[int]
    tier: NotRequired[str]
    list_cost_nusd: NotRequired[int]
    list_cost_usd: NotRequired[str]
    discount_percent: NotRequired[str]
    billed_cost_nusd: NotRequired[int]
    billed_cost_usd: NotRequired[str]
    rounding: NotRequired[str]


class ContentPartAnswer(TypedDict):
    role: str
    kind: str
    name: str
    text: str


class ContentAnswer(TypedDict):
    prompt: list[ContentPartAnswer]
    answer: list[ContentPartAnswer]
    prompt_bytes: int
    answer_bytes: int
    prompt_cut: bool
    answer_cut: bool
    redacted: int


class CorrectionMadeAnswer(TypedDict):
    correction_id: str
    corrected_at: str
    actor: str
    reason: str
    cost_nusd: int
    cost_usd: str


class LogDetailAnswer(LogEntryAnswer):
    upstream_request_id: str
    message_id: str
    provider_credential: str
    max_tokens: int | None
    service_tier: str
    inference_geo: str
    attempts: int
    client_version: str
    device_id: str
    text_bytes: int
    held_nusd: int
    held_usd: str
    bound_nusd: int
    bound_usd: str
    ended_at: str | None
    corrections_made: Annotated[
        list[CorrectionMadeAnswer], Field(description="Oldest first; of the newest 5,000 corrections of all requests.")
    ]
    arithmetic: ArithmeticAnswer
    charged_to: list[dict[str, Any]]
    log_position: dict[str, Any]
    final: bool
    content: ContentAnswer | None


class LogAnswer(TypedDict):
    log: LogDetailAnswer


class SumsAnswer(CountsAnswer, CostsAnswer):
    requests: int
    refused: int
    errors: int
    estimated: int
    without_counts: int
    cache_hit_rate: float | None


class StatsPeriodAnswer(SumsAnswer):
    cache_savings_nusd: int | None
    cache_savings_usd: str | None
    latency_ms: dict[str, float | None]
    time_to_first_token_ms: dict[str, float | None]
    by_billing: list[dict[str, Any]]


class StatsAnswer(TypedDict):
    stats: StatsPeriodAnswer
    previous: StatsPeriodAnswer | None
    rules: dict[str, str]


class HistogramAnswer(TypedDict):
    metric: str
    interval: str
    timezone: str
    by: str | None
    buckets: list[dict[str, Any]]
    series: list[dict[str, Any]]


class RankingsAnswer(TypedDict):
    by: str
    rankings: list[dict[str, Any]]
    count: int
    total_count: int
    limit: int
    offset: int


class FilterDataAnswer(TypedDict):
    filters: dict[str, list[dict[str, Any]]]


class SessionSumsAnswer(SumsAnswer):
    sessions: int


class SessionPageAnswer(TypedDict):
    sessions: list[dict[str, Any]]
    count: int
    limit: int
    offset: int
    total_count: int
    next_cursor: str | None
    summary: NotRequired[SessionSumsAnswer]
    previous: NotRequired[SessionSumsAnswer]


class SessionAnswer(TypedDict):
    session: dict[str, Any]
    notice: Annotated[str | None, Field(description="Said where requests of the session are no longer kept.")]


class InsightsAnswer(TypedDict):
    insights: list[dict[str, Any]]
