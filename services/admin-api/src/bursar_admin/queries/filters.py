"""The filters that logs, statistics, sessions and the live stream share: read strictly, one set of names. Pure.

A parameter may be repeated: any of its values matches (tags: every name given must match one of its values). An empty
value means "none": ``team=`` are requests of no team.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, get_args

from multidict import MultiMapping
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bursar_admin.body import path_text
from bursar_admin.errors import Problem, invalid
from bursar_admin.fields import fault
from bursar_common.events import Billing, Outcome
from bursar_common.money import parse_nusd
from bursar_common.windows import zone
from bursar_common.wire import EdgeReason, RefusalReason

MAX_VALUES: Final = 100
"""Values of one filter."""
MAX_VALUE_CHARS: Final = 512
MAX_TEXT_CHARS: Final = 200
MAX_COUNT: Final = (1 << 63) - 1
REASONS: Final[tuple[str, ...]] = (*get_args(RefusalReason), *get_args(EdgeReason))
MAX_RANGE_DAYS: Final = 1100
"""Longest range of one question: three years. The log keeps 400 days unless told otherwise."""
MOMENT_ALLOWED: Final = "a day (2026-11-30), a moment (2026-11-30T14:00:00Z) or Unix seconds, of the years 2000 to 2200"
_FIRST_MS: Final = 946_684_800_000
_LAST_MS: Final = 7_289_654_400_000
_TAG_NAME: Final = re.compile(r"[!-~]{1,128}")


def _values(given: Any) -> tuple[str, ...]:
    values = (given,) if isinstance(given, str) else tuple(given)
    if len(values) > MAX_VALUES:
        raise fault("has too many values", f"at most {MAX_VALUES}")
    if any("\x00" in value for value in values):
        raise fault("has a character of code 0", "text without it")
    if any(len(value) > MAX_VALUE_CHARS for value in values):
        raise fault("is too long", f"at most {MAX_VALUE_CHARS} characters")
    return tuple(dict.fromkeys(values))


def _tags(given: Any) -> tuple[tuple[str, str], ...]:
    found = []
    for text in _values(given):
        name, colon, value = text.partition(":")
        if not colon or not _TAG_NAME.fullmatch(name):
            raise fault("is not a tag", "name:value")
        found.append((name.lower(), value))
    return tuple(found)


def _one_of(*allowed: str) -> Any:
    def check(given: Any) -> tuple[str, ...]:
        values = _values(given)
        if any(value not in allowed for value in values):
            raise fault("is not one of the allowed values", list(allowed))
        return values

    return check


def _nusd(given: Any) -> int:
    try:
        return parse_nusd(given)
    except ValueError:
        raise fault("must be an amount of money", "dollars from 0 to 9000000000 with at most 9 decimals") from None


def _count(given: Any) -> int:
    text = str(given)
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_COUNT):
        raise fault("must be a whole number", f"0 to {MAX_COUNT}")
    return int(text)


def _text(given: Any) -> str:
    if not 1 <= len(given) <= MAX_TEXT_CHARS or not given.isprintable():
        raise fault("must be some words or an id", f"1 to {MAX_TEXT_CHARS} printable characters")
    return str(given)


Values = Annotated[tuple[str, ...], BeforeValidator(_values)]
Nusd = Annotated[int | None, BeforeValidator(_nusd)]
Count = Annotated[int | None, BeforeValidator(_count)]


class Filters(BaseModel):
    """What a question is about. Every name is also a query parameter of pages."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True)

    provider: Values = Field((), description="Provider's name; `simulator` is Bursar's own.")
    model: Values = Field((), description="Model that served.")
    customer: Values = Field((), description="Customer's id or name.")
    team: Values = Field((), description="Team's id or name; empty: requests of no team.")
    user: Values = Field((), description="User's id or name.")
    key: Values = Field(
        (), description="Virtual key's id or name: today's, or one no key has today but had when it was used."
    )
    project: Values = Field((), description="x-bursar-project of the request.")
    repository: Values = Field((), description="x-bursar-repository of the request.")
    branch: Values = Field((), description="x-bursar-branch of the request.")
    environment: Values = Field((), description="x-bursar-environment of the request.")
    cost_center: Values = Field((), description="x-bursar-cost-center of the request.")
    tag: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_tags)] = Field(
        (), description="Any other tag, as name:value."
    )
    session: Values = Field((), description="Claude Code's session id.")
    agent: Values = Field((), description="Claude Code's agent id.")
    outcome: Annotated[tuple[str, ...], BeforeValidator(_one_of(*get_args(Outcome)))] = Field(
        (), description=f"One of {', '.join(get_args(Outcome))}."
    )
    billing: Annotated[tuple[str, ...], BeforeValidator(_one_of(*get_args(Billing)))] = Field(
        (), description=f"One of {', '.join(get_args(Billing))}."
    )
    refused_by: Annotated[tuple[str, ...], BeforeValidator(_one_of("", *REASONS))] = Field(
        (), description="A reason of docs/refusals.md; empty: requests that were not refused."
    )
    error_type: Values = Field((), description="error.type of the answer.")
    min_cost_usd: Nusd = Field(None, description="Billed cost of the request, dollars, at least.")
    max_cost_usd: Nusd = Field(None, description="Billed cost of the request, dollars, at most.")
    min_tokens: Count = Field(
        None, description="Tokens of all kinds, at least; requests of unknown counts never match."
    )
    max_tokens: Count = Field(None, description="Tokens of all kinds, at most.")
    min_latency_ms: Count = Field(None, description="Admission to the end of the answer, at least.")
    max_latency_ms: Count = Field(None, description="Admission to the end of the answer, at most.")
    text: Annotated[str | None, BeforeValidator(_text)] = Field(
        None,
        description="An id (UUID, req_..., msg_...) exactly, or part of a name, model, branch, error, tag's value, or "
        "of a stored prompt or answer (not in what comes live); upper and lower case are alike.",
    )
    from_ms: int | None = Field(None, alias="from", description=f"Start: {MOMENT_ALLOWED}.")
    to_ms: int | None = Field(
        None,
        alias="to",
        description="End (a day: its end), likewise; by default now, when "
        "requests that an edge whose clock is ahead dated up to an hour later count as well.",
    )


NAMES: Final[tuple[str, ...]] = tuple(field.alias or name for name, field in Filters.model_fields.items())
"""Query parameters that are filters."""
LISTED: Final = frozenset(name for name, field in Filters.model_fields.items() if field.default == ())
"""Those that may be repeated."""


def read_filters(query: MultiMapping[str], also: Sequence[str] = (), *, timezone: str = "") -> Filters:
    """The filters of a query string; ``also`` are names that belong to somebody else.

    Raises Refusal (400) naming every parameter that is unknown, given twice or wrong."""
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    allowed = sorted({*NAMES, *also})
    for name in dict.fromkeys(query):
        given = query.getall(name)
        if name not in allowed:
            problems.append(Problem("is not a query parameter here", name[:100], None, allowed))
        elif name in LISTED and name not in also:
            values[name] = tuple(given)
        elif len(given) > 1:
            problems.append(Problem("is given more than once", name, None, "each once"))
        elif name in ("from", "to"):
            moment = moment_ms(given[0], timezone, end=name == "to")
            if moment is None:
                problems.append(Problem("is not a day or moment", name, given[0], MOMENT_ALLOWED))
            else:
                values[name] = moment
        elif name not in also:
            values[name] = given[0]
    filters: Filters | None = None
    try:
        filters = Filters.model_validate(values)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            context: Mapping[str, Any] = item.get("ctx", {})
            name = path_text(item["loc"][:1])
            given_text = values.get(name)
            if isinstance(given_text, tuple) and len(given_text) == 1:
                given_text = given_text[0]
            problems.append(Problem(context.get("message", "is not valid"), name, given_text, context.get("allowed")))
    if problems or filters is None:
        raise invalid(*problems)
    _check_order(filters)
    return filters


def _check_order(filters: Filters) -> None:
    """Raises Refusal (400) for ranges that are backwards, or longer than anybody may ask."""
    if filters.from_ms is not None and filters.to_ms is not None:
        if filters.to_ms <= filters.from_ms:
            raise invalid(Problem("is not after from", "to", None, "a later moment than from"))
        if filters.to_ms - filters.from_ms > MAX_RANGE_DAYS * 86_400_000:
            raise invalid(Problem("is too long before to", "from", None, f"at most {MAX_RANGE_DAYS} days"))
    for what in ("cost_usd", "tokens", "latency_ms"):
        least, most = getattr(filters, f"min_{what}"), getattr(filters, f"max_{what}")
        if least is not None and most is not None and most < least:
            raise invalid(Problem(f"is less than min_{what}", f"max_{what}", None, f"at least min_{what}"))


def moment_ms(text: str, timezone: str = "", *, end: bool = False) -> int | None:
    """Unix milliseconds of a day (``end``: of its end), a moment, or Unix seconds; None where it is none. What names no
    zone is in ``timezone`` (default UTC)."""
    if len(text) > 40:
        return None
    try:
        if text.isascii() and text.isdigit():
            found_ms = int(text) * 1000 if len(text) <= 11 else -1
        else:
            moment = datetime.fromisoformat(text)
            if len(text) == 10:
                moment += timedelta(days=1 if end else 0)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=zone(timezone))
            found_ms = round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return found_ms if _FIRST_MS <= found_ms <= _LAST_MS else None
