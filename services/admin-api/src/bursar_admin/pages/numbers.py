"""Amounts as people read them. ``static/js/numbers.js`` says the same; one table tests both. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import zip_longest

from bursar_common.clock import rfc3339
from bursar_common.money import NUSD_PER_DOLLAR, dollars, sentence

UNKNOWN = "–"
"""What stands where a figure is not known: unknown is not zero."""
_EXACT = Context(prec=80)
_STEPS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))
SHORT_MONEY_FROM_NUSD = 1_000_000 * NUSD_PER_DOLLAR
ID_CHARS = 8
CATEGORIES = 8
"""Colours of charts, see ``--cat-0`` ... in the stylesheet."""


def money(nusd: int | None) -> str:
    """``$1,234.56``; below a cent as many digits as matter."""
    return UNKNOWN if nusd is None else sentence(int(nusd))


def footing(rows: Sequence[int], total: int) -> str:
    """What to say below a column whose rows, each rounded by itself as :func:`money` does, do not add up to the total
    as it is shown; empty where they do. Neither is changed to fit: each figure is the nearest to what it stands for."""
    off = sum((_shown(each) for each in rows), Decimal(0)) - _shown(total)
    if not off:
        return ""
    return (
        f"Rows are rounded one by one and come to ${abs(off):,f} {'more' if off > 0 else 'less'}; the total is exact."
    )


def _shown(nusd: int) -> Decimal:
    """What a reader adds up: the text, to the cent where it has cents."""
    return Decimal(money(nusd).replace("$", "").replace(",", ""))


def exact_money(nusd: int | None) -> str:
    """Every nano-dollar: for tooltips and detail pages."""
    if nusd is None:
        return "unknown"
    text = f"{dollars(abs(int(nusd))):,f}"
    return f"{'-' if nusd < 0 else ''}${text} ({int(nusd):,} nano-dollars)"


def big_money(nusd: int | None) -> str:
    """For the one number of a card: as :func:`money`, from a million on ``$1.25M``."""
    if nusd is None or abs(int(nusd)) < SHORT_MONEY_FROM_NUSD:
        return money(nusd)
    sign = "-" if nusd < 0 else ""
    return f"{sign}${_short(_EXACT.divide(Decimal(abs(int(nusd))), Decimal(NUSD_PER_DOLLAR)), '0.01')}"


def axis_money(nusd: int | None) -> str:
    """For axes and narrow places: ``$0``, ``$12``, ``$3.4k``, ``$0.05``."""
    if nusd is None:
        return UNKNOWN
    if abs(int(nusd)) < 1000 * NUSD_PER_DOLLAR:
        return money(nusd).removesuffix(".00")
    sign = "-" if nusd < 0 else ""
    return f"{sign}${_short(_EXACT.divide(Decimal(abs(int(nusd))), Decimal(NUSD_PER_DOLLAR)), '0.1')}"


def count(number: int | None) -> str:
    """``950``, ``12.4k``, ``3.1M``: tokens and requests; the exact number belongs into the title."""
    if number is None:
        return UNKNOWN
    size = abs(int(number))
    sign = "-" if number < 0 else ""
    return f"{sign}{size}" if size < 1000 else sign + _short(Decimal(size), "0.1")


def exact_count(number: int | None) -> str:
    """``12,431``."""
    return "unknown" if number is None else f"{int(number):,}"


def _short(value: Decimal, step: str) -> str:
    for index, (size, letter) in enumerate(_STEPS):
        if value >= size:
            shown = _EXACT.divide(value, Decimal(size)).quantize(Decimal(step), ROUND_HALF_EVEN, _EXACT)
            if shown >= 1000 and index:
                size, letter = _STEPS[index - 1]
                shown = _EXACT.divide(value, Decimal(size)).quantize(Decimal(step), ROUND_HALF_EVEN, _EXACT)
            return f"{shown:,f}{letter}"
    return f"{value.quantize(Decimal(step), ROUND_HALF_EVEN, _EXACT):,f}"


def percent(part: int | float | None, whole: int | float | None) -> str:
    """``62%`` of a whole; unknown where there is no whole."""
    if part is None or not whole:
        return UNKNOWN
    return _percent(Decimal(str(part)) * 100 / Decimal(str(whole)))


def _percent(value: Decimal) -> str:
    if value and abs(value) < 1:
        return "<1%" if value > 0 else ">-1%"
    return f"{value.quantize(Decimal(1), ROUND_HALF_EVEN, _EXACT):,f}%"


def change(now: int | float | None, before: int | float | None) -> str:
    """``+12%`` or ``-3%``; ``new`` where there was nothing before, empty where nothing can be said."""
    if now is None or before is None:
        return ""
    if not before:
        return "new" if now else ""
    value = (Decimal(str(now)) - Decimal(str(before))) * 100 / abs(Decimal(str(before)))
    rounded = value.quantize(Decimal(1), ROUND_HALF_EVEN, _EXACT)
    if rounded == 0:
        return "±0%"
    if rounded > 999:
        return ">+999%"
    return f"{'+' if rounded > 0 else ''}{rounded:f}%"


def span_ms(ms: int | float | None) -> str:
    """``840 ms``, ``1.2 s``, ``2 min 5 s``, ``3 h 4 min``."""
    if ms is None:
        return UNKNOWN
    whole = round(ms)
    if whole < 1000:
        return f"{whole} ms"
    if whole < 59_950:
        return f"{Decimal(whole).scaleb(-3).quantize(Decimal('0.1'), ROUND_HALF_EVEN)} s"
    seconds = (whole + 500) // 1000
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def ago(then_ms: int, now_ms: int) -> str:
    """``just now``, ``3 min ago``, ``2 h ago``, ``5 d ago``."""
    seconds = (now_ms - then_ms) // 1000
    if seconds < 10:
        return "just now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def iso(at_s: int) -> str:
    """Unix seconds as ISO 8601, UTC."""
    return rfc3339(int(at_s) * 1000)


def words(name: str) -> str:
    """``budget_exhausted`` as people say it."""
    return name.replace("_", " ")


_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "M": "month", "Q": "quarter", "Y": "year"}


def window_words(window: str) -> str:
    """``1M`` as ``a month``, ``90m`` as ``every 90 minutes``."""
    number, unit = int(window[:-1]), _UNITS[window[-1]]
    article = "an" if unit == "hour" else "a"
    return f"{article} {unit}" if number == 1 else f"every {number} {unit}s"


def trim_zeros(usd: str) -> str:
    """Exact dollars without the zeros behind the cents: ``0.120000000`` as ``0.12``."""
    whole, point, decimals = usd.partition(".")
    return f"{whole}{point}{decimals.rstrip('0').ljust(2, '0')}" if point else usd


def plain_number(number: float | int) -> str:
    """For a form's field: no exponent, no grouping, no needless digits."""
    return f"{Decimal(repr(number)):f}".removesuffix(".0")


def short_id(identifier: str) -> str:
    """The end of an id: those made one after the other differ there."""
    return identifier if len(identifier) <= ID_CHARS + 2 else f"…{identifier[-ID_CHARS:]}"


FAMILIES = (("opus", 1), ("sonnet", 5), ("haiku", 4))
"""Colours of models by family: there are few, and they stand beside each other on every page."""


def category(name: str) -> int:
    """The colour a name has on every page: of its family, or FNV-1a over UTF-8, 32 bits."""
    for family, index in FAMILIES:
        if name.startswith("claude-") and family in name:
            return index
    digest = 2166136261
    for byte in name.encode():
        digest = ((digest ^ byte) * 16777619) & 0xFFFFFFFF
    return digest % CATEGORIES


def colours(names: Sequence[str], known: Sequence[int | None] = ()) -> list[int]:
    """A colour for each of some owners beside each other: its own (``known``, else by its name), or the next free one
    where two would look alike."""
    taken: set[int] = set()
    found = []
    for name, own in zip_longest(names, known[: len(names)]):
        index = category(name) if own is None else own
        for _ in range(CATEGORIES):
            if index not in taken:
                break
            index = (index + 1) % CATEGORIES
        taken.add(index)
        found.append(index)
    return found
