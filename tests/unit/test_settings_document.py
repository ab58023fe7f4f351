"""docs/settings.md says what the settings are."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from bursar_common.settings import Settings
from bursar_common.settings_document import document

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def rows() -> dict[str, list[str]]:
    """Cells by name, of the table on the page itself."""
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name.strip("`"): others for name, *others in cells}


def test_the_document_is_made_from_the_settings() -> None:
    """Anew: python -c "from bursar_common.settings_document import document as d; print(d(), end=str())" > the page"""
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_every_setting_is_there_with_a_meaning() -> None:
    assert set(rows()) == {f"BURSAR_{name.upper()}" for name in Settings.model_fields}
    assert all(meaning.endswith(".") for _, _, meaning in rows().values())


@pytest.mark.parametrize(
    ("name", "default", "allowed"),
    [
        ("BURSAR_HOLD_TTL_S", "`60`", "6 to 3600"),
        ("BURSAR_ADMISSION_WAIT_S", "`60.0`", "0 to 600"),
        ("BURSAR_OUTBOX_MAX_BYTES", "`2147483648`", "at least 1048576"),
        ("BURSAR_LOG_LEVEL", "`info`", "`debug`, `info`, `warning`, `error`"),
        ("BURSAR_SINGLE_BROKER", "`false`", "`true`, `false`"),
        ("BURSAR_EDGE_LISTEN", "`127.0.0.1:8080`", ""),
        ("BURSAR_HOME", "", ""),
        ("BURSAR_KEY_SECRET", "", ""),
    ],
)
def test_defaults_and_bounds_are_the_real_ones(name: str, default: str, allowed: str) -> None:
    assert rows()[name][:2] == [default, allowed]


def test_a_setting_without_a_meaning_is_not_documented_as_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = FieldInfo(annotation=str, default="")
    monkeypatch.setitem(Settings.model_fields, "silent", silent)
    with pytest.raises(ValueError, match="silent has no docstring"):
        document()
