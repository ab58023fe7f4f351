"""Counters and holds as they stand in Redis: bytes to figures and back. Pure.

Amounts are little-endian doubles while they are below 2^52, where whole doubles and sums of two are exact; larger ones
are two doubles each, billions and the rest. The scripts' prelude describes the format.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from bursar_common.wire import HoldEntry

EXACT = 1 << 52
"""From here on an amount is kept as two doubles."""
_BILLION = 10**9
_SMALL = struct.Struct("<6d")
_LARGE = struct.Struct("<12d")
_ADMITTED = 2


class Stored(NamedTuple):
    """One counter."""

    spent: int = 0
    held: int = 0
    exposed: int = 0
    open_holds: int = 0
    promised: int | None = None
    """Spent and held after the last admission; None: there was none."""


def _stored(spent: float, held: float, exposed: float, open_holds: float, promised: float, flags: float) -> Stored:
    admitted = int(flags) & _ADMITTED
    return Stored(int(spent), int(held), int(exposed), int(open_holds), int(promised) if admitted else None)


def _stored_large(*halves: float) -> Stored:
    spent, held, exposed, open_holds, promised, flags = (
        int(halves[i]) * _BILLION + int(halves[i + 1]) for i in range(0, 12, 2)
    )
    admitted = flags & _ADMITTED
    return Stored(spent, held, exposed, open_holds, promised if admitted else None)


def counter_of(value: bytes | None) -> Stored:
    """One counter as its key holds it; one that is not there is all zeros."""
    if value is None:
        return Stored()
    return _stored(*_SMALL.unpack(value)) if len(value) == _SMALL.size else _stored_large(*_LARGE.unpack(value))


def counters_of(joined: bytes, count: int) -> list[Stored]:
    """The ``count`` counters a script answered with."""
    if not count:
        return []
    if len(joined) == count * _SMALL.size:
        return [_stored(*amounts) for amounts in _SMALL.iter_unpack(joined)]
    return [_stored_large(*halves) for halves in _LARGE.iter_unpack(joined)]


def counter_at(joined: bytes, count: int, index: int) -> Stored:
    """One of them."""
    size = len(joined) // count
    return counter_of(joined[index * size : (index + 1) * size])


def halves(amounts: Sequence[int]) -> bytes:
    """Amounts as billions and rest, two doubles each."""
    flat: list[int] = []
    for amount in amounts:
        flat += divmod(amount, _BILLION)
    return doubles(len(flat)).pack(*flat)


@lru_cache(maxsize=1_024)
def doubles(count: int) -> struct.Struct:
    """The layout of ``count`` doubles."""
    return struct.Struct(f"<{count}d")


def hold_heads(counters: Sequence[str], strict: Sequence[bool]) -> tuple[bytes, bytes]:
    """What stands before a hold's amounts, for small and for large ones."""
    rest = f" {''.join('1' if s else '0' for s in strict)} {' '.join(counters)}\n".encode()
    return b"o1" + rest, b"o2" + rest


def hold_value(heads: tuple[bytes, bytes], amounts: Sequence[int], event: bytes) -> bytes:
    """An open hold as it is kept; ``amounts`` are expected and bound of each counter in turn."""
    if not amounts or max(amounts) < EXACT:
        return heads[0] + doubles(len(amounts)).pack(*amounts) + event
    return heads[1] + halves(amounts) + event


def open_hold(value: bytes | None) -> tuple[tuple[HoldEntry, ...], bytes] | None:
    """Entries and event of an open hold as Redis keeps it; None: closed, or not there."""
    if value is None or not value.startswith(b"o"):
        return None
    end = value.index(b"\n") + 1
    width, flags, names = value[: end - 1].decode().split(" ", 2)
    if not flags:
        return (), value[end:]
    layout = doubles(2 * len(flags) * int(width[1]))
    amounts = [int(amount) for amount in layout.unpack_from(value, end)]
    if width == "o2":
        amounts = [amounts[i] * _BILLION + amounts[i + 1] for i in range(0, len(amounts), 2)]
    entries = tuple(
        HoldEntry(counter, amounts[2 * i], amounts[2 * i + 1], flags[i] == "1")
        for i, counter in enumerate(names.split(" "))
    )
    return entries, value[end + layout.size :]


def read_hold(value: bytes) -> tuple[HoldEntry, ...]:
    """The entries of an open hold, as a script answered it."""
    hold = open_hold(value)
    assert hold is not None
    return hold[0]
