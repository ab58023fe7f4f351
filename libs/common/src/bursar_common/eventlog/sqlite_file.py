"""The file of the SQLite log: its schema, and opening it.

A record's row id is ``topic id << 40 | offset``: appending stays an insert at the end of a topic's range of the B-tree,
and reading from an offset is one range scan without an index of its own.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from bursar_common.eventlog.port import LogIncompatible, LogUnavailable

APPLICATION_ID = 0x4255524C  # "BURL": tells our file from any other SQLite file
SCHEMA_VERSION = 1

OFFSET_BITS = 40
"""A trillion records a topic: 30,000 a second for a year. Leaves 23 bits for topics."""
MAX_OFFSET = (1 << OFFSET_BITS) - 1

PAGE_BYTES = 8192
"""Of a new file. A usage event has about 2 kB: two do not fit a page of 4 kB, so half of it would be written, and read
again by every reader, empty. Larger pages write more for a lone event than they save."""
CHECKPOINT_PAGES = 500
"""Pages of the write-ahead log after which they are put in their places: 4 MiB."""
OPEN_WAIT_S = 10.0
"""How long opening waits while other processes create, convert or recover the same file."""
READ_BUSY_MS = 5_000
"""How long a read waits for a lock. Readers wait only for the recovery after a crash, which takes milliseconds."""

_SCHEMA = f"""
CREATE TABLE topics (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    begin_offset INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    appended_at_ms INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    headers BLOB
) STRICT;
CREATE TABLE positions (
    reader TEXT NOT NULL,
    topic TEXT NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (reader, topic)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


def open_file(path: Path, *, writer: bool) -> sqlite3.Connection:
    """A connection to the log at ``path``, which is created (mode 0600) if absent.

    Raises LogUnavailable (locked for longer than OPEN_WAIT_S, disk), LogIncompatible."""
    deadline = time.monotonic() + OPEN_WAIT_S
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only a file that was not there may be opened and closed by hand: closing any descriptor of a file drops all
        # locks this process has on it, those of its SQLite connections included. Another process that closes the log
        # would then take itself for the last one and delete the write-ahead log under us, and our commits with it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise LogUnavailable(f"cannot open the log {path}: {error.strerror}") from error
    while True:
        try:
            return _open(path, writer)
        except sqlite3.OperationalError as error:
            # Turning on WAL does not use the busy time-out, so several processes that start at once get here.
            if not is_busy(error) or time.monotonic() > deadline:
                raise LogUnavailable(f"cannot open the log {path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise LogIncompatible(f"{path} is not an event log of Bursar: {error}") from error
        time.sleep(0.01)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds the lock (and trying again helps)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _open(path: Path, writer: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=READ_BUSY_MS / 1000, check_same_thread=False, cached_statements=64
    )
    try:
        connection.execute("BEGIN")  # one state of the file: another process may be creating it
        _check(connection, path)
        connection.execute("COMMIT")
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of no effect where the file has pages already
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        # FULL: a commit is on the disk before it is acknowledged. fullfsync: plain fsync on macOS stops at the cache.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA checkpoint_fullfsync = ON")
        if writer:
            _create(connection, path)
            connection.execute("PRAGMA busy_timeout = 0")  # the writer waits by itself, fairer than SQLite's back-off
        else:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the schema is there. Looks before anything is written, the journal mode included."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise LogIncompatible(
                f"the log {path} has schema {version}; this release knows schemas up to {SCHEMA_VERSION}. "
                "It was written by a newer release: start that one."
            )
        return True
    if application or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise LogIncompatible(f"{path} is not an event log of Bursar, and was left as it is.")
    return False


def _create(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _check(connection, path):  # again, under the lock: another process may just have created it
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
