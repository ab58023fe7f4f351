"""Pages of an installation with ten thousand teams and as many keys: bounded, paged, sorted, and everybody is found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import GOVERNANCE_TOPIC, GovernanceData, encode_event
from bursar_common.governance import Team, VirtualKey
from bursar_common.ids import uuid7_from
from tests.harness.admin import Admin, admin_settings, running_admin
from tests.harness.usage_events import STARTED_AT_MS

MANY = 10_000
HTML_BYTES = 250_000
"""Of any page here, however many there are."""
BATCH = 2_000


def owner_id(kind: int, number: int) -> str:
    return uuid7_from(STARTED_AT_MS, (kind * 1_000_000 + number).to_bytes(10, "big"))


def created(entity: str, document: Any) -> NewRecord:
    value = encode_event(
        id=f"made-{document.id}",
        source="bursar/admin",
        type=f"bursar.{entity}.created.v1",
        time="2026-11-21T10:00:00.000Z",
        subject=document.id,
        data=GovernanceData(
            entity=entity,
            entity_id=document.id,
            actor="local",
            seen={document.id: 0},
            document=msgspec.to_builtins(document),
        ),
    )
    return NewRecord(GOVERNANCE_TOPIC, document.id, value)


async def write_owners(home: Path) -> None:
    """A team and its key, ten thousand times, as the admin API would have written them."""
    log = open_log(admin_settings(home))
    await log.start()
    records: list[NewRecord] = []
    for number in range(MANY):
        team, key = owner_id(1, number), owner_id(2, number)
        records.append(created("team", Team(id=team, name=f"team-{number:05d}", created_at_s=1_780_000_000 + number)))
        document = VirtualKey(
            id=key, name=f"key-{number:05d}", hmac=f"{number:064x}", created_at_s=1_780_000_000 + number, team_id=team
        )
        records.append(created("virtual_key", document))
    for first in range(0, len(records), BATCH):
        await log.append(records[first : first + BATCH])
    await log.close()


async def test_pages_of_ten_thousand_teams_and_keys(tmp_path: Path) -> None:
    await write_owners(tmp_path)
    async with running_admin(tmp_path) as admin:
        for path in PATHS:
            await page(admin, path)
        await lists_go_on_page_by_page_in_any_order(admin)
        await whoever_is_not_among_the_options_of_a_choice_is_found_by_name(admin)
        await sorted_events_say_how_far_they_go(admin)
        await what_cannot_be_sorted_by_is_refused(admin)


async def page(admin: Admin, path: str) -> str:
    status, text, _ = await admin.call("GET", path, headers={"Accept": "text/html"})
    assert status == 200, text
    assert len(text.encode()) < HTML_BYTES, f"{path}: {len(text):,} characters"
    return str(text)


PATHS = (
    "/governance/teams", "/governance/keys", f"/governance/teams/{owner_id(1, 77)}",
    f"/governance/keys/{owner_id(2, 9)}",
    "/governance/keys/new", "/governance/users/new", "/finance/allocations", "/finance/allocations/new", "/settings",
    "/events", "/events?sort_by=name&order=asc", "/events/dead-letters", "/events?team=team-00077",
)  # fmt: skip


def names(text: str, what: str) -> list[str]:
    return re.findall(rf'data-row href="[^"]*" title="({what}-\d+)"', text)


async def lists_go_on_page_by_page_in_any_order(admin: Admin) -> None:
    text = await page(admin, "/governance/teams")
    assert names(text, "team") == [f"team-{number:05d}" for number in range(50)]
    assert "1 to 50 of 10,000" in text
    assert 'rel="next" href="/governance/teams?offset=50"' in text
    text = await page(admin, "/governance/teams?offset=9950&sort_by=created_at&order=desc")
    assert names(text, "team") == [f"team-{number:05d}" for number in range(49, -1, -1)]
    assert 'aria-sort="descending"' in text
    assert 'rel="next"' not in text
    text = await page(admin, "/governance/keys?sort_by=team&order=desc")
    assert names(text, "key")[0] == "key-09999"
    text = await page(admin, "/governance/keys?offset=20000")
    assert "Nothing found" in text


async def whoever_is_not_among_the_options_of_a_choice_is_found_by_name(admin: Admin) -> None:
    text = await page(admin, "/governance/keys/new")
    assert text.count(">team-") == 500
    assert 'data-find="team"' in text
    assert "Find among 10,000" in text
    # Chosen already: it is there, wherever it stands in the list.
    text = await page(admin, f"/governance/keys/new?team={owner_id(1, 9_876)}")
    assert f'<option value="{owner_id(1, 9_876)}" selected>team-09876</option>' in text


async def sorted_events_say_how_far_they_go(admin: Admin) -> None:
    # More events than are kept in memory: newest first goes back to the first of all, sorted ones say since when.
    text = await page(admin, "/events?sort_by=name&order=asc")
    assert "Not all events are sorted" in text
    status, answer, _ = await admin.call("GET", "/api/events?sort_by=name&order=asc&limit=2")
    assert status == 200
    assert answer["sorted_since"] == "2026-11-21T10:00:00.000Z"
    assert answer["events"][0]["name"] in ("anthropic", "configuration", "key-00000", "key-00001")


async def what_cannot_be_sorted_by_is_refused(admin: Admin) -> None:
    for path, wrong in (
        ("/api/governance/users", "sort_by=budget"), ("/api/governance/teams", "sort_by=spent"),
        ("/api/governance/virtual-keys", "order=up"), ("/api/finance/allocations", "sort_by=virtual_key"),
        ("/api/finance/statements?month=2026-10", "sort_by=cost"),
        ("/api/finance/corrections?month=2026-10", "limit=5001"),
        ("/governance/teams", "sort_by=spent"), ("/events", "order=up"), ("/finance/closes", "sort_by=checksum"),
    ):  # fmt: skip
        status, answer, _ = await admin.call("GET", f"{path}{'&' if '?' in path else '?'}{wrong}")
        assert (status, answer["error"]["field"]) == (400, wrong.partition("=")[0]), path
