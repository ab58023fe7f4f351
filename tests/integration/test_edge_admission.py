"""What the edge makes of the enforcer's answers, and of its absence; credentials; the outbox."""

from __future__ import annotations

import asyncio
import json

import pytest

from bursar_common import wire
from bursar_common.eventlog.port import LogUnavailable
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import OUTBOX_HEADER, USAGE_TOPIC, decode_envelope
from bursar_common.keys import sha256_hex
from bursar_edge.outbox import OUTBOX_FILE
from tests.harness.edge_stand_ins import (
    KEY,
    MODEL,
    OWNERS,
    SMALL,
    WAIT_S,
    json_answer,
    message,
    patient_world,
    post,
    world,
)
from tests.harness.waiting import eventually
from tests.integration.test_edge_garbage import envelope

OTHER_KEY = "sk-bf-" + "1" * 64


async def test_refusal_is_answered_and_recorded_as_denied(tmp_path):
    async with patient_world(tmp_path) as w:
        w.enforcer.decide = lambda ask: wire.Refused(
            "budget_spent",
            owner_kind="team",
            owner="platform-engineering",
            spent=500_000_000_000,
            limit=500_000_000_000,
            resets_at_s=1_800_000_000,
            owners=OWNERS,
        )
        raw = await w.raw(post(SMALL, "x-bursar-project: apollo", "x-bursar-tag-cell: blue"))
        status, error = envelope(raw)
        assert (status, error["type"]) == (402, "billing_error")
        assert 'team "platform-engineering" is used up: $500.00 of $500.00 spent, resets 2027-01-15' in error["message"]
        assert b"x-should-retry: false" in raw
        ((event, usage),) = await w.events()
        assert event.type == "bursar.usage.denied.v1"
        assert event.id == f"denied:{usage.request_id}"
        assert (usage.outcome, usage.refused_by, usage.project, usage.tags) == (
            "refused",
            "budget_spent",
            "apollo",
            {"cell": "blue"},
        )
        assert not w.upstream.got
        assert not w.enforcer.of(wire.Settle)


async def test_unknown_key_is_401_and_no_event(tmp_path, capsys):
    async with patient_world(tmp_path) as w:
        w.enforcer.decide = lambda ask: wire.Refused("unknown_key")
        raw = await w.raw(post(SMALL))
        status, error = envelope(raw)
        assert (status, error["type"]) == (401, "authentication_error")
        assert "/login will not help" in error["message"]
        assert b"x-should-retry: false" in raw
        assert w.edge.parts.samples.counts == {"unknown_key": 1}
        await w.edge.parts.finished()
        log = SqliteEventLog(tmp_path / "log.db")
        await log.start()
        assert await log.end_offset(USAGE_TOPIC, 0) == 0
        await log.close()
    assert KEY not in capsys.readouterr().out


async def test_short_rate_limit_lets_the_client_wait(tmp_path):
    async with patient_world(tmp_path) as w:
        for seconds, final in ((7, False), (61, True)):
            w.enforcer.decide = lambda ask, s=seconds: wire.Refused(
                "requests_limited", unit="r", limit=200, retry_after_s=s, window="1h", owners=OWNERS
            )
            raw = await w.raw(post(SMALL))
            assert raw.startswith(b"HTTP/1.1 429 ")
            assert b"retry-after: %d" % seconds in raw
            assert (b"x-should-retry: false" in raw) is final


async def test_ledger_out_of_reach_is_503_after_trying(tmp_path):
    async with world(tmp_path) as w:
        w.enforcer.down = True
        raw = await w.raw(post(SMALL))
        status, error = envelope(raw)
        assert (status, error["type"]) == (503, "api_error")
        assert "cannot reach its ledger; nothing was charged" in error["message"]
        assert b"x-should-retry: false" in raw
        assert not w.upstream.got
        w.enforcer.down = False
        w.edge.enforcer._tries_s = WAIT_S
        assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200 ")


async def test_a_short_absence_of_the_ledger_is_waited_out(tmp_path):
    async with patient_world(tmp_path) as w:
        w.enforcer.down = True
        answering = asyncio.ensure_future(w.raw(post(SMALL)))
        await eventually(lambda: w.edge.enforcer._paused_until, WAIT_S)  # asked, and got no answer
        await asyncio.sleep(0.3)
        assert not answering.done()
        w.enforcer.down = False
        assert (await answering).startswith(b"HTTP/1.1 200 ")
        answers = iter([wire.Unavailable("admission is closed"), None])
        w.enforcer.decide = lambda ask: next(answers)
        assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200 ")


async def test_settlements_wait_for_the_ledger_and_arrive(tmp_path):
    async with patient_world(tmp_path) as w:

        async def respond(got, writer):
            w.enforcer.down = True
            writer.write(json_answer(message()))

        w.upstream.respond = respond
        assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200 ")
        assert (await w.event()).outcome == "completed"
        await asyncio.sleep(0.3)
        assert not w.enforcer.of(wire.Settle)
        w.enforcer.down = False
        assert len(await w.enforcer.wait_for(wire.Settle)) == 1


async def test_reserved_requests_wait_their_turn_in_order(tmp_path):
    async with patient_world(tmp_path) as w:
        busy: set[str] = set()
        order: list[str] = []

        def decide(ask):
            if busy and ask.request_id not in busy:
                return wire.Reserved(w.enforcer.hold[0].counter, 60_000, wire.Refused("budget_reserved"))
            busy.add(ask.request_id)
            order.append(ask.session)
            return None

        w.enforcer.decide = decide
        go_on = asyncio.Event()

        async def respond(got, writer):
            await go_on.wait()
            writer.write(json_answer(message()))

        w.upstream.respond = respond
        waiting = []
        for number in range(5):
            waiting.append(asyncio.ensure_future(w.raw(post(SMALL, f"x-claude-code-session-id: {number}"))))
            await w.enforcer.wait_for(wire.Admit, min(number + 1, 2))
            await eventually(lambda number=number: w.edge.enforcer.waiting_turns == number, WAIT_S, 0.01)
        assert order == ["0"]
        go_on.set()
        for number in range(5):
            await w.enforcer.wait_for(wire.Settle, number + 1)
            busy.clear()
        assert all(raw.startswith(b"HTTP/1.1 200 ") for raw in await asyncio.gather(*waiting))
        assert order == ["0", "1", "2", "3", "4"]


async def test_waiting_ends_with_429_for_good(tmp_path):
    async with patient_world(tmp_path, settings={"admission_wait_s": 0.1}) as w:
        w.enforcer.decide = lambda ask: wire.Reserved("n:b:1:2", 10, wire.Refused("budget_reserved", owners=OWNERS))
        raw = await w.raw(post(SMALL))
        status, error = envelope(raw)
        assert (status, error["type"]) == (429, "rate_limit_error")
        assert b"x-should-retry: false" in raw
        assert (await w.event()).refused_by == "budget_reserved"


async def test_many_at_once_share_round_trips(tmp_path):
    async with patient_world(tmp_path) as w:
        raws = await asyncio.gather(*(w.raw(post(SMALL)) for _ in range(40)))
        assert all(raw.startswith(b"HTTP/1.1 200 ") for raw in raws)
        await w.enforcer.wait_for(wire.Settle, 40)
        assert w.enforcer.batches < 80
        assert len({usage.request_id for _, usage in await w.events(40)}) == 40


async def test_count_tokens_is_authorised_forwarded_and_never_charged(tmp_path):
    async with patient_world(tmp_path) as w:
        answer = b'{"input_tokens":14}'
        w.upstream.answers(json_answer(answer))
        body = b'{"model":"anthropic/claude-sonnet-4-6","messages":[]}'
        raw = await w.raw(post(body, "accept-encoding: gzip", path="/anthropic/v1/messages/count_tokens?beta=true"))
        assert raw.endswith(answer)
        (got,) = w.upstream.got
        assert got.target == "/v1/messages/count_tokens?beta=true"
        assert got.body == b'{"model":"claude-sonnet-4-6","messages":[]}'
        assert got.header("x-api-key") == ["sk-ant-provider"]
        assert got.header("accept-encoding") == ["gzip"]
        (ask,) = w.enforcer.operations
        assert isinstance(ask, wire.Authorize)
        assert (ask.model, ask.provider) == (MODEL, "anthropic")


async def test_models_are_those_the_key_may_use(tmp_path):
    async with patient_world(tmp_path) as w:

        async def get(path):
            raw = await w.raw(
                f"GET {path} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n\r\n".encode()
            )
            head, _, body = raw.partition(b"\r\n\r\n")
            return int(head.split()[1]), json.loads(body)

        status, listed = await get("/anthropic/v1/models?limit=1000")
        assert status == 200
        assert [model["id"] for model in listed["data"]] == [MODEL, "claude-opus-4-6"]
        assert {model["type"] for model in listed["data"]} == {"model"}
        assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, MODEL, "claude-opus-4-6")
        assert w.enforcer.operations[0].key_hashes == (wire.KeyHash("authorization", sha256_hex(KEY)),)
        status, page = await get("/v1/models?limit=1")
        assert (page["has_more"], len(page["data"])) == (True, 1)
        status, page = await get(f"/v1/models?after_id={MODEL}")
        assert [model["id"] for model in page["data"]] == ["claude-opus-4-6"]
        assert (await get(f"/v1/models/{MODEL}"))[1]["display_name"] == "Sonnet"
        assert (await get("/v1/models/claude-none"))[0] == 404
        assert not w.upstream.got


@pytest.mark.parametrize(
    ("headers", "sent", "billing"),
    [
        (
            [f"x-bf-vk: {KEY}", "authorization: Bearer sk-ant-oat-mine"],
            {"authorization": "Bearer sk-ant-oat-mine"},
            "subscription",
        ),
        ([f"authorization: Bearer {KEY}", "x-api-key: sk-ant-mine"], {"x-api-key": "sk-ant-mine"}, "customer"),
    ],
)
async def test_callers_own_login_goes_up_where_the_key_says_so(tmp_path, headers, sent, billing):
    async with patient_world(tmp_path) as w:
        w.enforcer.credential = "client"
        await w.raw(post(SMALL, *headers, key=""))
        (got,) = w.upstream.got
        for name in ("authorization", "x-api-key", "x-bf-vk"):
            assert got.header(name) == ([sent[name]] if name in sent else [])
        assert KEY.encode() not in got.head
        usage = await w.event()
        assert (usage.billing, usage.provider_credential, usage.cost_nusd) == (billing, "client", 0)
        assert usage.list_cost_nusd > 0
        assert usage.amounts.n == 0
        assert usage.amounts.t == 19


async def test_own_login_missing_or_only_another_key_is_401(tmp_path):
    async with patient_world(tmp_path) as w:
        w.enforcer.credential = "client"
        assert envelope(await w.raw(post(SMALL)))[0] == 401
        assert envelope(await w.raw(post(SMALL, f"authorization: Bearer {OTHER_KEY}")))[0] == 401
        assert not w.upstream.got
        assert {usage.outcome for _, usage in await w.events(2)} == {"not_sent"}


async def test_credential_files_and_references(tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "anthropic").write_text("sk-ant-from-file\n")
    (tmp_path / "outside").write_text("sk-ant-outside")
    (secrets / "link").symlink_to(tmp_path / "outside")
    async with patient_world(tmp_path, settings={"secrets_dir": secrets}) as w:
        w.enforcer.credential = "env:NOT_ALLOWED,file:../outside,file:link,file:anthropic"
        await w.raw(post(SMALL))
        (secrets / "anthropic").write_text("sk-ant-rotated-longer")
        await w.raw(post(SMALL))
        assert [got.header("x-api-key") for got in w.upstream.got] == [["sk-ant-from-file"], ["sk-ant-rotated-longer"]]
        assert {usage.provider_credential for _, usage in await w.events(2)} == {"file:anthropic"}


async def test_no_credential_or_a_forbidden_address_is_not_sent(tmp_path):
    async with patient_world(tmp_path, environ={}, settings={"anthropic_base_url": ""}) as w:
        assert envelope(await w.raw(post(SMALL)))[0] == 503
    async with patient_world(tmp_path, settings={"anthropic_base_url": ""}) as w:
        for base, why in (
            ("http://example.com", "not https"),
            ("https://127.0.0.1:1", "private"),
            ("https://169.254.169.254", "link-local"),
            ("https://[::ffff:169.254.169.254]", "link-local"),
        ):
            w.enforcer.route = lambda b=base: wire.Route(
                "anthropic", "p", base_url=b, credential="env:ANTHROPIC_API_KEY"
            )
            status, error = envelope(await w.raw(post(SMALL)))
            assert (status, why in error["message"]) == (502, True), base


async def test_redirects_are_not_followed(tmp_path):
    async with patient_world(tmp_path) as w:
        w.upstream.answers(
            json_answer(b"{}", status="307 Temporary Redirect", headers=b"location: http://169.254.169.254/\r\n")
        )
        raw = await w.raw(post(SMALL))
        assert raw.startswith(b"HTTP/1.1 307 Temporary Redirect\r\n")
        assert (await w.event()).outcome == "upstream_error"


async def test_simulator_needs_no_credential_and_marks_its_traffic(tmp_path):
    async with patient_world(tmp_path, environ={}) as w:
        w.edge.upstreams.simulator_url = w.upstream.url
        await w.raw(post(SMALL))
        assert (await w.event()).provider == "simulator"
        assert not w.upstream.got[0].header("x-api-key")


class FlakyLog:
    """A Kafka that can be switched off."""

    def __init__(self):
        self.up = False
        self.records = []

    async def start(self):
        if not self.up:
            raise LogUnavailable("down")

    async def append(self, records):
        if not self.up:
            raise LogUnavailable("down")
        self.records += records
        return []

    async def close(self):
        pass


async def test_log_down_is_served_and_shipped_later_in_order(tmp_path):
    remote = FlakyLog()
    async with patient_world(tmp_path, remote=remote) as w:
        for _ in range(3):
            assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200 ")
        await w.enforcer.wait_for(wire.Settle, 3)
        assert not remote.records
        asked = [admit.request_id for admit in w.enforcer.of(wire.Admit)]
        remote.up = True
        await eventually(lambda: len(remote.records) >= 3, WAIT_S)
        assert [decode_envelope(record.value).id for record in remote.records] == [f"usage:{each}" for each in asked]
        marks = [dict(record.headers)[OUTBOX_HEADER].decode().rpartition(":") for record in remote.records]
        assert [int(mark[2]) for mark in marks] == [0, 1, 2]
        assert len({mark[0] for mark in marks}) == 1
        assert await w.edge.outbox.ship_all(WAIT_S) == 0


async def test_what_could_not_be_shipped_is_kept_for_the_next_start(tmp_path):
    async with world(tmp_path, remote=FlakyLog()) as w:
        await w.raw(post(SMALL))
        await w.enforcer.wait_for(wire.Settle)
        assert await w.edge.stop() == 1
    assert (tmp_path / OUTBOX_FILE).exists()
    remote = FlakyLog()
    remote.up = True
    async with patient_world(tmp_path, remote=remote) as w:
        assert await w.edge.outbox.ship_all(WAIT_S) == 0
    assert len(remote.records) == 1


async def test_full_outbox_refuses_before_forwarding(tmp_path, monkeypatch):
    async with patient_world(tmp_path) as w:
        monkeypatch.setattr("bursar_edge.outbox.DISK_RESERVE_BYTES", 1 << 62)  # also when it looks again
        await w.edge.outbox._look()
        status, error = envelope(await w.raw(post(SMALL)))
        assert (status, error["type"]) == (503, "api_error")
        assert "nothing was charged" in error["message"]
        assert not w.enforcer.operations
        raw = await w.raw(b"GET /readyz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 503 ")


async def test_failing_disk_holds_the_settlement_back_until_the_event_is_durable(tmp_path):
    async with patient_world(tmp_path) as w:
        local = w.edge.outbox._local
        broken = True
        submit = local.submit

        def failing(records):
            if broken:
                raise LogUnavailable("no space")
            return submit(records)

        local.submit = failing
        assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: not w.edge.outbox.writable, WAIT_S)  # the event was tried
        assert not w.enforcer.of(wire.Settle)
        assert envelope(await w.raw(post(SMALL)))[0] == 503
        broken = False
        await w.enforcer.wait_for(wire.Settle)
        assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200 ")


async def test_without_any_credential_the_enforcer_says_who_it_is_before_the_body_is_read(tmp_path):
    async with patient_world(tmp_path) as w:
        for path in ("/anthropic/v1/messages", "/anthropic/v1/messages/count_tokens"):
            head = post(SMALL, key="", path=path, close=False)[: -len(SMALL)]
            raw = await w.raw(head)  # answered and closed without a byte of the body
            status, error = envelope(raw)
            assert (status, error["type"]) == (401, "authentication_error")
            assert "no key was sent" in error["message"]
        assert [type(each) for each in w.enforcer.operations] == [wire.Authorize, wire.Authorize]
        assert w.edge.parts.samples.counts == {"no_key": 2}
        assert not w.upstream.got


async def test_an_unknown_keys_large_body_takes_no_memory(tmp_path):
    """Declared lengths alone must not keep others' requests out."""
    async with patient_world(tmp_path) as w:
        w.enforcer.authorize = lambda ask: wire.Refused("unknown_key")
        free_bytes = w.edge.memory.free_bytes
        for framing in (b"content-length: 33554432", b"transfer-encoding: chunked"):
            head = post(SMALL, close=False)[: -len(SMALL)]
            head = head.replace(b"content-length: %d" % len(SMALL), framing)
            raw = await w.raw(head)  # answered and closed without a byte of the body
            assert envelope(raw)[0] == 401
        assert [type(each) for each in w.enforcer.operations] == [wire.Authorize, wire.Authorize]
        assert w.edge.memory.free_bytes == free_bytes
        w.enforcer.authorize = None
        message = b'{"model":"claude-opus-4-6","max_tokens":9,"messages":[{"role":"user","content":"%b"}]}'
        large = message % (b"x" * 1_100_000)
        assert (await w.raw(post(large))).startswith(b"HTTP/1.1 200 ")


async def test_without_any_credential_a_default_keys_request_is_served(tmp_path):
    async with patient_world(tmp_path) as w:
        w.enforcer.default_key = True
        assert (await w.raw(post(SMALL, key=""))).startswith(b"HTTP/1.1 200 ")
        asked, admit = w.enforcer.operations[:2]
        assert (type(asked), type(admit)) == (wire.Authorize, wire.Admit)
        assert (asked.key_hashes, admit.key_hashes) == ((), ())
        assert (await w.event()).virtual_key_id == OWNERS.virtual_key_id
        assert (await w.raw(post(SMALL, key="", path="/v1/messages/count_tokens"))).startswith(b"HTTP/1.1 200 ")
        models = await w.raw(b"GET /v1/models HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert models.startswith(b"HTTP/1.1 200 ")
        for got in w.upstream.got:
            assert got.header("x-api-key") == ["sk-ant-provider"]


async def test_the_usage_event_names_the_observed_budget_that_had_no_room(tmp_path):
    async with patient_world(tmp_path) as w:
        w.enforcer.would_refuse = "n:watch:1700000000:1800000000"
        assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200 ")
        assert (await w.event()).would_refuse == "n:watch:1700000000:1800000000"
