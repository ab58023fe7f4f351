"""Who may speak to chDB's HTTP front, and what a request's parameters may be."""

from __future__ import annotations

import base64
import gzip
import zlib

import lz4.frame
import pytest
import zstandard

from bursar_aggregator import front_request
from bursar_aggregator.front_access import Access, Denied, access_of
from bursar_aggregator.front_request import MAX_BODY_BYTES, BadRequest, asked, decompressed
from bursar_common.settings import Settings, SettingsError

OPEN = Access(hosts=frozenset({"localhost", "127.0.0.1", "::1"}), internal_token="inner", reader_token="")
GUARDED = Access(hosts=frozenset({"bi.example"}), internal_token="inner", reader_token="outer")


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"default:{password}".encode()).decode()}


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8123", "127.0.0.1:8123", "[::1]:8123"])
def test_loopback_names_are_readers(host: str) -> None:
    assert OPEN.role({"Host": host}, {}) == "reader"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {},
        {"Host": "localhost", "Origin": "http://localhost"},
        {"Host": "localhost", "Origin": "null"},
        {"Host": "localhost", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_web_pages_are_refused_even_with_the_token(headers: dict[str, str]) -> None:
    with pytest.raises(Denied) as refused:
        OPEN.role({**headers, "x-bursar-internal-token": "inner"}, {})
    assert refused.value.status == 403


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-bursar-internal-token": "inner"}, {}),
        (basic("inner"), {}),
        ({"X-ClickHouse-Key": "inner"}, {}),
        ({}, {"password": "inner"}),
        ({"Authorization": "Bearer inner"}, {}),
    ],
)
def test_the_internal_token_in_every_form_clients_have(headers: dict[str, str], query: dict[str, str]) -> None:
    assert OPEN.role({"Host": "localhost", **headers}, query) == "internal"


def test_beyond_loopback_readers_need_the_password() -> None:
    with pytest.raises(Denied) as refused:
        GUARDED.role({"Host": "bi.example"}, {})
    assert refused.value.status == 401
    assert GUARDED.role({"Host": "bi.example", **basic("outer")}, {}) == "reader"
    assert GUARDED.role({"Host": "bi.example", **basic("inner")}, {}) == "internal"
    with pytest.raises(Denied):
        GUARDED.role({"Host": "bi.example", "Authorization": "Basic !!"}, {})


def test_an_empty_token_lets_nobody_in() -> None:
    access = Access(hosts=frozenset({"localhost"}), internal_token="", reader_token="")
    assert access.role({"Host": "localhost", "x-bursar-internal-token": ""}, {"password": ""}) == "reader"


def test_a_listener_on_the_network_without_a_password_refuses_to_start() -> None:
    with pytest.raises(SettingsError, match="BURSAR_ADMIN_TOKEN"):
        access_of(Settings(clickhouse_listen="0.0.0.0:8123"))
    access = access_of(Settings(clickhouse_listen="0.0.0.0:8123", admin_token="outer", public_hosts="bi.example, Two"))
    assert access.reader_token == "outer"
    assert {"bi.example", "two", "localhost"} <= access.hosts
    assert "0.0.0.0" not in access.hosts


def test_parameter_and_body_are_one_statement() -> None:
    question = asked(
        {"query": "SELECT", "param_x": "1", "max_execution_time": "5", "session_id": "s"}, {}, b"1", internal=False
    )
    assert question.statement == "SELECT\n1"
    assert question.parameters == {"x": "1"}
    assert question.settings == {"max_execution_time": "5"}
    assert (question.database, question.default_format) == ("bursar", "TabSeparated")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"allow_introspection_functions": "1"}, 164),
        ({"max_memory_usage_for_user": "1"}, 164),
        ({"database": "nope"}, 81),
        ({"default_format": "JSON; DROP"}, 73),
        ({"query_id": "a\nb"}, 36),
        ({"decompress": "1"}, 48),
        ({"session_timezone": "x" * 300}, 36),
        ({"query": "S" * 300_000}, 62),
    ],
)
def test_parameters_that_are_refused(query: dict[str, str], code: int) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(query, {}, b"", internal=False)
    assert refused.value.code == code


def test_insert_data_behind_the_statement() -> None:
    body = b"INSERT INTO bursar.t (`a`, `b`) FORMAT Native\n\x00\xff\n"
    question = asked({}, {}, body, internal=True)
    assert question.statement == "INSERT INTO bursar.t (`a`, `b`) FORMAT Native\n"
    assert question.data == b"\x00\xff\n"
    with pytest.raises(BadRequest):
        asked({}, {}, body, internal=False)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("", bytes),
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("lz4", lz4.frame.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
    ],
)
def test_bodies_in_every_encoding(encoding: str, pack) -> None:  # type: ignore[no-untyped-def]
    assert decompressed(pack(b"SELECT 1" * 100), encoding) == b"SELECT 1" * 100


@pytest.mark.parametrize("encoding", ["gzip", "lz4", "zstd", "br"])
def test_broken_and_unknown_encodings(encoding: str) -> None:
    with pytest.raises(BadRequest):
        decompressed(b"not compressed", encoding)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("lz4", lz4.frame.compress), ("zstd", zstandard.ZstdCompressor().compress)],
)
def test_a_small_body_does_not_become_a_large_one(
    encoding: str,
    pack,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    monkeypatch.setattr(front_request, "MAX_BODY_BYTES", 1 << 20)
    assert MAX_BODY_BYTES > 1 << 20
    with pytest.raises(BadRequest) as refused:
        decompressed(pack(bytes(4 << 20)), encoding)
    assert refused.value.status == 413
