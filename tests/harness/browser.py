"""A real Chromium for tests of pages, which notes everything a page does wrong."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tests.harness.require import require

SCREENSHOTS = Path(__file__).parents[2] / "docs" / "screenshots"
ASKED_FOR = "BURSAR_SCREENSHOTS"
"""Set: :meth:`Tab.screenshot` writes to docs/screenshots. A usual run leaves the checkout as it was."""
COLOURS = 256
"""Of a screenshot's palette: pages have few, and the files stay small enough for a repository."""
WAIT_MS = 60_000
"""Until a page of a busy two-core machine shows its data."""
WIDTHS = (1440, 1024, 390)
HEIGHT = 900
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample} ${event.sourceFile}`));
"""
_OVERLAPS = """() => {
  // Every piece of text that can be seen, cut by whatever clips it; two that share a place are a fault.
  const floating = (each) => {
    for (let at = each; at; at = at.parentElement) {
      const position = getComputedStyle(at).position;
      if (position === "fixed" || position === "sticky") return at;
      if (position === "absolute" && at.matches(".menu-panel, .found, .said, .skip")) return at;
    }
    return null;
  };
  const visible = (node, rect) => {
    let box = { left: rect.left, top: rect.top, right: rect.right, bottom: rect.bottom };
    for (let at = node.parentElement; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.visibility === "hidden" || style.opacity === "0" || style.clipPath !== "none") return null;
      if (style.overflowX === "visible" && style.overflowY === "visible") continue;
      const clip = at.getBoundingClientRect();
      box = { left: Math.max(box.left, clip.left), top: Math.max(box.top, clip.top),
              right: Math.min(box.right, clip.right), bottom: Math.min(box.bottom, clip.bottom) };
    }
    return box.right - box.left > 2 && box.bottom - box.top > 4 ? box : null;
  };
  const pieces = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.data.trim() || node.parentElement.closest("svg, option, script")) continue;
    if (!node.parentElement.checkVisibility({ visibilityProperty: true })) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      const box = visible(node, rect);
      // A line's box is higher than its letters.
      if (box) pieces.push({ node, text: node.data.trim().slice(0, 40), over: floating(node.parentElement), ...box,
                             top: box.top + 3, bottom: box.bottom - 3 });
    }
  }
  pieces.sort((a, b) => a.top - b.top);
  const faults = [];
  pieces.forEach((one, at) => {
    for (let next = at + 1; next < pieces.length && pieces[next].top < one.bottom; next += 1) {
      const two = pieces[next];
      if (one.over !== two.over || one.node === two.node) continue;
      if (Math.min(one.right, two.right) - Math.max(one.left, two.left) > 2) faults.push(`${one.text} / ${two.text}`);
    }
  });
  return faults.slice(0, 10);
}"""


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
        """What loads by itself is there, and what that loads in its turn, which it asks for once it has settled."""
        self.page.wait_for_function(
            "() => !document.querySelector('main .skeleton, main .htmx-request, main .htmx-settling,"
            " main [hx-trigger=load] > .fill')"
            " && ![...document.querySelectorAll('[data-said]')].some((each) => each.textContent === 'Loading…')"
        )

    def look(self, *, theme: str = "light", width: int = WIDTHS[0]) -> None:
        """The same page for another system theme or window."""
        self.page.emulate_media(color_scheme="dark" if theme == "dark" else "light", reduced_motion="reduce")
        self.page.set_viewport_size({"width": width, "height": HEIGHT})
        # What is drawn anew for another size or theme, charts for one, is so with the next frame.
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
        )

    def check(self) -> None:
        """No console error, nothing the policy refused, nothing wider than the window but what scrolls by itself, no
        text on top of other text."""
        violations: list[str] = self.page.evaluate("window.violations ?? []")
        assert not violations, violations
        assert not self.faults, self.faults
        wider = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, f"{self.page.url} scrolls sideways by {wider} px"
        overlaps: list[str] = self.page.evaluate(_OVERLAPS)
        assert not overlaps, f"{self.page.url} at {self.page.viewport_size}: {overlaps}"

    def screenshot(self, name: str) -> None:
        """To docs/screenshots, as a PNG of few colours, where :data:`ASKED_FOR` is set."""
        if not os.environ.get(ASKED_FOR):
            return
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        with Image.open(path) as image:
            few = image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


class Held:
    """What a page asks of an address (a glob), answered when the test says so."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address, self.routes = page, address, list[Route]()
        self.open = False
        # However slow the test is, the page must not give its look up, as it does after ten seconds.
        page.evaluate("() => { AbortSignal.timeout = () => new AbortController().signal; }")
        page.route(self.address, self._asked)

    def _asked(self, route: Route) -> None:
        if self.open:
            route.continue_()
        else:
            self.routes.append(route)

    def begun(self) -> None:
        deadline = time.monotonic() + WAIT_MS / 1000
        while not self.routes:
            assert time.monotonic() < deadline, "nothing is asked"
            self.page.wait_for_timeout(20)

    def let_go(self) -> None:
        self.open = True
        for each in self.routes:
            each.continue_()
        self.page.unroute(self.address)  # nothing is held any more, also not while the page is closed


@contextmanager
def open_tab(
    browser: Browser,
    url: str,
    *,
    theme: str = "light",
    width: int = WIDTHS[0],
    zone: str = "Europe/Berlin",
    been_here: bool = True,
    **options: Any,
) -> Iterator[Tab]:
    """``zone``: of the viewer. ``been_here``: the site knows it; else the first page is loaded twice, to tell it."""
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT},
        color_scheme="dark" if theme == "dark" else "light",
        timezone_id=zone,
        locale="en-GB",
        reduced_motion="reduce",
        **options,
    )
    try:
        if been_here:
            context.add_cookies([{"name": "bursar_tz", "value": zone, "url": url}])
        yield Tab(context.new_page(), url)
    finally:
        context.close()


def accessibility_faults(page: Page, *rules: str, without: tuple[str, ...] = ()) -> list[str]:
    """What axe-core finds: rule, and the first places. ``rules``: only these."""
    from axe_playwright_python.sync_playwright import Axe

    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": list(rules)}
    if without:
        options["rules"] = {rule: {"enabled": False} for rule in without}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{fault['id']} ({fault['impact']}): "
        + "; ".join(f"{node['target']} {node.get('failureSummary', '')[:200]}" for node in fault["nodes"][:3])
        for fault in found
    ]
