"""Who is asking, as hashes; and the credentials that references name, as values that go nowhere but upstream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bursar_common.keys import KEY_PREFIX, sha256_hex
from bursar_common.wire import KeyHash

MAX_SETTLED = 256
"""References whose credential is remembered; they come from the operator's configuration."""
MAX_SECRET_BYTES = 16 * 1024
"""Bytes of a credential file: above any key or token."""
MAX_CREDENTIAL_CHARS = 8 * 1024
"""Characters of a presented credential; longer ones are nobody's."""


class Resolved(NamedTuple):
    """A provider credential and the reference it came from (which may be told; the value may not)."""

    reference: str
    value: str

    def __repr__(self) -> str:
        return f"Resolved({self.reference!r}, ...)"


def presented(headers: Mapping[str, str]) -> tuple[KeyHash, ...]:
    """Hashes of the credentials a request carries, at most one per header."""
    found: list[KeyHash] = []
    value = headers.get("x-bf-vk")
    if value:
        found.append(KeyHash("x-bf-vk", sha256_hex(value)))
    value = headers.get("authorization")
    if value:
        token = bearer(value)
        if token:
            found.append(KeyHash("authorization", sha256_hex(token)))
    value = headers.get("x-api-key")
    if value:
        found.append(KeyHash("x-api-key", sha256_hex(value)))
    return tuple(found)


def _credential(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name) or ""
    return bearer(value) if name == "authorization" else value.strip()


def bearer(value: str) -> str:
    """The token of an ``Authorization: Bearer`` value, else empty."""
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and len(token) <= MAX_CREDENTIAL_CHARS else ""


class CredentialStore:
    """Resolves ``env:NAME`` (as it was at the start) and ``file:NAME``. Files are read anew each time they changed, so
    that a rotated secret is used without a restart."""

    def __init__(self, environ: Mapping[str, str], allowed_env: Iterable[str], secrets_dir: Path | None) -> None:
        self._env = {name: environ.get(name, "").strip() for name in allowed_env}
        self._secrets_dir = None if secrets_dir is None else Path(os.path.realpath(secrets_dir))
        self._sound = frozenset(value for value in self._env.values() if _is_sound(value))
        self._files: dict[str, tuple[tuple[int, int], str]] = {}
        self._settled: dict[str, Resolved] = {}
        """By references: those that resolve to what was in the environment at the start, for good."""

    def resolve(self, references: str) -> Resolved | None:
        """The first of the comma separated references that resolves, None if none does. A value that is one of our own
        keys never resolves: it would not be a provider's."""
        settled = self._settled.get(references)
        if settled is not None:
            return settled
        files = False
        for reference in references.split(","):
            reference = reference.strip()
            kind, _, name = reference.partition(":")
            value = ""
            if kind == "env":
                value = self._env.get(name, "")
            elif kind == "file" and name:
                value = self._file(name)
                files = True
            if value and (value in self._sound or _is_sound(value)):
                found = Resolved(reference, value)
                if not files and len(self._settled) < MAX_SETTLED:
                    self._settled[references] = found
                return found
        return None

    def _file(self, name: str) -> str:
        if self._secrets_dir is None:
            return ""
        path = os.path.realpath(self._secrets_dir / name)
        if not path.startswith(f"{self._secrets_dir}{os.sep}"):
            return ""
        try:
            status = os.stat(path)
            stamp = (status.st_mtime_ns, status.st_ino)
            known = self._files.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            if status.st_size > MAX_SECRET_BYTES:
                return ""
            with open(path, encoding="utf-8") as file:
                value = file.read(MAX_SECRET_BYTES).strip()
        except (OSError, ValueError):
            return ""
        self._files[path] = (stamp, value)
        return value


def _is_sound(value: str) -> bool:
    return bool(value) and not value.startswith(KEY_PREFIX) and value.isascii() and value.isprintable()


def own_login(headers: Mapping[str, str], key_header: str) -> tuple[list[tuple[bytes, bytes]], str]:
    """The caller's own credential beside the key, as headers to send upstream, and what it is billed as:
    ``subscription`` for a login (bearer token), ``customer`` for an API key. Empty where there is none."""
    found: list[tuple[bytes, bytes]] = []
    billing = ""
    key = _credential(headers, key_header)
    for name in ("authorization", "x-api-key"):
        value = headers.get(name)
        if name == key_header or not value or KEY_PREFIX in value:
            continue
        if _credential(headers, name) == key:  # the key once more: a key brought along has no prefix to know it by
            continue
        found.append((name.encode(), value.encode("utf-8", "surrogateescape")))
        billing = billing or ("subscription" if name == "authorization" else "customer")
    return found, billing
