"""Providers: where they are, what may be connected to, and what of a request's headers goes up and comes down."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import getproxies, proxy_bypass

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from bursar_common.spans import well_formed_state
from bursar_common.wire import Route
from bursar_edge.direct import ProviderConnection
from bursar_edge.link import Header, NotConnected, Origin
from bursar_edge.pool import Pool

PUBLIC_URLS = {"anthropic": "https://api.anthropic.com"}
"""Where a provider of a kind is unless told otherwise."""
MAX_CONNECTIONS = 4096
"""Connections to all providers; each request in flight takes one."""
MAX_ORIGINS = 64
"""Addresses remembered; they come from the operator's configuration."""
KEEPALIVE_S = 30.0
"""How long an idle connection is kept: less than providers do, so that requests rarely meet a closing one."""

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"trailers",
        b"transfer-encoding",
        b"upgrade",
    )
)
_NEVER_UP = HOP_BY_HOP | frozenset(
    (
        b"host",
        b"content-length",
        b"expect",
        b"cookie",
        b"forwarded",
        b"authorization",
        b"x-api-key",
    )
)
_NEVER_UP_PREFIXES = (b"x-bursar-", b"x-bf-", b"x-forwarded-")
_NEVER_DOWN = HOP_BY_HOP | frozenset((b"content-length", b"x-bursar-request-id"))


class AddressRefused(NotConnected):
    """The address is not one the gateway may connect to; the text says why, and is safe to tell."""


class _CheckedResolver(AbstractResolver):
    """Names resolve to addresses that may be connected to, checked at connect: a name may change its address."""

    def __init__(self, allowed: set[str]) -> None:
        self._resolver = ThreadedResolver()
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        allowed = host.lower() in self._allowed
        good = [each for each in found if not address_problem(each["host"], allowed)]
        if not good:
            raise OSError(None, "address not allowed")
        return good

    async def close(self) -> None:
        await self._resolver.close()


def address_problem(address: str, allowed: bool) -> str:
    """Why an IP address may not be connected to, empty if it may. Link-local never: it is where clouds keep their
    machines' credentials. Private, loopback and reserved ones only for hosts on the allow-list."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_link_local:
        return "link-local"
    if ip.is_multicast or ip.is_unspecified:
        return "not a host"
    if not ip.is_global and not allowed:
        return "private"
    return ""


class Upstreams:
    """Origins by address, over one pool of connections."""

    def __init__(
        self,
        *,
        anthropic_base_url: str = "",
        simulator_url: str = "",
        allow: frozenset[str] = frozenset(),
        ca_file: Path | None = None,
        loop_secret: str = "",
    ) -> None:
        self._anthropic_base_url = anthropic_base_url
        self.simulator_url = simulator_url
        self._allow = {*allow}
        for own in (anthropic_base_url, simulator_url):
            if own:
                url = URL(own)
                self._allow.add(str(url.host).lower())
        self._allow_names = {host if host.count(":") != 1 else host.partition(":")[0] for host in self._allow}
        self._ssl: Any = True
        if ca_file is not None:
            self._ssl = ssl.create_default_context()
            self._ssl.load_verify_locations(cafile=str(ca_file))
        self._origins: dict[str, Origin] = {}
        mark = hashlib.sha256(f"bursar via {loop_secret}".encode()).hexdigest()[:12]
        self.via = f"1.1 bursar-{mark}"
        """Added to every request; one that already carries it came from here."""

    async def start(self) -> None:
        self.connector = Pool(
            limit=MAX_CONNECTIONS,
            keepalive_s=KEEPALIVE_S,
            resolver=_CheckedResolver(self._allow_names),
            ttl_dns_cache=30,
        )
        connections = functools.partial(ProviderConnection, loop=asyncio.get_running_loop())
        self.connector._factory = connections  # type: ignore[assignment]

    async def close(self) -> None:
        await self.connector.close()

    def overridden(self, route: Route) -> bool:
        """Whether the settings say where this provider is (then it may need no credential)."""
        return route.provider == "anthropic" and bool(self._anthropic_base_url or self.simulator_url)

    def origin(self, route: Route) -> Origin:
        """Where a route leads. Raises AddressRefused."""
        base = route.base_url or PUBLIC_URLS.get(route.kind, "")
        if route.provider == "anthropic":
            base = self.simulator_url or self._anthropic_base_url or base
        found = self._origins.get(base)
        if found is None:
            if len(self._origins) >= MAX_ORIGINS:
                self._origins.clear()
            found = self._origins[base] = self._make(base)
        return found

    def _make(self, base: str) -> Origin:
        try:
            url = URL(base, encoded=True)
            host, port = (url.host or "").lower(), url.port
        except ValueError:
            raise AddressRefused("not a URL") from None
        if not host or url.scheme not in ("http", "https"):
            raise AddressRefused("not an http address")
        allowed = host in self._allow or f"{host}:{port}" in self._allow
        if url.scheme != "https" and not allowed:
            raise AddressRefused("not https")
        try:
            problem = address_problem(host, allowed)
        except ValueError:
            problem = ""  # a name; judged when it is resolved
        if problem:
            raise AddressRefused(problem)
        return Origin(url, ssl=self._ssl, proxy=_proxy_for(url, self._allow_names))


def _proxy_for(url: URL, allowed_names: set[str]) -> URL | None:
    """The egress proxy of the environment, for https addresses; its host may be private."""
    if url.scheme != "https":
        return None
    proxy = getproxies().get("https", "")
    if not proxy or (url.host and proxy_bypass(url.host)):
        return None
    found = URL(proxy if "://" in proxy else f"http://{proxy}")
    if found.host:
        allowed_names.add(found.host.lower())
    return found


# ---- headers


def listed_in_connection(headers: Mapping[str, str]) -> frozenset[bytes]:
    """Names the ``Connection`` header makes hop-by-hop."""
    value = headers.get("connection")
    if not value or value.lower() in ("keep-alive", "close"):
        return frozenset()
    return frozenset(name.strip().lower().encode("utf-8", "surrogateescape") for name in value.split(","))


def passing_headers(raw_headers: tuple[Header, ...], connection_names: frozenset[bytes], *, readable: bool) -> bytes:
    """The lines of a request's headers that go to the provider: everything as it came, in order and spelling, but
    credentials, what is ours, what ends here, and a ``tracestate`` that W3C wants dropped. ``readable``: what an answer
    may be encoded as is ours to say."""
    parts: list[bytes] = []
    states = [value for name, value in raw_headers if name.lower() == b"tracestate"]
    stateless = bool(states) and not well_formed_state(b",".join(states).decode("latin-1"))
    for name, value in raw_headers:
        lowered = name.lower()
        if stateless and lowered == b"tracestate":
            continue
        if lowered in _NEVER_UP or lowered.startswith(_NEVER_UP_PREFIXES) or lowered in connection_names:
            continue
        if readable and lowered == b"accept-encoding":
            continue
        parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


def up_head(
    method: str,
    target: str,
    origin: Origin,
    passing: bytes,
    credential: list[Header],
    via: str,
    length: int | None,
    *,
    readable: bool,
) -> bytes:
    """The head of the request to the provider. ``target`` is path and query as the client sent them, below the
    provider's own path; ``passing`` the header lines that go up; ``readable``: ask for an uncompressed answer, whose
    usage can be read."""
    parts = [
        f"{method} {target} HTTP/1.1\r\nhost: ".encode("utf-8", "surrogateescape"),
        origin.host,
        b"\r\n",
        passing,
    ]
    for name, value in credential:
        parts += (name, b": ", value, b"\r\n")
    if readable:
        parts.append(b"accept-encoding: identity\r\n")
    parts.append(f"via: {via}\r\n".encode())
    if length is not None:
        parts.append(b"content-length: %d\r\n" % length)
    parts.append(b"\r\n")
    return b"".join(parts)


def down_headers(raw_headers: tuple[Header, ...], connection_names: frozenset[bytes]) -> list[Header]:
    """Headers of the provider's answer as the client gets them: all but what ends here."""
    return [
        header
        for header in raw_headers
        if (lowered := header[0].lower()) not in _NEVER_DOWN and lowered not in connection_names
    ]
