"""The real Claude Code CLI as a client, and a tap that counts the requests it makes."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout, web

from tests.harness.require import require

CLI_TIMEOUT_S = 90
"""The client repeats some requests for minutes; a refusal that lets it do so must fail the test, not hang it."""


def claude_executable() -> str:
    """Path of the Claude Code CLI that ``make test`` installed; skips (under CI: fails) where there is none."""
    return str(require("claude"))


@dataclass
class ClaudeRun:
    exit_code: int
    stdout: str
    stderr: str
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the developer reads."""
        return str(self.result.get("result", ""))


async def run_claude(base_url: str, token: str, home: Path, *arguments: str, prompt: str = "Say hi.") -> ClaudeRun:
    """One ``claude -p`` with an empty home folder, through ``base_url``."""
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_AUTH_TOKEN": token,
        "ENABLE_TOOL_SEARCH": "true",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    process = await asyncio.create_subprocess_exec(
        claude_executable(),
        "-p",
        prompt,
        "--output-format",
        "json",
        *arguments,
        cwd=home,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), CLI_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError("claude did not end in time: it is repeating its request") from None
    run = ClaudeRun(process.returncode or 0, stdout.decode(), stderr.decode())
    try:
        run.result = json.loads(run.stdout)
    except json.JSONDecodeError:
        pass
    return run


class RequestTap:
    """A plain relay in front of a gateway that notes every request passing through it."""

    def __init__(self, target: str) -> None:
        self.target = target.rstrip("/")
        self.seen: list[tuple[str, str]] = []
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._session: ClientSession | None = None

    def paid_requests(self) -> int:
        """Requests that ask for a message (not for a token count)."""
        return sum(1 for method, path in self.seen if method == "POST" and path.partition("?")[0].endswith("/messages"))

    async def __aenter__(self) -> RequestTap:
        self._session = ClientSession(timeout=ClientTimeout(total=None), auto_decompress=False)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{tail:.*}", self._relay)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._session.close()
        await self._runner.cleanup()

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        self.seen.append((request.method, request.raw_path))
        body = await request.read()
        headers = {
            k: v for k, v in request.headers.items() if k.lower() not in ("host", "content-length", "connection")
        }
        async with self._session.request(
            request.method, self.target + request.raw_path, data=body, headers=headers, allow_redirects=False
        ) as answer:
            out = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    out.headers.add(name, value)
            await out.prepare(request)
            async for chunk in answer.content.iter_any():
                await out.write(chunk)
            await out.write_eof()
            return out
