"""A small HTTP client for the supervisor and the short commands: TCP or a Unix socket, one request a connection.

The standard library's, because the supervisor lives as long as the services and its memory counts."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of one answer; a page of 10,000 keys stays below it."""
DOWNLOAD_PART_BYTES = 1 << 20
"""Held in memory of a download."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        """The decoded body; None where it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call(
    address: str,
    method: str,
    path: str,
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
) -> Answer:
    """Ask ``http(s)://host:port[/prefix]`` or ``unix:<path>``. ``body`` is sent as JSON.

    Raises OSError where nobody answers in time."""
    connection, prefix = _connection(address, timeout_s)
    sent = {"accept": "application/json", **(headers or {})}
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        sent["content-type"] = "application/json"
    try:
        connection.request(method, prefix + path, body=data, headers=sent)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(MAX_ANSWER_BYTES))
    except http.client.HTTPException as error:
        raise OSError(f"the answer is not HTTP ({type(error).__name__})") from None
    finally:
        connection.close()


def download(
    address: str, path: str, file: IO[bytes], *, headers: Mapping[str, str] | None = None, timeout_s: float = 600.0
) -> Answer:
    """Write a 200's body to ``file`` as it comes; any other answer is returned whole (``body`` of a 200 is empty).

    Raises OSError where nobody answers in time, or the answer breaks off: then what was written is not all."""
    connection, prefix = _connection(address, timeout_s)
    try:
        connection.request("GET", prefix + path, headers=dict(headers or {}))
        answer = connection.getresponse()
        if answer.status != 200:
            return Answer(answer.status, answer.read(MAX_ANSWER_BYTES))
        while part := answer.read(DOWNLOAD_PART_BYTES):
            file.write(part)
        return Answer(200, b"")
    except http.client.HTTPException:
        raise OSError("the answer broke off") from None
    finally:
        connection.close()


def _connection(address: str, timeout_s: float) -> tuple[http.client.HTTPConnection, str]:
    """A connection not yet made, and the path that the address itself has."""
    if address.startswith("unix:"):
        return _UnixConnection(address[5:], timeout_s), ""
    parts = urlsplit(address)
    host, prefix = parts.hostname or "localhost", parts.path.rstrip("/")
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=context), prefix
    return http.client.HTTPConnection(host, parts.port, timeout=timeout_s), prefix
