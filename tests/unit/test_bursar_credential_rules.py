"""Where requests go, by what is set, asked for and stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bursar.credential_rules import Stored, Upstream, choose_upstream
from bursar.environment import Addresses, Secrets, check_own_settings, child_environments
from bursar.home import Home, HomeLock, StartRefused
from bursar.up import read_provider_config

OWN, BARE = {"BURSAR_ANTHROPIC_API_KEY": "sk-ant-own"}, {"ANTHROPIC_API_KEY": "sk-ant-bare"}
BASE = {"BURSAR_ANTHROPIC_BASE_URL": "https://gateway.example.com"}
CLIENT = Stored(client_credential=True)
FILE = Stored(provider_credentials=("env:X", "file:anthropic"))


def choose(environ: dict[str, str], bind: str = "127.0.0.1", **rules: object) -> Upstream:
    return choose_upstream(environ, bind=bind, **({"simulator": False, "stored": Stored()} | rules))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environ", "rules", "simulator", "credential"),
    [
        (OWN, {}, False, OWN),
        (BARE, {}, False, BARE),
        (OWN | BARE, {}, False, OWN),
        (OWN | {"ANTHROPIC_API_KEY": "sk-bf-mine"}, {}, False, OWN),
        (BASE, {}, False, {}),
        (OWN | BASE, {}, False, OWN),
        ({}, {}, True, {}),
        ({"ANTHROPIC_API_KEY": ""}, {}, True, {}),
        ({}, {"bind": "localhost"}, True, {}),
        ({}, {"bind": "::1"}, True, {}),
        ({}, {"stored": CLIENT}, False, {}),
        ({}, {"first_key_uses_client": True}, False, {}),
        ({}, {"stored": FILE, "readable_files": frozenset({"anthropic"})}, False, {}),
        ({}, {"stored": FILE}, True, {}),
        ({}, {"stored": Stored(provider_base_url="https://x")}, False, {}),
        (OWN, {"simulator": True}, True, {}),
        ({"ANTHROPIC_API_KEY": "sk-bf-mine"}, {"simulator": True}, True, {}),
        ({}, {"simulator": True, "bind": "0.0.0.0"}, True, {}),
        (OWN, {"bind": "0.0.0.0"}, False, OWN),
        ({}, {"bind": "0.0.0.0", "stored": CLIENT}, False, {}),
        ({}, {"bind": "10.0.0.7", "stored": FILE, "readable_files": frozenset({"anthropic"})}, False, {}),
        ({"BURSAR_CREDENTIAL_ENV": "X, Y", "X": "sk-x"}, {"stored": FILE, "bind": "::"}, False, {"X": "sk-x"}),
    ],
)
def test_the_upstream(environ: dict[str, str], rules: dict[str, object], simulator: bool, credential: object) -> None:
    chosen = choose(environ, **rules)  # type: ignore[arg-type]
    assert (chosen.simulator, dict(chosen.credential)) == (simulator, credential)
    assert not any(value in repr(chosen) for value in dict(chosen.credential).values())


@pytest.mark.parametrize(
    ("environ", "rules", "said"),
    [
        ({"ANTHROPIC_API_KEY": "sk-bf-mine"}, {}, "ANTHROPIC_API_KEY holds one of Bursar's own virtual keys"),
        ({"BURSAR_ANTHROPIC_API_KEY": "sk-bf-mine"} | BARE, {}, "BURSAR_ANTHROPIC_API_KEY holds one of"),
        ({"ANTHROPIC_API_KEY": "brought"}, {"stored": Stored(credential_is_a_key=True)}, "own virtual keys"),
        ({}, {"bind": "0.0.0.0"}, "BURSAR_ANTHROPIC_API_KEY=<the provider's key> bursar up --bind 0.0.0.0"),
        (BASE, {"bind": "192.168.1.5"}, "--simulator"),
        ({}, {"bind": "::", "stored": FILE}, "does not listen on ::"),
    ],
)
def test_a_start_is_refused(environ: dict[str, str], rules: dict[str, object], said: str) -> None:
    bind = rules.get("bind", "127.0.0.1")
    with pytest.raises(StartRefused) as refusal:
        choose(environ, command=f"bursar up --bind {bind}", **rules)  # type: ignore[arg-type]
    assert said in str(refusal.value)
    assert "mine" not in str(refusal.value)
    assert "brought" not in str(refusal.value)


def test_only_the_simulator_by_default_is_loud() -> None:
    assert "SIMULATOR" in choose({}).notice
    assert choose(OWN).notice == ""


def environments(environ: dict[str, str], **changes: object) -> dict[str, dict[str, str]]:
    addresses = Addresses(**({"bind": "127.0.0.1", "port": 1, "clickhouse_port": 2} | changes))  # type: ignore[arg-type]
    secrets = Secrets("internal", "hashing", "admin")
    return child_environments(environ, Home(Path("/h")), addresses, secrets, choose(environ).credential)


def test_secrets_go_only_to_those_who_need_them() -> None:
    environ = OWN | {"ANTHROPIC_API_KEY": "sk-bf-mine", "ANTHROPIC_AUTH_TOKEN": "sk-bf-mine", "PATH": "/bin"}
    environ |= {"BURSAR_CREDENTIAL_ENV": "OTHER", "OTHER": "sk-other", "BURSAR_HOLD_TTL_S": "30"}
    environ |= {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=receiver"}
    by_part = environments(environ)

    def holders(value: str) -> set[str]:
        return {part for part, variables in by_part.items() if value in variables.values()}

    assert holders("sk-ant-own") == {"edge"}
    assert holders("sk-other") == {"edge"}
    assert holders("sk-bf-mine") == set()
    assert holders("hashing") == {"enforcer", "admin"}
    assert holders("admin") == {"admin"}
    services = {"enforcer", "admin", "aggregator", "edge"}
    assert holders("internal") == services
    assert holders("api-key=receiver") == services
    assert {part for part in by_part if by_part[part].get("BURSAR_HOLD_TTL_S") == "30"} == services
    assert all(variables["PATH"] == "/bin" for variables in by_part.values())


@pytest.mark.parametrize(
    ("bind", "listen", "url", "local"),
    [
        ("127.0.0.1", "127.0.0.1:80", "http://localhost:80", "http://127.0.0.1:80"),
        ("0.0.0.0", "0.0.0.0:80", "http://localhost:80", "http://127.0.0.1:80"),
        ("::", "[::]:80", "http://localhost:80", "http://[::1]:80"),
        ("::1", "[::1]:80", "http://[::1]:80", "http://[::1]:80"),
        ("10.0.0.7", "10.0.0.7:80", "http://10.0.0.7:80", "http://10.0.0.7:80"),
    ],
)
def test_addresses(bind: str, listen: str, url: str, local: str) -> None:
    addresses = Addresses(bind=bind, port=80, clickhouse_port=2)
    assert (addresses.edge_listen, addresses.url, addresses.local_url) == (listen, url, local)


def test_settings_that_would_be_ignored_are_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    check_own_settings({"BURSAR_HOLD_TTL_S": "9", "BURSAR_HOME": str(tmp_path)}, home)
    for environ in ({"BURSAR_KAFKA_BOOTSTRAP": "k:9092"}, {"BURSAR_HOME": "/elsewhere"}, {"BURSAR_EDGE_LISTEN": "x:1"}):
        with pytest.raises(StartRefused, match=next(iter(environ))):
            check_own_settings(environ, home)


def test_a_home_is_private_and_locked(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    value, made = home.secret("key-secret")
    assert (made, home.secret("key-secret")) == (True, (value, False))
    assert len(value) == 64
    assert [(home.path / name).stat().st_mode & 0o077 for name in (".", "key-secret", "logs", "secrets")] == [0] * 4
    first, second = HomeLock(home), HomeLock(home)
    first.take()
    with pytest.raises(StartRefused, match="already running"):
        second.take()
    assert not second.is_free()
    first.drop()
    assert second.is_free()


def test_provider_config_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"provider": "anthropic", "credential": "client"}))
    assert read_provider_config(path) == [{"provider": "anthropic", "credential": "client"}]
    assert read_provider_config(None) is None
    for content in ("{", "7", '["x"]'):
        path.write_text(content)
        with pytest.raises(StartRefused, match="--provider-config"):
            read_provider_config(path)
