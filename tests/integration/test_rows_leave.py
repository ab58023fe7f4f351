"""Requests leave ClickHouse, archived first: no crash in between loses any, and what is shown stays as it was."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bursar_aggregator import rebuild as rebuilding
from bursar_aggregator.archive import Archive, ArchiveError
from bursar_aggregator.books import BOOKS_GROUP
from bursar_aggregator.hours import HourSums
from bursar_aggregator.left import REASON
from bursar_aggregator.rebuild import rebuild
from bursar_aggregator.rows_retention import RowsRetention
from bursar_aggregator.stored_books import StoredBooks
from bursar_common.eventlog.port import LogRecord, NewRecord
from bursar_common.events import CORRECTIONS_TOPIC
from bursar_common.settings import Settings
from tests.harness.leaving import NOW_MS, Installation, at, october_is_due
from tests.harness.usage_events import usage, usage_record

pytestmark = pytest.mark.timeout(900)
"""Seconds: views of many parts take the engine long to analyse where the machine has other work."""
DLQ = "bursar.usage.v1.dlq"
TAKEN_FROM = "SELECT toString(taken_from) AS day FROM bursar.usage_kept"


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
    with pytest.raises(ArchiveError, match=r"cannot be written: (Not a directory|File exists)\. Nothing"):
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


async def test_nothing_leaves_where_no_days_are_set(world: Installation) -> None:
    for archive in ("", str(world.archive)):
        settings = Settings(usage_archive=archive)
        retention = RowsRetention(world.analytics, world.log, settings, lambda: NOW_MS + 5_000 * 86_400_000)
        assert [await retention.look(0) for _ in range(3)] == ["", "", ""]
    assert await world.rows() == 7
    assert (await world.one(TAKEN_FROM))["day"] == "1970-01-01"


async def test_a_clock_that_is_ahead_deletes_nothing(world: Installation) -> None:
    settings = Settings(usage_rows_days=40)
    ahead = RowsRetention(world.analytics, world.log, settings, lambda: NOW_MS + 401 * 86_400_000)
    assert await ahead.look(0) == ""
    assert "402 days ahead of the newest request" in ahead.why
    assert (await world.rows(), (await world.one(TAKEN_FROM))["day"]) == (7, "1970-01-01")
    # What the log says of itself is by the clock of its own.
    (newest,) = await world.log.read("bursar.usage.v1", 0, 6)
    said = RowsRetention(
        world.analytics, world.log, settings, lambda: newest.appended_at_ms + 401 * 86_400_000
    ).forget_log()
    assert "401 days ahead" in await said
    assert await world.log.begin_offset("bursar.usage.v1", 0) == 0


async def test_a_month_whose_sums_are_of_a_former_form_stays_until_they_are_made_anew(world: Installation) -> None:
    before = await world.shown()
    await world.analytics.command(
        "ALTER TABLE bursar.usage_hours_built UPDATE form = 1 WHERE 1 SETTINGS mutations_sync = 2"
    )
    retention = world.retention(archive=False)
    assert await retention.look(0) == ""
    assert "of its hours are of a former form" in retention.why
    sums = HourSums(world.analytics)
    assert await sums.look(0) == 4
    assert await retention.look(0) == "leaving"
    # A building that was begun before, and would be noted when the requests are gone.
    hours = [row["h"] for row in await world.analytics.query("SELECT toUnixTimestamp(hour) AS h FROM bursar.usage_hours"
        " WHERE hour < '2026-11-01' GROUP BY hour")]  # fmt: skip
    assert await retention.look(0) == "left", retention.why
    await sums._build(hours)
    await sums.look(0)
    assert (await world.shown())[1] == before[1]


async def test_no_month_leaves_while_analytics_are_rebuilt(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charge that holds October is the last of the log: until it is replayed, October looks as if it could go."""
    await world.write(usage(60, started_at_ms=at(10, 2), cost_nusd=7_777))
    await world.log.delete_before("bursar.usage.v1", 1)  # the log has begun to forget: stored books stay
    retention = world.retention(archive=False)
    monkeypatch.setattr(rebuilding, "MAX_BATCH_RECORDS", 5)
    read = world.log.read
    seen: list[tuple[str, str]] = []
    reads = 0

    async def meanwhile(*arguments: object, **named: object) -> list[LogRecord]:
        nonlocal reads
        reads += 1
        if reads == 2:
            await world.sum_up()
            seen.append((await retention.look(0), retention.why))
        return await read(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(world.log, "read", meanwhile)
    assert await rebuild(world.analytics, world.log) == 7
    assert seen == [("", "analytics are being rebuilt, or that was broken off: `bursar rebuild analytics` ends it")]
    await world.sum_up()
    assert await retention.look(0) == ""
    assert "1 of its charges are booked in a month that is not closed" in retention.why
    assert await world.rows() == 8


async def test_what_the_readers_have_not_read_keeps_a_month(world: Installation) -> None:
    retention = world.retention(archive=False)
    assert await retention.look(0) == "leaving"
    await world.log.append([NewRecord(CORRECTIONS_TOPIC, "a request", b"a correction that is on its way")])
    assert await retention.look(0) == "leaving"
    assert "of bursar.corrections.v1, partition 0, 1 records are not in yet" in retention.why
    assert await world.rows() == 7
    await world.log.append([NewRecord(CORRECTIONS_TOPIC, "a request", b"of a later moment: it was refused")])
    await world.log.commit(BOOKS_GROUP, CORRECTIONS_TOPIC, 0, 1)
    assert await retention.look(0) == "left", retention.why


async def test_a_month_that_may_not_leave_after_all_stays_and_takes_requests(world: Installation) -> None:
    retention = world.retention()
    assert await retention.look(0) == "leaving"
    assert (await world.one(TAKEN_FROM))["day"] == "2026-11-01"
    longer = RowsRetention(world.analytics, world.log, Settings(usage_rows_days=200), lambda: NOW_MS)
    assert await longer.look(0) == ""
    assert (await world.one(TAKEN_FROM))["day"] == "1970-01-01"
    await world.write(usage(61, started_at_ms=at(10, 2), cost_nusd=5))
    assert await world.rows() == 8
    assert await world.log.end_offset(DLQ, 0) == 0
    await world.sum_up()
    assert await retention.look(0) == ""
    assert "1 of its charges" in retention.why
    # Once that is closed it leaves, archived anew with what came meanwhile.
    await world.close("2026-12", 0)
    assert await StoredBooks(world.analytics, lambda: world.closes).look() == ["2026-12"]
    assert [await retention.look(0), await retention.look(0)] == ["leaving", "left"], retention.why
    assert (await asyncio.to_thread(Archive(world.archive, world.analytics).check, "2026-10")).rows == 6
