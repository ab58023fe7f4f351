"""The file of an export: a path that cannot be written is one sentence, before anything is asked for."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

import bursar.focus_export
from bursar.cli import main
from bursar.local_http import Answer

WORDS = ["export", "focus", "--url", "http://127.0.0.1:9", "--token", "t", "--month", "2026-11", "-o"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of a gateway that has a month of $1.5 in two rows."""
    paths: list[str] = []

    def call(_url: str, _method: str, path: str, **_: Any) -> Answer:
        paths.append(urlsplit(path).path)
        said = {"billed_usd": "1.500000000", "requests": 2, "complete": True, "made_at": str(len(paths))}
        return Answer(200, json.dumps(said).encode())

    def download(_url: str, path: str, file: Any, **_: Any) -> Answer:
        paths.append(urlsplit(path).path)
        file.write(b"BilledCost\n1.25\n0.25\n")
        return Answer(200, b"")

    monkeypatch.setattr(bursar.focus_export, "call", call)
    monkeypatch.setattr(bursar.focus_export, "download", download)
    return paths


def refuse(error: int) -> Callable[..., Any]:
    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return fails


def test_the_file_and_what_it_was_made_from(tmp_path: Path, asked: list[str]) -> None:
    file = tmp_path / "bill.csv"
    answer = CliRunner().invoke(main, [*WORDS, str(file)])
    assert answer.exit_code == 0, answer.output
    assert file.read_bytes() == b"BilledCost\n1.25\n0.25\n"
    assert json.loads((tmp_path / "bill.csv.manifest.json").read_text())["bytes"] == 21
    assert (len(asked), len(os.listdir(tmp_path))) == (3, 2)


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_takes_no_file(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """As /proc, where even root may not write though its permissions say so."""
    monkeypatch.setattr("tempfile.mkstemp", refuse(error))
    answer = CliRunner().invoke(main, [*WORDS, str(tmp_path / "x.parquet")])
    said = f"Error: {tmp_path}/x.parquet cannot be written: {os.strerror(error)}.\n"
    assert (answer.exit_code, answer.output, asked) == (1, said, [])


@pytest.mark.parametrize("name", ["x" * 300, "folder", "taken.csv", "none/x.csv"])
def test_paths_that_can_be_no_file(tmp_path: Path, asked: list[str], name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken.csv.manifest.json").mkdir()
    answer = CliRunner().invoke(main, [*WORDS, str(tmp_path / name)])
    assert (answer.exit_code, answer.output.count("\n"), asked) == (1, 1, [])
    assert answer.output.startswith("Error: ")
    assert sorted(os.listdir(tmp_path)) == ["folder", "taken.csv.manifest.json"]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", refuse(errno.ENOSPC))
    answer = CliRunner().invoke(main, [*WORDS, str(tmp_path / "x.csv")])
    assert answer.output == f"Error: {tmp_path}/x.csv cannot be written: No space left on device.\n"
    assert os.listdir(tmp_path) == []
    assert asked
