"""Paths as a start names them: short, and good in a shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.announce import _quoted, _short


@pytest.mark.parametrize(
    ("path", "shown", "in_a_shell"),
    [
        ("/home/ann", "~", "~"),  # a container whose home folder is the state's
        ("/home/ann/.bursar", "~/.bursar", "~/.bursar"),
        ("/home/ann/my bursar", "~/my bursar", "~/'my bursar'"),
        ("/var/lib/bursar", "/var/lib/bursar", "/var/lib/bursar"),
        ("/home/anna", "/home/anna", "/home/anna"),
    ],
)
def test_paths_are_short_and_good_in_a_shell(
    monkeypatch: pytest.MonkeyPatch, path: str, shown: str, in_a_shell: str
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert _short(Path(path)) == shown
    assert _quoted(Path(path)) == in_a_shell
