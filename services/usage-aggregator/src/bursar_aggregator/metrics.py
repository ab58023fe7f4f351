"""The aggregator's metrics: their definitions. Pure."""

from __future__ import annotations

from bursar_common.metrics import Metric

RECORDS = Metric(
    name="bursar_aggregator_records_total", kind="counter", help="Records of the usage topic taken care of."
)
ROWS = Metric(
    name="bursar_aggregator_rows_total",
    kind="counter",
    help="Rows made of them. A record that is read again makes its row again, which replaces itself.",
)
SET_ASIDE = Metric(
    name="bursar_aggregator_dead_letters_total",
    kind="counter",
    help="Records that could not be read and went to the dead-letter topic.",
)
WRITE = Metric(
    name="bursar_aggregator_write_seconds",
    kind="histogram",
    help="Time to bring a batch into ClickHouse, waiting for it included.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0),
)
WAITING = Metric(
    name="bursar_aggregator_waiting",
    kind="gauge",
    help="1 while a batch waits for ClickHouse or the log; nothing is lost meanwhile.",
)
LAG = Metric(
    name="bursar_aggregator_log_lag_records",
    kind="gauge",
    help="Records of the usage topic not taken care of yet, over all partitions, by all replicas: take the max.",
)
LAG_SECONDS = Metric(
    name="bursar_aggregator_log_lag_seconds",
    kind="gauge",
    help="Age of the oldest of them: how late analytics are. 0 where there is none.",
)

CONTENT_ROWS = Metric(
    name="bursar_aggregator_content_rows_total",
    kind="counter",
    help="Rows of prompts and answers brought into ClickHouse.",
)
CONTENT_WAITING = Metric(
    name="bursar_aggregator_content_waiting",
    kind="gauge",
    help="1 while prompts and answers wait for ClickHouse or the log; nothing is lost meanwhile.",
)
BOOKS_DIFFER = Metric(
    name="bursar_aggregator_closed_months_differing",
    kind="gauge",
    help="Closed months whose requests did not come to the checksum of their close when that was last looked at: they "
    "are not stored. By every replica: take the max.",
)

METRICS = (RECORDS, ROWS, SET_ASIDE, WRITE, WAITING, LAG, LAG_SECONDS, CONTENT_ROWS, CONTENT_WAITING, BOOKS_DIFFER)
"""All of the aggregator's own, for the document."""
