"""A small HTTP client for the supervisor and the short commands: TCP or a Unix socket, one request a connection.

The standard library's, because the supervisor lives as long as the services and its memory counts."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of one answer; a page of 10,000 keys stays below it."""


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
    connection: http.client.HTTPConnection
    prefix = ""
    if address.startswith("unix:"):
        connection = _UnixConnection(address[5:], timeout_s)
    else:
        parts = urlsplit(address)
        prefix = parts.path.rstrip("/")
        host = parts.hostname or "localhost"
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=timeout_s, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
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
