"""How soon a page shows something: first contentful paint in a real Chromium, on one machine over loopback.

    python bench/first_content.py --url http://127.0.0.1:8080 [--loads 10]

Each page is loaded once to warm up, then ``--loads`` times in a fresh context, whose cache is empty: the first visit of
a person. ``again`` are as many loads with the cache, as a person goes from page to page. Needs the packages of
the tests (Playwright) and ``CHROMIUM`` in the environment or a `chromium` on the path.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

PAGES = {"Overview": "/", "Logs": "/logs", "Sessions": "/sessions", "Insights": "/insights", "Budgets": "/budgets"}
WIDTH, HEIGHT = 1440, 900
WAIT_MS = 30_000
"""Until a page paints at all."""
PAINTED = """() => new Promise((done) => {
  const look = (list) => {
    const found = list.find((each) => each.name === "first-contentful-paint");
    if (found) done(found.startTime);
  };
  look(performance.getEntriesByType("paint"));
  new PerformanceObserver((list) => look(list.getEntries())).observe({ type: "paint", buffered: true });
})"""
ANSWERED = """() => { const [found] = performance.getEntriesByType("navigation"); return found.responseEnd; }"""


def load(page: Page, address: str) -> tuple[float, float]:
    """(first content, end of the page's own answer), ms after the navigation began."""
    page.goto(address, wait_until="load")
    return float(page.evaluate(PAINTED)), float(page.evaluate(ANSWERED))


def measure(browser: Browser, url: str, path: str, loads: int) -> dict[str, list[float]]:
    cookie: Any = {"name": "bursar_tz", "value": "Europe/Berlin", "url": url}
    found: dict[str, list[float]] = {"first": [], "again": [], "answer": []}
    for at in range(loads + 1):
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, timezone_id="Europe/Berlin")
        context.add_cookies([cookie])
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        first, answer = load(page, url + path)
        again, _ = load(page, url + path)
        context.close()
        if at:  # the first one warms up
            found["first"].append(first)
            found["again"].append(again)
            found["answer"].append(answer)
    return found


def said(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):.0f} ({ordered[0]:.0f} to {ordered[-1]:.0f})"


def main() -> int:
    parser = argparse.ArgumentParser(description="First contentful paint of the pages.")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--loads", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="every figure, in milliseconds")
    asked = parser.parse_args()
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        found = {name: measure(browser, asked.url, path, asked.loads) for name, path in PAGES.items()}
        browser.close()
    if asked.json:
        print(json.dumps(found))
        return 0
    print(f"load {' '.join(f'{each:.1f}' for each in os.getloadavg())}, {asked.loads} loads each; ms: median (range)")
    print("| page | first visit | again | its own answer |")
    print("|---|---|---|---|")
    for name, figures in found.items():
        print(f"| {name} | {said(figures['first'])} | {said(figures['again'])} | {said(figures['answer'])} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
