"""docker-compose.yml and the Dockerfile: valid, complete, closed to the outside, and only with settings that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bursar_common.settings import Settings, load_settings
from tests.harness.compose_file import VariableMissing, compose_document, compose_environment, resolve
from tests.harness.require import CHECKOUT

OURS = ("edge", "enforcer", "aggregator", "admin", "topics")
SECRETS = {
    "BURSAR_INTERNAL_TOKEN": "i" * 32,
    "BURSAR_ADMIN_TOKEN": "a" * 32,
    "BURSAR_KEY_SECRET": "k" * 32,
    "CLICKHOUSE_PASSWORD": "c",
}
ADDRESSES = {
    "kafka:9092": "127.0.0.1:1",
    "redis:6379": "127.0.0.1:2",
    "clickhouse:8123": "127.0.0.1:3",
    "enforcer:8081": "127.0.0.1:4",
    "0.0.0.0": "127.0.0.1",
}


def services() -> dict[str, Any]:
    document: dict[str, Any] = compose_document()["services"]
    return document


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def test_the_file_follows_the_compose_schema() -> None:
    check = subprocess.run(
        [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", CHECKOUT / "docker-compose.yml"],
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_the_dockerfile_has_nothing_that_hadolint_minds() -> None:
    check = subprocess.run([program("hadolint"), CHECKOUT / "Dockerfile"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_every_name_is_a_setting() -> None:
    known = {f"BURSAR_{name.upper()}" for name in Settings.model_fields}
    used = set(re.findall(r"BURSAR_[A-Z0-9_]+", (CHECKOUT / "docker-compose.yml").read_text()))
    used |= set(re.findall(r"BURSAR_[A-Z0-9_]+", (CHECKOUT / "Dockerfile").read_text()))
    assert used - known == set()


@pytest.mark.parametrize("service", OURS)
def test_the_environment_of_a_service_is_accepted_by_its_settings(service: str) -> None:
    settings = load_settings(compose_environment(service, ADDRESSES, SECRETS), required=["kafka_bootstrap"])
    assert settings.single_broker
    assert settings.usage_retention_days == 400
    assert (settings.outbox_dir == Path("/var/lib/bursar/outbox")) == (service == "edge")


def test_secrets_go_only_to_those_who_need_them() -> None:
    def has(name: str) -> set[str]:
        return {service for service in services() if name in services()[service].get("environment", {})}

    assert has("BURSAR_KEY_SECRET") == {"enforcer", "admin"}
    assert has("BURSAR_ADMIN_TOKEN") == {"admin"}
    assert has("ANTHROPIC_API_KEY") == has("BURSAR_ANTHROPIC_API_KEY") == {"edge"}
    assert has("BURSAR_REDIS_URL") == {"enforcer"}
    assert has("BURSAR_CLICKHOUSE_URL") == {"aggregator", "admin"}
    assert has("BURSAR_INTERNAL_TOKEN") == set(OURS)


@pytest.mark.parametrize("missing", SECRETS)
def test_a_missing_secret_refuses_to_start_and_says_what_to_do(missing: str) -> None:
    variables = {name: value for name, value in SECRETS.items() if name != missing}
    texts = [str(text) for service in services().values() for text in service.get("environment", {}).values()]
    with pytest.raises(VariableMissing, match=rf"{missing}.*openssl rand"):
        resolve(" ".join(texts), variables)


def test_only_edge_and_admin_are_published_and_the_admin_api_on_loopback() -> None:
    published = {name: service["ports"] for name, service in services().items() if service.get("ports")}
    assert published == {"edge": ["8080:8080"], "admin": ["127.0.0.1:8083:8083"]}
    assert compose_document()["networks"]["inside"]["internal"] is True
    assert {name for name, service in services().items() if "outside" in service["networks"]} == {"edge", "admin"}


def test_what_must_survive_is_on_volumes() -> None:
    volumes = {name: service["volumes"] for name, service in services().items() if service.get("volumes")}
    assert set(volumes) == {"kafka", "redis", "clickhouse", "edge"}
    outbox = services()["edge"]["environment"]["BURSAR_OUTBOX_DIR"]
    assert any(outbox.startswith(volume.partition(":")[2]) for volume in volumes["edge"])
    command = services()["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert services()["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_everything_that_serves_has_a_health_check_and_waits_for_what_it_needs() -> None:
    for name, service in services().items():
        if name == "topics":
            continue
        assert service["healthcheck"]["test"], name
    for name in ("edge", "enforcer", "aggregator", "admin"):
        needs = services()[name]["depends_on"]
        assert needs["topics"] == {"condition": "service_completed_successfully"}
        assert all(need["condition"] == "service_healthy" for other, need in needs.items() if other != "topics")
        listens = services()[name]["environment"][f"BURSAR_{name.upper()}_LISTEN"]
        assert listens.replace("0.0.0.0", "127.0.0.1") in services()[name]["healthcheck"]["test"][-1]


def test_each_service_is_built_from_its_own_stage_and_does_not_run_as_root() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE)
    runtime_stages = {name for base, name in stages if base == "runtime"}
    built = {name: services()[name]["build"]["target"] for name in OURS}
    assert built == {name: name for name in OURS if name != "topics"} | {"topics": "all-in-one"}
    assert set(built.values()) == runtime_stages
    runtime = (CHECKOUT / "Dockerfile").read_text().partition(" AS runtime")[2].partition("\nFROM ")[0]
    assert "USER 10001:10001" in runtime


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("${A}", "1"),
        ("x${A}y${B:-z}", "x1yz"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${NONE-d}", "d"),
        ("${NONE}", ""),
        ("$${A}", "${A}"),
        ("${A:?message}", "1"),
    ],
)
def test_variables_are_resolved_as_docker_compose_does(text: str, resolved: str) -> None:
    assert resolve(text, {"A": "1", "EMPTY": ""}) == resolved
