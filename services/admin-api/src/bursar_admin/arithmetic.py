"""How a request's cost came about, line by line: the rates of the book it names, times its tokens. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from bursar_admin.quota import usd
from bursar_common.pricing import PriceBook, round_half_even
from bursar_common.wire import UsageCounts

KINDS: Final = (
    ("input_tokens", "input", "input"),
    ("cache_read_tokens", "cache_read", "cache reads"),
    ("cache_write_5m_tokens", "cache_write_5m", "cache writes, 5 minutes"),
    ("cache_write_1h_tokens", "cache_write_1h", "cache writes, 1 hour"),
    ("output_tokens", "output", "output, thinking included"),
)


def arithmetic(row: Mapping[str, Any], book: PriceBook | None) -> dict[str, Any]:
    """``lines``, their sum before and after discount, and whether that is what was recorded; ``note`` says why not."""
    counts = [row[name] for name, _, _ in KINDS]
    if row["outcome"] in ("refused", "not_sent", "upstream_error"):
        return _none("Nothing was served, so nothing is charged.")
    if book is None:
        return _none("The price book this request names is not known any more; the amounts on record stand.")
    found = book.find(row["model"])
    if found is None:
        return _none("The price book has no price for this model; the amounts on record stand.")
    if any(count is None for count in counts):
        return _none(
            "The provider's counts never arrived: the charge is what was held for the request, not a sum of tokens."
        )
    card = found.rates(row["started_at_ms"], speed=row["speed"], inference_geo=row["inference_geo"])
    prompt = UsageCounts(*(int(count) for count in counts)).prompt_tokens
    rates = card.at(prompt)
    lines: list[dict[str, Any]] = []
    total = 0
    for (_, rate_name, label), count in zip(KINDS, counts, strict=True):
        rate: int = getattr(rates, rate_name)
        total += int(count) * rate
        if count:
            lines.append(_line(rate_name, label, int(count), rate, book.scale, 1000, "dollars per million tokens"))
    searches = row["web_searches"] or 0
    if searches:
        rate = card.tiers[0][1].web_search
        total += searches * rate
        lines.append(_line("web_search", "web searches", searches, rate, book.scale, 1_000_000, "dollars per thousand"))
    list_nusd, billed_nusd = round_half_even(total, book.scale), book.billed_nusd(total)
    recorded = row["list_cost_nusd"] - row.get("corrected_list_nusd", 0)
    agrees = list_nusd == recorded
    note = ""
    if not agrees:
        note = (
            "The charge is an estimate, made without the provider's final counts."
            if row["estimated"]
            else "The amount on record differs: the answer was made in several iterations, each priced by itself, or "
            "it was corrected afterwards. The amount on record stands."
        )
    elif row["billing"] != "metered":
        note = {
            "subscription": "Paid by the subscription: nothing is billed; the list cost is what it would have been.",
            "customer": "Paid with the caller's own credential: nothing is billed here.",
            "imported": "Imported from local logs: nothing is billed.",
        }.get(row["billing"], "")
    dear = [over for over, _ in card.tiers if over >= 0 and prompt > over]
    return {
        "price_book_id": book.id,
        "priced_as": found.id,
        "prompt_tokens": prompt,
        "tier": f"prompt above {dear[-1]:,} tokens" if dear else "standard",
        "lines": lines,
        "list_cost_nusd": list_nusd,
        "list_cost_usd": usd(list_nusd),
        "discount_percent": book.document.discount_percent,
        "billed_cost_nusd": billed_nusd if row["billing"] == "metered" else 0,
        "billed_cost_usd": usd(billed_nusd if row["billing"] == "metered" else 0),
        "rounding": "The exact sum is rounded once, half to even, to whole nano-dollars.",
        "agrees": agrees,
        "note": note,
    }


def _line(kind: str, label: str, count: int, rate: int, scale: int, unit: int, per: str) -> dict[str, Any]:
    nano = Decimal(count) * Decimal(rate) / Decimal(scale)
    return {
        "kind": kind,
        "label": label,
        "count": count,
        "rate": f"{(Decimal(rate) / Decimal(scale) / unit).normalize():f}",
        "per": per,
        "amount_usd": f"{(nano / 1_000_000_000).normalize():f}",
    }


def _none(note: str) -> dict[str, Any]:
    return {"lines": [], "agrees": None, "note": note}


def saved_by_cache(book: PriceBook | None, model: str, at_ms: int, tokens: Mapping[str, int]) -> int | None:
    """Nano-dollars at list prices: what cache reads had cost as input, less what they cost, less what writing the
    cache cost above input. The model's standard rates (no long-prompt tier); None: no price is known."""
    found = book.find(model) if book is not None else None
    if book is None or found is None:
        return None
    rates = found.rates(at_ms).tiers[0][1]
    scaled = (
        tokens["cache_read_tokens"] * (rates.input - rates.cache_read)
        - tokens["cache_write_5m_tokens"] * (rates.cache_write_5m - rates.input)
        - tokens["cache_write_1h_tokens"] * (rates.cache_write_1h - rates.input)
    )
    sign = -1 if scaled < 0 else 1
    return sign * round_half_even(abs(scaled), book.scale)
