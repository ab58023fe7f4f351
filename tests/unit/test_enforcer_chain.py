"""From policy and model to limits, windows and the script's arguments."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from bursar_common.catalogue import build_book
from bursar_common.governance import Budget, Customer, Provider, ProviderConfig, RateLimit, Team, VirtualKey
from bursar_common.wire import Admitted, Balance, HoldEntry, Refused, decode_replies, encode
from bursar_enforcer.admitted import make_answer
from bursar_enforcer.answers import balance_of, refusal
from bursar_enforcer.calls import check_amounts, check_counters
from bursar_enforcer.chain import KeyPolicy, Way, refuse_key
from bursar_enforcer.plan import Limit, make_plan
from bursar_enforcer.redis_connection import parse_address
from bursar_enforcer.stored import EXACT, hold_heads, hold_value, open_hold

ANCHOR_S = 1_700_000_000
PROVIDER = Provider(id="p1", name="anthropic", kind="anthropic", created_at_s=1)
MODEL = "claude-sonnet-4-5"


def budget(id: str, **more: Any) -> Budget:
    return Budget(**{"id": id, "limit_nusd": 100, "window": "1d", "anchored_at_s": ANCHOR_S, **more})


def policy(**parts: Any) -> KeyPolicy:
    key = VirtualKey(
        **{"id": "k", "name": "alice", "hmac": "h", "created_at_s": 1, "team_id": "t", **parts.pop("key", {})}
    )
    team = Team(**{"id": "t", "name": "platform", "created_at_s": 1, "customer_id": "c", **parts.pop("team", {})})
    customer = Customer(**{"id": "c", "name": "acme", "created_at_s": 1, **parts.pop("customer", {})})
    providers = parts.pop("providers", (PROVIDER,))
    books = {provider.id: build_book(provider) for provider in providers}
    return KeyPolicy(key, team, customer, providers, books, {"k": "3", "t": "1"}, b"7")


def way(which: KeyPolicy) -> Way:
    chosen = which.way("", MODEL)
    assert isinstance(chosen, Way)
    return chosen


def test_limits_are_named_narrowest_first_budgets_before_rates() -> None:
    rate = RateLimit(
        id="r", anchored_at_s=ANCHOR_S, token_limit_id="rt", token_max=5, token_window="1h", count_cache_reads=True
    )
    config = ProviderConfig(id="pc", provider="anthropic", budgets=(budget("b0"),), rate_limit=rate)
    limits = way(
        policy(
            key={"budgets": (budget("b1"), budget("b2")), "provider_configs": (config,)},
            team={"budgets": (budget("b3"),)},
            customer={"budgets": (budget("b4"),)},
        )
    ).limits
    assert [(limit.limit_id, limit.owner_kind, limit.mode) for limit in limits] == [
        ("b0", "provider_config", "s"),
        ("rt", "provider_config", "T"),
        ("b1", "virtual_key", "s"),
        ("b2", "virtual_key", "s"),
        ("b3", "team", "s"),
        ("b4", "customer", "s"),
    ]


@pytest.mark.parametrize(
    ("more", "mode", "ceiling"),
    [
        ({}, "s", None),
        ({"max_overshoot_nusd": 7}, "s", 107),
        ({"enforcement": "strict"}, "S", 100),
        ({"enforcement": "observe", "max_overshoot_nusd": 7}, "o", None),
    ],
)
def test_enforcement_becomes_a_mode_and_a_ceiling(more: dict[str, Any], mode: str, ceiling: int | None) -> None:
    (limit,) = way(policy(key={"budgets": (budget("b", **more),)})).limits
    assert (limit.mode, limit.ceiling) == (mode, ceiling)


def test_the_first_config_that_permits_the_model_is_the_way() -> None:
    second = Provider(id="p2", name="second", kind="anthropic", created_at_s=2)
    configs = (
        ProviderConfig(id="a", provider="anthropic", allowed_models=("claude-haiku-4-5",)),
        ProviderConfig(id="b", provider="second"),
    )
    which = policy(key={"provider_configs": configs}, providers=(PROVIDER, second))
    assert way(which).provider.name == "second"
    refused = which.way("anthropic", MODEL)
    assert isinstance(refused, Refused)
    assert refused.reason == "model_not_allowed"
    assert which.way("", MODEL) is which.way("", MODEL)


def test_calendar_windows_are_in_the_teams_zone_and_for_customers_in_their_own() -> None:
    which = policy(
        key={"budgets": (budget("k", calendar_aligned=True),)},
        team={"timezone": "Asia/Tokyo", "budgets": (budget("t", calendar_aligned=True),)},
        customer={"timezone": "America/New_York", "budgets": (budget("c", calendar_aligned=True),)},
    )
    plan = way(which).plan_at(ANCHOR_S)
    starts = {counter.limit.limit_id: counter.window_start_s % 86_400 // 3600 for counter in plan.counters}
    assert starts == {"k": 15, "t": 15, "c": 5}


def test_a_plan_is_kept_until_a_window_ends() -> None:
    chosen = way(policy(key={"budgets": (budget("b", window="1h"), budget("d"))}))
    plan = chosen.plan_at(ANCHOR_S + 10)
    assert chosen.plan_at(ANCHOR_S + 3599) is plan
    rolled = chosen.plan_at(ANCHOR_S + 3600)
    assert rolled is not plan
    assert [counter.id for counter in rolled.counters] == [
        f"n:b:{ANCHOR_S + 3600}:{ANCHOR_S + 7200}",
        f"n:d:{ANCHOR_S}:{ANCHOR_S + 86_400}",
    ]
    assert (rolled.from_s, rolled.until_s) == (ANCHOR_S + 3600, ANCHOR_S + 7200)


def test_before_its_anchor_a_limit_counts_in_its_first_window() -> None:
    plan = way(policy(key={"budgets": (budget("b"),)})).plan_at(ANCHOR_S - 500)
    assert plan.from_s <= ANCHOR_S - 500 < plan.until_s
    assert plan.counters[0].window_start_s == ANCHOR_S


def test_a_missing_owner_refuses() -> None:
    which = policy()
    which.team = None
    refused = refuse_key(which, ANCHOR_S)
    assert refused is not None
    assert refused.reason == "inactive_owner"


def test_refusals_name_the_limit_and_when_it_resets() -> None:
    limit = Limit(
        unit="t",
        limit_id="l",
        owner_kind="team",
        owner="platform",
        limit=50,
        window="1h",
        calendar_aligned=False,
        anchored_at_s=ANCHOR_S,
        timezone="",
        mode="t",
    )
    plan = make_plan([limit], {}, ANCHOR_S)
    owners = policy().owners
    reply = [b"refused", b"large", 1, b"7", struct.pack("<6d", 40, 5, 5, 1, 45, 2)]
    refused = refusal(plan, reply, (1, 2, 3, 20, 30, 1), owners, ANCHOR_S + 600)
    assert isinstance(refused, Refused)
    told = (refused.reason, refused.spent, refused.needed, refused.retry_after_s)
    assert told == ("tokens_too_large", 40, 20, 3000)
    refused = refusal(plan, [b"refused", b"spent", *reply[2:]], (1, 2, 3, 20, 30, 1), owners, ANCHOR_S + 600)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_after_s) == ("tokens_limited", 3000)


def test_holds_survive_the_way_through_redis() -> None:
    way_ = way(policy(key={"budgets": (budget("b", enforcement="strict"), budget("d"))}))
    plan = way_.plan_at(ANCHOR_S)
    amounts = (10, 20, 9_000_000_000_000_000_001, 1, 1, 1)
    (answered,) = decode_replies(encode([make_answer(way_, plan, 60).fill(amounts, "", 20, "")]))
    assert isinstance(answered, Admitted)
    hold = answered.hold
    value = hold_value(plan.heads, plan.places(amounts), b"{the\nevent}")
    assert open_hold(value) == (hold, b"{the\nevent}")
    small = tuple(HoldEntry(entry.counter, 10, EXACT - 1, entry.strict) for entry in hold)
    value = hold_value(plan.heads, [10, EXACT - 1] * len(hold), b"")
    assert value.startswith(b"o1 ")
    assert open_hold(value) == (small, b"")
    assert open_hold(hold_value(hold_heads((), ()), (), b"{}")) == ((), b"{}")
    assert open_hold(None) is None
    assert open_hold(b"2") is None


@pytest.mark.parametrize("budgets", [(), (budget("b", enforcement="strict"), budget("d", enforcement="observe"))])
def test_an_answer_with_its_gaps_filled_is_the_answer_encoded(budgets: tuple[Any, ...]) -> None:
    """Whatever names people give: per cent signs and control characters are no gaps."""
    named = policy(key={"name": '100 %b "\x00\u20ac\\', "budgets": budgets})
    way_ = way(named)
    plan = way_.plan_at(ANCHOR_S)
    amounts = (10, 20, 30, 40, 50, 1)
    filled = make_answer(way_, plan, 60).fill(amounts, "x-api-key", 21, 'n:%s"')
    whole = Admitted(
        hold=tuple([HoldEntry(c.id, amounts[c.expected_at], amounts[c.bound_at], c.strict) for c in plan.counters]),
        header="x-api-key",
        price_book_id=way_.book.id,
        route=way_.route,
        owners=named.owners,
        ttl_s=60,
        expected_nusd=10,
        bound_nusd=21,
        would_refuse='n:%s"',
    )
    assert encode([filled]) == encode([whole])


def test_the_overshoot_of_a_counter_is_spent_beyond_what_was_known_at_its_last_admission() -> None:
    small = struct.pack("<6d", 100, 0, 0, 0, 80, 2)
    large = struct.pack("<12d", 9 * 10**9, 7, *[0] * 6, 9 * 10**9, 2, 0, 3)
    assert balance_of("n:b:1:2", small) == Balance("n:b:1:2", 100, 0, 0, 0, 20)
    assert balance_of("n:b:1:2", large) == Balance("n:b:1:2", 9 * 10**18 + 7, 0, 0, 0, 5)
    assert balance_of("t:b:1:2", small).overshoot_bound is None
    assert balance_of("n:b:1:2", struct.pack("<6d", 100, 0, 0, 0, 0, 1)).overshoot_bound is None
    assert balance_of("n:b:1:2", None) == Balance("n:b:1:2", 0, 0, 0, 0, None)


@pytest.mark.parametrize("name", ["", "n:b", "x:b:1:2", "n:b:1:2 n:c:1:2", "n:b;c:1:2", "n:b:1:x"])
def test_names_a_script_could_stumble_over_are_not_let_through(name: str) -> None:
    with pytest.raises(ValueError, match="not a counter"):
        check_counters([name])


def test_amounts_no_limit_could_hold_are_not_let_through() -> None:
    from bursar_common.wire import Amounts

    check_amounts(Amounts(n=9_000_000_000_000_000_000))
    for wrong in (Amounts(n=-1), Amounts(t=1 << 63), Amounts(r=-5)):
        with pytest.raises(ValueError, match="an amount is"):
            check_amounts(wrong)


def test_addresses() -> None:
    assert parse_address("unix:run/redis.sock").path == "run/redis.sock"
    secret = parse_address("rediss://user:p%40ss@host:7000/3")
    assert (secret.host, secret.port, secret.tls, secret.username, secret.password, secret.database) == (
        "host", 7000, True, "user", "p@ss", 3,
    )  # fmt: skip
    assert "p@ss" not in repr(secret)
    for wrong in ("http://host", "redis://", "redis://host:port", "redis://host/db"):
        with pytest.raises(ValueError, match="allowed are"):
            parse_address(wrong)
