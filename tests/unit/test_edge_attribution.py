"""Attribution, credentials and addresses."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from bursar_common.keys import sha256_hex
from bursar_common.wire import KeyHash
from bursar_edge.attribution import MAX_TAGS, attribute
from bursar_edge.credentials import CredentialStore, Resolved, own_login, presented
from bursar_edge.routes import route
from bursar_edge.upstream import address_problem

KEY = "sk-bf-" + "a" * 64


def test_headers_name_whom_a_request_belongs_to():
    headers = CIMultiDict(
        [
            ("X-Bursar-Project", "apollo"),
            ("x-bursar-repository", "org/repo"),
            ("x-bursar-branch", "main"),
            ("x-bursar-environment", "ci"),
            ("x-bursar-cost-center", "4711"),
            ("x-claude-code-session-id", "s"),
            ("x-claude-code-agent-id", "a"),
            ("x-claude-code-parent-agent-id", "p"),
            ("x-bursar-tag-Cell", "blue"),
            ("x-bf-dim-region", "eu"),
            ("x-bf-dim-cell", "second is ignored"),
            ("user-agent", "claude-cli/2.1.197 (external, cli)"),
        ]
    )
    found = attribute(headers, "")
    assert found.fields == {
        "project": "apollo",
        "repository": "org/repo",
        "branch": "main",
        "environment": "ci",
        "cost_center": "4711",
        "session_id": "s",
        "agent_id": "a",
        "parent_agent_id": "p",
        "tags": {"cell": "blue", "region": "eu"},
        "client_version": "2.1.197",
    }
    assert found.tags["project"] == "apollo"
    assert found.tags["cell"] == "blue"


@pytest.mark.parametrize("bad", ["", "x" * 201, "a\x07b", "\x1b[31m"])
def test_values_are_1_to_200_printable_characters(bad):
    headers = CIMultiDict([("x-bursar-project", bad), ("x-bursar-tag-a", bad)])
    assert attribute(headers, "").fields == {}


def test_tags_beyond_twenty_are_dropped_and_counted():
    headers = CIMultiDict([(f"x-bursar-tag-{number}", "v") for number in range(25)])
    found = attribute(headers, "")
    assert (len(found.fields["tags"]), found.dropped_tags) == (MAX_TAGS, 5)


@pytest.mark.parametrize(
    ("user_id", "device", "session"),
    [
        ('{"device_id":"d1","account_uuid":"","session_id":"s1"}', "d1", "s1"),
        ("user_0123456789abcdef_account__session_00000000-0000-4000-8000-000000000000",
         "0123456789abcdef", "00000000-0000-4000-8000-000000000000"),
        ("user_0123456789abcdef_account_11111111-1111-4111-8111-111111111111_session_22222222-2222-4222-8222-222222222222",
         "0123456789abcdef", "22222222-2222-4222-8222-222222222222"),
        ("me@example.com", None, None),
        ("{", None, None),
        ('{"device_id":7}', None, None),
    ],
)  # fmt: skip
def test_user_id_of_the_body(user_id, device, session):
    fields = attribute(CIMultiDict(), user_id).fields
    assert (fields.get("device_id"), fields.get("session_id")) == (device, session)


def test_session_of_the_header_wins():
    headers = CIMultiDict([("x-claude-code-session-id", "header")])
    assert attribute(headers, '{"session_id":"body"}').fields["session_id"] == "header"


def test_presented_credentials_are_hashed_in_their_headers():
    headers = CIMultiDict([("X-BF-VK", KEY), ("Authorization", f"Bearer {KEY}"), ("x-api-key", "sk-ant")])
    assert presented(headers) == (
        KeyHash("x-bf-vk", sha256_hex(KEY)),
        KeyHash("authorization", sha256_hex(KEY)),
        KeyHash("x-api-key", sha256_hex("sk-ant")),
    )
    assert presented(CIMultiDict([("authorization", "Basic abc")])) == ()
    assert presented(CIMultiDict([("authorization", "bearer  x ")])) == (KeyHash("authorization", sha256_hex("x")),)


def test_own_login_never_contains_a_virtual_key():
    headers = CIMultiDict([("authorization", f"Bearer {KEY}"), ("x-api-key", "sk-ant-own"), ("x-bf-vk", KEY)])
    assert own_login(headers, "x-bf-vk") == ([(b"x-api-key", b"sk-ant-own")], "customer")
    assert own_login(CIMultiDict([("x-api-key", KEY)]), "x-bf-vk") == ([], "")


@pytest.mark.parametrize("named_by", ["x-bf-vk", "authorization", "x-api-key"])
def test_a_key_brought_along_and_sent_twice_does_not_go_up(named_by: str) -> None:
    """Such a key has no prefix of ours."""
    brought = "company-key-000111222333"
    headers = CIMultiDict([("authorization", f"bearer  {brought}"), ("x-api-key", brought), ("x-bf-vk", brought)])
    assert own_login(headers, named_by) == ([], "")
    headers["x-api-key"] = "sk-ant-own"
    if named_by != "x-api-key":
        assert own_login(headers, named_by) == ([(b"x-api-key", b"sk-ant-own")], "customer")


def test_references_resolve_within_their_bounds(tmp_path):
    (tmp_path / "good").write_text(" secret \n")
    (tmp_path / "own").write_text(KEY)
    (tmp_path / "large").write_text("x" * 20_000)
    (tmp_path / "lines").write_text("a\nb")
    store = CredentialStore({"A": "from-env", "B": "x", "OWN": KEY, "EMPTY": ""}, {"A", "OWN", "EMPTY"}, tmp_path)
    assert store.resolve("env:A") == Resolved("env:A", "from-env")
    assert store.resolve("env:B, env:EMPTY,env:OWN,file:own,file:large,file:lines,file:none,file:good") == Resolved(
        "file:good", "secret"
    )
    for reference in ("env:B", "file:../good", "file:/etc/hostname", "file:", "vault:x", "", "A"):
        assert store.resolve(reference) is None
    assert "from-env" not in repr(store.resolve("env:A"))
    assert CredentialStore({}, (), None).resolve("file:good") is None


@pytest.mark.parametrize(
    ("address", "allowed", "problem"),
    [
        ("8.8.8.8", False, ""),
        ("169.254.169.254", False, "link-local"),
        ("169.254.169.254", True, "link-local"),
        ("::ffff:169.254.169.254", True, "link-local"),
        ("fe80::1%eth0", True, "link-local"),
        ("127.0.0.1", False, "private"),
        ("127.0.0.1", True, ""),
        ("10.0.0.1", False, "private"),
        ("fd00::1", False, "private"),
        ("::1", True, ""),
        ("0.0.0.0", True, "not a host"),
        ("224.0.0.1", True, "not a host"),
    ],
)
def test_addresses(address, allowed, problem):
    assert address_problem(address, allowed) == problem


@pytest.mark.parametrize(
    ("method", "target", "kind", "rest"),
    [
        ("POST", "/v1/messages", "messages", "/v1/messages"),
        ("POST", "/anthropic/v1/messages?beta=true", "messages", "/v1/messages?beta=true"),
        ("POST", "http://host:1/anthropic/v1/messages?a", "messages", "/v1/messages?a"),
        ("POST", "/v1/messages/count_tokens", "count_tokens", "/v1/messages/count_tokens"),
        ("GET", "/v1/models?limit=1", "models", "/v1/models?limit=1"),
        ("GET", "/anthropic/v1/models/a", "model", "/v1/models/a"),
        ("HEAD", "/", "hello", "/"),
        ("HEAD", "/api/hello", "hello", "/api/hello"),
        ("GET", "/", "admin", "/"),
        ("GET", "/api/governance/teams", "admin", "/api/governance/teams"),
        ("GET", "/v1/organizations/usage", "admin", "/v1/organizations/usage"),
        ("GET", "/anthropic/v1/organizations/usage", "none", "/v1/organizations/usage"),
        ("POST", "/v1/messages/batches", "none", "/v1/messages/batches"),
        ("PUT", "/v1/messages", "none", "/v1/messages"),
        ("POST", "/anthropic//v1/messages", "none", "//v1/messages"),
        ("POST", "/v1/messages%2f", "none", "/v1/messages%2f"),
        ("GET", "/readyz", "ready", "/readyz"),
    ],
)
def test_routes(method, target, kind, rest):
    where = route(method, target)
    assert (where.kind, where.target) == (kind, rest)
