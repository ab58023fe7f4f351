"""ClickHouse for tests of whoever reads it: chDB behind its HTTP front, with the schema, filled with given events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bursar_aggregator.decode import UsageEvent
from bursar_aggregator.migrations import load_migrations, migrate
from bursar_aggregator.rows import COLUMN_TYPES, COLUMNS, row_of
from bursar_common.analytics import Analytics
from bursar_common.events import Usage
from tests.harness.processes import ServiceProcess, free_port

TOKEN = "token-of-the-tests"
_RANKS = {"refused": 0, "expired": 1}


class ClickHouseFront:
    """``with`` starts and stops it; ``prepare`` applies the schema."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}/bursar"
        env = {"BURSAR_HOME": str(folder), "BURSAR_CLICKHOUSE_LISTEN": self.address, "BURSAR_INTERNAL_TOKEN": TOKEN}
        self.process = ServiceProcess(
            "bursar_aggregator.clickhouse_front", env=env, address=self.address, folder=folder
        )
        self._inserted = 0

    def __enter__(self) -> ClickHouseFront:
        self.process.__enter__()
        return self

    def __exit__(self, *arguments: object) -> None:
        self.process.__exit__(*arguments)  # type: ignore[arg-type]

    def inner(self) -> Analytics:
        """A client that may write. To be closed."""
        return Analytics(f"http://bursar:{TOKEN}@{self.address}/bursar")

    async def prepare(self, events: Sequence[Usage] = ()) -> None:
        """Apply the schema (once) and insert events, as the aggregator would."""
        await self.process.ready()
        analytics = self.inner()
        try:
            await migrate(analytics, load_migrations())
            if not events:
                return
            rows = []
            for event in events:
                kind = {"refused": "denied", "expired": "expired"}.get(event.outcome, "usage")
                known = UsageEvent(f"{kind}:{event.request_id}", _RANKS.get(event.outcome, 2), event)
                row = row_of(known, "bursar.usage.v1", 0, self._inserted)
                assert isinstance(row, tuple), row
                rows.append(row)
                self._inserted += 1
            columns = [list(column) for column in zip(*rows, strict=True)]
            await analytics.insert_columns("usage_events", COLUMNS, COLUMN_TYPES, columns)
        finally:
            await analytics.close()

    async def query(self, sql: str) -> list[dict[str, object]]:
        analytics = self.inner()
        try:
            return await analytics.query(sql)
        finally:
            await analytics.close()
