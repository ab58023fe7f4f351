"""What nobody should ask of logs, sums, sessions and pages: answered with the fault, or harmless; never 500."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import pytest

from bursar_admin import live as live_module
from bursar_admin.routes import live as live_routes
from bursar_common.clock import SystemClock
from tests.harness.admin import Admin, running_admin
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.usage_events import STARTED_AT_MS, usage

HTML = '<img src=x onerror="alert(1)"><script>alert(2)</script>\'"&'
ROWS = 30
QUESTIONS = (
    "/api/logs", "/api/logs/stats", "/api/logs/histogram", "/api/logs/rankings?by=team", "/api/logs/filterdata",
    "/api/sessions", "/api/insights",
)  # fmt: skip
"""Everything that takes the shared filters and asks ClickHouse."""
FRAGMENTS = (
    "/fragments/logs/rows", "/fragments/logs/summary", "/fragments/logs/known", "/fragments/sessions/rows",
    "/fragments/insights", "/fragments/overview/health", "/fragments/overview/by/team",
    "/fragments/overview/movers", "/fragments/overview/refused", "/fragments/overview/unpaid",
)  # fmt: skip
"""Parts of pages that show the time range of the address."""
INJECTIONS = (
    "'; DROP TABLE bursar.usage_events; --",
    "' OR 1=1 --",
    "x') UNION ALL SELECT name FROM system.tables --",
    "{team:String}",
    "\\' OR \\'1\\'=\\'1",
    "%' OR '%'='",
    "`x`; SELECT 1",
    "$$); SELECT sleep(3)",
    "\u202e\U0001f4a5 ünï",
    HTML,
)


class ClockOfTheEvents(SystemClock):
    def now_ms(self) -> int:
        return STARTED_AT_MS + 3_600_000


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseFront]:
    tags = {"note": HTML}
    events = [usage(number, session_id=f"s{number % 3}", user_id="u1", project=HTML, team=HTML, tags=tags)
              for number in range(ROWS)]  # fmt: skip
    with ClickHouseFront(tmp_path_factory.mktemp("bad_input")) as front:
        asyncio.run(front.prepare(events))
        yield front


@pytest.fixture
async def admin(front: ClickHouseFront, tmp_path: Path) -> AsyncIterator[Admin]:
    async with running_admin(tmp_path, clock=ClockOfTheEvents(), clickhouse_url=front.url) as admin:
        yield admin


def joined(path: str, **query: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}{urlencode(query)}"


async def counted(admin: Admin) -> int:
    status, answer, _ = await admin.call("GET", "/api/logs/stats?from=2026-11-21&to=2026-11-21")
    assert status == 200, answer
    return int(answer["stats"]["requests"])


@pytest.mark.parametrize("text", INJECTIONS)
async def test_sql_in_a_filter_is_text(admin: Admin, text: str) -> None:
    for name in ("team", "user", "key", "model", "provider", "project", "session", "branch", "text"):
        status, answer, _ = await admin.call("GET", joined("/api/logs", **{name: text, "from": "2026-11-21"}))
        if name == "text" and not text.isprintable():
            assert (status, answer["error"]["field"]) == (400, "text")
            continue
        assert status == 200, (name, answer)
        assert bool(answer["logs"]) == (text == HTML and name in ("team", "project", "text")), (name, answer)
    for path in ("/api/logs/stats", "/api/sessions"):
        status, answer, _ = await admin.call("GET", joined(path, team=text, session=text))
        assert status == 200, (path, answer)
    for name in ("outcome", "billing", "min_cost_usd", "tag", "by"):
        status, answer, _ = await admin.call("GET", joined("/api/logs/histogram", **{name: text}))
        assert status == 200 if name == "tag" and ":" in text else status == 400, (name, answer)
    assert await counted(admin) == ROWS


async def test_sql_in_a_parameter_is_refused(admin: Admin) -> None:
    for name in ("sort_by", "order", "interval", "metric", "timezone", "limit", "cursor", "dimension"):
        for path in QUESTIONS:
            status, answer, _ = await admin.call("GET", joined(path, **{name: INJECTIONS[0]}))
            assert (status, answer["error"]["field"]) == (400, name), (path, name, answer)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "2026-12-01", "to": "2026-11-01"}, "to"),
        ({"from": "2026-11-01T10:00:00Z", "to": "2026-11-01T10:00:00Z"}, "to"),
        ({"from": "2016-01-01", "to": "2026-11-21"}, "from"),
        ({"from": "2016-01-01"}, "from"),
        ({"from": "2030-01-01"}, "from"),
        ({"from": "2026-13-01"}, "from"),
        ({"to": "2026-02-30"}, "to"),
        ({"to": "99999999999"}, "to"),
        ({"from": "-1"}, "from"),
        ({"from": "1e9"}, "from"),
        ({"from": "١٢٣٤"}, "from"),
        ({"min_cost_usd": "5", "max_cost_usd": "1"}, "max_cost_usd"),
        ({"min_tokens": str(1 << 63)}, "min_tokens"),
        ({"max_latency_ms": "NaN"}, "max_latency_ms"),
        ({"team": "x" * 513}, "team"),
        ({"text": "x" * 201}, "text"),
        ({"text": "a\x00b"}, "text"),
        ({"temas": "x"}, "temas"),
    ],
)
async def test_ranges_and_values_that_are_none_are_named(admin: Admin, query: dict[str, str], field: str) -> None:
    for path in QUESTIONS:
        status, answer, _ = await admin.call("GET", joined(path, **query))
        if path == "/api/logs" and query in ({"from": "2016-01-01"}, {"from": "2030-01-01"}) and status == 200:
            continue  # a listing reads only as far as its page: nothing is summed
        assert status == 400, (path, answer)
        problems = answer["error"].get("problems") or [answer["error"]]
        assert field in [problem["field"] for problem in problems], (path, answer)


async def test_a_value_is_not_given_a_hundred_times(admin: Admin) -> None:
    status, answer, _ = await admin.call("GET", "/api/logs?" + "&".join(f"team=t{number}" for number in range(101)))
    assert (status, answer["error"]["field"]) == (400, "team")
    assert (await admin.call("GET", "/api/logs?limit=1&limit=2"))[0] == 400


async def test_a_cursor_belongs_to_its_question(admin: Admin) -> None:
    base = "/api/logs?from=2026-11-21&limit=10"
    _, first, _ = await admin.call("GET", base)
    cursor = first["next_cursor"]
    status, second, _ = await admin.call("GET", f"{base}&cursor={cursor}")
    assert status == 200
    assert not {row["id"] for row in first["logs"]} & {row["id"] for row in second["logs"]}
    for path in (
        f"{base}&team=other&cursor={cursor}",
        f"{base}&sort_by=cost&cursor={cursor}",
        f"{base}&order=asc&cursor={cursor}",
        f"/api/sessions?from=2026-11-21&cursor={cursor}",
        f"{base}&cursor={cursor[:-3]}",
        f"{base}&cursor={quote(cursor[::-1])}",
        f"{base}&cursor=" + "A" * 2000,
    ):
        status, answer, _ = await admin.call("GET", path)
        assert (status, answer["error"]["field"]) == (400, "cursor"), path


async def test_pages_say_what_is_wrong_with_an_address(admin: Admin) -> None:
    page = {"Accept": "text/html"}
    part = {"HX-Request": "true", "HX-Current-URL": "http://localhost/logs"}
    for query, said in (
        ("from=2026-12-01&to=2026-11-01", "is not after from"),
        ("from=2006-01-01&to=2026-01-01", "too long before to"),
        ("range=" + quote(HTML), "is not a time range"),
        ("from=2026-13-45", "is not a day or moment"),
    ):
        for path in ("/logs", "/sessions", "/"):
            status, text, _ = await admin.call("GET", f"{path}?{query}", headers=page)
            assert status == 400, (path, query)
            assert said in html.unescape(text), (path, query)
            assert "<img src=x" not in text
        for path in FRAGMENTS:
            status, text, _ = await admin.call("GET", f"{path}?{query}", headers=part)
            assert status == 400, (path, query)
            assert "<img src=x" not in text
    for path in ("/fragments/overview/by/nonsense", "/?by=nonsense", "/budgets?show=nonsense"):
        assert (await admin.call("GET", path, headers=page))[0] == 400
    for path in ("/fragments/sessions/nobody", "/fragments/logs/nobody", "/fragments/budgets/team/x/y"):
        status, text, _ = await admin.call("GET", path, headers=part)
        assert status == 404, (path, text)


async def test_html_in_names_is_text_on_every_page(admin: Admin) -> None:
    team = (await admin.create("teams", name=HTML, budget={"max_limit": 5, "reset_duration": "1M"}))["team"]
    await admin.create("virtual-keys", name=HTML, team_id=team["id"])
    headers = {"HX-Request": "true", "HX-Current-URL": "http://localhost/"}
    seen = 0
    for path in (
        *FRAGMENTS, "/fragments/overview/top", "/fragments/budgets/tree",
        f"/fragments/budgets/team/{team['id']}/keys", "/fragments/scope",
        f"/fragments/search?text={quote('<img')}", "/fragments/sessions/s1", f"/logs?team={team['id']}",
        f"/?team={quote(HTML)}", f"/logs?text={quote(HTML)}&model={quote(HTML)}",
    ):  # fmt: skip
        status, text, answered = await admin.call("GET", path, headers=headers)
        assert status == 200, (path, text)
        assert "<img src=x" not in text, path
        assert "<script>alert" not in text, path
        seen += "&lt;img src=x" in text
        assert "script-src 'self'" in answered["Content-Security-Policy"]
    assert seen >= 8


async def test_a_flood_of_sockets_meets_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand at once: so many watch, the others are told; when they leave there is room again."""
    most = 64
    monkeypatch.setattr(live_module, "MAX_WATCHERS", most)
    monkeypatch.setattr(live_routes, "HEARTBEAT_S", 1e6)  # nobody here reads, and so nobody answers a ping
    async with running_admin(tmp_path) as admin:
        headers = {"Host": "localhost"}

        async def connect() -> Any:
            try:
                return await admin.session.ws_connect("http://admin/ws", headers=headers)
            except aiohttp.WSServerHandshakeError as refused:
                return refused.status

        assert admin.session.connector is not None
        async with aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(admin.session.connector.path, limit=200)  # type: ignore[attr-defined]
        ) as many:
            admin.session, own = many, admin.session
            results = [result for _ in range(10) for result in await asyncio.gather(*(connect() for _ in range(100)))]
            admin.session = own
            sockets = [result for result in results if not isinstance(result, int)]
            assert len(sockets) == most
            assert {result for result in results if isinstance(result, int)} == {503}
            assert admin.desk.live.watchers == most
            status, _, _ = await admin.call("GET", "/api/governance/teams")
            assert status == 200
            await asyncio.gather(*(socket.close() for socket in sockets))
        async with asyncio.timeout(60):
            while admin.desk.live.watchers:
                await asyncio.sleep(0.02)
        await (await admin.session.ws_connect("http://admin/ws", headers=headers)).close()
