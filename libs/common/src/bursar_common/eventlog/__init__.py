"""The event log: the port services use, its adapters, and the choice between them."""

from __future__ import annotations

from bursar_common.eventlog.port import EventLog
from bursar_common.settings import Settings, SettingsError

LOG_FILE = "log.db"
"""Name of the SQLite log below ``BURSAR_HOME``."""


def open_log(settings: Settings) -> EventLog:
    """The log these settings name, not started yet: Kafka when ``BURSAR_KAFKA_BOOTSTRAP`` is set, else SQLite at
    ``<home>/log.db``. Raises SettingsError when neither is set."""
    if settings.kafka_bootstrap:
        from bursar_common.eventlog.kafka import KafkaEventLog

        return KafkaEventLog(settings)
    if settings.home is None:
        raise SettingsError("Neither BURSAR_KAFKA_BOOTSTRAP nor BURSAR_HOME is set, so there is no event log to use.")
    from bursar_common.eventlog.sqlite import SqliteEventLog

    return SqliteEventLog(settings.home / LOG_FILE)
