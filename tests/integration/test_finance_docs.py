"""docs/finance.md: every SQL example runs against the schema and answers."""

from __future__ import annotations

import re
from pathlib import Path

from bursar_aggregator.books import ALLOCATIONS, CLOSED, allocation_row, closed_row
from bursar_common.finance import Allocation, AllocationPart, LogBound, PeriodClose
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.usage_events import usage

PAGE = Path(__file__).parents[2] / "docs" / "finance.md"
EXAMPLES = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


async def test_the_examples_answer(tmp_path: Path) -> None:
    assert len(EXAMPLES) >= 10
    bounds = (LogBound("bursar.usage.v1", 0, 2), LogBound("bursar.corrections.v1", 0, 0))
    close = PeriodClose(
        id="close:2026-11", name="2026-11", created_at_s=1_796_200_000, closed_by="test", bounds=bounds,
        price_books=("b",), checksum="", rows=0, requests=0, billed_nusd=0, list_nusd=0, expired_nusd=0,
        corrections_nusd=0, allocated_nusd=0,
    )  # fmt: skip
    part = AllocationPart(team_id="t", team="T", weight=1, amount_nusd=5)
    fee = Allocation(id="f", name="seats", kind="fee", created_at_s=1, from_month="2026-11", parts=(part,))
    with ClickHouseFront(tmp_path) as front:
        await front.prepare([usage(1), usage(2, project=""), usage(3)])  # the last comes after the close
        analytics = front.inner()
        try:
            for table, columns, row in (
                ("closed_months", CLOSED, closed_row(close, 1)),
                ("allocations", ALLOCATIONS, allocation_row(fee, 1)),
            ):
                names, types = zip(*columns, strict=True)
                await analytics.insert_columns(table, names, types, [[value] for value in row])
            for example in EXAMPLES:
                rows = await analytics.query(example.replace("FORMAT TSVRaw", ""))
                assert rows, example
                for found in rows:
                    assert found.get("difference_usd", 0) == 0, example
        finally:
            await analytics.close()
