"""Who decides whether prompts and answers are stored."""

from __future__ import annotations

import pytest

from bursar_common.governance import Config, ContentDeletion, Team, VirtualKey, content_stored

KEY = {"id": "k", "name": "alice", "hmac": "h", "created_at_s": 1}
TEAM = {"id": "t", "name": "platform", "created_at_s": 1}


@pytest.mark.parametrize(
    ("installation", "team", "key", "stored"),
    [
        ("off", None, "", False),
        ("off", "", "", False),
        ("on", None, "", True),
        ("on", "", "", True),
        ("off", "on", "", True),
        ("off", "", "on", True),
        ("off", None, "on", True),
        ("on", "", "off", False),
        ("on", "on", "off", False),
        ("off", "on", "off", False),
        ("on", "off", "", False),
        ("on", "off", "on", False),
        ("off", "off", "on", False),
        ("on", None, "off", False),
        ("on", "on", "on", True),
    ],
)
def test_any_may_switch_it_on_and_key_or_team_forbid_it(
    installation: str, team: str | None, key: str, stored: bool
) -> None:
    config = Config(content=installation)  # type: ignore[arg-type]
    owner = None if team is None else Team(**TEAM, content=team)  # type: ignore[arg-type]
    assert content_stored(config, owner, VirtualKey(**KEY, content=key)) is stored  # type: ignore[arg-type]


def test_it_is_off_unless_somebody_says_otherwise() -> None:
    assert not content_stored(Config(), Team(**TEAM), VirtualKey(**KEY))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("deletion", "covered"),
    [
        ({"user_id": "u"}, True),
        ({"virtual_key_id": "k"}, True),
        ({"session_id": "s"}, True),
        ({"user_id": "other"}, False),
        ({"user_id": "k"}, False),
        ({}, False),
    ],
)
def test_a_deletion_covers_what_started_before_it(deletion: dict[str, str], covered: bool) -> None:
    found = ContentDeletion(id="d", created_at_ms=100, before_ms=100, **deletion)
    assert found.covers("u", "k", "s", 99) is covered
    assert not found.covers("u", "k", "s", 100)
    assert not found.covers("", "", "", 99)
