"""Usage events made for the aggregator's measure: as the edge writes them, over a few hundred keys."""

from __future__ import annotations

import random

from bench.payloads import MODEL
from bursar_common.clock import rfc3339
from bursar_common.events import USAGE_RECORDED, Usage, encode_event
from bursar_common.ids import uuid7_from
from bursar_common.wire import Amounts

KEYS = 300


def usage_event(rng: random.Random, now_ms: int) -> tuple[str, bytes]:
    """A recorded event of a request at ``now_ms``: (virtual key id, bytes)."""
    request_id = uuid7_from(now_ms, rng.randbytes(10))
    key = rng.randrange(KEYS)
    key_id = f"0199c3a0-0000-7000-8000-{key:012x}"
    output = rng.randrange(50, 3000)
    cost = output * 15_000 + 25_000 * 300
    usage = Usage(
        request_id=request_id,
        started_at_ms=now_ms,
        ended_at_ms=now_ms + 4_000,
        virtual_key_id=key_id,
        virtual_key=f"developer-{key}",
        team_id=f"0199c3a0-0000-7000-8001-{key // 10:012x}",
        team=f"team-{key // 10}",
        customer_id="0199c3a0-0000-7000-8002-000000000001",
        customer="engineering",
        outcome="completed",
        upstream_request_id="req_011BenchBenchBench",
        message_id="msg_01BenchBenchBenchBench",
        session_id=f"session-{key}",
        project="payments",
        repository="payments-service",
        branch="main",
        environment="dev",
        tags={"ticket": f"PAY-{key}"},
        provider="anthropic",
        provider_credential="env:BURSAR_ANTHROPIC_API_KEY",
        model=MODEL,
        requested_model=MODEL,
        stream=True,
        max_tokens=64_000,
        status=200,
        client_version="2.1.197",
        input_tokens=12,
        cache_read_tokens=25_000,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        output_tokens=output,
        thinking_tokens=0,
        web_searches=0,
        cost_nusd=cost,
        list_cost_nusd=cost,
        held_nusd=2 * cost,
        bound_nusd=9 * cost,
        amounts=Amounts(n=cost, t=12 + output, T=25_012 + output, r=1),
        charged_to=tuple(f"n:0199c3a0-0000-7000-8003-{level:012x}:1793491200:1796083200" for level in range(4)),
        price_book_id="b" * 64,
        text_bytes=100_000,
        latency_ms=4_000,
        time_to_first_token_ms=900,
    )
    return key_id, encode_event(
        id=f"usage:{request_id}",
        source="bursar/edge",
        type=USAGE_RECORDED,
        time=rfc3339(now_ms),
        subject=key_id,
        data=usage,
    )
