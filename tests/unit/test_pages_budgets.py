"""The tree of budgets, cut into pages."""

from __future__ import annotations

import pytest

from bursar_admin.pages.budgets import Owner, cut


def owner(name: str, children: int = 0) -> Owner:
    return Owner("team", name, name, 1, [], children=[owner(f"{name}.{number}") for number in range(children)])


def names(owners: list[Owner]) -> list[str]:
    return [name for each in owners for name in (each.id, *(child.id for child in each.children))]


TREE = [owner("a", 3), owner("b"), owner("c", 2)]


@pytest.mark.parametrize(
    ("offset", "most", "shown"),
    [
        (0, 200, ["a", "a.0", "a.1", "a.2", "b", "c", "c.0", "c.1"]),
        (0, 3, ["a", "a.0", "a.1"]),
        # A customer stands above its teams again where they go on.
        (3, 3, ["a", "a.2", "b", "c"]),
        (6, 3, ["c", "c.0", "c.1"]),
        (8, 3, []),
        (0, 1, ["a"]),
    ],
)
def test_pages_of_the_tree(offset: int, most: int, shown: list[str]) -> None:
    found, total = cut(TREE, offset, most)
    assert names(found) == shown
    assert total == 8


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 9])
def test_every_owner_stands_on_some_page(most: int) -> None:
    seen = [name for offset in range(0, 8, most) for name in names(cut(TREE, offset, most)[0])]
    assert set(seen) == set(names(TREE))
