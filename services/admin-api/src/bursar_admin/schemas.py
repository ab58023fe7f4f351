"""Request bodies: strict pydantic models. An unknown field or a wrong type is an answer, never a guess.

The same model serves creation and change; :data:`REQUIRED` says what a creation must bring. Fields left out of a
change keep their value; ``null`` clears what can be absent.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bursar_admin.fields import (
    Count,
    Description,
    Email,
    KeyHash,
    KeyValue,
    Models,
    Name,
    Nusd,
    Percent,
    Rate,
    Reference,
    TimeS,
    TimezoneName,
    Version,
    Weight,
    WindowText,
)

MAX_BUDGETS = 16
"""Budgets of one owner: each is a counter that every request of the owner passes."""
MAX_PROVIDER_CONFIGS = 32
MAX_PRICE_OVERRIDES = 512
ContentRule = Literal["on", "off"]
CONTENT = Field(
    None,
    description="Whether prompts and answers are stored: `on`, `off` (forbids it, whatever anybody else says), or "
    "null: as team or installation say.",
)


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    def given(self, name: str) -> bool:
        """Whether the field stands in the body (maybe as null)."""
        return name in self.model_fields_set


class BudgetBody(Body):
    """A limit on money in a window of time."""

    id: Reference | None = Field(None, description="An existing budget of this owner, in a change.")
    max_limit: Nusd | None = None
    reset_duration: WindowText | None = None
    enforcement: Literal["standard", "strict", "observe"] | None = None
    max_overshoot: Nusd | None = Field(None, description="Dollars; only with enforcement `standard`.")
    calendar_aligned: bool | None = None


class RateLimitBody(Body):
    """Limits on tokens and requests; either half may be absent."""

    token_max_limit: Count | None = None
    token_reset_duration: WindowText | None = None
    request_max_limit: Count | None = None
    request_reset_duration: WindowText | None = None
    calendar_aligned: bool | None = None
    count_cache_reads: bool | None = Field(None, description="Whether tokens read from the cache count.")


class Limited(Body):
    """An owner of budgets and rate limits."""

    budget: BudgetBody | None = None
    budgets: Annotated[list[BudgetBody], Field(max_length=MAX_BUDGETS)] | None = None
    rate_limit: RateLimitBody | None = None
    calendar_aligned: bool | None = Field(
        None, description="Default for the budgets and limits of this owner that do not say it themselves."
    )


class ProviderConfigBody(Limited):
    """What a key may use of one provider."""

    id: Reference | None = None
    provider: Name
    weight: Weight | None = None
    allowed_models: Models | None = None
    credential: Literal["gateway", "client"] | None = None


class CustomerBody(Limited):
    name: Name | None = None
    timezone: TimezoneName | None = None
    version: Version | None = None


class TeamBody(Limited):
    name: Name | None = None
    customer_id: Reference | None = None
    timezone: TimezoneName | None = None
    content: ContentRule | None = CONTENT
    version: Version | None = None


class UserBody(Body):
    """Limits on users are refused by name until they exist."""

    name: Name | None = None
    email: Email | None = None
    team_id: Reference | None = None
    version: Version | None = None


class VirtualKeyBody(Limited):
    name: Name | None = None
    description: Description | None = None
    team_id: Reference | None = None
    customer_id: Reference | None = None
    user_id: Reference | None = None
    is_active: bool | None = None
    expires_at: TimeS | None = None
    provider_configs: Annotated[list[ProviderConfigBody], Field(max_length=MAX_PROVIDER_CONFIGS)] | None = None
    content: ContentRule | None = CONTENT
    version: Version | None = None


class NewVirtualKeyBody(VirtualKeyBody):
    """A creation may bring the key along, as its value or as the SHA-256 of it."""

    value: KeyValue | None = Field(None, repr=False)
    value_sha256: KeyHash | None = Field(None, repr=False)


class RotateBody(Body):
    value: KeyValue | None = Field(None, repr=False)
    value_sha256: KeyHash | None = Field(None, repr=False)
    version: Version | None = None


class PriceOverrideBody(Body):
    """A negotiated or missing price, in dollars per million tokens (web search: per thousand)."""

    model: Name
    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write_5m: Rate | None = None
    cache_write_1h: Rate | None = None
    web_search: Rate | None = None
    effective_from: TimeS | None = None
    context_window: Count | None = None


class ProviderBody(Body):
    name: Name | None = None
    kind: Literal["anthropic"] | None = None
    base_url: Annotated[str, Field(max_length=500)] | None = None
    credential: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None,
        repr=False,
        description="References, comma separated: `env:NAME`, `file:NAME`, or `client`. Never a value.",
    )
    price_overrides: Annotated[list[PriceOverrideBody], Field(max_length=MAX_PRICE_OVERRIDES)] | None = None
    discount_percent: Percent | None = None
    unpriced_models: Literal["refuse", "dearest_of_family"] | None = None
    version: Version | None = None


class ClientConfigBody(Body):
    enforce_auth_on_inference: bool | None = None
    default_virtual_key_id: Reference | None = None
    content: ContentRule | None = Field(
        None, description="Whether prompts and answers are stored where neither team nor key says otherwise."
    )


class ConfigBody(Body):
    client_config: ClientConfigBody
    version: Version | None = None


REQUIRED: dict[type[Body], tuple[str, ...]] = {
    CustomerBody: ("name",),
    TeamBody: ("name",),
    UserBody: ("name",),
    NewVirtualKeyBody: ("name",),
    ProviderBody: ("name", "credential"),
}
"""What a creation must bring."""
