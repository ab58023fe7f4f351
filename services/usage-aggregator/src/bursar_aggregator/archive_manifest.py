"""What an archived month is of: its files and what each holds. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

FILE_ROWS: Final = 100_000
"""Requests of one file, as far as hours can be told apart: some 20 MB, which are held in memory."""
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


class ArchivedFile(msgspec.Struct, frozen=True):
    """One file of a month. Moments are Unix ms; digest and sums are over the rows."""

    name: str
    from_ms: int
    to_ms: int
    rows: int
    cost_nusd: int
    list_cost_nusd: int
    digest: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    month: str
    rows: int
    columns: tuple[str, ...]
    files: tuple[ArchivedFile, ...]
    log: tuple[tuple[str, int, int, int], ...]
    """Of each partition of the log: topic, number, lowest and highest offset of the rows."""
    checksum: str
    """SHA-256 (hex) over the files' own, in their order."""


def checksum_of(files: Sequence[ArchivedFile]) -> str:
    return hashlib.sha256("\n".join(file.sha256 for file in files).encode()).hexdigest()


def stretches(from_ms: int, to_ms: int, rows_of_hours: Mapping[int, int]) -> list[tuple[int, int]]:
    """What a month's files are of, as ``[from, to)``: a UTC day, or as many of its hours as have FILE_ROWS requests.
    Days without requests have none."""
    found = []
    for day in range(from_ms, to_ms, DAY_MS):
        start, rows = day, 0
        for hour in range(day, day + DAY_MS, HOUR_MS):
            more = rows_of_hours.get(hour, 0)
            if rows and rows + more > FILE_ROWS:
                found.append((start, hour))
                start, rows = hour, 0
            rows += more
        if rows:
            found.append((start, day + DAY_MS))
    return found


def content_of(manifest: Manifest) -> object:
    """What a manifest says of requests, not of the files' bytes, which a later Parquet writer may put otherwise."""
    return (
        manifest.columns,
        manifest.log,
        [(each.name, each.from_ms, each.to_ms, each.rows, each.digest) for each in manifest.files],
    )
