"""Who may speak to the HTTP front, judged by the request's head. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from bursar_common.service import is_loopback
from bursar_common.settings import Settings, SettingsError
from bursar_common.wire import INTERNAL_TOKEN_HEADER

Role: TypeAlias = Literal["reader", "internal"]

_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_ANY_ADDRESS: Final = frozenset({"0.0.0.0", "::", ""})


class Denied(Exception):
    """Not to be served; ``status`` is the HTTP status, ``code`` ClickHouse's error number."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Access(msgspec.Struct, frozen=True):
    """What the front checks."""

    hosts: frozenset[str]
    """Names accepted in ``Host``, lower case, without port."""
    internal_token: str
    reader_token: str
    """Password readers must give; empty where the listener is loopback: then nobody is asked."""

    def role(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Role:
        """The caller's role. Raises Denied.

        A web page can send requests to loopback: it cannot forge ``Host`` (DNS rebinding) nor leave out ``Origin``
        on anything but plain GETs, whose answers it cannot read."""
        if _host_name(headers.get("Host", "")) not in self.hosts:
            raise Denied(403, 195, "this Host is not served here; add it to BURSAR_PUBLIC_HOSTS")
        if "Origin" in headers or headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Denied(403, 195, "requests made by web pages are not served here")
        given = [headers.get(INTERNAL_TOKEN_HEADER, ""), *_passwords(headers, query)]
        if any(_same(password, self.internal_token) for password in given):
            return "internal"
        if self.reader_token and not any(_same(password, self.reader_token) for password in given):
            raise Denied(401, 516, "the admin token is the password here (any user name)")
        return "reader"


def access_of(settings: Settings) -> Access:
    """Raises SettingsError where the front would be open to a network without a password."""
    host = settings.clickhouse_listen.rpartition(":")[0].strip("[]").lower()
    own = frozenset() if host in _ANY_ADDRESS else frozenset({host})
    public = frozenset(name.strip().lower() for name in settings.public_hosts.split(",") if name.strip())
    reader_token = ""
    if not is_loopback(settings.clickhouse_listen):
        reader_token = settings.admin_token.get_secret_value()
        if not reader_token:
            raise SettingsError(
                "BURSAR_CLICKHOUSE_LISTEN is reachable from other machines, so BURSAR_ADMIN_TOKEN must be set: "
                "it is the password of those who query."
            )
    return Access(
        hosts=_LOOPBACK_NAMES | own | public,
        internal_token=settings.internal_token.get_secret_value(),
        reader_token=reader_token,
    )


def _host_name(host: str) -> str:
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _passwords(headers: Mapping[str, str], query: Mapping[str, str]) -> list[str]:
    """The password as ClickHouse's clients give it: Basic, Bearer, X-ClickHouse-Key, or a parameter."""
    found = [headers.get("X-ClickHouse-Key", ""), query.get("password", "")]
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            found.append(base64.b64decode(value.strip()).decode().partition(":")[2])
        except (binascii.Error, UnicodeDecodeError, ValueError):
            pass
    elif scheme.lower() == "bearer":
        found.append(value.strip())
    return found


def _same(given: str, expected: str) -> bool:
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())
