"""Closing a month where the log is Kafka with its twelve partitions and the aggregator is the Faust job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.harness import clear_of_midnight, eventually
from tests.harness.gateway import Gateway
from tests.harness.simulated_cluster import SimulatedCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]


@pytest.fixture
async def gateway(cluster: SimulatedCluster) -> AsyncIterator[Gateway]:
    async with cluster.gateway() as gateway:
        yield gateway


async def test_a_month_is_closed_over_every_partition_and_what_comes_later_is_booked_in_the_next(
    gateway: Gateway,
) -> None:
    await clear_of_midnight()
    now = datetime.now(UTC)
    middle = (now.replace(day=1) - timedelta(days=15)).replace(hour=12)
    past, running = f"{middle:%Y-%m}", f"{now:%Y-%m}"
    keys = [await gateway.create_key(f"imported {number}") for number in range(4)]

    async def bring_in(name: str, key_id: str) -> None:
        entry: dict[str, Any] = {
            "message_id": name, "model": "claude-opus-4-8", "output_tokens": 7, "input_tokens": 12,
            "started_at_ms": int(middle.timestamp() * 1000),
        }  # fmt: skip
        answer = await gateway.api("POST", "/api/usage/import", {"virtual_key": key_id, "entries": [entry]})
        assert answer["recorded"] == 1, answer

    for number, key in enumerate(keys):
        await bring_in(f"in-time-{number}", key.id)

    async def closed() -> dict[str, Any]:  # refused while analytics are more than 15 s behind
        return dict((await gateway.api("POST", "/api/finance/closes", {"month": past}))["close"])

    close = await eventually(closed)
    usage = [each for each in close["log_positions"] if each["topic"] == "bursar.usage.v1"]
    assert sorted(each["partition"] for each in usage) == list(range(12))
    assert sum(each["next_offset"] for each in usage) >= 4
    assert close["rows"] == 1
    await bring_in("late", keys[0].id)
    await gateway.usage_rows(keys[0].id, at_least=2)

    async def booked() -> bool:  # once the aggregator has told ClickHouse of the close
        rows = await gateway.query(
            "SELECT formatDateTime(booked_month, '%Y-%m') AS booked, count() AS charges FROM bursar.charges"
            f" WHERE formatDateTime(belongs_to_month, '%Y-%m') = '{past}' GROUP BY booked ORDER BY booked"
        )
        counts = {row["booked"]: row["charges"] for row in rows}
        assert counts == {past: 4, running: 1}
        return True

    await eventually(booked)
    assert (await gateway.api("GET", f"/api/finance/closes/{past}"))["verified"] is True
