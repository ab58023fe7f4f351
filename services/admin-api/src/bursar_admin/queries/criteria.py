"""One meaning of the filters, twice: as a condition in SQL, and as a test of an event that was just read. Pure.

Both are made of the same tables below. Whatever is unknown (NULL, None) matches no bound, as in SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bursar_admin.queries.filters import Filters
from bursar_common.events import Usage
from bursar_common.usage_sums import RECENT_COLUMNS

MATCHED: Final[Mapping[str, tuple[str, ...]]] = {
    "provider": ("provider",),
    "model": ("model",),
    "customer": ("customer_id", "customer"),
    "team": ("team_id", "team"),
    "user": ("user_id",),
    "key": ("virtual_key_id", "virtual_key"),
    "project": ("project",),
    "repository": ("repository",),
    "branch": ("branch",),
    "environment": ("environment",),
    "cost_center": ("cost_center",),
    "session": ("session_id",),
    "agent": ("agent_id",),
    "outcome": ("outcome",),
    "billing": ("billing",),
    "refused_by": ("refused_by",),
    "error_type": ("error_type",),
}
"""Filter to columns, the id first: a value matches any of them, an empty value only the first."""
SUMMED_BY_HOUR: Final = frozenset(MATCHED) - {"branch", "agent", "error_type"}
"""Filters whose columns ``bursar.usage_hours`` has."""
ID_COLUMNS: Final = (
    "request_id", "upstream_request_id", "message_id", "session_id", "agent_id", "virtual_key_id", "user_id", "team_id",
    "customer_id",
)  # fmt: skip
OF_PROVIDER: Final[Mapping[str, str]] = {"req_": "upstream_request_id", "msg_": "message_id"}
"""Ids that say by their beginning what they are of: looked for in one column, whose index knows them."""
TEXT_COLUMNS: Final = (
    "virtual_key", "team", "customer", "project", "repository", "branch", "environment", "cost_center", "provider",
    "model", "requested_model", "error_type", "refused_by", "client_version",
)  # fmt: skip
TOKENS: Final = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens")
BOUNDED: Final[tuple[tuple[str, str, Callable[[Usage], int | None]], ...]] = (
    ("cost_usd", "cost_nusd", lambda usage: usage.cost_nusd),
    ("tokens", "(" + " + ".join(TOKENS) + ")", lambda usage: _tokens(usage)),
    ("latency_ms", "latency_ms", lambda usage: usage.latency_ms),
)
"""What ``min_…`` and ``max_…`` bound: as an expression over columns, and of an event."""
CORRECTED: Final = ("cost_usd", "tokens")
"""Those of them that corrections change."""
_RECENT: Final = frozenset(RECENT_COLUMNS)
assert {*TOKENS, "cost_nusd", "latency_ms"} <= _RECENT
_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-f]{32}|(req|msg)_[0-9A-Za-z_]{4,}")


def in_content(bound: str) -> str:
    """The condition that stored content has the text of the parameter ``bound``."""
    return f"arrayExists(part -> positionCaseInsensitive(part, {bound}) > 0, texts)"


@dataclass(frozen=True)
class Criteria:
    """Filters with people's names resolved to ids, so that both readings agree on who is meant."""

    filters: Filters
    user_ids: tuple[str, ...] = ()
    """Whom the ``user`` filter names."""
    text_user_ids: tuple[str, ...] = ()
    """Whose name contains the text."""
    keys: tuple[str, ...] = ()
    """Whom the ``key`` filter means: ids; a name that no key has today stands for itself."""
    by_key_id: bool = False
    """All ``keys`` are ids, so none needs to be looked for among names."""

    @property
    def summed_by_hour(self) -> bool:
        """Whether ``bursar.usage_hours`` can answer, as far as the filters go."""
        filters = self.filters
        return (
            not filters.tag
            and filters.text is None
            and all(name in SUMMED_BY_HOUR or not getattr(filters, name) for name in MATCHED)
            and all(getattr(filters, f"{end}_{what}") is None for what, _, _ in BOUNDED for end in ("min", "max"))
        )

    @property
    def in_recent(self) -> bool:
        """Whether ``bursar.usage_recent`` has all the columns that the filters look at."""
        filters = self.filters
        return (
            not filters.tag
            and filters.text is None
            and all(set(columns) <= _RECENT for name, columns in MATCHED.items() if getattr(filters, name))
        )

    @property
    def early(self) -> str:
        """A condition that holds for all events of a request or none, in the parameters of :meth:`sql` (``f_``): what
        may be applied before they are merged, and what the table is ordered or indexed by. Empty: there is none."""
        parts = ["virtual_key_id IN {f_key:Array(String)}"] if self.filters.key and self.by_key_id else []
        parts += ["user_id IN {f_user:Array(String)}"] if self.filters.user else []
        return " AND ".join(parts)

    @property
    def columns(self) -> set[str]:
        """Columns that the filters look at, where :attr:`summed_by_hour`."""
        return {column for name, columns in MATCHED.items() if getattr(self.filters, name) for column in columns}

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns beside those of a log's page that the conditions look at."""
        if self.filters.text is None:
            return ()
        return tuple(sorted({*ID_COLUMNS, *TEXT_COLUMNS, "tags"}))

    @property
    def searched(self) -> bool:
        """Whether every request has to be looked at: no index knows parts of names, nor all columns of ids."""
        text = self.filters.text
        return text is not None and not (_ID.fullmatch(text) and text[:4] in OF_PROVIDER)

    @property
    def names_searched(self) -> bool:
        """Whether a text is looked for that is no id: in names, tags and stored content."""
        return self.filters.text is not None and not _ID.fullmatch(self.filters.text)

    @property
    def by_amounts(self) -> bool:
        """Whether the filters bound what corrections change."""
        return any(getattr(self.filters, f"{end}_{what}") is not None for what in CORRECTED for end in ("min", "max"))

    def values(self, name: str) -> tuple[str, ...]:
        given: tuple[str, ...] = getattr(self.filters, name)
        if name == "key" and given:
            return self.keys or given
        return tuple(dict.fromkeys((*given, *self.user_ids))) if name == "user" and given else given

    # -- SQL -----------------------------------------------------------------------------------------------------

    def sql(self, prefix: str = "", within: str = "1") -> tuple[list[str], dict[str, Any]]:
        """Conditions (to be joined by AND) and their parameters, named with ``prefix``. The range is not among them:
        ``within`` is it, where stored prompts and answers are searched in (its parameters are the caller's)."""
        conditions: list[str] = []
        parameters: dict[str, Any] = {}

        def bind(name: str, value: Any, type_: str) -> str:
            parameters[prefix + name] = value
            return f"{{{prefix}{name}:{type_}}}"

        for name, columns in MATCHED.items():
            values = self.values(name)
            if not values:
                continue
            bound = bind(name, list(values), "Array(String)")
            alternatives = [f"{columns[0]} IN {bound}"]
            if len(columns) > 1 and any(values) and not (name == "key" and self.by_key_id):
                named = bind(f"{name}_name", [value for value in values if value], "Array(String)")
                alternatives.append(f"{columns[1]} IN {named}")
            conditions.append(_any(alternatives))
        for number, (name, wanted) in enumerate(self._tags().items()):
            column = f"tags[{bind(f'tag{number}', name, 'String')}]"
            conditions.append(f"{column} IN {bind(f'tag{number}_values', wanted, 'Array(String)')}")
            if all(wanted):
                # What the index knows; the condition above is what counts.
                conditions.append(f"hasAny(mapValues(tags), {{{prefix}tag{number}_values:Array(String)}})")
        for what, expression, _ in BOUNDED:
            for end, sign in (("min", ">="), ("max", "<=")):
                bound_value = getattr(self.filters, f"{end}_{what}")
                if bound_value is not None:
                    conditions.append(f"{expression} {sign} {bind(f'{end}_{what}', bound_value, 'Int64')}")
        text = self.filters.text
        if text is not None:
            conditions.append(self._text_sql(text, bind, within))
        return conditions, parameters

    def _text_sql(self, text: str, bind: Callable[[str, Any, str], str], within: str) -> str:
        bound = bind("text", text, "String")
        if _ID.fullmatch(text):
            return _any([f"{column} = {bound}" for column in _id_columns(text)])
        parts = [f"positionCaseInsensitive({column}, {bound}) > 0" for column in TEXT_COLUMNS]
        parts.append(f"arrayExists(value -> positionCaseInsensitive(value, {bound}) > 0, mapValues(tags))")
        if self.text_user_ids:
            parts.append(f"user_id IN {bind('text_users', list(self.text_user_ids), 'Array(String)')}")
        found = in_content(bound)
        parts.append(f"request_id IN (SELECT request_id FROM bursar.content WHERE {within} AND {found})")
        return _any(parts)

    # -- events --------------------------------------------------------------------------------------------------

    def matches(self, usage: Usage) -> bool:
        """Whether an event passes; the range is not looked at."""
        for name, columns in MATCHED.items():
            values = self.values(name)
            if values and not (
                getattr(usage, columns[0]) in values
                or (len(columns) > 1 and getattr(usage, columns[1]) in [value for value in values if value])
            ):
                return False
        for name, wanted in self._tags().items():
            if usage.tags.get(name, "") not in wanted:
                return False
        for what, _, read in BOUNDED:
            least, most = getattr(self.filters, f"min_{what}"), getattr(self.filters, f"max_{what}")
            if least is None and most is None:
                continue
            value = read(usage)
            if value is None or (least is not None and value < least) or (most is not None and value > most):
                return False
        return self.filters.text is None or self._text_matches(self.filters.text, usage)

    def _text_matches(self, text: str, usage: Usage) -> bool:
        if _ID.fullmatch(text):
            return any(getattr(usage, column) == text for column in _id_columns(text))
        # Events have no content: who watches live finds by it what is looked up again, not what is new.
        # Bytes: only ASCII letters fold, as positionCaseInsensitive does it.
        wanted = text.encode("utf-8", "surrogateescape").lower()
        texts = [getattr(usage, column) for column in TEXT_COLUMNS]
        texts += usage.tags.values()
        return usage.user_id in self.text_user_ids or any(
            wanted in each.encode("utf-8", "surrogateescape").lower() for each in texts
        )

    def _tags(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, value in self.filters.tag:
            found.setdefault(name, []).append(value)
        return found


def criteria(filters: Filters, people: Mapping[str, str], keys: Mapping[str, str] | None = None) -> Criteria:
    """Resolve names of people and of keys (``people``, ``keys``: id to name).

    A name that keys have today means those keys, by id, whatever they were called when they were used: requests lie by
    key's id. Other names are compared with what stands in the requests, which has to read them all."""
    wanted = frozenset(filters.user)
    named = tuple(user_id for user_id, name in people.items() if name in wanted) if wanted else ()
    found: tuple[str, ...] = ()
    if filters.text is not None and not _ID.fullmatch(filters.text):
        text = filters.text.encode().lower()
        found = tuple(user_id for user_id, name in people.items() if text in name.encode().lower())
    meant, by_id = _keys(filters.key, keys or {})
    return Criteria(filters, named, found, meant, by_id)


def _keys(given: tuple[str, ...], keys: Mapping[str, str]) -> tuple[tuple[str, ...], bool]:
    """What the values of the ``key`` filter mean, and whether all of that is ids."""
    named: dict[str, list[str]] = {value: [] for value in given if value and value not in keys}
    if named:
        for key_id, name in keys.items():
            if name in named:
                named[name].append(key_id)
    meant = dict.fromkeys(each for value in given for each in (named.get(value) or (value,)))
    return tuple(meant), bool(meant) and all(each in keys for each in meant)


def _id_columns(text: str) -> Sequence[str]:
    column = OF_PROVIDER.get(text[:4])
    return (column,) if column is not None else ID_COLUMNS


def _any(alternatives: list[str]) -> str:
    return alternatives[0] if len(alternatives) == 1 else "(" + " OR ".join(alternatives) + ")"


def _tokens(usage: Usage) -> int | None:
    counts = [getattr(usage, name) for name in TOKENS]
    return None if any(count is None for count in counts) else sum(counts)
