"""From a usage event to a row of ``bursar.usage_events``. Pure.

A row is checked here, column by column, against what its column can hold: a block is inserted as a whole, so one value
out of range would keep the rest of its batch out.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

from bursar_aggregator.decode import Poison, UsageEvent
from bursar_common.events import Usage

TABLE: Final = "usage_events"

_MAX_STARTED_AT_MS: Final = 4_102_444_800_000
"""2100-01-01: later is not a time but an error, and would make partitions of its own."""

_TEXT: Final = "LowCardinality(String)"
_COUNT: Final = "Nullable(UInt64)"
_FIELDS: Final[tuple[tuple[str, str, str], ...]] = (
    # field of Usage, column, type of the column
    ("request_id", "request_id", "String"),
    ("upstream_request_id", "upstream_request_id", "String"),
    ("message_id", "message_id", "String"),
    ("started_at_ms", "started_at", "DateTime64(3, 'UTC')"),
    ("customer", "customer", _TEXT),
    ("customer_id", "customer_id", _TEXT),
    ("team", "team", _TEXT),
    ("team_id", "team_id", _TEXT),
    ("user_id", "user_id", "String"),
    ("virtual_key", "virtual_key", _TEXT),
    ("virtual_key_id", "virtual_key_id", "String"),
    ("session_id", "session_id", "String"),
    ("agent_id", "agent_id", "String"),
    ("parent_agent_id", "parent_agent_id", "String"),
    ("project", "project", _TEXT),
    ("repository", "repository", _TEXT),
    ("branch", "branch", "String"),
    ("environment", "environment", _TEXT),
    ("cost_center", "cost_center", _TEXT),
    ("tags", "tags", "Map(String, String)"),
    ("provider", "provider", _TEXT),
    ("provider_credential", "provider_credential", _TEXT),
    ("model", "model", _TEXT),
    ("requested_model", "requested_model", _TEXT),
    ("stream", "stream", "Bool"),
    ("max_tokens", "max_tokens", "Nullable(Int64)"),
    ("tools_offered", "tools_offered", _COUNT),
    ("effort", "effort", _TEXT),
    ("speed", "speed", _TEXT),
    ("service_tier", "service_tier", _TEXT),
    ("inference_geo", "inference_geo", _TEXT),
    ("outcome", "outcome", _TEXT),
    ("status", "status", "Nullable(UInt16)"),
    ("error_type", "error_type", _TEXT),
    ("refused_by", "refused_by", _TEXT),
    ("would_refuse", "would_refuse", "String"),
    ("estimated", "estimated", "Bool"),
    ("attempts", "attempts", "UInt16"),
    ("billing", "billing", _TEXT),
    ("client_version", "client_version", _TEXT),
    ("device_id", "device_id", "String"),
    ("input_tokens", "input_tokens", _COUNT),
    ("cache_read_tokens", "cache_read_tokens", _COUNT),
    ("cache_write_5m_tokens", "cache_write_5m_tokens", _COUNT),
    ("cache_write_1h_tokens", "cache_write_1h_tokens", _COUNT),
    ("output_tokens", "output_tokens", _COUNT),
    ("thinking_tokens", "thinking_tokens", _COUNT),
    ("web_searches", "web_searches", _COUNT),
    ("tool_uses", "tool_uses", _COUNT),
    ("cost_nusd", "cost_nusd", "Int64"),
    ("list_cost_nusd", "list_cost_nusd", "Int64"),
    ("held_nusd", "held_nusd", "Int64"),
    ("bound_nusd", "bound_nusd", "Int64"),
    ("charged_to", "charged_to", "Array(String)"),
    ("price_book_id", "price_book_id", _TEXT),
    ("latency_ms", "latency_ms", _COUNT),
    ("time_to_first_token_ms", "time_to_first_token_ms", _COUNT),
    ("ended_at_ms", "ended_at", "Nullable(DateTime64(3, 'UTC'))"),
    ("text_bytes", "text_bytes", "UInt64"),
    ("amounts.n", "charged_n", "Int64"),
    ("amounts.t", "charged_t", "Int64"),
    ("amounts.T", "charged_tokens", "Int64"),
    ("amounts.r", "charged_r", "Int64"),
)
_AUDIT: Final[tuple[tuple[str, str], ...]] = (
    ("rank", "UInt8"),
    ("event_id", "String"),
    ("log_topic", _TEXT),
    ("log_partition", "UInt32"),
    ("log_offset", "UInt64"),
)

COLUMNS: Final[tuple[str, ...]] = (*(column for _, column, _ in _FIELDS), *(name for name, _ in _AUDIT))
"""Columns of a row, in the order of :func:`row_of`."""
COLUMN_TYPES: Final[tuple[str, ...]] = (*(type_ for *_, type_ in _FIELDS), *(type_ for _, type_ in _AUDIT))

_INT64_MAX: Final = (1 << 63) - 1
_read_fields = attrgetter(*(field for field, _, _ in _FIELDS))
_SIGNED: Final = ("max_tokens",)
_NUMBERS: Final[tuple[tuple[str, int, int], ...]] = tuple(
    (field, -_INT64_MAX if field in _SIGNED else 0, 65_535 if "UInt16" in type_ else _INT64_MAX)
    for field, _, type_ in _FIELDS
    if "Int" in type_
)
"""Lowest and highest value of each whole number. Money and counts are never negative."""
_read_numbers = attrgetter(*(field for field, _, _ in _NUMBERS))


def row_of(event: UsageEvent, topic: str, partition: int, offset: int) -> tuple[Any, ...] | Poison:
    """The event's row, read at that position of the log; poison if a column cannot hold its value."""
    usage = event.usage
    unfit = _unfit(usage)
    if unfit:
        return Poison(unfit)
    row: tuple[Any, ...] = _read_fields(usage)
    return (*row, event.rank, event.event_id, topic, partition, offset)


def _unfit(usage: Usage) -> str:
    for value, (field, lowest, highest) in zip(_read_numbers(usage), _NUMBERS, strict=True):
        if value is not None and not lowest <= value <= highest:
            return f"{field} is not between {lowest} and {highest}"
    if not 0 < usage.started_at_ms < _MAX_STARTED_AT_MS:
        return "started_at_ms is not a time between 1970 and 2100"
    if usage.ended_at_ms is not None and not 0 < usage.ended_at_ms < _MAX_STARTED_AT_MS:
        return "ended_at_ms is not a time between 1970 and 2100"
    return ""
