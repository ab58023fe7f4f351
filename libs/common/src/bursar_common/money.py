"""Money: an integer count of nano-dollars inside, dollars at the surface, cents in a sentence."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation

NUSD_PER_DOLLAR = 1_000_000_000
MAX_DOLLARS = 9_000_000_000
"""Largest amount of money. In nano-dollars it fits a signed 64-bit integer (9.2e18), and two doubles, billions and the
rest, as which the ledger's scripts keep large amounts."""
MAX_NUSD = MAX_DOLLARS * NUSD_PER_DOLLAR
MAX_TEXT_CHARS = 64
"""Longest text read as an amount; 9 billion with nine decimals has 20 characters."""

_EXACT = Context(prec=80)


def parse_nusd(value: object, *, what: str = "an amount") -> int:
    """Nano-dollars of dollars given as int, float, Decimal or text, exactly: a float means the decimal number it
    prints as. Raises ValueError saying what was given and what is allowed."""
    allowed = f"{what} is a number of dollars from 0 to {MAX_DOLLARS:,} with at most 9 decimals"
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise ValueError(f"{allowed}; given was {type(value).__name__}")
    if isinstance(value, str) and (len(value) > MAX_TEXT_CHARS or not value.isascii() or "_" in value):
        raise ValueError(f"{allowed}; given was {value[:MAX_TEXT_CHARS]!r}")
    if isinstance(value, int) and not 0 <= value <= MAX_DOLLARS:
        # Checked before str(), which refuses integers of more than 4,300 digits with an error of its own.
        raise ValueError(f"{allowed}; given was {'a negative number' if value < 0 else 'more'}")
    try:
        dollars = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"{allowed}; given was {value!r}") from None
    if not dollars.is_finite() or not 0 <= dollars <= MAX_DOLLARS:
        raise ValueError(f"{allowed}; given was {value}")
    nusd = _EXACT.multiply(dollars, Decimal(NUSD_PER_DOLLAR))
    if nusd != nusd.to_integral_value():
        raise ValueError(f"{allowed}; given was {value}")
    return int(nusd)


def dollars(nusd: int) -> Decimal:
    """Dollars, exactly, with nine decimals."""
    return _EXACT.scaleb(Decimal(nusd), -9)


def dollars_float(nusd: int) -> float:
    """Dollars as the nearest double, for JSON answers that people read; never to calculate with."""
    return nusd / NUSD_PER_DOLLAR


def sentence(nusd: int) -> str:
    """An amount for people: ``$0.73``, ``$1,234.56``; below a cent its two leading digits, ``$0.0031``."""
    sign, size = ("-", -nusd) if nusd < 0 else ("", nusd)
    amount = dollars(size)
    if size == 0 or size >= NUSD_PER_DOLLAR // 100:
        return f"{sign}${amount.quantize(Decimal('0.01'), ROUND_HALF_EVEN, _EXACT):,f}"
    leading = Context(prec=2, rounding=ROUND_HALF_EVEN).plus(amount).normalize()
    return f"{sign}${leading:f}"
