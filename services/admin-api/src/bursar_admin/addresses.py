"""Which provider addresses and credential references are acceptable. Pure: nothing is resolved or connected here (the
edge refuses link-local addresses again at connect)."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bursar_admin.errors import bad_field
from bursar_common.settings import Settings

URL_ALLOWED = "https://host[:port][/path]; http or a private address only for hosts in BURSAR_UPSTREAM_ALLOW"
MAX_REFERENCES = 8
"""References tried one after the other for one provider."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}(/[A-Za-z0-9_.-]{1,128}){0,7}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class UpstreamRules:
    """What the settings allow."""

    allowed_hosts: frozenset[str] = field(default_factory=frozenset)
    """``host`` or ``host:port``, lower case."""
    credential_names: frozenset[str] = field(default_factory=frozenset)
    has_secrets_dir: bool = False

    @classmethod
    def of(cls, settings: Settings) -> UpstreamRules:
        return cls(settings.upstream_allow_hosts(), settings.credential_names(), settings.secrets_dir is not None)


def check_base_url(text: str, rules: UpstreamRules) -> str:
    """The address without a trailing slash. Raises Refusal (400)."""
    if text == "":
        return ""
    shown = re.sub(r"//[^/@]*@", "//[hidden]@", text)
    if not all("!" <= character <= "~" for character in text) or "\\" in text:
        raise bad_field("base_url", "is not an address", shown, URL_ALLOWED)
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise bad_field("base_url", "is not an address", shown, URL_ALLOWED) from None
    if parts.username is not None or parts.password is not None:
        raise bad_field("base_url", "carries a login; credentials are references of their own", shown, URL_ALLOWED)
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise bad_field("base_url", "is not an address", shown, URL_ALLOWED)
    address = _ip(host)
    if address is None and not _HOST.fullmatch(host):
        raise bad_field("base_url", "is not an address", shown, URL_ALLOWED)
    default_port = 443 if parts.scheme == "https" else 80
    if not {host, f"{host}:{port or default_port}"} & rules.allowed_hosts:
        if parts.scheme != "https":
            raise bad_field("base_url", "is not https", shown, URL_ALLOWED)
        if address is not None and not address.is_global:
            raise bad_field("base_url", "is a private, loopback or link-local address", shown, URL_ALLOWED)
        if (
            host == "localhost"
            or host.endswith((".localhost", ".local", ".internal"))
            or (address is None and "." not in host)
        ):
            raise bad_field("base_url", "names a private host", shown, URL_ALLOWED)
    return text.rstrip("/")


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address a host literal means, however it is spelled (``127.1``, ``0x7f.1``, ``2130706433``)."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def check_credential(text: str, rules: UpstreamRules) -> str:
    """The references, normalised. Raises Refusal (400); what was given is never repeated, it may be a pasted key."""
    names = ", ".join(f"env:{name}" for name in sorted(rules.credential_names))
    allowed = [names or "env: (no name is allowed by BURSAR_CREDENTIAL_ENV)", "file:<name below BURSAR_SECRETS_DIR>"]
    allowed.append("client, alone")
    references = [part.strip() for part in text.split(",")]
    if len(references) > MAX_REFERENCES:
        raise bad_field("credential", f"has more than {MAX_REFERENCES} references", text, allowed)
    if references == ["client"]:
        return "client"
    for reference in references:
        scheme, _, name = reference.partition(":")
        if scheme == "env" and name in rules.credential_names:
            continue
        if scheme == "file" and _FILE_NAME.fullmatch(name) and not {".", ".."} & set(name.split("/")):
            if rules.has_secrets_dir:
                continue
            raise bad_field("credential", "names a file, but BURSAR_SECRETS_DIR is not set", text, allowed)
        raise bad_field("credential", "is not a reference that may be used here", text, allowed)
    return ",".join(references)
