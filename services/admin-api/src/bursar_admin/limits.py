"""Budgets and rate limits: from what a body says to what the document keeps. Pure.

A limit's id is the identity of its counters. Same window: same id, what was spent stays. Another window (or alignment,
or time zone where the window depends on it): a new id, with what was spent in the new window as opening balance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bursar_admin.errors import bad_field
from bursar_admin.schemas import BudgetBody, Limited, RateLimitBody
from bursar_common.governance import Budget, RateLimit
from bursar_common.ids import IdMinter
from bursar_common.windows import bounds, parse_window

ALIGNED_ALLOWED = "1m, 1h, 1d, 1w, 1M, 1Q or 1Y with calendar_aligned; any window without"


@dataclass(frozen=True)
class OpeningNeeded:
    """A question to the outside: what was spent under ``old`` since the new window began."""

    old: Budget
    old_window: tuple[int, int]
    new_window: tuple[int, int]

    @property
    def key(self) -> tuple[str, int]:
        return self.old.id, self.new_window[0]


@dataclass
class Moment:
    """What a command may know besides the projection."""

    now_s: int
    mint: IdMinter
    actor: str = "local"
    openings: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Answers to ``needed`` of an earlier run of the same command, in nano-dollars."""
    needed: list[OpeningNeeded] = field(default_factory=list)
    """Questions that came up: the command's outcome counts only once this stays empty."""


@dataclass(frozen=True)
class Zones:
    """The owner's effective time zone before and after the change."""

    before: str
    after: str


def depends_on_zone(window: str, calendar_aligned: bool) -> bool:
    """Whether the window's bounds depend on the time zone."""
    return calendar_aligned or window[-1] in "MQY"


def merge_budgets(
    existing: tuple[Budget, ...], body: Limited, path: str, zones: Zones, moment: Moment
) -> tuple[Budget, ...]:
    """The owner's budgets after the change. ``path`` is the owner's place in the body (``""`` or ``x[0].``).

    Raises Refusal (400)."""
    if body.budget is not None and body.budgets is not None:
        raise bad_field(f"{path}budgets", "stands beside budget", None, "either budget or budgets")
    if body.budgets is not None:
        return _merge_list(existing, body, body.budgets, f"{path}budgets", zones, moment)
    if body.budget is not None or (body.given("budget") and not body.given("budgets")):
        if len(existing) > 1:
            ids = [budget.id for budget in existing]
            raise bad_field(f"{path}budget", "would replace several budgets", None, ["budgets, the whole list", *ids])
        if body.budget is None:
            return ()
        matched = existing[0] if existing else None
        if body.budget.id is not None and (matched is None or matched.id != body.budget.id):
            raise bad_field(f"{path}budget.id", "is not a budget of this owner", body.budget.id, _ids(existing))
        return (_budget(body.budget, matched, body, f"{path}budget", zones, moment),)
    if body.given("budgets"):
        return ()
    return tuple(_budget(BudgetBody(), budget, body, f"{path}calendar_aligned", zones, moment) for budget in existing)


def _ids(existing: tuple[Budget, ...]) -> list[str]:
    return [budget.id for budget in existing]


def _merge_list(
    existing: tuple[Budget, ...], body: Limited, items: list[BudgetBody], path: str, zones: Zones, moment: Moment
) -> tuple[Budget, ...]:
    left = list(existing)
    matches: dict[int, Budget] = {}
    for index, item in enumerate(items):
        if item.id is not None:
            found = next((budget for budget in left if budget.id == item.id), None)
            if found is None:
                raise bad_field(f"{path}[{index}].id", "is not a budget of this owner", item.id, _ids(existing))
            left.remove(found)
            matches[index] = found
    for same_window in (True, False):
        # First those that say the same window, then what is left in order: a changed window keeps its spending.
        for index, item in enumerate(items):
            if index in matches or item.id is not None:
                continue
            found = next((b for b in left if not same_window or _same_window(b, item, body)), None)
            if found is not None:
                left.remove(found)
                matches[index] = found
    return tuple(
        _budget(item, matches.get(index), body, f"{path}[{index}]", zones, moment, fresh=item.id is None)
        for index, item in enumerate(items)
    )


def _same_window(budget: Budget, item: BudgetBody, body: Limited) -> bool:
    return budget.window == item.reset_duration and budget.calendar_aligned == _aligned(item, body, None)


def _aligned(item: BudgetBody | RateLimitBody, body: Limited, existing: Budget | RateLimit | None) -> bool:
    if item.calendar_aligned is not None:
        return item.calendar_aligned
    if body.calendar_aligned is not None:
        return body.calendar_aligned
    return existing.calendar_aligned if existing else False


def _budget(
    item: BudgetBody,
    old: Budget | None,
    body: Limited,
    path: str,
    zones: Zones,
    moment: Moment,
    *,
    fresh: bool = False,
) -> Budget:
    """``fresh``: an item of a list without an id says everything itself; nothing but spending is taken from ``old``."""
    base = None if fresh else old
    limit = item.max_limit if item.max_limit is not None else base.limit_nusd if base else None
    window = item.reset_duration or (base.window if base else None)
    if limit is None:
        raise bad_field(f"{path}.max_limit", "is required", None, "a number of dollars")
    if window is None:
        raise bad_field(f"{path}.reset_duration", "is required", None, "a window such as 1d or 1M")
    aligned = _aligned(item, body, base)
    _check_window(window, aligned, path, item.reset_duration is not None, "reset_duration")
    enforcement = item.enforcement or (base.enforcement if base else "standard")
    overshoot = item.max_overshoot if item.given("max_overshoot") else base.max_overshoot_nusd if base else None
    if enforcement != "standard":
        if item.max_overshoot is not None:
            raise bad_field(f"{path}.max_overshoot", f"has no meaning with enforcement {enforcement}", None, "absent")
        overshoot = None
    new = Budget(
        id=moment.mint() if old is None else old.id,
        limit_nusd=limit,
        window=window,
        anchored_at_s=moment.now_s if old is None else old.anchored_at_s,
        calendar_aligned=aligned,
        enforcement=enforcement,
        max_overshoot_nusd=overshoot,
        opening_nusd=old.opening_nusd if old else 0,
        opening_window_start_s=old.opening_window_start_s if old else 0,
        opening_window_end_s=old.opening_window_end_s if old else 0,
    )
    if old is None or not _window_moved(old.window, old.calendar_aligned, window, aligned, zones):
        return new
    return _reopened(new, old, zones, moment)


def _window_moved(old_window: str, old_aligned: bool, window: str, aligned: bool, zones: Zones) -> bool:
    if (old_window, old_aligned) != (window, aligned):
        return True
    return zones.before != zones.after and depends_on_zone(window, aligned)


def _reopened(new: Budget, old: Budget, zones: Zones, moment: Moment) -> Budget:
    """``new`` under an id of its own, opened with what was spent in its current window."""
    old_window = window_of(old, zones.before, moment.now_s)
    start_s, end_s = window_of(new, zones.after, moment.now_s)
    needed = OpeningNeeded(old, old_window, (start_s, end_s))
    opening = moment.openings.get(needed.key)
    if opening is None:
        moment.needed.append(needed)
        opening = 0
    return Budget(
        id=moment.mint(),
        limit_nusd=new.limit_nusd,
        window=new.window,
        anchored_at_s=new.anchored_at_s,
        calendar_aligned=new.calendar_aligned,
        enforcement=new.enforcement,
        max_overshoot_nusd=new.max_overshoot_nusd,
        opening_nusd=opening,
        opening_window_start_s=start_s if opening else 0,
        opening_window_end_s=end_s if opening else 0,
    )


def window_of(budget: Budget, timezone: str, now_s: int) -> tuple[int, int]:
    """Start and end (Unix s) of the budget's current window."""
    window = parse_window(budget.window, budget.calendar_aligned)
    return bounds(window, budget.calendar_aligned, budget.anchored_at_s, timezone, now_s)


def previous_window_of(budget: Budget, timezone: str, now_s: int) -> tuple[int, int] | None:
    """Start and end (Unix s) of the window that ended where the current one starts; None in the budget's first."""
    start_s, _ = window_of(budget, timezone, now_s)
    if start_s <= max(budget.anchored_at_s, budget.opening_window_start_s):
        return None
    return window_of(budget, timezone, start_s - 1)


def _check_window(window: str, aligned: bool, path: str, own: bool, name: str) -> None:
    try:
        parse_window(window, aligned)
    except ValueError:
        where = f"{path}.{name}" if own else path
        raise bad_field(where, "cannot be aligned to the calendar", window, ALIGNED_ALLOWED) from None


def merge_rate_limit(
    existing: RateLimit | None, body: Limited, path: str, zones: Zones, moment: Moment
) -> RateLimit | None:
    """The owner's rate limit after the change. Raises Refusal (400)."""
    if body.rate_limit is None:
        if body.given("rate_limit"):
            return None
        if existing is None:
            return None
        item, where = RateLimitBody(), f"{path}calendar_aligned"
    else:
        item, where = body.rate_limit, f"{path}rate_limit"
        if existing is None and item.token_max_limit is None and item.request_max_limit is None:
            raise bad_field(where, "limits nothing", None, ["token_max_limit", "request_max_limit"])
    aligned = _aligned(item, body, existing)
    token_max, token_window = _half(item, existing, "token", where)
    request_max, request_window = _half(item, existing, "request", where)
    if token_max is None and request_max is None:
        return None
    halves = (
        ("token", token_window, item.token_reset_duration),
        ("request", request_window, item.request_reset_duration),
    )
    ids: dict[str, str] = {}
    for half, window, own in halves:
        if not window:
            ids[half] = ""
            continue
        _check_window(window, aligned, where, own is not None, f"{half}_reset_duration")
        old_id = getattr(existing, f"{half}_limit_id") if existing else ""
        if (
            existing is not None
            and old_id
            and not _window_moved(
                getattr(existing, f"{half}_window"), existing.calendar_aligned, window, aligned, zones
            )
        ):
            ids[half] = old_id
        else:
            ids[half] = moment.mint()
    reads = item.count_cache_reads
    if reads is None:
        reads = existing.count_cache_reads if existing else False
    return RateLimit(
        id=existing.id if existing else moment.mint(),
        anchored_at_s=existing.anchored_at_s if existing else moment.now_s,
        token_limit_id=ids["token"],
        token_max=token_max,
        token_window=token_window,
        count_cache_reads=reads,
        request_limit_id=ids["request"],
        request_max=request_max,
        request_window=request_window,
        calendar_aligned=aligned,
    )


def _half(item: RateLimitBody, existing: RateLimit | None, half: str, path: str) -> tuple[int | None, str]:
    """One half's limit and window after the change; (None, "") where it is absent."""
    limit: int | None = getattr(item, f"{half}_max_limit")
    window: str | None = getattr(item, f"{half}_reset_duration")
    if limit is None and item.given(f"{half}_max_limit"):
        if window is not None:
            raise bad_field(f"{path}.{half}_max_limit", "is required beside its window", None, "a whole number")
        return None, ""
    if existing is not None:
        limit = limit if limit is not None else getattr(existing, f"{half}_max")
        window = window or getattr(existing, f"{half}_window")
    if (limit is None) != (not window):
        missing = f"{half}_max_limit" if limit is None else f"{half}_reset_duration"
        raise bad_field(f"{path}.{missing}", "is required beside the other half", None, "both or neither")
    return limit, window or ""
