"""Many budgets at once: what may be spent in a day, a week and a month, and which of all want attention. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from bursar_admin.limits import window_of
from bursar_admin.pages.forecast import forecast
from bursar_admin.projection import Projection
from bursar_admin.representation import Figures
from bursar_admin.writes import zone_of
from bursar_common.governance import Budget
from bursar_common.scopes import counter_id

WindowName = Literal["day", "week", "month"]
WINDOWS: Final[Mapping[WindowName, tuple[str, ...]]] = {"day": ("1d", "24h"), "week": ("1w", "7d"), "month": ("1M",)}
"""Windows as budgets have them, by what people call them."""
NEAR: Final = 0.8
"""Part of a limit from which on a budget is marked."""
RULE: Final = (
    "Of each owner the tightest budget of that window counts, an observed one only where none is enforced. Customers "
    "count before their teams: a team's budget is added only where its customer has none of that window. Spent is what "
    "the ledger charged in each budget's own current window."
)


@dataclass(frozen=True)
class Covering:
    """One budget that counts, and its current window (Unix s)."""

    budget: Budget
    start_s: int
    end_s: int

    @property
    def counter(self) -> str:
        return counter_id("n", self.budget.id, self.start_s, self.end_s)


@dataclass(frozen=True)
class Total:
    """Money in nano-dollars; ``spent_nusd`` and ``held_nusd`` None where the ledger did not say."""

    budgets: int
    observed: int
    """Of these; nothing is refused by them."""
    limit_nusd: int
    spent_nusd: int | None
    held_nusd: int | None
    resets_at_s: int | None
    """Unix s; None where they are not reset at one moment."""


def covering(projection: Projection, kind: str, owner_id: str, window: WindowName, now_s: int) -> list[Covering]:
    """The budgets of that window over an owner; over everybody where ``kind`` is empty. A user has none: those of the
    user's keys are taken."""
    found = []
    for document in _owners(projection, kind, owner_id, window):
        budget = tightest(document.budgets, window)
        assert budget is not None
        found.append(Covering(budget, *window_of(budget, zone_of(projection, document), now_s)))
    return found


def _owners(projection: Projection, kind: str, owner_id: str, window: WindowName) -> Iterator[Any]:
    def bounded(documents: Iterable[Any]) -> Iterator[Any]:
        return (each for each in documents if tightest(each.budgets, window) is not None)

    if kind in ("team", "virtual_key"):
        yield from bounded(each for each in (projection.document(kind, owner_id),) if each is not None)
    elif kind == "user":
        yield from bounded(key for key in projection.virtual_keys.values() if key.user_id == owner_id)
    else:
        customers = projection.entities("customer")
        chosen = {owner_id: customers[owner_id]} if owner_id in customers else {} if owner_id else customers
        own = list(bounded(chosen.values()))
        yield from own
        covered = {each.id for each in own}
        for team in bounded(projection.entities("team").values()):
            if team.customer_id not in covered and (team.customer_id in chosen or not (team.customer_id or owner_id)):
                yield team


def tightest(budgets: Iterable[Budget], window: WindowName) -> Budget | None:
    """The budget of an owner that is spent first: enforced ones before observed ones."""
    fitting = [each for each in budgets if each.window in WINDOWS[window]]
    return min(fitting, key=lambda each: (each.enforcement == "observe", each.limit_nusd), default=None)


def total(found: list[Covering], figures: Figures) -> Total:
    """What they come to together."""
    spent = [figures.spent(each.counter) for each in found]
    held = [figures.held(each.counter) for each in found]
    ends = {each.end_s for each in found}
    return Total(
        budgets=len(found),
        observed=sum(each.budget.enforcement == "observe" for each in found),
        limit_nusd=sum(each.budget.limit_nusd for each in found),
        spent_nusd=_sum(spent),
        held_nusd=_sum(held),
        resets_at_s=ends.pop() if len(ends) == 1 else None,
    )


@dataclass(frozen=True)
class Attention:
    """How all budgets of customers and teams stand, and whose want attention."""

    budgets: int
    over: int
    near: int
    soon: int
    """Will be spent before their reset at the pace so far; ``near`` ones are not among them."""
    owners: list[tuple[str, Any]]
    """(kind, document), by name, teams right behind their customer."""


def counters(projection: Projection, now_s: int) -> dict[str, tuple[str, Any, Covering]]:
    """Counter of every budget of a customer or team: kind and document of its owner, and the budget."""
    found = {}
    for kind in ("customer", "team"):
        for document in projection.entities(kind).values():
            zone = zone_of(projection, document) if document.budgets else ""
            for budget in document.budgets:
                each = Covering(budget, *window_of(budget, zone, now_s))
                found[each.counter] = (kind, document, each)
    return found


def attention(asked: Mapping[str, tuple[str, Any, Covering]], figures: Figures, now_s: int) -> Attention:
    """Where the ledger does not say, nothing is said."""
    counts = {"over": 0, "near": 0, "soon": 0}
    owners: dict[str, tuple[str, Any]] = {}
    for counter, (kind, document, each) in asked.items():
        spent, limit = figures.spent(counter), each.budget.limit_nusd
        state = standing(spent, limit, forecast(spent, limit, each.start_s, each.end_s, now_s).spent_by_s is not None)
        if state:
            counts[state] += 1
            owners[document.id] = kind, document
    return Attention(len(asked), **counts, owners=list(owners.values()))


def standing(spent_nusd: int | None, limit_nusd: int, soon: bool) -> str:
    """``over``, ``near``, ``soon`` or empty."""
    if spent_nusd is not None and spent_nusd >= limit_nusd:
        return "over"
    if spent_nusd is not None and spent_nusd >= NEAR * limit_nusd:
        return "near"
    return "soon" if soon else ""


def _sum(amounts: list[int | None]) -> int | None:
    known = [each for each in amounts if each is not None]
    return sum(known) if len(known) == len(amounts) else None
