"""The archive: one replica writes it at a time, nothing whole is replaced by less; and its command."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bursar_aggregator import archive as module
from bursar_aggregator.archive import Archive, ArchiveError
from bursar_aggregator.rows import COLUMNS
from tests.harness.clickhouse_front import TOKEN
from tests.harness.leaving import Installation, october_is_due

pytestmark = pytest.mark.timeout(900)
"""Seconds: views of many parts take the engine long to analyse where the machine has other work."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Installation]:
    async with october_is_due(tmp_path) as world:
        yield world


def shown(world: Installation) -> list[str]:
    """What is in the archive's folder, but for its lock."""
    return sorted(each.name for each in world.archive.iterdir() if each.name != ".lock")


async def tables(world: Installation) -> list[Any]:
    return await world.analytics.query(
        "SELECT name FROM system.tables WHERE database = 'bursar' AND startsWith(name, 'usage_archiving_')"
    )


async def test_a_whole_month_is_never_replaced_by_a_part_of_it(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = (Archive(world.archive, world.analytics) for _ in range(2))
    write_file, said = slow._write_file, list[str]()

    async def in_between(*arguments: Any) -> Any:
        if not said:
            with pytest.raises(ArchiveError, match="another aggregator is writing") as refused:
                await other.write("2026-10")
            said.append(str(refused.value))
        return await write_file(*arguments)

    monkeypatch.setattr(slow, "_write_file", in_between)
    assert await slow.write("2026-10") == 5
    assert said
    # The same once more is kept as it stands; so is what is whole where a replica has lost its lock.
    stood = (world.archive / "2026-10").stat().st_ino
    assert await other.write("2026-10") == 5
    assert (shown(world), (world.archive / "2026-10").stat().st_ino) == (["2026-10"], stood)

    async def nothing(*_: object) -> None: ...

    monkeypatch.setattr(module, "writing", lambda _folder: nullcontext())
    monkeypatch.setattr(Archive, "_clear", nothing)
    retention, calls = world.retention(), list[str]()
    assert await retention.look(0) == "leaving"

    async def dropped_in_between(*arguments: Any) -> Any:
        calls.append(arguments[0].name)
        if len(calls) == 2:
            assert await retention.look(0) == "left"
        return await write_file(*arguments)

    monkeypatch.setattr(slow, "_write_file", dropped_in_between)
    with pytest.raises(ArchiveError, match="2026-10 have left meanwhile: the archive stays as it is"):
        await slow.write("2026-10")
    assert await world.rows() == 2
    assert other.check("2026-10").rows == 5
    assert (shown(world), (world.archive / "2026-10").stat().st_ino) == (["2026-10"], stood)
    assert await tables(world) == []
    assert await other.restore(["2026-10"]) == 5


async def test_a_month_that_has_fewer_requests_than_its_archive_stays(world: Installation) -> None:
    archive = Archive(world.archive, world.analytics)
    assert await archive.write("2026-10") == 5
    await world.analytics.command(
        "ALTER TABLE bursar.usage_events DELETE WHERE log_offset = 1 SETTINGS mutations_sync = 2"
    )
    with pytest.raises(ArchiveError, match=r"holds 5 requests and ClickHouse 4: neither was touched\. Move that"):
        await archive.write("2026-10")
    assert archive.check("2026-10").rows == 5
    # More of them, or other ones, are written; what was there is laid aside.
    (world.archive / "2026-10").rename(world.archive / "moved")
    assert await archive.write("2026-10") == 4
    await world.analytics.command(
        "ALTER TABLE bursar.usage_events UPDATE cost_nusd = 77 WHERE log_offset = 2 SETTINGS mutations_sync = 2"
    )
    assert await archive.write("2026-10") == 4
    assert [name.partition("-before")[0].partition(".before")[0] for name in shown(world)] == [
        "2026-10", "2026-10", "moved",
    ]  # fmt: skip


async def test_what_was_restored_stays_and_new_columns_are_no_hindrance(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(world.archive, world.analytics)
    await archive.write("2026-10")
    assert await archive.restore(["2026-10"]) == 5
    # A killed writing has left a table and a folder; since, requests have got a column.
    await world.analytics.command("CREATE TABLE bursar.usage_archiving_dead AS bursar.usage_events")
    (world.archive / ".2026-11.dead.part").mkdir()
    await world.analytics.command("ALTER TABLE bursar.usage_events ADD COLUMN next_release Int64 DEFAULT 4")
    monkeypatch.setattr(module, "COLUMNS", (*COLUMNS, "next_release"))
    assert await archive.write("2026-11") == 1
    assert (shown(world), await tables(world)) == (["2026-10", "2026-11"], [])
    assert (await world.one("SELECT toInt64(sum(cost_nusd)) AS c FROM bursar.usage_restored"))["c"] == 15
    # Archives of before and since are restored into what requests are now; a broken one changes nothing.
    assert await archive.restore(["2026-10", "2026-11"]) == 6
    restored = "SELECT toInt64(sum(cost_nusd)) AS c, toInt64(sum(next_release)) AS n FROM bursar.usage_restored"
    assert await world.one(restored) == {"c": 115, "n": 24}
    (world.archive / "2026-11" / archive.manifest("2026-11").files[0].name).write_bytes(b"broken")
    with pytest.raises(ArchiveError, match="is not what was written"):
        await archive.restore(["2026-10", "2026-11"])
    assert await world.one(restored) == {"c": 115, "n": 24}


async def bursar(
    world: Installation, *arguments: str, archive: str | None = None, kafka: str = "127.0.0.1:1"
) -> tuple[int, str, str]:
    """Exit code, output and errors of ``bursar archive`` beside a cluster; without ``kafka`` on one machine."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bursar", "archive", *arguments,
        env={
            **os.environ,
            "BURSAR_KAFKA_BOOTSTRAP": kafka,
            "BURSAR_CLICKHOUSE_URL": f"http://bursar:{TOKEN}@{world.front.address}/bursar",
            "BURSAR_USAGE_ARCHIVE": str(world.archive) if archive is None else archive,
            "BURSAR_HOME": str(world.archive.parent / "home"),
        },
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await child.communicate()
    return child.returncode or 0, out.decode(), err.decode()


async def test_the_command_lists_verifies_and_restores(world: Installation) -> None:
    assert await bursar(world, "list") == (0, f"Nothing is archived in {world.archive}.\n", "")
    archive = Archive(world.archive, world.analytics)
    for month in ("2026-10", "2026-11"):
        await archive.write(month)
    manifests = [archive.manifest(month) for month in archive.months()]
    lines = [
        f"{each.month}  {each.rows} request{'s' * (each.rows > 1)}  {len(each.files)} file{'s' * (len(each.files) > 1)}"
        f"  {sum(file.bytes for file in each.files)} bytes  {each.checksum}"
        for each in manifests
    ]
    assert await bursar(world, "list") == (0, "".join(f"{line}\n" for line in lines), "")
    assert await bursar(world, "list", "2026-11") == (0, f"{lines[1]}\n", "")
    whole = [f"{line}  as it was written\n" for line in lines]
    assert await bursar(world, "verify") == (0, "".join(whole), "")
    code, out, _ = await bursar(world, "restore", "2026-10")
    assert (code, out) == (0, "5 requests of 2026-10 are in bursar.usage_restored, in place of what was there.\n")
    assert (await world.one("SELECT toInt64(sum(cost_nusd)) AS c FROM bursar.usage_restored"))["c"] == 15
    # On one machine, whose home is another one.
    home = world.archive.parent / "home"
    assert await bursar(world, "list", kafka="") == (
        1, "", f"Error: There is no event log in {home}: no Bursar was started there (see --home).\n",
    )  # fmt: skip
    home.mkdir()
    (home / "log.db").touch()
    assert await bursar(world, "verify", kafka="") == (0, "".join(whole), "")
    code, out, _ = await bursar(world, "restore", kafka="")
    assert (code, out.splitlines()[-1]) == (
        0, "6 requests of 2026-10, 2026-11 are in bursar.usage_restored, in place of what was there.",
    )  # fmt: skip
    # What is wrong is said, and by the exit code.
    there = "it has 2026-10, 2026-11\n"
    assert await bursar(world, "verify", "2026-09") == (1, "", f"2026-09 is not in {world.archive}: {there}")
    path = world.archive / "2026-10" / manifests[0].files[0].name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    code, out, err = await bursar(world, "verify")
    assert (code, out) == (1, whole[1])
    assert err.startswith(f"{path} is not what was written: its SHA-256 is ")
    code, _, err = await bursar(world, "restore", "2026-10", "2026-11")
    assert (code, "is not what was written" in err) == (1, True)
    assert (await world.one("SELECT toInt64(sum(cost_nusd)) AS c FROM bursar.usage_restored"))["c"] == 15
    assert await bursar(world, "list", archive="") == (
        2, "", "BURSAR_USAGE_ARCHIVE is not set: there is no archive.\n",
    )  # fmt: skip
