"""Who has which name, what the table lacks and what must leave it; the follower while its stores are away."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_aggregator import people as people_module
from bursar_aggregator.people import (
    MAX_ID_BYTES,
    PEOPLE_GROUP,
    Difference,
    People,
    PeopleFollower,
    PersonRow,
    deletion,
)
from bursar_common.analytics import AnalyticsRefused, AnalyticsUnavailable
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import GOVERNANCE_TOPIC
from tests.harness.aggregator_people import user_record, user_value
from tests.harness.waiting import eventually

NOTHING = Difference((), ())


def people_after(*values: bytes) -> People:
    people = People()
    for value in values:
        people.take(value)
    return people


def test_a_new_person_is_missing_until_the_row_is_there() -> None:
    people = people_after(user_value("u1", "Ann", seen=0))
    assert people.difference([]) == Difference((("u1", "Ann", 1),), ())
    assert people.difference([PersonRow("u1", 1)]) == NOTHING


def test_a_former_name_is_stale() -> None:
    people = people_after(user_value("u1", "Ann", seen=0), user_value("u1", "Anna", seen=1))
    former = PersonRow("u1", 1)
    assert people.difference([former]) == Difference((("u1", "Anna", 2),), (former,))
    assert people.difference([former, PersonRow("u1", 2)]) == Difference((), (former,))


def test_of_a_deleted_person_every_row_is_stale_and_none_is_missing() -> None:
    people = people_after(
        user_value("u1", "Ann", seen=0), user_value("u1", "Anna", seen=1), user_value("u1", None, seen=2)
    )
    rows = [PersonRow("u1", version) for version in (1, 2, 3)]
    assert people.difference(rows) == Difference((), tuple(rows))
    assert people.difference([]) == NOTHING


def test_rows_of_the_unknown_and_of_a_replica_that_is_ahead_are_left_alone() -> None:
    people = people_after(user_value("u1", "Ann", seen=0), user_value("u2", "Bob", seen=0))
    people.take(user_value("u2", None, seen=1))
    assert people.difference([PersonRow("u1", 2), PersonRow("u2", 3), PersonRow("u9", 1)]) == NOTHING


def test_a_stale_version_changes_nothing() -> None:
    people = people_after(user_value("u1", "Ann", seen=0))
    for value in (
        user_value("u1", "Mallory", seen=0),
        user_value("u1", None, seen=5),
        user_value("u2", "Eve", seen=1),
    ):
        assert not people.take(value)
    assert people.difference([]) == Difference((("u1", "Ann", 1),), ())


def test_versions_of_other_entities_count_too() -> None:
    people = people_after(user_value("team1", "Team", seen=0, entity="team", bumps=("u1",)))
    assert not people.take(user_value("u1", "Ann", seen=0))
    assert people.take(user_value("u1", "Ann", seen=1))
    assert people.difference([]) == Difference((("u1", "Ann", 2),), ())


def test_other_entities_and_what_cannot_be_read_are_nobody() -> None:
    people = people_after(user_value("team1", "Team", seen=0, entity="team"), b"?", b"", user_value("", "x", seen=0))
    people.take(user_value("u" * (MAX_ID_BYTES + 1), "Long", seen=0))
    assert people.difference([]) == NOTHING


def test_a_person_whose_name_was_taken_away_is_forgotten() -> None:
    people = people_after(user_value("u1", "Ann", seen=0), user_value("u1", "", seen=1))
    assert people.difference([PersonRow("u1", 1)]) == Difference((), (PersonRow("u1", 1),))


@given(st.binary(max_size=300))
def test_taking_never_raises(value: bytes) -> None:
    assert not People().take(value)


@given(st.text(max_size=40))
def test_an_id_is_never_sql(user_id: str) -> None:
    statement = deletion([PersonRow(user_id, 3)])
    (encoded,) = re.findall(r"\(\(unhex\('([0-9a-f]*)'\), 3\)\)", statement)
    assert bytes.fromhex(encoded).decode() == user_id


class Table:
    """``bursar.people`` in memory; fails as told, once each."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], str] = {}
        self.failures: list[Exception] = []
        self.calls = 0

    def _called(self) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop()

    async def query(self, _sql: str) -> list[dict[str, Any]]:
        self._called()
        return [{"user_id": user_id, "version": version} for user_id, version in self.rows]

    async def insert_columns(
        self, table: str, _names: Sequence[str], _types: Sequence[str], columns: Sequence[Sequence[Any]]
    ) -> None:
        assert table == "people"
        self._called()
        self.rows |= {(user_id, version): name for user_id, name, version in zip(*columns, strict=True)}

    async def command(self, sql: str) -> None:
        self._called()
        for encoded, version in re.findall(r"\(unhex\('([0-9a-f]+)'\), (\d+)\)", sql):
            del self.rows[bytes.fromhex(encoded).decode(), int(version)]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    log = SqliteEventLog(tmp_path / "log.db")
    await log.start()
    yield log
    await log.close()


async def committed(log: SqliteEventLog) -> int:
    """The follower's position once it is the topic's end."""
    end = await log.end_offset(GOVERNANCE_TOPIC, 0)

    async def there() -> bool:
        return await log.committed(PEOPLE_GROUP, GOVERNANCE_TOPIC, 0) == end

    await eventually(there)
    return end


async def test_whatever_fails_is_tried_again_and_committed_only_afterwards(
    log: SqliteEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people_module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(people_module, "FIRST_RETRY_S", 0.01)
    table = Table()
    table.failures = [
        AnalyticsRefused("no", 60),
        RuntimeError("nobody thought of this"),
        AnalyticsUnavailable("away"),
        AnalyticsUnavailable("away"),
    ]
    await log.append([user_record("u1", "Ann", seen=0), user_record("u2", "Bob", seen=0)])
    follower = PeopleFollower(table, log)  # type: ignore[arg-type]
    follower.start()
    await committed(log)
    assert table.failures == []
    assert table.rows == {("u1", 1): "Ann", ("u2", 1): "Bob"}

    table.failures = [AnalyticsUnavailable("away")] * 3
    await log.append([user_record("u1", None, seen=1), user_record("u2", "Rob", seen=1)])
    await committed(log)
    assert table.rows == {("u2", 2): "Rob"}
    await follower.close()
    calls = table.calls
    await log.append([user_record("u3", "Cid", seen=0)])
    await follower.close()
    assert table.calls == calls


async def test_a_table_is_put_right_at_the_start_whatever_was_committed(
    log: SqliteEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people_module, "LOOK_EVERY_S", 0.01)
    records = [user_record(f"u{number}", f"N{number}", seen=0) for number in range(1_203)]
    await log.append([*records, *(user_record(f"u{number}", None, seen=1) for number in range(1_200))])
    end = await log.end_offset(GOVERNANCE_TOPIC, 0)
    await log.commit(PEOPLE_GROUP, GOVERNANCE_TOPIC, 0, end)
    table = Table()
    # A copy from before the deletions was restored; one name is lost.
    table.rows = {(f"u{number}", 1): f"N{number}" for number in range(1_202)}
    follower = PeopleFollower(table, log)  # type: ignore[arg-type]
    follower.start()
    right = {("u1200", 1): "N1200", ("u1201", 1): "N1201", ("u1202", 1): "N1202"}
    await eventually(lambda: table.rows == right)
    await follower.close()
