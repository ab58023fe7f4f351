"""Where requests go when Bursar starts on one machine: to the provider, or to the simulator. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bursar.home import StartRefused

CREDENTIAL_NAMES = ("BURSAR_ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY")
"""Names that the provider's credential is read from, the first that is set wins."""
OWN_KEY_PREFIX = "sk-bf-"


@dataclass(frozen=True)
class Stored:
    """What the governance log of this home says about credentials; nothing at a first start."""

    client_credential: bool = False
    """A key's provider config says ``"credential": "client"``."""
    provider_credentials: tuple[str, ...] = ()
    """References (``env:``, ``file:``) of the provider entity, whether or not they resolve."""
    provider_base_url: str = ""
    credential_is_a_key: bool = False
    """The credential's value is the value of one of our own virtual keys."""


@dataclass(frozen=True)
class Upstream:
    """The decision. ``notice`` is said on the terminal."""

    simulator: bool
    credential: Mapping[str, str] = field(default_factory=dict)
    """Environment variables with provider credentials, for the edge alone."""
    notice: str = ""
    own_login: bool = False
    """Only the callers' own credentials go up."""

    def __repr__(self) -> str:
        return f"Upstream(simulator={self.simulator}, credential={sorted(self.credential)}, notice={self.notice!r})"


def credential_of(environ: Mapping[str, str]) -> tuple[str, str]:
    """Name and value of the provider's credential; empty strings where there is none."""
    for name in CREDENTIAL_NAMES:
        if environ.get(name):
            return name, environ[name]
    return "", ""


def is_loopback_bind(bind: str) -> bool:
    host = bind.strip("[]").lower()
    return host in ("localhost", "::1") or host.startswith("127.")


def choose_upstream(
    environ: Mapping[str, str],
    *,
    bind: str,
    simulator: bool,
    stored: Stored,
    readable_files: frozenset[str] = frozenset(),
    first_key_uses_client: bool = False,
    command: str = "bursar up",
) -> Upstream:
    """Decide by what was asked for, the environment and the stored log.

    ``readable_files`` are the names that ``file:`` references resolve to. Raises StartRefused with the command that
    works."""
    if simulator:
        return Upstream(True, notice="The simulator answers every request, as --simulator asks.")
    name, value = credential_of(environ)
    if value.startswith(OWN_KEY_PREFIX) or (value and stored.credential_is_a_key):
        raise StartRefused(
            f"{name} holds one of Bursar's own virtual keys, which a provider does not know: put the provider's key in "
            f"{CREDENTIAL_NAMES[0]} (unset {name} here; virtual keys belong in the shell that runs Claude Code)."
        )
    listed = [part.strip() for part in environ.get("BURSAR_CREDENTIAL_ENV", "").split(",")]
    named = {other: environ[other] for other in listed if other and environ.get(other)}
    named |= {name: value} if value else {}
    resolves = any(
        reference[4:] in named if reference.startswith("env:") else reference[5:] in readable_files
        for reference in stored.provider_credentials
        if reference.startswith(("env:", "file:"))
    )
    if value or resolves:
        return Upstream(False, named)
    if stored.client_credential or first_key_uses_client:
        return Upstream(
            False,
            named,
            'No provider credential is set: only keys whose provider config says "credential": "client" are served.',
            own_login=True,
        )
    if not is_loopback_bind(bind):
        raise StartRefused(
            f"Bursar does not listen on {bind} without a provider credential. This works: "
            f"{CREDENTIAL_NAMES[0]}=<the provider's key> {command}   (or add --simulator to try it without a provider)"
        )
    if environ.get("BURSAR_ANTHROPIC_BASE_URL") or stored.provider_base_url:
        return Upstream(False, named, "No provider credential is set: requests go up without one.")
    return Upstream(
        True,
        notice=f"NO PROVIDER CREDENTIAL IS SET: Bursar's own SIMULATOR answers every request, no model does. "
        f"For real answers: {CREDENTIAL_NAMES[0]}=<the provider's key> {command}",
    )
