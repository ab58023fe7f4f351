"""Dead letters over REST: listed newest first, appended again once, logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bursar_admin.letters import CUT_HEADER, POSITION_HEADER, REASON_HEADER
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import CONTENT_TOPIC, GOVERNANCE_TOPIC, OUTBOX_HEADER, RETRY_HEADER, USAGE_TOPIC
from tests.harness.admin import Admin, running_admin

LETTERS = "/api/events/dead-letters"
DLQ = f"{USAGE_TOPIC}.dlq"


def letter(number: int, *, topic: str = USAGE_TOPIC, value: bytes | None = None, **headers: str) -> NewRecord:
    named = {
        OUTBOX_HEADER: f"box:{number}",
        REASON_HEADER: "not a CloudEvents envelope",
        POSITION_HEADER: f"{topic}:0:{number}",
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    return NewRecord(
        f"{topic}.dlq",
        f"key{number}",
        value if value is not None else f'{{"broken": {number}, "name": "<script>"'.encode(),
        tuple((name, text.encode()) for name, text in named.items()),
    )


async def bury(admin: Admin, *records: NewRecord) -> None:
    await admin.desk.journal.event_log.append(list(records))


async def ask(admin: Admin, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    status, answer, _ = await admin.call(method, path, body)
    return status, answer


async def test_they_are_listed_newest_first_and_page_by_page(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        status, answer = await ask(admin, "GET", LETTERS)
        assert (status, answer["dead_letters"], answer["total_count"], answer["next_cursor"]) == (200, [], 0, None)
        for number in range(7):
            await bury(admin, letter(number))
        await bury(admin, letter(9, topic=CONTENT_TOPIC, value=b"what somebody wrote"))
        seen: list[dict[str, Any]] = []
        path = f"{LETTERS}?limit=3"
        while True:
            status, answer = await ask(admin, "GET", path)
            assert status == 200, answer
            seen += answer["dead_letters"]
            if answer["next_cursor"] is None:
                break
            path = f"{LETTERS}?limit=3&cursor={answer['next_cursor']}"
        assert sorted(each["position"] for each in seen) == sorted(
            [f"{USAGE_TOPIC}:0:{number}" for number in range(7)] + [f"{CONTENT_TOPIC}:0:9"]
        )
        times = [each["set_aside_at"] for each in seen]
        assert times == sorted(times, reverse=True)
        usage = [each for each in seen if each["topic"] == USAGE_TOPIC]
        assert [each["id"] for each in usage] == [f"{DLQ}:0:{number}" for number in range(6, -1, -1)]
        assert usage[0]["reason"] == "not a CloudEvents envelope"
        assert usage[0]["content"].startswith('{"broken": 6')
        (private,) = [each for each in seen if each["topic"] == CONTENT_TOPIC]
        assert private["content"] is None
        assert private["bytes"] == len(b"what somebody wrote")
        status, answer = await ask(admin, "GET", f"{LETTERS}/{DLQ}:0:3")
        assert (status, answer["dead_letter"]["key"]) == (200, "key3")


async def test_a_retry_appends_the_record_once_and_is_logged(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        await bury(admin, letter(0), letter(1))
        path = f"{LETTERS}/{quote(f'{DLQ}:0:0')}"
        status, answer = await ask(admin, "POST", f"{path}/retry", {})
        assert (status, answer["appended"]) == (200, True), answer
        assert answer["dead_letter"]["retried"]["actor"] == "local"
        for _ in range(2):
            status, again = await ask(admin, "POST", f"{path}/retry", {})
            assert (status, again["appended"]) == (200, False)
            assert "before" in again["message"]
        log = admin.desk.journal.event_log
        (record,) = await log.read(USAGE_TOPIC, 0, 0)
        assert record.value == letter(0).value
        assert record.key == "key0"
        assert dict(record.headers) == {OUTBOX_HEADER: b"box:0", RETRY_HEADER: f"{DLQ}:0:0".encode()}
        _, events = await ask(admin, "GET", "/api/events?entity=dead_letter")
        (event,) = events["events"]
        assert (event["action"], event["actor"], event["type"]) == ("retried", "local", "bursar.dead_letter.retried.v1")
        assert event["id"] == answer["event_id"]
        _, listed = await ask(admin, "GET", LETTERS)
        assert (listed["total_count"], listed["waiting_count"]) == (2, 1)
    # Another process, and another replica, know of it.
    async with running_admin(tmp_path) as admin:
        status, again = await ask(admin, "POST", f"{path}/retry", {})
        assert (status, again["appended"]) == (200, False)
        assert len(await admin.desk.journal.event_log.read(USAGE_TOPIC, 0, 0)) == 1


async def test_one_that_comes_back_names_the_letter_it_was(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        await bury(admin, letter(0), letter(1, bursar_retry_of=f"{DLQ}:0:0"))
        _, answer = await ask(admin, "GET", f"{LETTERS}/{DLQ}:0:1")
        assert answer["dead_letter"]["retry_of"] == f"{DLQ}:0:0"
        status, answer = await ask(admin, "POST", f"{LETTERS}/{DLQ}:0:1/retry", {})
        assert (status, answer["appended"]) == (200, True)
        (record,) = await admin.desk.journal.event_log.read(USAGE_TOPIC, 0, 0)
        assert [value for name, value in record.headers if name == RETRY_HEADER] == [f"{DLQ}:0:1".encode()]


async def test_a_cut_record_is_taken_whole_from_where_it_was_read(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        await bury(admin, NewRecord(USAGE_TOPIC, "k", b"the whole of it"))
        await bury(admin, letter(0, value=b"the wh", **{CUT_HEADER: "15"}))
        await bury(admin, letter(77, value=b"the wh", **{CUT_HEADER: "15"}))
        status, answer = await ask(admin, "POST", f"{LETTERS}/{DLQ}:0:0/retry", {})
        assert status == 200, answer
        assert (await admin.desk.journal.event_log.read(USAGE_TOPIC, 0, 1))[0].value == b"the whole of it"
        status, answer = await ask(admin, "POST", f"{LETTERS}/{DLQ}:0:1/retry", {})
        assert (status, answer["error"]["type"]) == (409, "conflict_error")
        assert len(await admin.desk.journal.event_log.read(USAGE_TOPIC, 0, 0)) == 2


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("GET", f"{LETTERS}/nonsense", None, 400, "id"),
        ("GET", f"{LETTERS}/{GOVERNANCE_TOPIC}:0:0", None, 400, "id"),
        ("POST", f"{LETTERS}/{USAGE_TOPIC}:0:0/retry", {}, 400, "id"),
        ("POST", f"{LETTERS}/{DLQ}:0:99/retry", {}, 404, ""),
        ("POST", f"{LETTERS}/{DLQ}:7:0/retry", {}, 404, ""),
        ("POST", f"{LETTERS}/{DLQ}:0:0/retry", {"topic": "x"}, 400, "topic"),
        ("GET", f"{LETTERS}?limit=201", None, 400, "limit"),
        ("GET", f"{LETTERS}?cursor=abc", None, 400, "cursor"),
        ("GET", f"{LETTERS}?topic=x", None, 400, "topic"),
    ],
)
async def test_wrong_questions(tmp_path: Path, method: str, path: str, body: Any, status: int, field: str) -> None:
    async with running_admin(tmp_path) as admin:
        await bury(admin, letter(0))
        found, answer = await ask(admin, method, path, body)
        assert (found, answer["error"]["field"]) == (status, field), answer
        assert await admin.desk.journal.event_log.end_offset(USAGE_TOPIC, 0) == 0
