"""Which operations share a script call, and in which order they are asked."""

from __future__ import annotations

from bursar_common.wire import Amounts, HoldEntry
from bursar_enforcer.calls import Call, renew_call, state_call
from bursar_enforcer.decisions import (
    MAX_COUNTERS,
    MAX_OPERATIONS,
    AnyCall,
    CloseCall,
    Group,
    admit_call,
    close_call,
    grouped,
)
from bursar_enforcer.plan import make_plan

PLAN = make_plan([], {}, 0)


def close(request_id: str, counters: int = 1) -> CloseCall:
    return close_call(request_id, 2, Amounts(n=1), [f"n:c{i}:0:1" for i in range(counters)], ttl_s=1)


def renew(request_id: str) -> Call:
    return renew_call(request_id, [HoldEntry("n:c0:0:1", 1, 1)], b"{}")


def order(*calls: AnyCall) -> list[tuple[str, list[int]]]:
    return [
        ("group" if isinstance(unit.call, Group) else unit.call.script, list(unit.places)) for unit in grouped(calls)
    ]


def test_neighbours_share_a_call() -> None:
    admit = admit_call(PLAN, b"a", b"{}", b"0", (1, 1, 1, 1, 1, 1))
    assert order() == []
    assert order(admit, close("b"), close("a")) == [("group", [0, 1, 2])]


def test_a_renewal_does_not_part_others() -> None:
    assert order(close("a"), renew("b"), close("c"), renew("d")) == [
        ("renew", [1]),
        ("renew", [3]),
        ("group", [0, 2]),
    ]


def test_what_is_said_of_one_request_keeps_its_order() -> None:
    assert order(close("a"), close("b"), renew("a"), close("c")) == [("group", [0, 1]), ("renew", [2]), ("group", [3])]
    assert order(renew("a"), close("a")) == [("renew", [0]), ("group", [1])]


def test_everything_else_keeps_its_place() -> None:
    assert order(close("a"), state_call("open", "x"), close("b")) == [("group", [0]), ("state", [1]), ("group", [2])]


def test_a_call_is_bounded() -> None:
    many = [close(f"r{i}") for i in range(MAX_OPERATIONS + 1)]
    assert [len(places) for _, places in order(*many)] == [MAX_OPERATIONS, 1]
    wide = [close(f"r{i}", MAX_COUNTERS // 2) for i in range(3)]
    assert [len(places) for _, places in order(*wide)] == [2, 1]
    assert order(close("alone", MAX_COUNTERS + 1), close("b")) == [("group", [0]), ("group", [1])]
