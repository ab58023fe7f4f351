"""Who may read a service's /metrics."""

from __future__ import annotations

import pytest

from bursar_common.metrics_endpoint import MetricsAccess
from bursar_common.settings import load_settings

INTERNAL = {"BURSAR_INTERNAL_TOKEN": "internal"}
BOTH = INTERNAL | {"BURSAR_METRICS_TOKEN": "metrics"}
LOOPBACK, SOCKET, ANYWHERE = "127.0.0.1:8081", "unix:run/x.sock", "0.0.0.0:8081"
HOME = {"Host": "127.0.0.1:8081"}


@pytest.mark.parametrize(
    ("environ", "listen", "headers", "allowed"),
    [
        (INTERNAL, LOOPBACK, HOME, True),
        (INTERNAL, LOOPBACK, {"Host": "localhost"}, True),
        (INTERNAL, LOOPBACK, {"Host": "[::1]:8081"}, True),
        (INTERNAL, LOOPBACK, {"Host": "evil.example:8081"}, False),
        (INTERNAL, LOOPBACK, {}, False),
        (INTERNAL, SOCKET, {"Host": "anything"}, True),
        (INTERNAL, ANYWHERE, HOME, False),
        (INTERNAL, ANYWHERE, {"x-bursar-internal-token": "internal"}, True),
        (INTERNAL, ANYWHERE, {"Authorization": "Bearer internal"}, True),
        (INTERNAL, ANYWHERE, {"Authorization": "Bearer metrics"}, False),
        (INTERNAL, ANYWHERE, {"Authorization": "Basic internal"}, False),
        (BOTH, ANYWHERE, {"Authorization": "bearer metrics"}, True),
        (BOTH, ANYWHERE, {"Authorization": "Bearer metricsx"}, False),
        (BOTH, ANYWHERE, {"Authorization": "Bearer \udcff"}, False),
        (BOTH, LOOPBACK, HOME, False),
        (BOTH, LOOPBACK, HOME | {"Authorization": "Bearer metrics"}, True),
        ({}, ANYWHERE, {"Authorization": "Bearer ", "x-bursar-internal-token": ""}, False),
    ],
)
def test_who_may_read(environ: dict[str, str], listen: str, headers: dict[str, str], allowed: bool) -> None:
    assert MetricsAccess(load_settings(environ), listen).allows(headers) is allowed
