"""``/sessions``: Claude Code's sessions; one as a tree of agents, on a time line, with what made it dear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.pages.frame import Frame
from bursar_admin.pages.logs import MOST_ROWS, Column, chips, filters, shown_so_far
from bursar_admin.pages.numbers import colours
from bursar_admin.routes import Route

ROWS = 50
TURNS = 500
"""Turns drawn and listed of one session; its sums are of all of them."""
PANEL_TURNS = 120
PANEL_AGENTS = 12
"""Of a session beside the list; its page has all."""
LEAST_WIDTH = 0.35
"""Per cent of the time line that a turn takes at least: shorter ones could not be seen."""
COLUMNS = (
    Column("session", "Session"),
    Column("who", "Who"),
    Column("project", "Project", wide=True),
    Column("started", "Last request", "last_at"),
    Column("duration", "Duration", right=True, wide=True),
    Column("requests", "Requests", "requests", right=True, wide=True),
    Column("agents", "Agents", right=True, wide=True),
    Column("models", "Models", wide=True),
    Column("tokens", "Tokens", "tokens", right=True, wide=True),
    Column("hit", "Cache hit", right=True, wide=True),
    Column("cost", "Cost", "cost", right=True),
)


@dataclass(frozen=True)
class Branch:
    """An agent of the tree, in the order it is read in."""

    agent: dict[str, Any]
    depth: int

    @property
    def name(self) -> str:
        return str(self.agent["agent_id"]) or "main"


@dataclass(frozen=True)
class Bar:
    """A turn on the time line: per cent of its width."""

    turn: dict[str, Any]
    x: float
    width: float


def branches(agents: list[dict[str, Any]]) -> list[Branch]:
    """The tree, depth first. Without recursion: its depth comes from clients."""
    found: list[Branch] = []
    stack = [(agent, 0) for agent in reversed(agents)]
    while stack:
        agent, depth = stack.pop()
        found.append(Branch(agent, depth))
        stack.extend((child, depth + 1) for child in reversed(agent["children"]))
    return found


def time_line(turns: list[dict[str, Any]]) -> dict[str, list[Bar]]:
    """Agent to the bars of its turns."""
    if not turns:
        return {}
    first = min(turn["started_at_ms"] for turn in turns)
    last = max(turn["started_at_ms"] + (turn["latency_ms"] or 0) for turn in turns)
    length = max(last - first, 1)
    rows: dict[str, list[Bar]] = {}
    for turn in turns:
        width = max(100 * (turn["latency_ms"] or 0) / length, LEAST_WIDTH)
        x = min(100 * (turn["started_at_ms"] - first) / length, 100 - LEAST_WIDTH)
        rows.setdefault(turn["agent_id"], []).append(Bar(turn, round(x, 3), round(min(width, 100 - x), 3)))
    return rows


def axis(turns: list[dict[str, Any]]) -> list[int]:
    """Start, middle and end of the time line, Unix s."""
    if not turns:
        return []
    first = min(turn["started_at_ms"] for turn in turns)
    last = max(turn["started_at_ms"] + (turn["latency_ms"] or 0) for turn in turns)
    return [moment // 1000 for moment in (first, (first + last) // 2, last)]


def heights(turns: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float]]:
    """Turns with what they cost, as per cent of the dearest."""
    most = max((turn["list_cost_nusd"] for turn in turns), default=0)
    for turn in turns:
        yield turn, round(100 * turn["list_cost_nusd"] / most, 2) if most else 0.0


def routes(_desk: Desk, frame: Frame) -> list[Route]:
    async def page(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        filters(view)
        return frame.shell(
            view,
            "sessions",
            "sessions.html",
            "Sessions",
            columns=COLUMNS,
            chips=chips(view),
            opened=view.query.get("open", ""),
        )

    async def rows(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        asked = {name: view.query.get(name) for name in ("sort_by", "order", "cursor")}
        answer = await view.api.get("/api/sessions", {**filters(view), **asked, "limit": ROWS})
        return frame.fragment(
            view,
            "parts/session_rows.html",
            sessions=answer["sessions"],
            cursor=answer["next_cursor"],
            columns=COLUMNS,
            first=not view.query.get("cursor"),
            shown=shown_so_far(view) + len(answer["sessions"]),
            most=MOST_ROWS,
        )

    async def summary(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        before = {"previous_from": view.span.before_start_s, "previous_to": view.span.before_end_s}
        answer = await view.api.get("/api/sessions", {**filters(view), **before, "limit": 1})
        return frame.fragment(
            view,
            "parts/session_summary.html",
            sums=answer["summary"],
            before=answer["previous"] if view.compare else None,
        )

    async def one(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        session_id = request.match_info["id"]
        return frame.shell(
            view, "sessions", "session.html", "Session", session_id=session_id, quoted=quote(session_id, "")
        )

    async def panel(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        path = f"/api/sessions/{quote(request.match_info['id'], '')}"
        answer = await view.api.get(path, {"limit": PANEL_TURNS})
        session, notice = answer["session"], answer["notice"]
        if not session["turns_count"]:
            return frame.fragment(view, "parts/session_left.html", session=session, notice=notice, panel=True)
        return frame.fragment(
            view, "parts/session_panel_kept.html", session=session, notice=notice,
            branches=branches(session["agents"])[:PANEL_AGENTS], heights=list(heights(session["turns"])),
            palette=dict(zip(session["models"], colours(session["models"]), strict=True)),
        )  # fmt: skip

    async def content(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        path = f"/api/sessions/{quote(request.match_info['id'], '')}"
        answer = await view.api.get(path, {"limit": TURNS})
        session, notice = answer["session"], answer["notice"]
        if not session["turns_count"]:
            return frame.fragment(view, "parts/session_left.html", session=session, notice=notice, panel=False)
        return frame.fragment(
            view,
            "parts/session_kept.html",
            session=session,
            notice=notice,
            branches=branches(session["agents"]),
            lines=time_line(session["turns"]),
            axis=axis(session["turns"]),
            heights=list(heights(session["turns"])),
            palette=dict(zip(session["models"], colours(session["models"]), strict=True)),
        )

    return [
        Route("GET", "/sessions", page, "sessions_page", "Sessions."),
        Route("GET", "/sessions/{id}", one, "session_page", "One session."),
        Route("GET", "/fragments/sessions/rows", rows, "session_rows", "A page of sessions."),
        Route("GET", "/fragments/sessions/summary", summary, "session_summary", "Sums over all sessions."),
        Route("GET", "/fragments/sessions/{id}/panel", panel, "session_panel", "One session beside the list."),
        Route("GET", "/fragments/sessions/{id}", content, "session_content", "One session's figures."),
    ]
