"""Connecting changes three values of settings.json and nothing else; disconnecting undoes exactly that."""

from __future__ import annotations

import json
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.claude_settings import SettingsRefused, connect, disconnect, wanted_lines
from bursar.cli import main

LINES = wanted_lines("http://localhost:8080", "sk-bf-new")
NAMES = st.sampled_from([*LINES, "PATH", "env", "", "zażółć", 'quo"te'])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
DOCUMENTS = st.fixed_dictionaries(
    {"permissions": VALUES}, optional={"env": st.dictionaries(NAMES, VALUES, max_size=6), "model": VALUES}
) | st.just({})
LAYOUTS = st.sampled_from(
    [
        {"indent": 2},
        {"indent": 4, "ensure_ascii": False},
        {"indent": "\t"},
        {"indent": 0},
        {},
        {"separators": (",", ":")},
        {"separators": (" ,\n ", " : ")},
    ]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.json"


@contextmanager
def settings_file(content: str) -> Iterator[Path]:
    """In a folder of its own: Hypothesis runs many examples in one test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.json"
        path.write_bytes(content.encode())
        yield path


@settings(deadline=None, max_examples=150)
@given(document=DOCUMENTS, layout=LAYOUTS, around=st.sampled_from([("", ""), ("", "\n"), ("\r\n ", "\n\n")]))
def test_connect_changes_three_values_and_disconnect_restores_every_byte(
    document: Any, layout: Any, around: tuple[str, str]
) -> None:
    before = around[0] + json.dumps(document, **layout) + around[1]
    with settings_file(before) as path:
        connect(path, LINES)
        assert json.loads(path.read_bytes()) == document | {"env": document.get("env", {}) | LINES}
        assert list(json.loads(path.read_bytes()))[: len(document)] == list(document)
        connect(path, LINES | {"ANTHROPIC_AUTH_TOKEN": "sk-bf-newer"})
        disconnect(path)
        assert path.read_bytes() == before.encode()
        assert list(path.parent.iterdir()) == [path]


@settings(deadline=None, max_examples=150)
@given(document=DOCUMENTS, layout=LAYOUTS, again=LAYOUTS, added=VALUES, twice=st.booleans())
def test_what_others_change_in_between_stays(document: Any, layout: Any, again: Any, added: Any, twice: bool) -> None:
    with settings_file(json.dumps(document, **layout)) as path:
        connect(path, LINES)
        edited = json.loads(path.read_text())
        edited["added"] = added
        path.write_text(json.dumps(edited, **again))
        if twice:
            connect(path, LINES)
        disconnect(path)
        assert json.loads(path.read_text()) == document | {"added": added}


def test_the_layout_around_is_kept(path: Path) -> None:
    path.write_text('{\n    "env": {\n        "A": "1.0e5"\n    },\n    "n": 1.00\n}\n')
    connect(path, {"B": "x", "C": "y"})
    assert path.read_text() == (
        '{\n    "env": {\n        "A": "1.0e5",\n        "B": "x",\n        "C": "y"\n    },\n    "n": 1.00\n}\n'
    )
    path.write_text(path.read_text().replace("1.00", "2.00"))
    disconnect(path)
    assert path.read_text() == '{\n    "env": {\n        "A": "1.0e5"\n    },\n    "n": 2.00\n}\n'


def test_an_env_is_made_where_there_is_none(path: Path) -> None:
    path.write_text('{\n  "model": "opus"\n}\n')
    connect(path, {"B": "x"})
    assert path.read_text() == '{\n  "model": "opus",\n  "env": {\n    "B": "x"\n  }\n}\n'


def test_a_file_of_our_own_making_goes_again(path: Path) -> None:
    connect(path, LINES)
    assert json.loads(path.read_text()) == {"env": LINES}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(path.read_text() + " ")
    disconnect(path)
    assert list(path.parent.iterdir()) == []


def test_a_value_changed_by_hand_is_left_and_named(path: Path) -> None:
    path.write_text('{"env": {"ANTHROPIC_BASE_URL": "http://old", "X": "1"}}')
    connect(path, LINES)
    changed = json.loads(path.read_text())
    changed["env"]["ANTHROPIC_AUTH_TOKEN"] = "by-hand"
    path.write_text(json.dumps(changed))
    undone = disconnect(path)
    assert undone.left == ("ANTHROPIC_AUTH_TOKEN",)
    assert undone.restored == ("ANTHROPIC_BASE_URL",)
    assert undone.removed == ("ENABLE_TOOL_SEARCH",)
    assert json.loads(path.read_text()) == {
        "env": {"ANTHROPIC_BASE_URL": "http://old", "X": "1", "ANTHROPIC_AUTH_TOKEN": "by-hand"}
    }


def test_mode_and_link_survive(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "settings.json"
    real.write_text("{}")
    real.chmod(0o644)
    link.symlink_to(real)
    connect(link, LINES)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    disconnect(link)
    assert (real.read_text(), stat.S_IMODE(real.stat().st_mode)) == ("{}", 0o644)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"x"', b'{"env": []}',
     b'{"env": null}', b"{// no\n}", b'{"a": NaN}', b'\xef\xbb\xbf{}', b"\xff",
     b'{"env":{},"env":{}}', b'{"env":{"ANTHROPIC_BASE_URL":"a","ANTHROPIC_BASE_URL":"b"}}', b"{} {}", b"[" * 100_000],
)  # fmt: skip
def test_what_cannot_be_edited_is_refused_and_not_touched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SettingsRefused):
        connect(path, LINES)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_disconnecting_what_was_never_connected_says_so(path: Path) -> None:
    path.write_text("{}")
    with pytest.raises(SettingsRefused, match="nothing to undo"):
        disconnect(path)


def test_a_crash_between_memory_and_file_loses_nothing(path: Path) -> None:
    path.write_text('{"env": {"ANTHROPIC_BASE_URL": "http://old"}}')
    connect(path, LINES)
    path.write_text('{"env": {"ANTHROPIC_BASE_URL": "http://old"}}')
    assert disconnect(path).left == ()
    assert path.read_text() == '{"env": {"ANTHROPIC_BASE_URL": "http://old"}}'


STATUS = {"type": "command", "command": "bursar statusline"}


@settings(deadline=None, max_examples=100)
@given(document=DOCUMENTS, layout=LAYOUTS, again=LAYOUTS, touched=st.booleans(), twice=st.booleans())
def test_a_status_line_comes_and_goes(document: Any, layout: Any, again: Any, touched: bool, twice: bool) -> None:
    before = json.dumps(document, **layout)
    with settings_file(before) as path:
        assert connect(path, LINES, STATUS) is True
        written = json.loads(path.read_text())
        assert written == document | {"env": document.get("env", {}) | LINES, "statusLine": STATUS}
        if touched:
            path.write_text(json.dumps(written | {"added": 1}, **again))
        if twice:
            assert connect(path, LINES, STATUS | {"command": "elsewhere/bursar statusline"}) is True
        undone = disconnect(path)
        assert "statusLine" in undone.removed
        if touched:
            assert json.loads(path.read_text()) == document | {"added": 1}
        else:
            assert path.read_text() == before


@pytest.mark.parametrize("own", ['{"type": "command", "command": "mine"}', "null", '"x"'])
def test_an_own_status_line_stays(path: Path, own: str) -> None:
    text = f'{{"statusLine": {own}, "env": {{}}}}'
    path.write_text(text)
    assert connect(path, LINES, STATUS) is False
    assert json.loads(path.read_text())["statusLine"] == json.loads(own)
    disconnect(path)
    assert path.read_text() == text


def test_a_status_line_changed_since_is_left_and_named(path: Path) -> None:
    assert connect(path, LINES, STATUS) is True
    changed = json.loads(path.read_text()) | {"statusLine": {"type": "command", "command": "mine"}}
    path.write_text(json.dumps(changed))
    assert connect(path, LINES, STATUS) is False
    assert disconnect(path).left == ()
    assert json.loads(path.read_text()) == {"statusLine": {"type": "command", "command": "mine"}}

    path.unlink()
    assert connect(path, LINES, STATUS) is True
    path.write_text(json.dumps(json.loads(path.read_text()) | {"statusLine": "mine"}))
    assert disconnect(path).left == ("statusLine",)


def test_help_and_readme_name_everything_that_connect_writes() -> None:
    said = CliRunner().invoke(main, ["connect", "--help"]).output
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [line] = [line for line in readme.splitlines() if line.startswith("    bursar connect ")]
    for name in (*LINES, "statusLine", "--no-statusline"):
        assert name in said
        assert name in readme
    assert "statusLine" in said.partition("settings.json")[0]
    assert "statusLine" in line
