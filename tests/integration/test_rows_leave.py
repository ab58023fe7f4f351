"""Requests leave ClickHouse, archived first: no crash in between loses any, and what is shown stays as it was."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bursar_aggregator.archive import Archive, ArchiveError
from bursar_aggregator.left import REASON
from bursar_aggregator.rebuild import rebuild
from tests.harness.leaving import Installation, at, october_is_due
from tests.harness.usage_events import usage, usage_record

pytestmark = pytest.mark.timeout(900)
"""Seconds: views of many parts take the engine long to analyse where the machine has other work."""
DLQ = "bursar.usage.v1.dlq"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Installation]:
    async with october_is_due(tmp_path) as world:
        yield world


async def test_a_month_leaves_archived_and_everything_shown_stays(world: Installation) -> None:
    before = await world.shown()
    retention = world.retention()
    steps = [await retention.look(0), await retention.look(0), await retention.look(0)]
    assert steps == ["leaving", "left", ""], retention.why
    assert await world.rows() == 2
    kept = await world.one("SELECT toString(kept_from) AS day, archive FROM bursar.usage_kept")
    assert kept == {"day": "2026-11-01", "archive": str(world.archive / "2026-10")}
    assert await world.shown() == before
    # The same events once more change nothing; what nobody can know about is set aside, and said so.
    records = await world.log.read("bursar.usage.v1", 0, 0)
    await world.writer.write(records[:6])
    late = usage(50, started_at_ms=at(10, 3))
    await world.write(late, usage(51, started_at_ms=at(12, 2), cost_nusd=0))
    assert await world.rows() == 3
    (letter,) = await world.log.read(DLQ, 0, 0)
    assert dict(letter.headers)["bursar-dlq-reason"] == REASON.encode()
    assert letter.value == usage_record(late).value
    await world.sum_up()
    assert (await world.shown())[1][:2] == before[1][:2]
    # Made again from the log: sums and books of what has left stay, the rest is what it was.
    await rebuild(world.analytics, world.log)
    await world.sum_up()
    assert await world.rows() == 3
    assert (await world.shown())[1][:2] == before[1][:2]
    # And the archive gives the requests back, to look at.
    archive = Archive(world.archive, world.analytics)
    assert await archive.restore(archive.months()) == 5
    restored = await world.one(
        "SELECT toInt64(count()) AS n, toInt64(sum(cost_nusd)) AS c, any(tags['a']) AS t FROM bursar.usage_restored"
    )
    assert restored == {"n": 5, "c": 15, "t": "b"}


async def test_without_an_archive_it_leaves_too_and_not_before_its_time(world: Installation) -> None:
    retention = world.retention(archive=False)
    assert await retention.look(0) == "leaving"
    assert await retention.look() == "leaving"  # what is on its way gets its time
    assert await world.rows() == 7
    assert await retention.look(0) == "left"
    assert await retention.look(0) == ""  # November is not old enough
    assert await world.rows() == 2
    assert not world.archive.exists()


async def test_a_month_with_a_late_charge_in_an_open_month_stays(world: Installation) -> None:
    await world.write(usage(60, started_at_ms=at(10, 2), cost_nusd=7))
    await world.sum_up()
    retention = world.retention()
    assert await retention.look(0) == ""
    assert "1 of its charges are booked in a month that is not closed" in retention.why
    await world.analytics.command("TRUNCATE TABLE bursar.booked_months")
    assert await retention.look(0) == ""
    assert "books are not stored" in retention.why
    assert await world.rows() == 8


async def test_an_archive_that_cannot_be_written_keeps_everything(world: Installation) -> None:
    world.archive.write_text("a file where a folder should be")
    retention = world.retention()
    assert await retention.look(0) == "leaving"
    with pytest.raises(ArchiveError, match=r"cannot be written: Not a directory\. Nothing"):
        await retention.look(0)
    assert await world.rows() == 7
    world.archive.unlink()
    assert await retention.look(0) == "left"


async def test_a_file_that_reads_otherwise_than_it_was_written_keeps_everything(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    retention = world.retention()
    await retention.look(0)
    export = world.analytics.export

    async def other(sql: str, output_format: str) -> bytes:
        return await export(sql.replace("cost_nusd,", "cost_nusd + 1 AS cost_nusd,", 1), output_format)

    monkeypatch.setattr(world.analytics, "export", other)
    with pytest.raises(ArchiveError, match="does not read as what was written"):
        await retention.look(0)
    assert await world.rows() == 7
    assert [each.name for each in world.archive.iterdir()] == [".lock"]


async def test_what_was_archived_and_is_gone_keeps_the_rest(world: Installation) -> None:
    retention = world.retention()
    await retention.look(0)
    command = world.analytics.command

    async def dying(sql: str) -> None:
        if "DROP PARTITION" in sql:
            raise ConnectionError("killed")
        await command(sql)

    world.analytics.command = dying  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        await retention.look(0)
    world.analytics.command = command  # type: ignore[method-assign]
    manifest = await asyncio.to_thread(Archive(world.archive, world.analytics).check, "2026-10")
    assert (manifest.rows, manifest.log) == (5, (("bursar.usage.v1", 0, 0, 4),))
    (world.archive / "2026-10" / manifest.files[0].name).write_bytes(b"broken")
    assert await retention.look(0) == "archived"
    assert "no longer has" in retention.why
    assert await world.rows() == 7
    await asyncio.to_thread(shutil.rmtree, world.archive)
    assert await retention.look(0) == "archived"
    assert await world.rows() == 7
