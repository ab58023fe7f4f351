"""The folder that holds one machine's state, its lock, and the secrets made at first start."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOME = "~/.bursar"


class StartRefused(Exception):
    """Bursar does not start; the message is one sentence for the person at the terminal."""


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner alone, durable when this returns."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True)
class Home:
    """Where everything is. Sockets are named relative to the folder (children run in it): absolute names can be longer
    than a socket's name may be."""

    path: Path

    @classmethod
    def at(cls, path: str | Path) -> Home:
        return cls(Path(path).expanduser().absolute())

    @property
    def run(self) -> Path:
        """Sockets and what the running supervisor wrote down; worthless when it stops."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def log_database(self) -> Path:
        """The event log: the one file that must not be lost."""
        return self.path / "log.db"

    @property
    def credentials(self) -> Path:
        """Folder of provider credentials named ``file:<name>``."""
        return self.path / "secrets"

    @property
    def first_key(self) -> Path:
        return self.path / "first-key"

    @property
    def address(self) -> Path:
        """URL of the running edge; a clean stop deletes it."""
        return self.run / "address"

    @property
    def clickhouse_address(self) -> Path:
        """URL of the running (or last) ClickHouse HTTP interface."""
        return self.run / "clickhouse-address"

    @property
    def children(self) -> Path:
        """Process ids of the running children, for the next start after a crash."""
        return self.run / "children"

    def prepare(self) -> None:
        """Make the folders. Raises StartRefused where that is impossible."""
        try:
            for folder in (self.path, self.run, self.logs, self.credentials, self.path / "redis"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartRefused(f"The folder {self.path} cannot be used: {error.strerror}.") from None

    def secret(self, name: str) -> tuple[str, bool]:
        """The secret kept in the file ``name``, and whether it was made just now."""
        path = self.path / name
        try:
            value = path.read_text().strip()
        except FileNotFoundError:
            value = ""
        if value:
            return value, False
        value = secrets.token_hex(32)
        write_private(path, value + "\n")
        return value, True


class HomeLock:
    """At most one Bursar on a folder. The kernel drops the lock when the holder ends, however it ends."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._file: int | None = None

    def take(self) -> None:
        """Raises StartRefused, naming the process that holds it."""
        file = os.open(self._home.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode(errors="replace").strip()
            os.close(file)
            who = f" (process {holder})" if holder else ""
            raise StartRefused(
                f"Bursar is already running on {self._home.path}{who}; stop it first, or choose another --home."
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def is_free(self) -> bool:
        """Whether nobody runs on this folder now."""
        try:
            self.take()
        except StartRefused:
            return False
        self.drop()
        return True

    def drop(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
