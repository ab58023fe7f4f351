"""What is kept how long, where, and which setting says so. Pure."""

from __future__ import annotations

from typing import Annotated, Final

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


_READING: Final = "What is older than the log keeps cannot be rebuilt; back ClickHouse up, or have them leave."


def kept(settings: Settings) -> list[KeptAnswer]:
    """As this service is told: in a cluster every service has to be told the same."""
    log = "Kafka" if settings.kafka_bootstrap else "SQLite"
    archive = settings.usage_archive
    found = [
        _kept("Requests, in the log", log, settings.usage_retention_days, "BURSAR_USAGE_RETENTION_DAYS",
              "Ledger and analytics are rebuilt from it; one that ClickHouse does not have stays."),
        _kept("Requests, for reading", "ClickHouse", settings.usage_rows_days or None, "BURSAR_USAGE_ROWS_DAYS",
              _READING if settings.usage_rows_days == 0 else
              "At least: they leave by whole months, once a month is closed and its books are stored."
              + ("" if archive else " Nothing archives them.")),
    ]  # fmt: skip
    if settings.usage_cold_days:
        found.append(
            _kept("Requests, on fast disks", "ClickHouse", settings.usage_cold_days, "BURSAR_USAGE_COLD_DAYS",
                  f"Then on the volume {settings.usage_cold_volume}, where they stay readable.")
        )  # fmt: skip
    if archive:
        found.append(
            _kept("Requests, archived", archive, None, "BURSAR_USAGE_ARCHIVE",
                  "As Parquet files, written and read back before requests leave ClickHouse.")
        )  # fmt: skip
    return [
        *found,
        _kept("Sums, statements, closed months", "ClickHouse", None, "",
              "By hour, day and month: what pages and exports show of requests that have left."),
        _kept("Prompts and answers, in the log", log,
              min(settings.content_topic_days, settings.content_retention_days), "BURSAR_CONTENT_TOPIC_DAYS",
              "The time in which they can be written to ClickHouse again."),
        _kept("Prompts and answers, for reading", "ClickHouse", settings.content_retention_days,
              "BURSAR_CONTENT_RETENTION_DAYS", "Where they are stored at all; a person's are deleted on request."),
        _kept("Governance, corrections", log, None, "", "What everything is rebuilt from."),
        _kept("Dead letters", log, None, "", "Until somebody looks at them; those of prompts go with the prompts."),
    ]  # fmt: skip


def _kept(what: str, where: str, days: int | None, setting: str, why: str) -> KeptAnswer:
    return {"what": what, "where": where, "kept_days": days, "setting": setting, "why": why}
