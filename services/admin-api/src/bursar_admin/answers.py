"""The shapes of answers, as types: what handlers build and what the OpenAPI document describes."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

EXACT = ConfigDict(extra="forbid")
"""Of a shape that has no other members, so that whoever checks an answer finds one that is not described."""

BalancesState = Literal["live", "unavailable"]
"""``unavailable``: the ledger could not be asked; every figure that is its to give is null, none is zero."""


class PreviousWindowAnswer(TypedDict):
    """The window that ended where the current one starts. Figures are null while the ledger cannot be asked."""

    window_start: str
    window_end: str
    spent_nusd: int | None
    open_holds: Annotated[
        int | None,
        Field(description="Requests admitted in this window and not settled yet; the figures are final once it is 0."),
    ]
    overshoot_nusd: Annotated[
        int | None, Field(description="What was spent above the limit as it is now; 0 where the limit was kept.")
    ]
    overshoot_bound_nusd: Annotated[
        int | None,
        Field(
            description="What spent may have exceeded the limit by, as promised: spent minus what was spent and held "
            "at the window's last admission. Negative where requests cost less than expected; null where no admission "
            "is on record."
        ),
    ]


class BudgetAnswer(TypedDict):
    id: str
    max_limit: float
    limit_nusd: int
    reset_duration: str
    calendar_aligned: bool
    enforcement: str
    max_overshoot: float | None
    current_usage: float | None
    held: float | None
    spent_nusd: int | None
    held_nusd: int | None
    window_start: str
    window_end: str
    previous_window: Annotated[
        PreviousWindowAnswer | None,
        Field(description="Null in the budget's first window, and where the ledger has no counter of the one before."),
    ]


class RateLimitAnswer(TypedDict):
    id: str
    calendar_aligned: bool
    count_cache_reads: bool
    token_max_limit: int | None
    token_reset_duration: str | None
    token_current_usage: int | None
    token_held: int | None
    token_window_start: str | None
    token_window_end: str | None
    request_max_limit: int | None
    request_reset_duration: str | None
    request_current_usage: int | None
    request_held: int | None
    request_window_start: str | None
    request_window_end: str | None


class LimitedAnswer(TypedDict):
    budgets: list[BudgetAnswer]
    rate_limit: RateLimitAnswer | None


class CustomerAnswer(LimitedAnswer):
    id: str
    name: str
    timezone: str
    created_at: str
    version: int


class TeamAnswer(CustomerAnswer):
    customer_id: str | None
    content: Literal["on", "off"] | None


class UserAnswer(TypedDict):
    id: str
    name: str
    email: str
    team_id: str | None
    created_at: str
    version: int


class ProviderConfigAnswer(LimitedAnswer):
    id: str
    provider: str
    weight: float
    allowed_models: list[str]
    credential: str


class VirtualKeyAnswer(LimitedAnswer):
    id: str
    name: str
    description: str
    is_active: bool
    team_id: str | None
    customer_id: str | None
    user_id: str | None
    expires_at: str | None
    created_at: str
    provider_configs: list[ProviderConfigAnswer] | None
    content: Literal["on", "off"] | None
    content_stored: Annotated[
        bool, Field(description="Whether prompts and answers of this key are stored, after team and installation.")
    ]
    version: int
    value: NotRequired[str]


class PriceOverrideAnswer(TypedDict):
    model: str
    input: str
    output: str
    cache_read: str | None
    cache_write_5m: str | None
    cache_write_1h: str | None
    web_search: str | None
    effective_from: str | None
    context_window: int | None


class ProviderAnswer(TypedDict):
    id: str
    name: str
    kind: str
    base_url: str | None
    credential: str
    price_overrides: list[PriceOverrideAnswer]
    discount_percent: str
    unpriced_models: str
    created_at: str
    version: int


class QuotaOwner(TypedDict):
    kind: Literal["virtual_key", "provider_config", "team", "customer"]
    id: str
    name: Annotated[str, Field(description="Its name; of a provider config the provider's.")]


class QuotaBudgetAnswer(TypedDict):
    """One budget of the chain. Figures are null while the ledger cannot be asked."""

    id: str
    owner: QuotaOwner
    enforcement: str
    window: str
    calendar_aligned: bool
    limit_nusd: int
    spent_nusd: int | None
    held_nusd: Annotated[int | None, Field(description="What requests in flight are expected to cost.")]
    left_nusd: Annotated[int | None, Field(description="limit - spent - held, never below 0.")]
    limit_usd: str | None
    spent_usd: str | None
    held_usd: str | None
    left_usd: str | None
    window_start: str
    resets_at: str


class QuotaRateLimitAnswer(TypedDict):
    """One limit on tokens or requests."""

    id: str
    owner: QuotaOwner
    unit: Literal["tokens", "requests"]
    count_cache_reads: bool
    window: str
    calendar_aligned: bool
    limit: int
    spent: int | None
    held: int | None
    left: int | None
    window_start: str | None
    resets_at: str | None


class QuotaKey(TypedDict):
    id: str
    name: str
    team: str | None
    customer: str | None
    expires_at: str | None


class QuotaUsageAnswer(TypedDict):
    """What the key's own requests were since a moment, as far as analytics has them (seconds behind)."""

    since: str
    requests: int
    refused: int
    cost_nusd: int
    cost_usd: str
    list_cost_nusd: int
    list_cost_usd: str
    input_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    by_model: list[QuotaModelAnswer]


class QuotaModelAnswer(TypedDict):
    model: str
    requests: int
    list_cost_nusd: int
    output_tokens: int


class QuotaAnswer(TypedDict):
    virtual_key: QuotaKey
    balances: BalancesState
    as_of: str
    budgets: list[QuotaBudgetAnswer]
    rate_limits: list[QuotaRateLimitAnswer]
    usage: Annotated[
        QuotaUsageAnswer | None, Field(description="Null where analytics cannot be asked: unknown, not zero.")
    ]


class ClientConfigAnswer(TypedDict):
    enforce_auth_on_inference: bool
    default_virtual_key_id: str | None
    content: Literal["on", "off"]


class ConfigAnswer(TypedDict):
    client_config: ClientConfigAnswer
    version: int
    message: NotRequired[str]
    event_id: NotRequired[str]


class DeletedAnswer(TypedDict):
    message: str
    id: str
    event_id: NotRequired[str]


class HealthAnswer(TypedDict):
    status: str
    why: NotRequired[str]


class ProblemAnswer(TypedDict):
    __pydantic_config__ = EXACT  # type: ignore[misc]  # pydantic's own way to configure a TypedDict

    message: str
    field: str
    given: object
    allowed: object


class ErrorBody(TypedDict):
    """What went wrong. ``field``, ``given`` and ``allowed`` say where in the request; what else there is tells of the
    state that the request does not fit."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    type: str
    message: str
    field: str
    given: object
    allowed: object
    request_id: str
    problems: NotRequired[Annotated[list[ProblemAnswer], Field(description="All faults, where there are several.")]]
    existing_id: NotRequired[Annotated[str, Field(description="What is there already.")]]
    version: NotRequired[Annotated[int, Field(description="The entity's version now.")]]
    children: NotRequired[Annotated[list[dict[str, str]], Field(description="Some of what belongs to it.")]]
    children_count: NotRequired[int]
    event_id: NotRequired[Annotated[str, Field(description="Of the event that may have been recorded.")]]
    checksum: NotRequired[Annotated[str, Field(description="Of the closed month.")]]
    next_month: NotRequired[Annotated[str, Field(description="The month to be closed next.")]]
    cost_nusd: NotRequired[Annotated[int, Field(description="What the request stands at, corrections included.")]]
    list_cost_nusd: NotRequired[int]


class ErrorAnswer(TypedDict):
    """An answer that is no success."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    error: ErrorBody


class ProviderErrorAnswer(TypedDict):
    """The same in the provider's envelope, of paths whose answers have the provider's shape."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    type: Literal["error"]
    error: ErrorBody
    request_id: Annotated[str, Field(description="The one of error.")]
