"""What every handler works with: the projection, the way of a command, the figures, the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bursar_admin.access import Access
from bursar_admin.addresses import UpstreamRules
from bursar_admin.analytics import Analytics
from bursar_admin.answers import BalancesState
from bursar_admin.books import Books
from bursar_admin.corrected import Corrected
from bursar_admin.correcting import Correcting
from bursar_admin.enforcer import Enforcer
from bursar_admin.errors import conflict
from bursar_admin.journal import Journal, Outcome
from bursar_admin.limits import Moment
from bursar_admin.live import LiveFeed
from bursar_admin.meter import Meter
from bursar_admin.past import Past
from bursar_admin.projection import Projection
from bursar_admin.representation import REPRESENT, Figures, counters_of
from bursar_admin.spending import Spending
from bursar_admin.usage import UsageStore
from bursar_admin.writes import Decision
from bursar_common.clock import Clock
from bursar_common.ids import IdMinter
from bursar_common.metrics_endpoint import Metrics, MetricsAccess
from bursar_common.settings import Settings

Command = Callable[[Projection, Moment], Decision]

MAX_OPENING_ROUNDS = 4
"""Times a command may ask for opening balances: the entity may change between question and answer."""


class Desk:
    """Holds the parts together; decides nothing."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        enforcer: Enforcer,
        spending: Spending,
        clock: Clock,
        mint: IdMinter,
        past: Past,
    ) -> None:
        self.past = past
        """Governance events that are not kept in memory."""
        self.settings = settings
        self.journal = journal
        self.enforcer = enforcer
        self.clock = clock
        self.mint = mint
        self.access = Access(settings, self.now_s)
        self.rules = UpstreamRules.of(settings)
        self.key_secret = settings.key_secret.get_secret_value()
        self.spending = spending
        self.analytics = Analytics(settings.clickhouse_url, ca_file=settings.ca_file)
        self.corrected = Corrected(journal.event_log, self.analytics)
        """Corrections of requests, as events."""
        self.correcting = Correcting(journal, self.analytics, clock)
        self.books = Books(journal.projection, enforcer)
        self.usage = UsageStore(self.analytics, journal.projection, clock)
        self.meter = Meter()
        self.metrics_access = MetricsAccess(settings, settings.admin_listen)
        self.metrics: Metrics | None = None
        """Made by the route that tells them."""
        self.live = LiveFeed(journal.event_log, lambda user_id: self.usage.name_of("user", user_id))

    @property
    def projection(self) -> Projection:
        return self.journal.projection

    def now_s(self) -> int:
        return self.clock.now_ms() // 1000

    def moment(self, actor: str | None = None) -> Moment:
        return Moment(self.now_s(), self.mint, actor or self.access.actor)

    async def run(self, command: Command) -> Outcome:
        """Take a command through the log, looking up the opening balances that it turns out to need."""
        openings: dict[tuple[str, int], int] = {}
        for _ in range(MAX_OPENING_ROUNDS):
            asked: list[Moment] = []

            def judged(
                projection: Projection, asked: list[Moment] = asked, known: dict[tuple[str, int], int] = openings
            ) -> Decision:
                moment = self.moment()
                moment.openings = known
                decision = command(projection, moment)
                if moment.needed:
                    asked.append(moment)
                    raise _OpeningsNeeded
                return decision

            try:
                return await self.journal.submit(judged)
            except _OpeningsNeeded:
                openings = openings | await self.spending.openings(asked[-1].needed)
        raise conflict("The budgets kept changing while this change was worked out. Nothing was done; try again.")

    async def represent(self, entity: str, documents: Iterable[Any]) -> tuple[list[dict[str, Any]], BalancesState]:
        """Answers for documents, with one question to the ledger for all of them."""
        listed = list(documents)
        now_s = self.now_s()
        counters = [counter for document in listed for counter in counters_of(self.projection, document, now_s)]
        balances = await self.enforcer.balances(counters)
        figures = Figures(balances)
        represent = REPRESENT[entity]
        answers = [dict(represent(self.projection, document, figures, now_s)) for document in listed]
        return answers, "live" if balances is not None else "unavailable"


class _OpeningsNeeded(Exception):
    """The command's outcome depends on figures not asked for yet."""
