"""Prompts and answers at the edge: what reaches the log, what never does, and that nothing else notices."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from bursar_common import wire
from bursar_common.eventlog.port import LogUnavailable
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import CONTENT_RECORDED, CONTENT_TOPIC, USAGE_TOPIC, Content, decode_content, decode_envelope
from bursar_common.settings import SettingsError
from bursar_edge.app import Waits
from tests.harness.edge_stand_ins import (
    KEY,
    SMALL,
    START,
    STREAM_HEAD,
    WAIT_S,
    Got,
    World,
    chunk,
    delta,
    event,
    finish,
    json_answer,
    message,
    patient_world,
    post,
    unchunk,
)

SECRET = "sk-ant-api03-" + "aB3dE5gH7j" * 4
OTHER_SECRET = "ghp_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC2"
PATH = "/anthropic/v1/messages"


@contextlib.asynccontextmanager
async def storing(home: Path, **changes: Any) -> AsyncIterator[World]:
    """A world whose key has content on."""
    async with patient_world(home, **changes) as w:
        w.enforcer.decide = lambda ask: wire.Admitted(
            **{name: getattr(w.enforcer.admitted(ask), name) for name in wire.Admitted.__struct_fields__}
            | {"content": True}
        )
        yield w


async def contents(w: World, count: int = 1) -> list[Content]:
    """What is in the content topic, once there is so much."""
    log = SqliteEventLog(w.home / "log.db")
    await log.start()
    try:
        async with asyncio.timeout(WAIT_S):
            while len(found := await log.read(CONTENT_TOPIC, 0, 0)) < count:
                await asyncio.sleep(0.02)
    finally:
        await log.close()
    read = []
    for record in found:
        envelope = decode_envelope(record.value)
        content = decode_content(envelope)
        assert (envelope.type, envelope.id) == (CONTENT_RECORDED, f"content:{content.request_id}")
        assert record.key == content.request_id
        read.append(content)
    return read


def on_disk(home: Path) -> bytes:
    """Every byte of every file below the folder."""
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def ask(text: str, **more: Any) -> bytes:
    body = {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": [{"role": "user", "content": text}], **more}
    return json.dumps(body).encode()


async def test_a_streamed_answer_is_stored_without_the_secret_that_was_cut_over_its_chunks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with storing(tmp_path) as w:
        text = f"the key is {SECRET}, keep it"
        pieces = [
            START,
            event("content_block_start", {"type": "content_block_start", "index": 0,
                                          "content_block": {"type": "text", "text": ""}}),
            *(delta(text[at : at + 7]) for at in range(0, len(text), 7)),
            finish(9),
        ]  # fmt: skip
        w.upstream.streams(*pieces)
        asked = ask(f"my token is {OTHER_SECRET} and {KEY}", stream=True)
        answer = await w.raw(post(asked, "x-claude-code-session-id: session-1"))
        assert unchunk(answer.partition(b"\r\n\r\n")[2]) == b"".join(pieces)
        (content,) = await contents(w)
        usage = await w.event()
        assert (content.request_id, content.started_at_ms) == (usage.request_id, usage.started_at_ms)
        assert (content.virtual_key_id, content.team_id, content.session_id) == ("key-1", "team-1", "session-1")
        assert content.model == "claude-sonnet-4-6"
        assert [tuple(part.__getattribute__(n) for n in ("role", "kind", "text")) for part in content.prompt] == [
            ("user", "text", "my token is [redacted: github token] and [redacted: credential]")
        ]
        assert [part.text for part in content.answer] == ["the key is [redacted: anthropic key], keep it"]
        assert content.redacted == 3
        assert content.prompt_bytes == len(asked)
        assert not content.prompt_cut
        assert not content.answer_cut
    everything = on_disk(tmp_path)
    for value in (SECRET, OTHER_SECRET, KEY, "sk-ant-provider"):
        assert value.encode() not in everything
        assert value[5:30].encode() not in everything
    said = capsys.readouterr()
    assert "keep it" not in said.out + said.err
    assert "my token is" not in said.out + said.err


async def test_where_content_is_off_nothing_is_kept(tmp_path: Path) -> None:
    async with patient_world(tmp_path) as w:
        w.upstream.answers(json_answer(message()))
        await w.raw(post(ask("a very private question")))
        await w.event()
        await asyncio.sleep(0.1)
        log = SqliteEventLog(w.home / "log.db")
        await log.start()
        assert await log.read(CONTENT_TOPIC, 0, 0) == []
        await log.close()
        assert not w.edge.parts.content.counts
        assert w.edge.parts.content._redactor is None
    assert b"very private" not in on_disk(tmp_path)


async def test_an_answer_in_one_piece_and_one_that_came_compressed(tmp_path: Path) -> None:
    async with storing(tmp_path) as w:
        whole = message()
        w.upstream.answers(json_answer(whole))
        assert (await w.raw(post(ask("one")))).endswith(whole)
        packed = gzip.compress(whole)
        w.upstream.answers(json_answer(packed, headers=b"content-encoding: gzip\r\n"))
        assert (await w.raw(post(ask("two")))).endswith(packed)
        stream = gzip.compress(b"".join((START, delta("zipped "), delta("words"), finish(2))))
        parts = [stream[at : at + 20] for at in range(0, len(stream), 20)]

        async def respond(got: Got, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD.replace(b"request-id", b"content-encoding: gzip\r\nrequest-id"))
            for part in parts:
                writer.write(chunk(part))
                await writer.drain()
            writer.write(b"0\r\n\r\n")

        w.upstream.respond = respond
        await w.raw(post(ask("three", stream=True)))
        found = await contents(w, 3)
        assert [[part.text for part in each.prompt] for each in found] == [["one"], ["two"], ["three"]]
        assert [[part.text for part in each.answer] for each in found] == [["hi"], ["hi"], ["zipped words"]]


async def test_a_providers_error_is_content(tmp_path: Path) -> None:
    async with storing(tmp_path) as w:
        body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": "no such thing"}})
        w.upstream.answers(json_answer(body.encode(), status="400 Bad Request"))
        await w.raw(post(SMALL))
        (content,) = await contents(w)
        (part,) = content.answer
        assert (part.kind, part.name, part.text) == ("error", "invalid_request_error", "no such thing")
        usage = await w.event()
        assert usage.outcome == "upstream_error"
        assert "no such thing" not in str(usage)


async def test_what_is_too_long_is_cut_and_marked(tmp_path: Path) -> None:
    async with storing(tmp_path, settings={"content_max_bytes": 2000}) as w:
        w.upstream.streams(START, *(delta("0123456789" * 10) for _ in range(100)), finish(9))
        messages = [{"role": "user", "content": f"question {number} " + "x" * 500} for number in range(20)]
        await w.raw(post(json.dumps({"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": messages}).encode()))
        (content,) = await contents(w)
        assert content.prompt_cut
        assert content.answer_cut
        texts = [part.text for part in content.prompt]
        assert texts[-1].startswith("question 19 ")
        assert sum(map(len, texts)) <= 2000
        assert texts[0].endswith("x" * 100)  # the end of the oldest that is left
        assert "question 15" not in "".join(texts)
        assert sum(len(part.text) for part in content.answer) <= 2000
        assert content.answer[0].text.startswith("0123456789")
        assert content.answer_bytes > 10_000


async def test_a_secret_at_the_place_of_the_cut_is_not_cut_in_two(tmp_path: Path) -> None:
    async with storing(tmp_path, settings={"content_max_bytes": 1024}) as w:
        for before in range(950, 1030, 8):
            w.upstream.answers(json_answer(message()))
            await w.raw(post(ask("y" * 200 + SECRET + "z" * before)))
        for content in await contents(w, 10):
            assert "aB3dE5gH7j" not in str(content)


async def test_without_memory_the_request_goes_on_and_its_content_is_left_out(tmp_path: Path) -> None:
    async with storing(tmp_path) as w:
        store = w.edge.parts.content
        free = store._free
        store._free = 0
        w.upstream.streams(START, delta("unseen"), finish(1))
        answer = await w.raw(post(ask("unheard")))
        assert b"unseen" in answer
        (content,) = await contents(w)
        assert (content.prompt, content.answer) == ((), ())
        assert content.prompt_cut
        assert content.answer_cut
        await w.edge.parts.finished()  # a record is in the log a moment before it is counted
        assert store.counts["left_out"] > 0
        page = (await w.raw(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).decode()
        left_out = store.counts["left_out"]
        assert f'bursar_edge_content_left_out_bytes_total{{service="edge-proxy"}} {left_out}\n' in page
        assert 'bursar_edge_content_records_total{service="edge-proxy",result="stored"} 1\n' in page
        store._free = free
        await w.raw(post(ask("heard")))
        assert (await contents(w, 2))[1].prompt[0].text == "heard"
        await w.edge.parts.finished()
        assert store._free == free


async def test_what_was_streamed_until_the_client_left(tmp_path: Path) -> None:
    async with storing(tmp_path) as w:

        async def respond(got: Got, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD + chunk(START) + chunk(delta("half an ")) + chunk(delta("answer")))
            await asyncio.Event().wait()

        w.upstream.respond = respond
        await w.raw(post(ask("go on", stream=True)), until=b'answer"}}\n\n')
        (content,) = await contents(w)
        assert [part.text for part in content.answer] == ["half an answer"]
        assert (await w.event()).outcome == "interrupted"


async def test_many_at_once_each_with_its_own(tmp_path: Path) -> None:
    async with storing(tmp_path) as w, ClientSession() as session:

        async def respond(got: Got, writer: asyncio.StreamWriter) -> None:
            number = json.loads(got.body)["messages"][0]["content"]
            writer.write(STREAM_HEAD + chunk(START))
            for at in range(50):
                writer.write(chunk(delta(f"{number}.{at} ")))
                await asyncio.sleep(0)
            writer.write(chunk(finish(5)) + b"0\r\n\r\n")

        w.upstream.respond = respond

        async def one(number: int) -> None:
            headers = {"x-api-key": KEY, "content-type": "application/json"}
            async with session.post(w.url + PATH, data=ask(str(number)), headers=headers) as answer:
                await answer.read()

        await asyncio.gather(*(one(number) for number in range(30)))
        found = await contents(w, 30)
        assert sorted(int(each.prompt[0].text) for each in found) == list(range(30))
        for each in found:
            number = each.prompt[0].text
            assert each.answer[0].text == "".join(f"{number}.{at} " for at in range(50))


async def test_in_a_cluster_it_is_shipped_to_its_topic_and_leaves_the_outbox(tmp_path: Path) -> None:
    remote = SqliteEventLog(tmp_path / "remote.db")
    await remote.start()
    async with storing(tmp_path / "pod", remote=remote) as w:
        await w.raw(post(ask("ship me")))
        async with asyncio.timeout(WAIT_S):
            while not (records := await remote.read(CONTENT_TOPIC, 0, 0)):
                await asyncio.sleep(0.05)
            while not await remote.read(USAGE_TOPIC, 0, 0):
                await asyncio.sleep(0.05)
            while await w.edge.outbox.unshipped():
                await asyncio.sleep(0.05)
        content = decode_content(decode_envelope(records[0].value))
        assert content.prompt[0].text == "ship me"
        assert records[0].headers[0][0] == "bursar-outbox"


async def test_content_never_takes_the_outboxs_room_from_usage_events(tmp_path: Path) -> None:
    class Away(SqliteEventLog):
        async def append(self, records: Any) -> Any:
            raise LogUnavailable("away")

    async with storing(
        tmp_path / "pod", remote=Away(tmp_path / "remote.db"), settings={"outbox_max_bytes": 2 << 20},
        waits=Waits(ship_s=2),
    ) as w:  # fmt: skip
        assert await w.edge.outbox.offer_content("r", b"x" * (900 << 10))
        assert not await w.edge.outbox.offer_content("r", b"x" * (300 << 10))
        await w.raw(post(ask("hello")))
        assert (await w.edge.parts.finished()) is None
        assert w.edge.outbox.writable


async def test_an_expression_that_cannot_be_used_refuses_to_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"BURSAR_CONTENT_PATTERNS: Pattern 2 is not") as refused:
        async with patient_world(tmp_path, settings={"content_patterns": "ok\n(unbalanced"}):
            pass
    assert "unbalanced" not in str(refused.value)


async def test_an_operators_expressions_apply(tmp_path: Path) -> None:
    async with storing(tmp_path, settings={"content_patterns": "ACME-[0-9]+"}) as w:
        await w.raw(post(ask("account ACME-123")))
        (content,) = await contents(w)
        assert content.prompt[0].text == "account [redacted: by a pattern of this installation]"


async def test_a_fault_of_ours_costs_the_content_only_and_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("quoting: a very private question")

    async with storing(tmp_path) as w:
        monkeypatch.setattr("bursar_edge.content.prompt_parts", broken)
        assert b"200 OK" in await w.raw(post(ask("a very private question")))
        await w.event()
        await w.edge.parts.finished()
        assert w.edge.parts.content.counts == {"failed": 1}
    said = capsys.readouterr()
    assert "very private" not in said.out + said.err


@pytest.mark.parametrize("size", [1 << 20, 9 << 20])
async def test_large_bodies(tmp_path: Path, size: int) -> None:
    async with storing(tmp_path) as w:
        await w.raw(post(ask("w " * (size // 2))))
        (content,) = await contents(w)
        assert content.prompt_cut
        assert content.prompt_bytes > size
        assert sum(len(part.text) for part in content.prompt) == (512 << 10 if size < 8 << 20 else 0)
