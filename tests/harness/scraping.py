"""A service's /metrics, read as Prometheus reads it."""

from __future__ import annotations

from typing import Any

from aiohttp import ClientSession
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from bursar_common.metrics import OPENMETRICS_TYPE


class Scraped:
    """Samples by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append((sample.labels, sample.value))

    @property
    def names(self) -> set[str]:
        """Of metrics that have samples, as in queries."""
        return set(self._samples)

    def all(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Samples that have these labels, maybe among others."""
        return [
            (found, value)
            for found, value in self._samples.get(name, [])
            if all(found.get(label) == wanted for label, wanted in labels.items())
        ]

    def one(self, name: str, **labels: str) -> float:
        """The only such sample."""
        found = self.all(name, **labels)
        assert len(found) == 1, f"{name}{labels}: {found}"
        return found[0][1]

    def sum(self, name: str, **labels: str) -> float:
        return sum(value for _, value in self.all(name, **labels))


async def scrape(session: ClientSession, base: str, **headers: str) -> Scraped:
    """Raises AssertionError for any answer but a page."""
    sent = {"accept": OPENMETRICS_TYPE, **headers}
    async with session.get(f"{base}/metrics", headers=sent) as answer:
        text = await answer.text()
        assert answer.status == 200, f"{answer.status} {text[:500]}"
        assert answer.headers["content-type"] == OPENMETRICS_TYPE
        return Scraped(text)


def as_figures(scraped: Scraped, name: str, label: str) -> dict[str, Any]:
    """A metric's values by one of its labels."""
    return {labels.get(label, ""): value for labels, value in scraped.all(name)}
