"""One Bursar with traffic and one browser, for tests of pages."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from tests.harness.browser import WIDTHS, Tab, accessibility_faults, running_browser
from tests.harness.gateway import Gateway
from tests.harness.one_machine import OneMachine
from tests.harness.page_traffic import Seeded, seed

MESSAGE = {"model": "claude-sonnet-4-6", "max_tokens": 64, "messages": [{"role": "user", "content": "Say ledger."}]}


UNTIL_S = 120.0
"""Bound for what was written to be where pages read, on a busy two-core machine."""
READINGS = 10


def until(condition: Callable[[], Any], timeout_s: float = UNTIL_S) -> Any:
    """The first truthy result, where Playwright has the thread's event loop; a gateway that refuses to answer counts as
    not yet. Raises AssertionError after that time."""
    deadline = time.monotonic() + timeout_s
    while True:
        last: object = None
        try:
            last = condition()
        except OSError as error:
            last = error
        if last and not isinstance(last, OSError):
            return last
        assert time.monotonic() < deadline, f"not true after {timeout_s:g} s, last: {last!r}"
        time.sleep(0.2)


def same(readings: Callable[[], tuple[Any, Any]]) -> None:
    """What two places say, one asked after the other, is the same. Asked again where it is not: a second, or a day, may
    have ended between the two, but not between each two."""
    for _ in range(READINGS):
        one, other = readings()
        if one == other:
            return
        time.sleep(0.5)
    assert one == other


@dataclass
class World:
    machine: OneMachine
    seeded: Seeded
    browser: Browser

    @property
    def url(self) -> str:
        return self.machine.url

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(self.url + path, headers={"accept": "text/html"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()

    def ask(self, key: str = "alice-laptop") -> None:
        """One request of a developer."""
        request = urllib.request.Request(
            self.url + "/anthropic/v1/messages",
            data=json.dumps(MESSAGE).encode(),
            headers={"authorization": f"Bearer {self.seeded.keys[key].value}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
            answer.read()

    def ask_recorded(self, key: str = "alice-laptop") -> None:
        """The same; returns once lists of requests have it. Nobody else may ask meanwhile."""
        before = self._newest()
        self.ask(key)
        until(lambda: self._newest() != before)

    def _newest(self) -> str:
        return str(self.api("/api/logs?limit=1")["logs"][0]["id"])

    def api(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return dict(json.loads(answer.read()))

    def seed(self, more: Callable[[Gateway, Seeded], Awaitable[None]]) -> None:
        async def run() -> None:
            async with self.machine.gateway() as gateway:
                await more(gateway, self.seeded)

        # Playwright's own loop runs in this thread.
        with ThreadPoolExecutor(1) as other:
            other.submit(asyncio.run, run()).result()

    def path(self, name: str) -> str:
        """The page of one of :data:`NAMES`."""
        if name == "request":
            chosen = self.api(f"/api/logs?limit=1&outcome=completed&session={self.seeded.session}")["logs"][0]
            return f"/logs?request={chosen['id']}"
        return {
            "overview": "/",
            "overview-one-team": f"/?range=7d&team={self.seeded.teams['platform']}",
            "logs": "/logs",
            "logs-filtered": "/logs?outcome=completed&min_cost_usd=0.001&model=claude-opus-4-8",
            "logs-empty": "/logs?model=nobody-asks-for-this",
            "sessions": "/sessions",
            "session": f"/sessions/{self.seeded.session}",
            "insights": "/insights",
            "budgets": "/budgets",
        }[name]


@contextmanager
def running_world(folder: Path) -> Iterator[World]:
    """One gateway and one browser: seven weeks of a company."""
    with OneMachine(folder) as machine:

        async def seeded() -> Seeded:
            async with machine.gateway() as gateway:
                return await seed(gateway)

        found = asyncio.run(seeded())
        with running_browser() as browser:
            yield World(machine, found, browser)


def looked_at(tab: Tab, name: str = "") -> None:
    """The open page at every width; with a name in both themes, and its screenshots. Rules about structure are asked of
    one theme, those about colour of both."""
    dark = (("dark", 390), ("dark", 1440)) if name else ()
    for theme, width in (("light", 1440), ("light", 1024), ("light", 390), *dark):
        tab.look(theme=theme, width=width)
        tab.check()
        if name and (theme, width) in (("light", 1440), ("dark", 1440), ("light", 390)):
            tab.screenshot(f"{name}-{theme}" + ("" if width == WIDTHS[0] else f"-{width}"))
        if (theme, width) == ("light", 1440):
            assert accessibility_faults(tab.page) == []
        elif (theme, width) == ("dark", 1440):
            assert accessibility_faults(tab.page, "color-contrast") == []
        elif (theme, width) == ("light", 390) and name:
            assert accessibility_faults(tab.page, without=("color-contrast",)) == []
