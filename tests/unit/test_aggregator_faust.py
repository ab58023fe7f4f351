"""The Faust application as it is configured, without a broker."""

from __future__ import annotations

from typing import Any

import pytest

from bursar_aggregator.faust_app import FaustJob, faust_credentials
from bursar_common.settings import Settings, SettingsError

SASL: dict[str, Any] = {
    "kafka_bootstrap": "one:9092, two:9092",
    "kafka_sasl_username": "bursar",
    "kafka_sasl_password": "kafkas-password",
}


@pytest.mark.parametrize(
    ("protocol", "mechanism", "kind", "faust_protocol"),
    [
        ("PLAINTEXT", "", "NoneType", ""),
        ("SSL", "", "SSLCredentials", "SSL"),
        ("SASL_PLAINTEXT", "", "SASLCredentials", "SASL_PLAINTEXT"),
        ("SASL_SSL", "SCRAM-SHA-512", "SASLCredentials", "SASL_SSL"),
        ("SASL_SSL", "SCRAM-SHA-256", "SASLCredentials", "SASL_SSL"),
    ],
)
def test_kafka_settings_reach_faust(protocol: str, mechanism: str, kind: str, faust_protocol: str) -> None:
    settings = Settings(kafka_security_protocol=protocol, kafka_sasl_mechanism=mechanism, **SASL)
    credentials = faust_credentials(settings)
    assert type(credentials).__name__ == kind
    if credentials is None:
        return
    assert credentials.protocol.value == faust_protocol
    context = credentials.context if kind == "SSLCredentials" else credentials.ssl_context
    assert (context is not None) == faust_protocol.endswith("SSL")
    assert "kafkas-password" not in repr(credentials)
    if kind == "SASLCredentials":
        assert (credentials.username, credentials.password) == ("bursar", "kafkas-password")
        assert credentials.mechanism.value == (mechanism or "PLAIN")


def test_an_unknown_mechanism_is_one_sentence() -> None:
    with pytest.raises(SettingsError, match="BURSAR_KAFKA_SASL_MECHANISM"):
        faust_credentials(Settings(kafka_security_protocol="SASL_SSL", kafka_sasl_mechanism="MD5", **SASL))


async def test_nothing_is_kept_but_offsets() -> None:
    conf = FaustJob(Settings(**SASL), writer=None, content=None).app.conf  # type: ignore[arg-type]
    assert [str(url) for url in conf.broker] == ["kafka://one:9092", "kafka://two:9092"]
    assert str(conf.store) == "memory:"
    assert (conf.web_enabled, conf.topic_allow_declare, conf.topic_disable_leader) == (False, False, True)
    assert conf.consumer_auto_offset_reset == "earliest"
    assert conf.stream_wait_empty is False
