"""A real Chromium for tests of pages, which notes everything a page does wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.harness.require import require

SCREENSHOTS = Path(__file__).parents[2] / "docs" / "screenshots"
WAIT_MS = 30_000
"""Until a page of a busy two-core machine shows its data."""
WIDTHS = (1440, 1024, 390)
HEIGHT = 900
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample} ${event.sourceFile}`));
"""


@contextmanager
def running_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=require("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One page and its faults. ``expected`` failures (a 404 that a test asks for) are not faults."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.faults: list[str] = []
        self.expected: list[str] = []
        self.bytes: dict[str, int] = {}
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(_NOTE_VIOLATIONS)
        page.on("console", lambda message: self._note(message.type, f"{message.text} {message.location}"))
        page.on("pageerror", lambda error: self.faults.append(f"error {error}"))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(re.search(each, text) for each in self.expected):
            self.faults.append(f"{kind} {text}")

    def open(self, path: str) -> Page:
        """Go there and wait until every part has its data."""
        self.page.goto(self.url + path)
        self.settled()
        return self.page

    def settled(self) -> None:
        self.page.wait_for_function(
            "() => !document.querySelector('main .skeleton, main .htmx-request')"
            " && ![...document.querySelectorAll('[data-said]')].some((each) => each.textContent === 'Loading…')"
        )

    def check(self) -> None:
        """No console error, nothing the policy refused, nothing wider than the window but what scrolls by itself."""
        violations: list[str] = self.page.evaluate("window.violations ?? []")
        assert not violations, violations
        assert not self.faults, self.faults
        wider = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, f"{self.page.url} scrolls sideways by {wider} px"

    def screenshot(self, name: str) -> None:
        """To docs/screenshots, where ``BURSAR_SCREENSHOTS`` asks for it."""
        if os.environ.get("BURSAR_SCREENSHOTS"):
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


@contextmanager
def open_tab(
    browser: Browser, url: str, *, theme: str = "light", width: int = WIDTHS[0], **options: Any
) -> Iterator[Tab]:
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT},
        color_scheme="dark" if theme == "dark" else "light",
        timezone_id="Europe/Berlin",
        locale="en-GB",
        reduced_motion="reduce",
        **options,
    )
    try:
        yield Tab(context.new_page(), url)
    finally:
        context.close()


def accessibility_faults(page: Page) -> list[str]:
    """What axe-core finds: rule, and the first places."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{fault['id']} ({fault['impact']}): "
        + "; ".join(f"{node['target']} {node.get('failureSummary', '')[:200]}" for node in fault["nodes"][:3])
        for fault in found
    ]
