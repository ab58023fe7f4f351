"""What is kept how long, where, and which setting says so. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from bursar_common.settings import Settings


class KeptAnswer(TypedDict):
    """One thing that is kept."""

    what: str
    where: str
    kept_days: Annotated[int | None, Field(description="Null: for ever.")]
    setting: Annotated[str, Field(description="The variable that says so; empty: it cannot be set.")]
    why: str


def kept(settings: Settings) -> list[KeptAnswer]:
    """As this service is told: in a cluster every service has to be told the same."""
    kafka = bool(settings.kafka_bootstrap)
    log = "Kafka" if kafka else "SQLite"
    found: list[KeptAnswer] = [
        {
            "what": "Requests, in the log",
            "where": log,
            "kept_days": settings.usage_retention_days if kafka else None,
            "setting": "BURSAR_USAGE_RETENTION_DAYS" if kafka else "",
            "why": "Ledger and analytics are rebuilt from it."
            if kafka
            else "The log is a file on this machine; ledger and analytics are rebuilt from it.",
        },
        {
            "what": "Requests, for reading",
            "where": "ClickHouse",
            "kept_days": None,
            "setting": "",
            "why": "What these pages, statements and exports are made from.",
        },
        {
            "what": "Prompts and answers, in the log",
            "where": log,
            "kept_days": min(settings.content_topic_days, settings.content_retention_days),
            "setting": "BURSAR_CONTENT_TOPIC_DAYS",
            "why": "The time in which they can be written to ClickHouse again.",
        },
        {
            "what": "Prompts and answers, for reading",
            "where": "ClickHouse",
            "kept_days": settings.content_retention_days,
            "setting": "BURSAR_CONTENT_RETENTION_DAYS",
            "why": "Where they are stored at all; deleted a person at a time by an order to delete.",
        },
        {
            "what": "Governance, corrections, closed months",
            "where": log,
            "kept_days": None,
            "setting": "",
            "why": "What everything is rebuilt from.",
        },
        {
            "what": "Dead letters",
            "where": log,
            "kept_days": None,
            "setting": "",
            "why": "Until somebody looks at them. Those of prompts and answers go with these.",
        },
    ]
    if settings.usage_cold_days:
        found.insert(
            2,
            {
                "what": "Requests, on fast disks",
                "where": "ClickHouse",
                "kept_days": settings.usage_cold_days,
                "setting": "BURSAR_USAGE_COLD_DAYS",
                "why": f"Then on the volume {settings.usage_cold_volume}, where they stay readable.",
            },
        )
    return found
