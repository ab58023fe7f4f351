"""ClickHouse's HTTP interface, reading side: from a request's parameters and body to what is asked. Pure."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping
from typing import Final

import lz4.frame  # type: ignore[import-untyped]
import msgspec
import zstandard

MAX_BODY_BYTES: Final = 64 << 20
"""Bytes of a body, also after decompression: the largest insert block is 8 MiB of events, some 40 MiB uncompressed."""
MAX_QUERY_CHARS: Final = 256 << 10
"""Characters of a statement (ClickHouse's own default is 256 KiB)."""
DATABASES: Final = frozenset({"bursar", "default", "system", "information_schema", "INFORMATION_SCHEMA"})
DEFAULT_FORMAT: Final = "TabSeparated"

READER_SETTINGS: Final = frozenset(
    {
        "max_execution_time", "max_memory_usage", "max_result_rows", "result_overflow_mode",
        "max_result_bytes", "max_threads",
        "session_timezone", "final", "join_use_nulls", "extremes", "limit", "offset", "max_block_size",
        "date_time_output_format", "bool_true_representation", "bool_false_representation", "cast_keep_nullable",
        "output_format_json_quote_64bit_integers", "output_format_json_quote_64bit_floats",
        "output_format_json_quote_decimals", "output_format_json_quote_denormals",
        "output_format_json_named_tuples_as_objects", "output_format_decimal_trailing_zeros",
        "output_format_native_write_json_as_string", "output_format_binary_write_json_as_string",
        "output_format_native_encode_types_in_binary_format", "output_format_csv_crlf_end_of_line",
        "output_format_arrow_string_as_string", "output_format_arrow_compression_method",
        "output_format_parquet_string_as_string", "output_format_parquet_compression_method",
        "format_csv_delimiter", "format_csv_null_representation", "cast_string_to_dynamic_use_inference",
        "max_query_size", "use_query_cache", "do_not_merge_across_partitions_select_final",
    }
)  # fmt: skip
"""Settings a reader may give as parameters: how the answer looks, and limits (which only ever get tighter)."""

_TRANSPORT: Final = frozenset(
    {
        "query", "database", "default_format", "query_id", "session_id", "session_timeout", "session_check", "user",
        "password", "quota_key", "compress", "decompress", "enable_http_compression", "http_zlib_compression_level",
        "wait_end_of_query", "buffer_size", "client_protocol_version", "role", "send_progress_in_http_headers",
        "http_headers_progress_interval_ms", "http_response_buffer_size", "add_http_cors_header", "stacktrace",
        "framing", "http_make_head_request", "readonly", "log_queries", "log_comment", "async_insert",
        "wait_for_async_insert", "send_receive_timeout", "http_response_headers",
        "http_write_exception_in_output_format",
    }
)  # fmt: skip
"""Parameters that are understood, or harmless to pass over: they change nothing about the answer's content."""

_SETTING_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_INSERT_HEAD: Final = re.compile(rb"\s*INSERT\s+INTO\s.{1,65536}?\sFORMAT\s+\w+[ \t]*\r?\n", re.IGNORECASE | re.DOTALL)
QUERY_ID: Final = re.compile(r"[!-~]{1,100}")
FORMAT_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,49}")


class BadRequest(Exception):
    """The request cannot be understood; ``code`` is ClickHouse's error number."""

    def __init__(self, message: str, code: int, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Asked(msgspec.Struct, frozen=True):
    """One request, as far as its form goes."""

    statement: str
    data: bytes
    """What follows the statement: data of an insert."""
    database: str
    default_format: str
    query_id: str
    native_compression: bool
    """The client wants ClickHouse's own compressed blocks (``compress=1``)."""
    settings: dict[str, str]
    parameters: dict[str, str]


def asked(query: Mapping[str, str], headers: Mapping[str, str], body: bytes, *, internal: bool) -> Asked:
    """Raises BadRequest."""
    if query.get("decompress", "0") not in ("0", "false"):
        raise BadRequest("bodies in ClickHouse's own compression (decompress=1) are not accepted here", 48, 501)
    database = query.get("database") or headers.get("X-ClickHouse-Database") or "bursar"
    if not internal and database not in DATABASES:
        raise BadRequest(f"Database {database[:100]!r} does not exist", 81, 404)
    default_format = query.get("default_format") or headers.get("X-ClickHouse-Format") or DEFAULT_FORMAT
    if not FORMAT_NAME.fullmatch(default_format):
        raise BadRequest("Unknown format", 73)
    query_id = query.get("query_id") or headers.get("X-ClickHouse-Query-Id") or ""
    if query_id and not QUERY_ID.fullmatch(query_id):
        raise BadRequest("query_id is 1 to 100 visible ASCII characters", 36)
    settings, parameters = _settings(query, internal=internal)
    statement, data = _statement(query.get("query", ""), body, internal=internal)
    if len(statement) > MAX_QUERY_CHARS:
        raise BadRequest(f"a statement has at most {MAX_QUERY_CHARS} characters here", 62, 413)
    return Asked(
        statement=statement,
        data=data,
        database=database,
        default_format=default_format,
        query_id=query_id,
        native_compression=query.get("compress", "0") not in ("0", "false"),
        settings=settings,
        parameters=parameters,
    )


def _settings(query: Mapping[str, str], *, internal: bool) -> tuple[dict[str, str], dict[str, str]]:
    settings: dict[str, str] = {}
    parameters: dict[str, str] = {}
    for name, value in query.items():
        if name.startswith("param_"):
            parameters[name[6:]] = value
        elif name in _TRANSPORT:
            continue
        elif internal and _SETTING_NAME.fullmatch(name):
            settings[name] = value
        elif name in READER_SETTINGS:
            if len(value) > 200 or "\x00" in value:
                raise BadRequest(f"Setting {name} has too long a value", 36)
            settings[name] = value
        else:
            raise BadRequest(f"Cannot modify '{name[:100]}' setting in readonly mode", 164, 403)
    return settings, parameters


def _statement(parameter: str, body: bytes, *, internal: bool) -> tuple[str, bytes]:
    """As ClickHouse does: the parameter and the body are one text; an insert's data may be the body alone."""
    if internal and parameter:
        return parameter, body
    head = _INSERT_HEAD.match(body) if internal else None
    if head is not None:
        return head.group().decode(errors="replace"), body[head.end() :]
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8", 62) from None
    return (f"{parameter}\n{text}" if parameter and text else parameter or text), b""


def decompressed(body: bytes, encoding: str) -> bytes:
    """The body without its Content-Encoding. Raises BadRequest: unknown, broken or too large."""
    try:
        if encoding in ("", "identity"):
            return body
        if encoding == "lz4":
            with lz4.frame.LZ4FrameDecompressor() as lz4_reader:
                plain: bytes = lz4_reader.decompress(body, max_length=MAX_BODY_BYTES + 1)
        elif encoding == "zstd":
            plain = zstandard.ZstdDecompressor().stream_reader(body).read(MAX_BODY_BYTES + 1)
        elif encoding in ("gzip", "deflate"):
            plain = zlib.decompressobj(47).decompress(body, MAX_BODY_BYTES + 1)
        else:
            raise BadRequest(f"Content-Encoding {encoding[:20]!r} is not accepted here", 48, 415)
    except (RuntimeError, zstandard.ZstdError, zlib.error, gzip.BadGzipFile, EOFError):
        raise BadRequest("the body does not fit its Content-Encoding", 23) from None
    if len(plain) > MAX_BODY_BYTES:
        raise BadRequest(f"a body has at most {MAX_BODY_BYTES} bytes here", 62, 413)
    return plain
