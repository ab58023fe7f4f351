from __future__ import annotations

from pathlib import Path

import pytest

from bursar_common.settings import Settings, SettingsError, load_settings


def test_names_are_upper_case_behind_the_prefix_and_everything_has_a_default() -> None:
    settings = load_settings(
        {"BURSAR_HOME": "/x", "BURSAR_HOLD_TTL_S": "30", "BURSAR_SINGLE_MACHINE": "true", "PATH": "/"}
    )
    assert (settings.home, settings.hold_ttl_s, settings.single_machine) == (Path("/x"), 30, True)
    assert load_settings({}) == Settings()


def test_an_empty_variable_is_not_set() -> None:
    assert load_settings({"BURSAR_HOME": "", "BURSAR_HOLD_TTL_S": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("BURSAR_REDIS_ULR", "BURSAR_REDIS_URL"),
        ("BURSAR_HOLD_TTL", "BURSAR_HOLD_TTL_S"),
        ("BURSAR_KAFKA_BOOTSTRAP_SERVERS", "BURSAR_KAFKA_BOOTSTRAP"),
        ("BURSAR_USAGE_RETENTION", "BURSAR_USAGE_RETENTION_DAYS"),
    ],
)
def test_a_misspelled_name_is_refused_and_the_nearest_suggested(name: str, nearest: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({name: "1"})
    assert str(caught.value) == f"{name} is not a setting of Bursar. Did you mean {nearest}?"


def test_a_name_near_none_is_refused_without_a_guess() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"BURSAR_QQQQQQQQQQQQQQQQQQQQ": "1"})
    assert str(caught.value) == "BURSAR_QQQQQQQQQQQQQQQQQQQQ is not a setting of Bursar."


@pytest.mark.parametrize(
    "link",
    [
        "BURSAR_EDGE_SERVICE_HOST",
        "BURSAR_EDGE_SERVICE_PORT",
        "BURSAR_EDGE_SERVICE_PORT_HTTP",
        "BURSAR_EDGE_PORT",
        "BURSAR_EDGE_PORT_8080_TCP",
        "BURSAR_EDGE_PORT_8080_TCP_ADDR",
        "BURSAR_EDGE_PORT_8080_TCP_PORT",
        "BURSAR_EDGE_PORT_8080_TCP_PROTO",
    ],
)
def test_what_kubernetes_sets_for_its_services_is_left_alone(link: str) -> None:
    assert load_settings({link: "tcp://10.0.0.1:8080"}) == Settings()


def test_credentials_that_were_listed_are_left_alone() -> None:
    assert load_settings(
        {"BURSAR_CREDENTIAL_ENV": "A, BURSAR_EU_KEY", "BURSAR_EU_KEY": "secret"}
    ).credential_names() == {
        "A",
        "BURSAR_EU_KEY",
    }
    with pytest.raises(SettingsError, match="BURSAR_EU_KEY is not a setting"):
        load_settings({"BURSAR_EU_KEY": "secret"})
    assert load_settings({"BURSAR_ANTHROPIC_API_KEY": "s"}).anthropic_api_key.get_secret_value() == "s"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BURSAR_HOLD_TTL_S", "5"),
        ("BURSAR_HOLD_TTL_S", "3601"),
        ("BURSAR_HOLD_TTL_S", "a minute"),
        ("BURSAR_ADMISSION_WAIT_S", "-1"),
        ("BURSAR_ADMISSION_WAIT_S", "nan"),
        ("BURSAR_ADMISSION_WAIT_S", "inf"),
        ("BURSAR_LOG_LEVEL", "loud"),
        ("BURSAR_LOG_LEVEL", "info\n"),
        ("BURSAR_KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("BURSAR_SINGLE_MACHINE", "perhaps"),
        ("BURSAR_OUTBOX_MAX_BYTES", "1"),
    ],
)
def test_a_malformed_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: "):
        load_settings({name: value})


def test_a_refusal_never_repeats_the_value() -> None:
    """A secret pasted into the wrong variable must not reach a log."""
    with pytest.raises(SettingsError) as caught:
        load_settings({"BURSAR_HOLD_TTL_S": "sk-ant-secret"})
    assert "sk-ant" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("field", ["redis_url", "internal_token", "key_secret", "home"])
def test_what_a_service_cannot_run_without_is_asked_for(field: str) -> None:
    with pytest.raises(SettingsError, match=f"^BURSAR_{field.upper()} is not set"):
        load_settings({}, required=[field])
    assert load_settings({f"BURSAR_{field.upper()}": "x"}, required=[field])


def test_secrets_do_not_show() -> None:
    names = ["KEY_SECRET", "INTERNAL_TOKEN", "ADMIN_TOKEN", "ANTHROPIC_API_KEY", "KAFKA_SASL_PASSWORD"]
    settings = load_settings({f"BURSAR_{name}": "hush-hush" for name in names})
    assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_hosts_are_compared_in_lower_case() -> None:
    assert load_settings({"BURSAR_UPSTREAM_ALLOW": " LocalHost:9 ,,B"}).upstream_allow_hosts() == {"localhost:9", "b"}
