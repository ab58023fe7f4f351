"""Each finding of the doctor, and the environment that `bursar claude` starts Claude Code with."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bursar.admin_client import AdminClient, AdminRefused, read_budget
from bursar.claude import LaunchRefused, claude_environment, launch
from bursar.cli import main
from bursar.doctor import MODELS, conflicts, examine
from bursar.first_key import make_first_key
from bursar.here import NotKnown, find_admin_token, find_key, find_url
from bursar.home import Home, StartRefused

SETTINGS = Path("/s/settings.json")
NAMED = {
    "both": ({"ANTHROPIC_API_KEY": "a", "ANTHROPIC_AUTH_TOKEN": "b"}, {}, "both set"),
    "across": ({"ANTHROPIC_API_KEY": "a"}, {"ANTHROPIC_AUTH_TOKEN": "b"}, "/s/settings.json"),
    "differs": ({"ANTHROPIC_BASE_URL": "http://a"}, {"ANTHROPIC_BASE_URL": "http://b"}, "differs"),
    "bedrock": ({"CLAUDE_CODE_USE_BEDROCK": "1"}, {}, "ignore ANTHROPIC_BASE_URL"),
}


@pytest.mark.parametrize("case", NAMED)
def test_a_conflict_is_named(case: str) -> None:
    environ, configured, said = NAMED[case]
    [finding] = conflicts(environ, configured, SETTINGS)
    assert finding.problem
    assert said in finding.text
    assert "\n" not in finding.text


def test_no_conflict() -> None:
    lines = {"ANTHROPIC_BASE_URL": "http://a", "ANTHROPIC_AUTH_TOKEN": "b", "ENABLE_TOOL_SEARCH": "true"}
    assert conflicts(lines, lines, SETTINGS) == []


class Answers(http.server.BaseHTTPRequestHandler):
    known: dict[str, tuple[int, Any]]
    seen: list[tuple[str, str, str, bytes]]

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append((self.command, self.path, self.headers.get("authorization", ""), body))
        status, value = self.known.get(self.path.partition("?")[0], (404, {}))
        data = json.dumps(value(self.path) if callable(value) else value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Answers]]]:
    handler = type("Handler", (Answers,), {"known": {}, "seen": []})
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}", handler
    serving.shutdown()
    thread.join()
    serving.server_close()


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment with a `claude` on the PATH."""
    program = tmp_path / "claude"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return {"PATH": str(tmp_path)}


def problems(environ: dict[str, str], url: str, path: Path, key: str = "sk-bf-first") -> list[str]:
    return [finding.text for finding in examine(environ, path, url=url, first_key=key) if finding.problem]


HEALTHY = {"/healthz": (200, {"status": "ok"}), "/anthropic/v1/models": (200, {"data": [{"id": "claude-opus-4-8"}]})}


def test_all_is_well(server: Any, shell: dict[str, str], tmp_path: Path) -> None:
    url, handler = server
    handler.known = HEALTHY
    assert problems(shell, url, tmp_path / "none.json") == []
    assert handler.seen[-1][2] == "Bearer sk-bf-first"
    lines = {
        "ANTHROPIC_BASE_URL": f"{url}/anthropic",
        "ANTHROPIC_AUTH_TOKEN": "sk-bf-mine",
        "ENABLE_TOOL_SEARCH": "true",
    }
    assert problems(shell | lines | {"ANTHROPIC_MODEL": "claude-opus-4-8"}, "http://127.0.0.1:1", tmp_path / "x") == []
    assert handler.seen[-1][2] == "Bearer sk-bf-mine"


def test_what_is_wrong_with_the_gateway_is_named(server: Any, shell: dict[str, str], tmp_path: Path) -> None:
    url, handler = server
    path = tmp_path / "none.json"

    def only(known: dict[str, Any], environ: dict[str, str] | None = None, key: str = "sk-bf-first") -> str:
        handler.known = HEALTHY | known
        [problem] = problems(shell | (environ or {}), url, path, key)
        return problem

    assert "not healthy" in only({"/healthz": (503, {"why": "admin"})})
    assert "is not Bursar" in only({"/healthz": (404, {})})
    refused = {"error": {"message": "unknown key"}}
    assert "401: unknown key" in only({"/anthropic/v1/models": (401, refused)})
    assert "no model" in only({"/anthropic/v1/models": (200, {"data": []})})
    assert "No key is set" in only({}, key="")
    assert "may not use; allowed: claude-opus-4-8" in only({}, {"ANTHROPIC_MODEL": "claude-opus-4-1"})
    for name in MODELS:
        for model in ("claude-opus-4-1", "gpt-5", "anthropic/claude-opus-4-1[1m]", "opus-4-8", "opusplus"):
            assert only({}, {name: model}).startswith(f"{name} is {model}, which the key may not use")
    assert "ENABLE_TOOL_SEARCH" in only({}, {"ANTHROPIC_BASE_URL": f"{url}/anthropic"})
    assert "bursar up" in problems(shell, "http://127.0.0.1:1", path)[0]
    assert "npm install" in problems({"PATH": "/nowhere"}, url, path)[0]
    path.write_text("{")
    assert "not valid JSON" in only({})


@pytest.mark.parametrize(
    "model",
    [
        *("", "opus", "Sonnet", "haiku", "opusplan", "default", "best", "inherit", "sonnet[1m]", "opusplan[1M]"),
        *("claude-opus-4-8", "claude-opus-4-8[1m]", "claude-opus-4-8-20260301", "anthropic/claude-opus-4-8"),
    ],
)
def test_models_that_are_fine(server: Any, shell: dict[str, str], tmp_path: Path, model: str) -> None:
    url, handler = server
    handler.known = HEALTHY
    assert problems(shell | dict.fromkeys(MODELS, model), url, tmp_path / "none.json") == []


UNKNOWN = "Check ANTHROPIC_AUTH_TOKEN: this gateway does not know the key it was sent."


@pytest.mark.parametrize(
    ("environ", "configured", "source", "fix"),
    [
        ({"ANTHROPIC_API_KEY": "sk-ant-1"}, {}, "ANTHROPIC_API_KEY (the shell)", "unset ANTHROPIC_API_KEY and export"),
        ({"ANTHROPIC_API_KEY": "sk-bf-1"}, {}, "ANTHROPIC_API_KEY (the shell)", "bursar keys create"),
        ({"ANTHROPIC_AUTH_TOKEN": "sk-bf-1"}, {}, "ANTHROPIC_AUTH_TOKEN (the shell)", "bursar keys create"),
        ({"ANTHROPIC_AUTH_TOKEN": "sk-ant-1"}, {}, "ANTHROPIC_AUTH_TOKEN (the shell)", "one: export ANTHROPIC_AUTH"),
        ({}, {"ANTHROPIC_API_KEY": "sk-bf-1"}, "ANTHROPIC_API_KEY ({path})", "bursar keys create"),
        (
            {"ANTHROPIC_API_KEY": "sk-ant-1", "ANTHROPIC_CUSTOM_HEADERS": "a: b\nX-BF-VK: sk-bf-1"},
            {},
            "ANTHROPIC_CUSTOM_HEADERS (the shell)",
            "bursar keys create",
        ),
        ({}, {}, "this machine's first key", "bursar keys create"),
    ],
)
def test_the_variable_that_supplied_the_key_is_named(
    server: Any,
    shell: dict[str, str],
    tmp_path: Path,
    environ: dict[str, str],
    configured: dict[str, str],
    source: str,
    fix: str,
) -> None:
    url, handler = server
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"env": configured}))
    source = source.format(path=path)
    handler.known = HEALTHY | {"/anthropic/v1/models": (401, {"error": {"message": UNKNOWN}})}
    [problem] = problems(shell | environ, url, path)
    said = f"401: Check {source.partition(' (')[0]}: this gateway does not know the key it was sent"
    assert problem.startswith(f"The key in {source} is not accepted ({said}): ")
    assert fix in problem
    assert "sk-" not in problem
    if source.startswith("ANTHROPIC_API_KEY"):
        assert "Check ANTHROPIC_AUTH_TOKEN" not in problem
    handler.known = HEALTHY
    found = examine(shell | environ, path, url=url, first_key="sk-bf-first")
    assert f"The key in {source} is known and may use 1 models." in [finding.text for finding in found]


def test_the_launched_environment_has_the_three_lines_and_no_other_credential() -> None:
    environ = {"ANTHROPIC_API_KEY": "sk-ant", "CLAUDE_CODE_USE_BEDROCK": "1", "HOME": "/h", "ANTHROPIC_BASE_URL": "x"}
    assert claude_environment(environ, url="http://localhost:8080/", key="sk-bf") == {
        "HOME": "/h",
        "ANTHROPIC_BASE_URL": "http://localhost:8080/anthropic",
        "ANTHROPIC_AUTH_TOKEN": "sk-bf",
        "ENABLE_TOOL_SEARCH": "true",
    }
    with pytest.raises(LaunchRefused, match="not installed"):
        launch([], {"PATH": "/nowhere"}, url="http://x", key="k")


def test_an_own_login_stays_and_the_key_goes_beside_it() -> None:
    environ = {"ANTHROPIC_API_KEY": "sk-ant", "ANTHROPIC_CUSTOM_HEADERS": "a: b\nX-BF-VK: old"}
    assert claude_environment(environ, url="http://u", key="sk-bf", own_login=True) == {
        "ANTHROPIC_API_KEY": "sk-ant",
        "ANTHROPIC_CUSTOM_HEADERS": "a: b\nx-bf-vk: sk-bf",
        "ANTHROPIC_BASE_URL": "http://u/anthropic",
        "ENABLE_TOOL_SEARCH": "true",
    }


def test_where_url_key_and_token_come_from(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(NotKnown, match=f"^No Bursar is running in {tmp_path}: start it .* --home {tmp_path}.* --url"):
        find_url(home, None)
    assert find_url(home, "http://b/anthropic/") == "http://b"
    with pytest.raises(NotKnown, match="--key"):
        find_key(home, None)
    assert find_admin_token(home, None, {}) == ""
    home.run.mkdir()
    home.address.write_text("http://localhost:9\n")
    home.first_key.write_text("sk-bf-kept\n")
    (home.path / "admin-token").write_text("kept\n")
    assert find_url(home, None) == "http://localhost:9"
    assert find_url(home, "http://b/anthropic/") == "http://b"
    assert (find_key(home, None), find_key(home, "given")) == ("sk-bf-kept", "given")
    assert find_admin_token(home, None, {}) == "kept"
    assert find_admin_token(home, None, {"BURSAR_ADMIN_TOKEN": "e"}) == "e"
    assert find_admin_token(home, "g", {"BURSAR_ADMIN_TOKEN": "e"}) == "g"


def test_only_the_default_home_has_a_default_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_url(Home.at("~/.bursar"), None) == "http://localhost:8080"
    with pytest.raises(NotKnown):
        find_url(Home.at("~/.bursar2"), None)


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "--home", "{home}", "list"),
        ("keys", "--home", "{home}", "create", "n"),
        ("claude", "--home", "{home}"),
        ("connect", "--home", "{home}", "--key", "k", "--settings", "{home}/s.json"),
        ("doctor", "--home", "{home}", "--settings", "{home}/s.json"),
        ("quota", "--home", "{home}", "--key", "k"),
        ("usage", "--home", "{home}"),
        ("import", "{home}", "--home", "{home}"),
        ("export", "focus", "--home", "{home}", "--month", "2026-11"),
        ("close", "--home", "{home}"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_chosen_home_without_a_bursar_is_never_another_ones(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", asked)
    monkeypatch.setattr("http.client.HTTPConnection.request", asked)
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "BURSAR_", "CLAUDE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    ran = CliRunner().invoke(main, [word.format(home=tmp_path) for word in words])
    assert ran.exit_code == 1
    [said] = [line for line in ran.output.splitlines() if "No Bursar is running" in line]
    assert f"No Bursar is running in {tmp_path}: start it with `bursar up --home {tmp_path}`" in said
    assert "localhost" not in ran.output
    assert not (tmp_path / "s.json").exists()


def test_help_of_a_command_needs_no_bursar(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["keys", "--home", str(tmp_path), "create", "--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "budget"),
    [("100/1M", (100, "1M")), ("$2.50/90m", (2.5, "90m")), ("0/1d", (0, "1d"))],
)
def test_budgets(text: str, budget: tuple[float, str]) -> None:
    assert read_budget(text) == {"max_limit": budget[0], "reset_duration": budget[1]}


@pytest.mark.parametrize("text", ["100", "/1M", "x/1M", "-1/1M", "NaN/1M", "inf/1M", "5/M", "5/0d", "5/1x", "5/1M/2"])
def test_a_malformed_budget_is_refused(text: str) -> None:
    with pytest.raises(AdminRefused, match="for example"):
        read_budget(text)


def test_a_refusal_says_what_is_allowed(server: Any, tmp_path: Path) -> None:
    url, handler = server
    error = {"message": "budgets[0].reset_duration: is not a window of time", "allowed": "such as 90m, 1d or 1M"}
    handler.known = {"/api/governance/virtual-keys": (400, {"error": error})}
    with pytest.raises(AdminRefused, match=r"is not a window of time \(allowed: such as 90m, 1d or 1M\)$"):
        AdminClient(url, "").create_key("n", team=None, budgets=[])
    error = {"message": "provider_configs[0].x: is not a field here", "allowed": ["credential", "provider"]}
    handler.known = {"/api/governance/virtual-keys": (400, {"error": error})}
    with pytest.raises(StartRefused, match=r"is not a field here \(allowed: credential, provider\)$"):
        make_first_key(Home(tmp_path), url, "")


def test_listed_keys_name_their_owners_and_show_small_spending(server: Any) -> None:
    url, handler = server

    def page(field: str, *entries: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {field: entries, "total_count": len(entries)}

    budget = {"current_usage": 0.000612, "max_limit": 1500, "reset_duration": "1d"}
    handler.known = {
        "/api/governance/virtual-keys": page(
            "virtual_keys",
            {"id": "k1", "name": "a", "team_id": "t", "budgets": [budget]},
            {"id": "k2", "name": "b", "customer_id": "c"},
            {"id": "k3", "name": "d"},
        ),
        "/api/governance/teams": page("teams", {"id": "t", "name": "platform"}),
        "/api/governance/customers": page("customers", {"id": "c", "name": "acme"}),
    }
    said = CliRunner().invoke(main, ["keys", "--url", url, "list"]).output.splitlines()
    assert said == [
        "k1  a  platform  active  $0.000612 of $1,500.00 per 1d",
        "k2  b  acme  active",
        "k3  d  -  active",
    ]


def test_keys_through_the_admin_api(server: Any) -> None:
    url, handler = server
    teams = [{"id": f"t{n}", "name": f"team {n}"} for n in range(3)]

    def page(path: str) -> dict[str, Any]:
        offset = int(path.partition("offset=")[2])
        return {"teams": teams[offset : offset + 2], "total_count": 3}

    key = {"virtual_key": {"id": "k", "name": "n", "value": "sk-bf-v"}}
    handler.known = {
        "/api/governance/teams": (200, page),
        "/api/governance/virtual-keys": (201, key),
        "/api/governance/virtual-keys/k%2F1/rotate": (200, key),
    }
    client = AdminClient(url, "secret")
    assert client.create_key("n", team="team 2", budgets=[read_budget("5/1d")])["value"] == "sk-bf-v"
    assert json.loads(handler.seen[-1][3]) == {
        "name": "n",
        "team_id": "t2",
        "budgets": [{"max_limit": 5, "reset_duration": "1d"}],
    }
    assert {seen[2] for seen in handler.seen} == {"Bearer secret"}
    assert client.rotate_key("k/1")["value"] == "sk-bf-v"
    with pytest.raises(AdminRefused, match="no team named 'team 9'; teams: team 0, team 1, team 2"):
        client.create_key("n", team="team 9", budgets=[])
    handler.known["/api/governance/virtual-keys"] = (409, {"error": {"message": "The name is taken."}})
    with pytest.raises(AdminRefused, match=r"^The name is taken\.$"):
        client.create_key("n", team=None, budgets=[])
    handler.known["/api/governance/virtual-keys"] = (401, {"error": {"message": "No token."}})
    with pytest.raises(AdminRefused, match="BURSAR_ADMIN_TOKEN"):
        client.list_keys()
    with pytest.raises(AdminRefused, match="is `bursar up` running"):
        AdminClient("http://127.0.0.1:1", "").list_keys()
