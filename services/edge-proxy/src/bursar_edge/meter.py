"""Counts requests. A finished one is counted once, from its usage event; nothing is done per chunk. Pure.

Label sets are bounded (``BURSAR_METRICS_LABEL_SETS``): beyond it customer, team, key and tags are ``other``, and beyond
MAX_OVERFLOW_SETS of those everything is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from bursar_common.events import Usage
from bursar_common.metrics import OTHER, Counts, Family, Histogram, Labels, Sample, Value, one
from bursar_common.wire import Owners
from bursar_edge.metrics import (
    ADDED,
    CACHE_HITS,
    COST,
    FIRST_TOKEN,
    INTER_TOKEN,
    LABEL_SETS,
    LIST_COST,
    OVERFLOWED,
    OWNERS,
    REFUSALS,
    REQUESTS,
    SEARCHES,
    SETTLE_LAG,
    THINKING,
    TOKENS,
    UNPRICED,
    UPSTREAM,
)

MAX_TAGS = 8
"""Tags as labels: each multiplies the label sets."""
MAX_TAG_CHARS = 64
"""Characters of a tag's value that are told: labels are for a few short values."""
MAX_OVERFLOW_SETS = 100
"""Label sets told apart by provider and model alone, once the bound is reached."""
KINDS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
_FIELDS = ("project", "repository", "branch", "environment", "cost_center")
_UNLISTED = frozenset({"unpriced_model", "model_not_allowed", "unknown_provider", "provider_not_allowed"})
"""Refusals of a model or provider that only the caller may know: it is not made a label."""
_TAG = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Key = tuple[str, ...]


def tag_labels(text: str) -> dict[str, str]:
    """Tag name -> label, of the setting. Raises ValueError saying what is allowed."""
    labels: dict[str, str] = {}
    for name in (part.strip().lower().replace("cost-center", "cost_center") for part in text.split(",")):
        if not name:
            continue
        if not _TAG.fullmatch(name):
            raise ValueError("a tag's name has 1 to 64 letters, digits, dots, dashes and underscores")
        label = "tag_" + re.sub(r"[.-]", "_", name)
        if label in labels.values() and name not in labels:
            raise ValueError(f"two tags would both be the label {label}")
        labels[name] = label
    if len(labels) > MAX_TAGS:
        raise ValueError(f"at most {MAX_TAGS} tags can be labels")
    return labels


class _Series:
    """Everything counted under one label set."""

    __slots__ = (
        "_labels", "added", "cost_nusd", "done", "first_token", "inter_token", "labels", "list_nusd", "outcomes",
        "refusals", "searches", "thinking", "tokens", "upstream",
    )  # fmt: skip

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self._labels: dict[str, Labels] = {}
        self.outcomes: dict[str, int] = {}
        self.refusals: dict[str, int] = {}
        self.done = False
        """Whether an admitted request ended: else there are neither tokens nor times."""
        self.tokens = [0, 0, 0, 0, 0]
        self.thinking = self.searches = self.cost_nusd = self.list_nusd = 0
        self.added = Histogram(ADDED.buckets)
        self.upstream = Histogram(UPSTREAM.buckets)
        self.first_token = Histogram(FIRST_TOKEN.buckets)
        self.inter_token = Histogram(INTER_TOKEN.buckets)

    def with_(self, name: str, value: str) -> Labels:
        """The labels with one more, kept."""
        found = self._labels.get(value)
        if found is None:
            found = self._labels[value] = self.labels.and_(name, value)
        return found


class Meter:
    """Counts what requests were and cost. Of one event loop."""

    def __init__(self, *, tags: Mapping[str, str] | None = None, most: int = 1_000) -> None:
        """``tags``: tag name -> label (:func:`tag_labels`); ``most``: label sets told apart."""
        tags = tags or {}
        self._tags = tuple(tags)
        self._names = (*OWNERS, *tags.values())
        self._most = most
        self._series: dict[Key, _Series] = {}
        self._overflowed = 0
        self.settle_lag = Histogram(SETTLE_LAG.buckets)
        self._unpriced = Counts(UNPRICED, most=100)

    # ---- counting

    def finished(self, usage: Usage, *, added_s: float | None, upstream_s: float | None) -> None:
        """An admitted request ended; its event tells how. Times in seconds, None where it was not sent."""
        key: Key = (
            usage.provider,
            usage.model,
            usage.customer,
            usage.team,
            usage.virtual_key or usage.virtual_key_id,
        )
        if self._tags:
            key += self._tags_of(usage)
        series = self._series.get(key) or self._new(key)
        series.done = True
        outcome = usage.outcome
        series.outcomes[outcome] = series.outcomes.get(outcome, 0) + 1
        output = usage.output_tokens
        if output is not None:
            tokens = series.tokens
            tokens[0] += usage.input_tokens or 0
            tokens[1] += usage.cache_read_tokens or 0
            tokens[2] += usage.cache_write_5m_tokens or 0
            tokens[3] += usage.cache_write_1h_tokens or 0
            tokens[4] += output
            series.thinking += usage.thinking_tokens or 0
            series.searches += usage.web_searches or 0
        series.cost_nusd += usage.cost_nusd
        series.list_nusd += usage.list_cost_nusd
        if added_s is not None:
            series.added.observe(added_s)
        if upstream_s is not None:
            series.upstream.observe(upstream_s)
        first_ms = usage.time_to_first_token_ms
        if usage.stream and first_ms is not None:
            series.first_token.observe(first_ms / 1000)
            if outcome == "completed" and output is not None and output > 1 and usage.latency_ms is not None:
                series.inter_token.observe((usage.latency_ms - first_ms) / 1000 / (output - 1))

    def refused(
        self,
        reason: str,
        owners: Owners | None = None,
        *,
        provider: str = "",
        model: str = "",
        tags: Mapping[str, str] | None = None,
        decided: bool = False,
    ) -> None:
        """A refusal was answered. ``decided``: that is how a paid request ended (else it is counted elsewhere too, or
        was none)."""
        if owners is None:
            key: Key = ("",) * len(self._names)
        else:
            if reason in _UNLISTED:
                provider = model = OTHER
            told = tags or {}
            key = (
                provider,
                model,
                owners.customer,
                owners.team,
                owners.virtual_key or owners.virtual_key_id,
                *(told.get(name, "")[:MAX_TAG_CHARS] for name in self._tags),
            )
        series = self._series.get(key) or self._new(key)
        series.refusals[reason] = series.refusals.get(reason, 0) + 1
        if decided:
            series.outcomes["refused"] = series.outcomes.get("refused", 0) + 1

    def unpriced(self, model: str) -> None:
        """A model without a price served."""
        self._unpriced.add(model)

    def _tags_of(self, usage: Usage) -> Key:
        found = usage.tags
        return tuple(
            [
                str(found.get(name) or (getattr(usage, name) if name in _FIELDS else ""))[:MAX_TAG_CHARS]
                for name in self._tags
            ]
        )

    def _new(self, key: Key) -> _Series:
        if len(self._series) >= self._most:
            self._overflowed += 1
            within = len(self._series) < self._most + MAX_OVERFLOW_SETS
            rest = (OTHER,) * (len(key) - 2)
            known = (*key[:2], *rest)
            key = known if within or known in self._series else (OTHER,) * len(key)
            if (series := self._series.get(key)) is not None:
                return series
        labels = Labels([(name, value) for name, value in zip(self._names, key, strict=True) if value])
        series = self._series[key] = _Series(labels)
        return series

    # ---- telling

    def families(self) -> Iterator[Family]:
        """Everything counted. To be gone through at leisure: requests may be counted meanwhile."""
        every = list(self._series.values())
        done = [series for series in every if series.done]
        yield Family(REQUESTS, _by(every, "outcome", lambda series: series.outcomes))
        yield Family(REFUSALS, _by(every, "reason", lambda series: series.refusals))
        yield Family(TOKENS, _by(done, "kind", lambda series: dict(zip(KINDS, series.tokens, strict=True))))
        yield Family(THINKING, _each(done, lambda series: series.thinking))
        yield Family(SEARCHES, _each(done, lambda series: series.searches))
        yield Family(COST, _each(done, lambda series: series.cost_nusd / 1e9))
        yield Family(LIST_COST, _each(done, lambda series: series.list_nusd / 1e9))
        yield Family(CACHE_HITS, _each([series for series in done if any(series.tokens[:4])], _cache_hits))
        yield Family(ADDED, _each(done, lambda series: series.added))
        yield Family(UPSTREAM, _each(done, lambda series: series.upstream))
        yield Family(FIRST_TOKEN, _each(done, lambda series: series.first_token))
        yield Family(INTER_TOKEN, _each(done, lambda series: series.inter_token))
        yield one(SETTLE_LAG, self.settle_lag)
        yield self._unpriced.family()
        yield one(LABEL_SETS, len(self._series))
        yield one(OVERFLOWED, self._overflowed)


def _each(series: Sequence[_Series], value: Callable[[_Series], Value]) -> Iterator[Sample]:
    for each in series:
        yield each.labels, value(each)


def _by(series: Sequence[_Series], label: str, values: Callable[[_Series], dict[str, int]]) -> Iterator[Sample]:
    for each in series:
        for name, value in list(values(each).items()):
            yield each.with_(label, name), value


def _cache_hits(series: _Series) -> float:
    return series.tokens[1] / sum(series.tokens[:4])
