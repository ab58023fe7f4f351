"""The edge as a process: start, stop, exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys

import pytest
from aiohttp import ClientSession

from bursar_common.settings import Settings
from bursar_edge import app
from bursar_edge.app import Edge, Waits, serve
from tests.harness.edge_stand_ins import KEY, SMALL, TOKEN, StandInEnforcer, Upstream
from tests.harness.processes import READY_WAIT_S, free_port
from tests.integration.test_edge_admission import FlakyLog


def environment(home, enforcer, upstream, port):
    return {
        "PATH": os.environ["PATH"],
        "BURSAR_HOME": str(home),
        "BURSAR_ENFORCER_URL": enforcer.url,
        "BURSAR_INTERNAL_TOKEN": TOKEN,
        "BURSAR_ANTHROPIC_BASE_URL": upstream.url,
        "BURSAR_EDGE_LISTEN": f"127.0.0.1:{port}",
        "ANTHROPIC_API_KEY": "sk-ant-provider",
    }


@pytest.fixture
async def around():
    enforcer, upstream = StandInEnforcer(), Upstream()
    await enforcer.start()
    await upstream.start()
    yield enforcer, upstream
    await enforcer.stop()
    await upstream.stop()


async def _answers(port):
    async with ClientSession() as session:
        async with asyncio.timeout(READY_WAIT_S):
            while True:
                with contextlib.suppress(OSError):
                    async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.05)
        headers = {"x-api-key": KEY, "content-type": "application/json"}
        async with session.post(f"http://127.0.0.1:{port}/v1/messages", data=SMALL, headers=headers) as answer:
            assert answer.status == 200
            await answer.read()


async def test_serves_and_stops_at_sigterm(tmp_path, around):
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bursar_edge", env=environment(tmp_path, *around, port), stderr=asyncio.subprocess.PIPE
    )
    try:
        await _answers(port)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(READY_WAIT_S):
            _, words = await process.communicate()
        assert process.returncode == 0
        assert KEY not in words.decode()
        assert "sk-ant-provider" not in words.decode()
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"BURSAR_HOEM": "x"}, "BURSAR_HOEM is not a setting of Bursar. Did you mean BURSAR_HOME?"),
        ({"BURSAR_ENFORCER_URL": ""}, "BURSAR_ENFORCER_URL is not set"),
        ({"BURSAR_HOME": ""}, "no event log to use"),
    ],
)
async def test_bad_settings_end_with_2_and_a_sentence(tmp_path, around, changes, words):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bursar_edge",
        env={**environment(tmp_path, *around, 1), **changes},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert words in said.decode()
    assert "Traceback" not in said.decode()


async def test_what_could_not_be_shipped_ends_with_3_and_is_named(tmp_path, around, monkeypatch, capsys):
    enforcer, upstream = around
    port = free_port()

    async def signalled():
        await _answers(port)

    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-provider")
    monkeypatch.setattr(app, "until_signalled", signalled)
    monkeypatch.setattr(app, "Edge", functools.partial(Edge, waits=Waits(ship_s=0.3), remote=FlakyLog()))
    settings = Settings.model_validate(
        {
            "outbox_dir": tmp_path,
            "enforcer_url": enforcer.url,
            "internal_token": TOKEN,
            "anthropic_base_url": upstream.url,
            "edge_listen": f"127.0.0.1:{port}",
        }
    )
    assert await serve(settings) == 3
    assert f"1 events are still in the outbox {tmp_path / 'outbox.db'}" in capsys.readouterr().err
