"""What requests cost, a row a kind of token. Pure: builders of SQL, and the rates it is split by.

A request has one cost; reports of a provider, and finance, want it by kind of token. Requests that were priced alike
(provider, model, speed, region, tier of the price) are summed, and their cost is divided in proportion to tokens x
rate of each kind. What the division leaves over, and what discounts, corrections and rounding took off or put on, goes
to the kind of the largest share: the sum over kinds is the ledger's, to the nano-dollar. Requests whose counts nobody
knows are a kind of their own, ``unknown``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from bursar_common.events import NO_REGION
from bursar_common.pricing import CompiledModel, PriceBook

KINDS: Final = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "web_search")
UNKNOWN: Final = "unknown"
MAX_PRICED: Final = 5_000
"""Different combinations of model, speed, region and tier in one question; real months have some dozens."""

PAID: Final = "provider != 'simulator' AND outcome != 'refused'"
"""What is anybody's bill: the simulator spends no money, refused requests cost nothing."""

_PROMPT = (
    "ifNull(input_tokens, 0) + ifNull(cache_read_tokens, 0) + ifNull(cache_write_5m_tokens, 0)"
    " + ifNull(cache_write_1h_tokens, 0)"
)
_KEY = "concat(provider, '\\n', model, '\\n', speed, '\\n', inference_geo, '\\n', toString(reach))"
_COUNTED = "input_tokens IS NOT NULL OR output_tokens IS NOT NULL"
_REGION = f"if(inference_geo = '{NO_REGION}', '', toString(inference_geo)) AS inference_geo"
"""Events of before hold the provider's word for models without a choice of region."""

_COSTS = (
    f"(cost_nusd != 0 OR list_cost_nusd != 0 OR {_PROMPT} + ifNull(output_tokens, 0) + ifNull(web_searches, 0) > 0)"
)
"""What has a cost or a quantity: a request that failed, or was never sent, has neither and is no row."""

Rates = Mapping[str, Sequence[int]]
"""Key of a combination to its scaled rates in the order of :data:`KINDS`."""


class Source(NamedTuple):
    """Where requests are read, and how what they are is said there; charges of the books have a form of their own, see
    :mod:`bursar_admin.queries.books`."""

    table: str
    prompt: str
    """Tokens of the prompt, which its tier of prices is found by."""
    first_at: str
    charges: str
    """How many rows of requests were read."""
    requests: str
    """How many requests they are."""
    estimated: str

    @property
    def reach(self) -> str:
        """How many of all models' bounds the prompt is above: from which the tier of its own price follows."""
        return f"arrayCount(over -> {self.prompt} > over, {{tiers:Array(UInt64)}})"


USAGE: Final = Source("bursar.usage", _PROMPT, "started_at", "count()", "count()", "countIf(estimated)")


def priced_alike(
    condition: str, parameters: Mapping[str, Any], tiers: Sequence[int], source: Source = USAGE
) -> tuple[str, dict[str, Any]]:
    """The combinations there are, with the first moment of each and how many requests."""
    sql = f"""SELECT provider, model, speed, {_REGION}, toUInt64({source.reach}) AS tier,
    toUnixTimestamp64Milli(min({source.first_at})) AS first_ms, {source.charges} AS requests
FROM {source.table}
WHERE {condition} AND {PAID}
GROUP BY provider, model, speed, inference_geo, tier
ORDER BY provider, model, speed, inference_geo, tier
LIMIT {MAX_PRICED}"""
    return sql, {**parameters, "tiers": list(tiers)}


def by_kind(
    condition: str,
    parameters: Mapping[str, Any],
    dimensions: Mapping[str, str],
    tiers: Sequence[int],
    rates: Rates,
    *,
    source: Source = USAGE,
) -> tuple[str, dict[str, Any]]:
    """A subquery without ORDER BY: ``dimensions`` (name -> expression over ``bursar.usage``), and of each group
    ``provider, model, speed, inference_geo, tier, token_kind, requests, estimated, quantity, list_nusd, billed_nusd,
    unit_rate`` (scaled rate of the kind, 0: unknown). ``tier``: of the model's own price, 0 where it has but one."""
    named = ", ".join(f"{expression} AS {name}" for name, expression in dimensions.items())
    names = ", ".join(dimensions)
    lead, comma = (f"{named}, ", f", {names}") if dimensions else ("", "")
    sums = ", ".join(
        f"toUInt64(ifNull(sum({column}), 0)) AS q_{kind}" for kind, column in zip(KINDS, _COLUMNS, strict=True)
    )
    quantities = ", ".join(f"q_{kind}" for kind in KINDS)
    merged = ", ".join(f"sum(q_{kind}) AS q_{kind}" for kind in KINDS)
    listed = f"{names}, " if dimensions else ""
    rate_arrays = ", ".join(f"{{r_{kind}:Array(UInt64)}}[at]" for kind in KINDS)
    sql = f"""SELECT {", ".join([*dimensions, ""]) if dimensions else ""}provider, model, speed, inference_geo, tier,
    part.1 AS token_kind, if(part.5, requests, 0) AS requests, if(part.5, estimated, 0) AS estimated,
    part.2 AS quantity, part.3 AS list_nusd, part.4 AS billed_nusd, part.6 AS unit_rate
FROM
(
    SELECT *,
        [{quantities}] AS quantities,
        [{rate_arrays}] AS unit_rates,
        if(counted, arrayMap((q, r) -> toInt256(q) * r, quantities, unit_rates), [toInt256(0)]) AS weights,
        arraySum(weights) AS whole,
        indexOf(weights, arrayMax(weights)) AS largest,
        arrayMap(w -> if(whole = 0, toInt256(0), intDiv(toInt256(list_sum) * w, whole)), weights) AS lists,
        arrayMap(w -> if(whole = 0, toInt256(0), intDiv(toInt256(billed_sum) * w, whole)), weights) AS bills,
        if(whole = 0,
            [({{unknown:String}}, arraySum(quantities), toInt128(list_sum), toInt128(billed_sum), true, toUInt64(0))],
            arrayMap((kind, q, l, b, i, r) -> (kind, q,
                toInt128(l + if(i = largest, list_sum - arraySum(lists), 0)),
                toInt128(b + if(i = largest, billed_sum - arraySum(bills), 0)), i = largest, r),
                {{kinds:Array(String)}}, quantities, lists, bills, arrayEnumerate(weights), unit_rates)) AS parts
    FROM
    (
        SELECT {listed}provider, model, speed, inference_geo, own AS tier, counted, min(place) AS at,
            sum(requests) AS requests, sum(estimated) AS estimated, {merged},
            sum(list_sum) AS list_sum, sum(billed_sum) AS billed_sum
        FROM
        (
        SELECT *, indexOf({{keys:Array(String)}}, {_KEY}) AS place, {{own:Array(UInt64)}}[place] AS own
        FROM
        (
        SELECT {lead}provider, model, speed, {_REGION}, toUInt64({source.reach}) AS reach,
            ({_COUNTED}) AS counted, {source.requests} AS requests, {source.estimated} AS estimated, {sums},
            toInt256(sum(toInt128(list_cost_nusd))) AS list_sum, toInt256(sum(toInt128(cost_nusd))) AS billed_sum
        FROM {source.table}
        WHERE {condition} AND {PAID} AND {_COSTS}
        GROUP BY provider, model, speed, inference_geo, reach, counted{comma}
        )
        )
        GROUP BY provider, model, speed, inference_geo, own, counted{comma}
    )
)
ARRAY JOIN parts AS part
WHERE part.2 != 0 OR part.3 != 0 OR part.4 != 0 OR part.5"""
    keys = list(rates)
    bound: dict[str, Any] = {
        **parameters,
        "tiers": list(tiers),
        "keys": keys,
        "own": list(own_tiers(rates).values()),
        "kinds": list(KINDS),
        "unknown": UNKNOWN,
    }
    for index, kind in enumerate(KINDS):
        bound[f"r_{kind}"] = [rates[key][index] for key in keys]
    return sql, bound


_COLUMNS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "web_searches",
)


def own_tiers(rates: Rates) -> dict[str, int]:
    """Of each combination the tier of its own price: how often its rates change from the lowest prompts up to it.

    A month that was closed by a release before has no rates of tiers that no request of it reached: where the lowest
    one is missing, tiers are counted from zero as of all models."""
    own: dict[str, int] = {}
    before: tuple[str, Sequence[int], int] | None = None
    for base, reach in sorted((key.rpartition("\n")[0], int(key.rpartition("\n")[2])) for key in rates):
        key = f"{base}\n{reach}"
        if before is None or before[0] != base:
            own[key] = reach
        else:
            own[key] = before[2] + (list(rates[key]) != list(before[1]))
        before = (base, rates[key], own[key])
    return {key: own[key] for key in rates}


def tiers_of(books: Iterable[PriceBook]) -> list[int]:
    """Prompt sizes above which some model is priced otherwise."""
    found: set[int] = set()
    for book in books:
        for model in book.document.models:
            for period in model.periods:
                found |= {tier.over for tiers in (period.standard, period.fast) for tier in tiers if tier.over >= 0}
    return sorted(found)


def rates_of(
    combinations: Iterable[Mapping[str, Any]], book_of: Callable[[str], PriceBook | None], tiers: Sequence[int]
) -> dict[str, Sequence[int]]:
    """Rates of each combination that has a price, as :func:`by_kind` wants them: nano-dollars times the book's scale,
    divided by it where that leaves no rest; only their proportions count within one combination. With those of every
    lower tier, as of the same moment: they tell whether the price has tiers at all."""
    found: dict[str, Sequence[int]] = {}
    alike: dict[tuple[str, str, str, str], tuple[int, int]] = {}
    for row in combinations:
        base = (row["provider"], row["model"], row["speed"], row["inference_geo"])
        first_ms, reach = int(row["first_ms"]), int(row["tier"])
        known = alike.get(base, (first_ms, reach))
        alike[base] = (min(known[0], first_ms), max(known[1], reach))
    for (provider, name, speed, geo), (first_ms, highest) in alike.items():
        book = book_of(provider)
        model: CompiledModel | None = book.find(name) if book is not None else None
        if model is None:
            continue
        card = model.rates(first_ms, speed=speed, inference_geo=geo)
        for tier in range(highest + 1):
            rates = card.at(tiers[tier - 1] + 1 if tier else 0)
            found["\n".join((provider, name, speed, geo, str(tier)))] = (
                rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h, rates.output,
                card.tiers[0][1].web_search,
            )  # fmt: skip
    return found
