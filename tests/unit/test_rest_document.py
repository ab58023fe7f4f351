"""docs/rest.md says what the admin API answers."""

from __future__ import annotations

from pathlib import Path

from bursar_admin.app import make_desk, route_table
from bursar_admin.queries.filters import NAMES
from bursar_admin.rest_document import document
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.settings import Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "rest.md"


async def test_the_document_is_made_from_the_routes(tmp_path: Path) -> None:
    """Anew: this test leaves the page that should be there as ``rest.md`` in its folder."""
    settings = Settings(
        home=tmp_path,
        enforcer_url="unix:enforcer.sock",
        internal_token="x",  # type: ignore[arg-type]
        clickhouse_url="http://127.0.0.1:1/bursar",
    )
    table = route_table(make_desk(settings, SqliteEventLog(tmp_path / "log.db")))
    wanted = document(table)
    (tmp_path / "rest.md").write_text(wanted, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == wanted, f"copy {tmp_path / 'rest.md'}"
    assert all(f"| `{name}`" in wanted for name in NAMES)
