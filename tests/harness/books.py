"""The equality that everything promises: ledger = log = ClickHouse, and = the provider for all that is not estimated.

This is the judge of the crash tests, so it uses none of the services' code but the decoders of the events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bursar_common.events import USAGE_DENIED, USAGE_EXPIRED, USAGE_RECORDED, Usage, decode_envelope, decode_usage
from tests.harness.processes import eventually

if TYPE_CHECKING:
    from tests.harness.gateway import Gateway

_RANK = {USAGE_EXPIRED: 1, USAGE_RECORDED: 2}
_KINDS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "web_searches",
)


def fold_usage(values: Iterable[bytes]) -> dict[str, Usage]:
    """One figure a request: ``recorded`` outranks ``expired``, the first of a rank stays."""
    best: dict[str, tuple[int, Usage]] = {}
    for value in values:
        envelope = decode_envelope(value)
        if envelope.type == USAGE_DENIED:
            continue
        usage = decode_usage(envelope)
        rank = _RANK[envelope.type]
        if rank > best.get(usage.request_id, (0, usage))[0]:
            best[usage.request_id] = (rank, usage)
    return {request_id: usage for request_id, (_, usage) in best.items()}


def charged_by_counter(usage: Iterable[Usage]) -> dict[str, int]:
    """What each counter must show as spent, in its own unit."""
    sums: dict[str, int] = defaultdict(int)
    for one in usage:
        for counter in one.charged_to:
            sums[counter] += getattr(one.amounts, counter.partition(":")[0])
    return dict(sums)


async def assert_books_agree(gateway: Gateway, *, timeout_s: float = 90, min_requests: int = 1) -> dict[str, Usage]:
    """Wait until nothing is held, then compare all books. Returns the log's figures by request id.

    A request that its client gave up may still arrive, also between two of these comparisons: all are made of one
    reading of the log, and made again until they agree."""

    async def ledger_agrees() -> bool:
        logged = await gateway.logged_usage()
        expected = charged_by_counter(logged.values())
        balances = await gateway.balances(sorted(expected))
        for counter, amount in expected.items():
            balance = balances[counter]
            assert balance.open_holds == 0, f"{counter} has {balance.open_holds} open holds"
            assert (balance.spent, balance.held, balance.exposed) == (amount, 0, 0), (
                f"{counter}: ledger {balance}, log {amount}"
            )
        return len(logged) >= min_requests

    await eventually(ledger_agrees, timeout_s, 0.25)

    async def all_agree() -> dict[str, Usage]:
        logged = await gateway.logged_usage()
        rows = await gateway.query(
            "SELECT request_id, outcome, cost_nusd, list_cost_nusd, estimated, charged_to FROM bursar.usage"
            " WHERE outcome != 'refused'"
        )
        assert len(rows) == len({row["request_id"] for row in rows}), "a request stands twice in bursar.usage"
        missing = set(logged) - {row["request_id"] for row in rows}
        assert not missing, f"not in bursar.usage: {[logged[request_id] for request_id in missing]}"
        assert len(rows) == len(logged), "bursar.usage knows requests that the log does not"
        for row in rows:
            usage = logged[row["request_id"]]
            assert (row["outcome"], row["cost_nusd"], row["list_cost_nusd"], bool(row["estimated"])) == (
                usage.outcome,
                usage.cost_nusd,
                usage.list_cost_nusd,
                usage.estimated,
            )
            assert row["charged_to"] == list(usage.charged_to)
        await assert_provider_agrees(gateway, logged)
        assert await ledger_agrees()
        return logged

    return await eventually(all_agree, timeout_s, 0.25)  # type: ignore[no-any-return]


async def assert_provider_agrees(gateway: Gateway, logged: dict[str, Usage]) -> None:
    """What the simulator counted equals what was recorded, for every request that is not estimated; what it served
    beyond is explained by the estimated ones."""
    served = await gateway.provider.served()
    by_upstream_id = {record["request_id"]: record for record in served}
    exact = [usage for usage in logged.values() if not usage.estimated and usage.outcome == "completed"]
    for usage in exact:
        record = by_upstream_id.pop(usage.upstream_request_id, None)
        assert record is not None, f"{usage.request_id}: the provider knows no {usage.upstream_request_id}"
        billed = tuple(record["usage"][kind] for kind in _KINDS)
        recorded = tuple(getattr(usage, kind) or 0 for kind in _KINDS)
        assert recorded == billed, f"{usage.request_id}: recorded {recorded}, provider counted {billed}"
    unexplained = [record for record in by_upstream_id.values() if record["status"] == 200]
    estimated = [usage for usage in logged.values() if usage.estimated]
    assert len(unexplained) <= len(estimated), (
        f"the provider served {len(unexplained)} requests that only {len(estimated)} estimates could explain"
    )
