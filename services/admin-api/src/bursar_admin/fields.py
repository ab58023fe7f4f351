"""Field types of request bodies: strict, and each failing with what is allowed there.

A failure is a ``PydanticCustomError`` whose context may carry ``allowed``; :mod:`bursar_admin.body` turns it into the
answer. JSON numbers with a fraction arrive as ``Decimal``, so that money never passes through a float.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from bursar_common.keys import is_sha256_hex
from bursar_common.money import MAX_DOLLARS, parse_nusd
from bursar_common.windows import parse_window, zone

MAX_NAME_CHARS = 128
MAX_DESCRIPTION_CHARS = 1000
MAX_COUNT = 1 << 53
"""Largest token or request limit: above it doubles, which the ledger's scripts compare in, skip integers."""
MIN_VALUE_CHARS = 20
MAX_VALUE_CHARS = 512
MIN_VALUE_DISTINCT = 8
"""A key brought along has at least 20 characters, 8 of them different: short or repeated ones can be guessed, and a
guessed key spends somebody's money. 20 random characters of base 36 are 103 bits."""
MAX_DECIMAL_CHARS = 40
"""Longest number as text."""
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
MAX_RATE_DOLLARS = 1_000_000
"""Dollars per million tokens; a larger rate is a misplaced decimal point."""

WINDOW_ALLOWED = "a whole number of s, m, h, d, w, M, Q or Y, at least 60s and at most 1Y, such as 90m, 1d or 1M"
TIME_ALLOWED = "an RFC 3339 time with a zone, such as 2027-01-31T00:00:00Z"


def fault(message: str, allowed: Any) -> PydanticCustomError:
    """A validation failure with what is allowed instead."""
    return PydanticCustomError("fault", "{message}", {"message": message, "allowed": allowed})


def _is_decimal(value: Any) -> bool:
    """A number, or one as text (for those whose JSON has only binary fractions), digits and at most one point."""
    if isinstance(value, str):
        return len(value) <= MAX_DECIMAL_CHARS and _DECIMAL.fullmatch(value) is not None
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _nusd(value: Any) -> int:
    allowed = f"dollars from 0 to {MAX_DOLLARS} with at most 9 decimals, a number or a decimal string"
    if not _is_decimal(value):
        raise fault("must be a number", allowed)
    try:
        return parse_nusd(value)
    except ValueError:
        raise fault("must be an amount of money", allowed) from None


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise fault("must be a whole number", f"0 to {MAX_COUNT}")
    return value


def _weight(value: Any) -> float:
    known = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    # Decimal's NaN raises where it is compared.
    if not known or (isinstance(value, Decimal) and not value.is_finite()) or not 0 <= value <= 1_000_000:
        raise fault("must be a number", "0 to 1000000")
    return float(value)


def _printable(value: Any, what: str, longest: int, shortest: int) -> str:
    allowed = f"{shortest} to {longest} printable characters, no space at either end"
    if not isinstance(value, str):
        raise fault("must be a string", allowed)
    if not shortest <= len(value) <= longest or not value.isprintable() or value != value.strip():
        raise fault(f"is not a usable {what}", allowed)
    return value


def _name(value: Any) -> str:
    return _printable(value, "name", MAX_NAME_CHARS, 1)


def _description(value: Any) -> str:
    return _printable(value, "description", MAX_DESCRIPTION_CHARS, 0)


def _email(value: Any) -> str:
    text = _printable(value, "e-mail address", 254, 0)
    local, _, domain = text.partition("@")
    if text and (not local or "." not in domain or " " in text or "@" in domain):
        raise fault("is not a usable e-mail address", "name@example.com, or empty")
    return text


def _reference(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable():
        raise fault("must be the id of an existing entity", "an id, or null")
    return value


def _window(value: Any) -> str:
    if not isinstance(value, str):
        raise fault("must be a string", WINDOW_ALLOWED)
    try:
        return str(parse_window(value))
    except ValueError:
        raise fault("is not a window of time", WINDOW_ALLOWED) from None


def _timezone(value: Any) -> str:
    allowed = "an IANA time zone such as Europe/Paris, or empty"
    if not isinstance(value, str) or len(value) > 64:
        raise fault("must be a string", allowed)
    try:
        zone(value)
    except ValueError:
        raise fault("is not a time zone", allowed) from None
    return value


def _time_s(value: Any) -> int:
    if not isinstance(value, str) or len(value) > 40:
        raise fault("must be a time", TIME_ALLOWED)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise fault("must be a time", TIME_ALLOWED) from None
    if moment.tzinfo is None or "T" not in value.upper():
        raise fault("must be a time with a zone", TIME_ALLOWED)
    seconds = int(moment.timestamp())
    if not 0 <= seconds < 253_402_300_800:
        raise fault("must be a time", TIME_ALLOWED + ", from 1970 to 9999")
    return seconds


def _models(value: Any) -> tuple[str, ...] | None:
    """None stands for every priced model (``["*"]``)."""
    allowed = '["*"] for every priced model, [] for none, or up to 256 model names'
    if not isinstance(value, list) or len(value) > 256:
        raise fault("must be a list of model names", allowed)
    if any(not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable() for name in value):
        raise fault("must be a list of model names", allowed)
    if "*" in value:
        if len(value) > 1:
            raise fault('"*" already means every model and stands alone', allowed)
        return None
    return tuple(dict.fromkeys(value))


def _key_value(value: Any) -> str:
    allowed = (
        f"{MIN_VALUE_CHARS} to {MAX_VALUE_CHARS} visible ASCII characters, at least {MIN_VALUE_DISTINCT} of them "
        "different, and not a provider's own key"
    )
    if (
        not isinstance(value, str)
        or not MIN_VALUE_CHARS <= len(value) <= MAX_VALUE_CHARS
        or not all("!" <= character <= "~" for character in value)
        or len(set(value)) < MIN_VALUE_DISTINCT
        or value.startswith("sk-ant-")
    ):
        raise fault("is not a usable key", allowed)
    return value


def _key_hash(value: Any) -> str:
    if not isinstance(value, str) or not is_sha256_hex(value.lower()):
        raise fault("is not a SHA-256 hash", "64 hex digits: the SHA-256 of the key's value")
    return value.lower()


def _decimal_text(value: Any, largest: int, allowed: str) -> str:
    if not _is_decimal(value) or isinstance(value, float):
        raise fault("must be a decimal number", allowed)
    if isinstance(value, int) and not 0 <= value <= largest:
        # Before Decimal, whose text of a huge one would be long.
        raise fault("must be a decimal number", allowed)
    number = Decimal(value)
    if not number.is_finite() or not 0 <= number <= largest or number.as_tuple().exponent < -12:  # type: ignore[operator]
        raise fault("must be a decimal number", allowed)
    return f"{number:f}"


def _rate(value: Any) -> str:
    return _decimal_text(
        value, MAX_RATE_DOLLARS, f"dollars per million tokens, 0 to {MAX_RATE_DOLLARS}, a number or a decimal string"
    )


def _percent(value: Any) -> str:
    return _decimal_text(value, 100, "0 to 100, a number or a decimal string")


def _version(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 53:
        raise fault("must be a whole number", "the version the entity was read with")
    return value


_TEXT_SCHEMA = {"type": "string", "pattern": r"^\d+(\.\d+)?$", "maxLength": MAX_DECIMAL_CHARS}
_AMOUNT_SCHEMA = {"oneOf": [{"type": "number", "minimum": 0, "maximum": MAX_DOLLARS}, _TEXT_SCHEMA]}
_DECIMAL_SCHEMA = {"oneOf": [{"type": "number", "minimum": 0}, _TEXT_SCHEMA]}
_TIME_SCHEMA = {"type": "string", "format": "date-time"}
_NAME_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS}

Nusd = Annotated[int, PlainValidator(_nusd), WithJsonSchema({**_AMOUNT_SCHEMA, "description": "Dollars"})]
"""Dollars in JSON, nano-dollars inside."""
Count = Annotated[int, PlainValidator(_count), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MAX_COUNT})]
Weight = Annotated[float, PlainValidator(_weight), WithJsonSchema({"type": "number", "minimum": 0})]
Name = Annotated[str, PlainValidator(_name), WithJsonSchema(_NAME_SCHEMA)]
Description = Annotated[
    str, PlainValidator(_description), WithJsonSchema({"type": "string", "maxLength": MAX_DESCRIPTION_CHARS})
]
Email = Annotated[str, PlainValidator(_email), WithJsonSchema({"type": "string", "maxLength": 254})]
Reference = Annotated[str, PlainValidator(_reference), WithJsonSchema({"type": "string", "minLength": 1})]
WindowText = Annotated[
    str, PlainValidator(_window), WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]*[smhdwMQY]$"})
]
TimezoneName = Annotated[str, PlainValidator(_timezone), WithJsonSchema({"type": "string", "examples": ["UTC"]})]
TimeS = Annotated[int, PlainValidator(_time_s), WithJsonSchema(_TIME_SCHEMA)]
"""An RFC 3339 time in JSON, Unix seconds inside."""
Models = Annotated[
    tuple[str, ...] | None,
    PlainValidator(_models),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "maxItems": 256}),
]
KeyValue = Annotated[
    str, PlainValidator(_key_value), WithJsonSchema({"type": "string", "minLength": MIN_VALUE_CHARS, "writeOnly": True})
]
KeyHash = Annotated[
    str,
    PlainValidator(_key_hash),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{64}$", "writeOnly": True}),
]
Rate = Annotated[str, PlainValidator(_rate), WithJsonSchema(_DECIMAL_SCHEMA)]
Percent = Annotated[str, PlainValidator(_percent), WithJsonSchema(_DECIMAL_SCHEMA)]
Version = Annotated[int, PlainValidator(_version), WithJsonSchema({"type": "integer", "minimum": 1})]
