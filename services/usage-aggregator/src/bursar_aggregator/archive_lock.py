"""One aggregator at a time writes to an archive, whichever replica it is."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LOCK: Final = ".lock"
"""A file that stays in the folder; what counts is who has it locked. The system takes a lock from a process that dies,
on network file systems the server does once the host's lease is over."""


class ArchiveBusy(Exception):
    """Another one is writing."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Held by the only one that writes below ``folder``, which is made where there is none.

    Raises ArchiveBusy; OSError, also where the folder's file system knows no locks."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ArchiveBusy from None
            raise
        yield
    finally:
        os.close(descriptor)
