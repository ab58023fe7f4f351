"""A container's health check: its exit code, and what it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bursar_common.ready import main


class Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = (200, b'{"status":"ok"}') if self.path == "/readyz" else (503, b'{"why":"no Redis"}')
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_ready(address: str) -> None:
    assert main([f"{address}/readyz"]) == 0


def test_unready_says_why(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{address}/other"]) == 1
    assert capsys.readouterr().err == 'status 503: {"why":"no Redis"}\n'


def test_nobody_there(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://127.0.0.1:1/readyz"]) == 1
    assert "no answer" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["file:///etc/passwd"], ["http://a", "http://b"]])
def test_anything_but_one_address_is_a_wrong_use(arguments: list[str]) -> None:
    assert main(arguments) == 2
