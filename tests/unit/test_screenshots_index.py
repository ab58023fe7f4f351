"""docs/screenshots: every view in both themes, and an index that names them all."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
INDEX = FOLDER / "README.md"
SECTIONS: dict[str, dict[str, str]] = {
    "Overview": {"overview": "Spend against budgets and the period before, who and what it went to, what moved."},
    "Logs": {
        "logs": "Requests as they happen, under filters that stand in the address.",
        "request": "One request opened: tokens, prices and the arithmetic, the budgets it was charged to.",
        "request-correct": "Correcting what it cost: the arithmetic, and the reason that the books keep.",
        "request-correct-sure": "More than ten times as much is asked again.",
        "request-corrected": "A request whose cost was corrected.",
    },
    "Sessions": {
        "sessions": "Sessions of Claude Code, what each cost and how much came from the cache.",
        "session-panel": "A session beside the list.",
        "session": "One session: its agents as a tree, its time line, cost by turn.",
    },
    "Insights": {"insights": "What could cost less, each with its rule and its numbers."},
    "Budgets": {
        "budgets": "Every owner's budgets: spent, held, limit, pace, reset.",
        "budget-form": "A limit changed in place.",
        "budget-form-preview": "What a limit would have refused, and whom.",
    },
    "Finance": {
        "finance": "Statements: what each team is charged in a month.",
        "finance-empty": "A month without charges.",
        "finance-corrections": "What was corrected in a month, by whom and why.",
        "finance-corrections-empty": "A month without corrections.",
        "allocations": "Shared keys divided, seats, commitments.",
        "allocations-empty": "No allocation yet.",
        "allocation-new": "The form of a split, with what it would move.",
        "allocation": "A split that can still change.",
        "allocation-closed": "A split that is part of a closed month.",
        "finance-closes": "Months that are closed, and the closing of one.",
        "finance-closes-empty": "No month is closed yet.",
    },
    "Governance": {
        "governance-customers": "Customers.",
        "governance-customer": "One customer.",
        "governance-customer-new": "The form of a new customer.",
        "governance-teams": "Teams.",
        "governance-team": "One team: its form, its budgets now, who belongs to it.",
        "governance-team-new": "The form of a new team.",
        "governance-team-long": "A team whose name has 120 characters.",
        "governance-empty": "A list in which nothing was found.",
        "governance-users": "Users.",
        "governance-user": "One user.",
        "governance-user-new": "The form of a new user.",
        "governance-keys": "Virtual keys.",
        "governance-key": "One key.",
        "governance-key-new": "The form of a new key.",
        "governance-key-made": "A key's value, shown once, with the lines to copy.",
        "governance-key-providers": "What a key may use of each provider: models, budgets, rate limits.",
        "governance-providers": "Providers.",
        "governance-provider": "One provider, with a price of its own.",
        "governance-provider-new": "The form of a new provider.",
        "governance-prices": "The price book.",
    },
    "Events": {
        "events": "What happened, who did it, when.",
        "events-corrected": "Corrections of requests among the events.",
        "event": "One event: what changed.",
        "event-correction": "A correction: how much, why, whose request.",
        "events-dead-letters": "Records that nobody could read, with a retry.",
        "events-dead-letter-open": "What such a record holds.",
        "events-system": "How the parts do: log lag, holds, outbox.",
    },
    "Settings": {"settings": "Keys enforced or not, the default key, prompts and answers, what is kept how long."},
}
"""Section to view to what it shows. A view is there in both themes, most on a telephone too."""
WIDE_ONLY = {"governance-key-providers"}
"""Views without a picture of a telephone."""


def index() -> str:
    """What the index should say of the views above."""
    lines = [
        "# Screenshots",
        "",
        "Every view, light and dark at 1440 px, and light at 390 px. Taken by the tests of pages in a real Chromium",
        "when `BURSAR_SCREENSHOTS=1` is set:",
        "",
        "    BURSAR_SCREENSHOTS=1 pytest tests/e2e/test_pages*_browser.py",
        "",
    ]
    for section, views in SECTIONS.items():
        lines += [f"## {section}", "", f"![{section}]({next(iter(views))}-light.png)", ""]
        for name, says in views.items():
            links = f"[light]({name}-light.png), [dark]({name}-dark.png)"
            if name not in WIDE_ONLY:
                links += f", [390 px]({name}-light-390.png)"
            lines.append(f"- {says} {links}")
        lines.append("")
    lines += ["![A statement, printed](statement.png)", "", "A team's statement as it prints.", ""]
    return "\n".join(lines)


def names() -> set[str]:
    """The files that there should be."""
    found = {"statement.png"}
    for views in SECTIONS.values():
        for name in views:
            found |= {f"{name}-light.png", f"{name}-dark.png"}
            found |= {f"{name}-light-390.png"} if name not in WIDE_ONLY else set()
    return found


def test_the_index_names_every_view(tmp_path: Path) -> None:
    """Anew: this test leaves the page that should be there as ``README.md`` in its folder."""
    (tmp_path / "README.md").write_text(index(), encoding="utf-8")
    assert INDEX.read_text(encoding="utf-8") == index(), f"copy {tmp_path / 'README.md'}"


def test_no_view_is_missing_and_no_picture_is_of_none() -> None:
    there = {each.name for each in FOLDER.glob("*.png")}
    assert names() - there == set(), "take them: BURSAR_SCREENSHOTS=1"
    assert there - names() == set(), "name them in SECTIONS"


@pytest.mark.parametrize("name", sorted(names()))
def test_pictures_are_whole_and_small(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data.rstrip().endswith(b"IEND\xaeB`\x82")
    assert len(data) < 400_000
