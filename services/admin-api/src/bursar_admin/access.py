"""Who may talk to the admin API at all: token, ``Host``, ``Origin``, content type. Pure decisions over headers.

With a token, the token decides. Without one (loopback of one machine only) anything that runs in a browser on this
machine could send requests here, so the name it was reached by, the page it comes from and the content type are
checked: a page of another site cannot set ``application/json`` without asking first, and is never allowed to.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from bursar_admin.errors import Refusal, forbidden, unauthorized
from bursar_admin.pages import session_cookie
from bursar_common.service import is_loopback
from bursar_common.settings import Settings, SettingsError

READING = frozenset({"GET", "HEAD"})


def check_start(settings: Settings) -> None:
    """Raises SettingsError where nobody could be kept out: no token, and reachable from elsewhere."""
    if settings.admin_token.get_secret_value() or is_loopback(settings.admin_listen):
        return
    raise SettingsError(
        f"BURSAR_ADMIN_TOKEN is not set, and BURSAR_ADMIN_LISTEN={settings.admin_listen} can be reached from other "
        "machines: anyone could create keys. Set BURSAR_ADMIN_TOKEN, or listen on 127.0.0.1."
    )


class Access:
    """The rules of this process."""

    def __init__(self, settings: Settings, now_s: Callable[[], int] | None = None) -> None:
        """``now_s``: a clock (Unix s), for the cookies of pages; without it no cookie is taken."""
        self._token = settings.admin_token.get_secret_value()
        self._now_s = now_s
        named = {name.strip().lower() for name in settings.public_hosts.split(",") if name.strip()}
        for address in (settings.admin_listen, settings.edge_listen if settings.single_machine else ""):
            host = _host_name(address) if address and not address.startswith("unix:") else ""
            if host and host not in ("0.0.0.0", "::"):
                named.add(host)
        self._hosts = frozenset(named)

    @property
    def actor(self) -> str:
        """Who is noted on events."""
        return "admin-token" if self._token else "local"

    @property
    def has_token(self) -> bool:
        """Whether an admin token is set."""
        return bool(self._token)

    @property
    def hosts(self) -> list[str]:
        """Names that are accepted as ``Host`` besides those of loopback."""
        return sorted(self._hosts)

    def new_cookie(self, token: str) -> str:
        """A cookie for who knows the admin token; empty for anybody else."""
        known = hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token.encode())
        if not self._token or not known or self._now_s is None:
            return ""
        return session_cookie.make(self._token, self._now_s())

    def check(self, headers: Mapping[str, str], *, open_page: bool = False) -> None:
        """Raises Refusal (401 or 403). ``open_page``: a page that shows nothing of the installation needs no token."""
        host = headers.get("Host", "")
        if not self._token and not self._known_host(host):
            raise forbidden(
                "This name is not one the admin API is reached by; list it in BURSAR_PUBLIC_HOSTS.",
                "Host",
                host,
                sorted({"localhost", "127.0.0.1", *self._hosts}),
            )
        origin = headers.get("Origin")
        if origin is not None and not self._same_origin(origin, host):
            raise forbidden("Pages of other sites may not use the admin API.", "Origin", origin, "no foreign page")
        if self._token and not open_page and not self._token_given(headers):
            raise unauthorized("The admin token is missing or wrong: send it as Authorization: Bearer, or x-api-key.")

    def needs_json(self, method: str, headers: Mapping[str, str], has_body: bool) -> bool:
        """Whether the content type must be JSON. A ``DELETE`` without a body is asked for by browsers beforehand and
        refused there; a ``POST`` without one is not."""
        if method in READING:
            return False
        return has_body or (method == "POST" and not self._token)

    def _token_given(self, headers: Mapping[str, str]) -> bool:
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        candidates = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        matches = [
            hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode()) for given in candidates
        ]
        return any(matches) or self._cookie_given(headers)

    def _cookie_given(self, headers: Mapping[str, str]) -> bool:
        """The cookie of a signed-in browser. Other sites cannot make it send this: SameSite, ``Origin``."""
        if self._now_s is None or session_cookie.NAME not in headers.get("Cookie", ""):
            return False
        try:
            found = SimpleCookie(headers["Cookie"]).get(session_cookie.NAME)
        except CookieError:
            return False
        return found is not None and session_cookie.valid(self._token, found.value, self._now_s())

    def _known_host(self, host: str) -> bool:
        name = _host_name(host)
        return bool(name) and (_is_loopback_name(name) or name in self._hosts or host.lower() in self._hosts)

    def _same_origin(self, origin: str, host: str) -> bool:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or not parts.netloc:
            return False
        # The port counts: another service on this machine is another site.
        return parts.netloc.lower() == host.lower() or _host_name(parts.netloc) in self._public_origins()

    def _public_origins(self) -> frozenset[str]:
        return frozenset(name for name in self._hosts if not _is_loopback_name(name))


def check_content_type(headers: Mapping[str, str]) -> None:
    """Raises Refusal (415) unless the body is plain JSON."""
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Refusal(415, "unsupported_media_type_error", "Send the body without Content-Encoding.")
    media_type, _, parameters = headers.get("Content-Type", "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media_type.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise Refusal(
            415, "unsupported_media_type_error", "Send the body as JSON, with Content-Type: application/json."
        )


def _host_name(text: str) -> str:
    """The name in ``host``, ``host:port`` or ``[v6]:port``, lower case; "" where it is none."""
    try:
        return (urlsplit(f"//{text}").hostname or "").rstrip(".") if text and "@" not in text else ""
    except ValueError:
        return ""


def _is_loopback_name(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
