"""The environments of the children on one machine: addresses from the flags, secrets only to those who need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bursar.home import Home, StartRefused
from bursar_common.settings import SettingsError, load_settings

OWN_SETTINGS = (
    "KAFKA_BOOTSTRAP",
    "REDIS_URL",
    "CLICKHOUSE_URL",
    "ENFORCER_URL",
    "ADMIN_URL",
    "AGGREGATOR_URL",
    "EDGE_LISTEN",
    "ENFORCER_LISTEN",
    "AGGREGATOR_LISTEN",
    "ADMIN_LISTEN",
    "CLICKHOUSE_LISTEN",
    "SINGLE_MACHINE",
    "SIMULATOR_URL",
    "OUTBOX_DIR",
)
"""Settings of separate services; ``bursar up`` chooses them itself and refuses a start that would ignore them."""
_SECRETS = ("BURSAR_INTERNAL_TOKEN", "BURSAR_ADMIN_TOKEN", "BURSAR_KEY_SECRET")


@dataclass(frozen=True)
class Secrets:
    internal_token: str
    key_secret: str
    admin_token: str = ""

    def __repr__(self) -> str:
        return "Secrets(…)"


@dataclass(frozen=True)
class Addresses:
    bind: str
    port: int
    clickhouse_port: int
    simulator_url: str = ""

    @property
    def edge_listen(self) -> str:
        host = self.bind.strip("[]")
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """As a person on this machine reaches the edge."""
        host = self.bind.strip("[]")
        if host in ("0.0.0.0", "::", "127.0.0.1", "::1", "localhost"):
            host = "localhost" if host != "::1" else "[::1]"
        elif ":" in host:
            host = f"[{host}]"
        return f"http://{host}:{self.port}"

    @property
    def local_url(self) -> str:
        """As the supervisor reaches it, without asking a resolver."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "localhost": "127.0.0.1"}.get(self.bind, self.bind)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"


def home_secrets(home: Home, environ: Mapping[str, str]) -> Secrets:
    """The secrets that every start needs: from the environment, else kept in the home, made where they are missing."""
    return Secrets(
        internal_token=environ.get("BURSAR_INTERNAL_TOKEN") or home.secret("internal-token")[0],
        key_secret=environ.get("BURSAR_KEY_SECRET") or home.secret("key-secret")[0],
        admin_token=environ.get("BURSAR_ADMIN_TOKEN", ""),
    )


def check_own_settings(environ: Mapping[str, str], home: Home) -> None:
    """Raises StartRefused where a setting would be ignored, is not known, or cannot be read."""
    for name in OWN_SETTINGS:
        if environ.get(f"BURSAR_{name}"):
            raise StartRefused(
                f"BURSAR_{name} is for separately run services; bursar up chooses it itself: unset it (or see --help)."
            )
    given = environ.get("BURSAR_HOME")
    if given and Path(given).expanduser().absolute() != home.path:
        raise StartRefused(f"BURSAR_HOME is {given}, but --home is {home.path}: unset one of them.")
    try:
        load_settings(environ)
    except SettingsError as error:
        raise StartRefused(str(error)) from None


def child_environments(
    environ: Mapping[str, str],
    home: Home,
    addresses: Addresses,
    secrets: Secrets,
    credential: Mapping[str, str],
) -> dict[str, dict[str, str]]:
    """Environment by part: ``redis``, ``simulator``, ``enforcer``, ``aggregator``, ``admin``, ``edge``.

    Everything else the person set goes on to the four services, so that each refuses a misspelled ``BURSAR_`` name;
    provider credentials go to the edge alone."""
    withheld = {*_SECRETS, "BURSAR_ANTHROPIC_API_KEY", *credential}
    withheld |= {name.strip() for name in environ.get("BURSAR_CREDENTIAL_ENV", "").split(",")}
    plain = {n: v for n, v in environ.items() if not n.startswith(("BURSAR_", "ANTHROPIC_")) and n not in withheld}
    plain["PYTHONUNBUFFERED"] = "1"
    unobserved = {n: v for n, v in plain.items() if not n.startswith("OTEL_")}  # headers of a receiver are secrets
    common = plain | {n: v for n, v in environ.items() if n.startswith("BURSAR_") and n not in withheld}
    common |= {"BURSAR_HOME": str(home.path), "BURSAR_INTERNAL_TOKEN": secrets.internal_token}
    common |= {"BURSAR_SINGLE_MACHINE": "true", "BURSAR_SIMULATOR_URL": addresses.simulator_url}
    common.setdefault("BURSAR_SECRETS_DIR", str(home.credentials))
    hashing = {"BURSAR_KEY_SECRET": secrets.key_secret}
    enforcer_url, admin_url = "unix:run/enforcer.sock", "unix:run/admin.sock"
    aggregator_url = "unix:run/aggregator.sock"
    hosts = [host for host in common.get("BURSAR_PUBLIC_HOSTS", "").split(",") if host]
    if addresses.bind not in ("0.0.0.0", "::"):
        hosts.append(addresses.bind)
    return {
        "redis": unobserved,
        "simulator": unobserved,
        "enforcer": common
        | hashing
        | {"BURSAR_REDIS_URL": "unix:run/redis.sock", "BURSAR_ENFORCER_LISTEN": enforcer_url},
        "aggregator": common
        | {
            "BURSAR_AGGREGATOR_LISTEN": aggregator_url,
            "BURSAR_ENFORCER_URL": enforcer_url,
            "BURSAR_CLICKHOUSE_LISTEN": f"127.0.0.1:{addresses.clickhouse_port}",
            "BURSAR_CLICKHOUSE_URL": f"chdb://{home.path / 'chdb'}",
        },
        "admin": common
        | hashing
        | {
            "BURSAR_ADMIN_LISTEN": admin_url,
            "BURSAR_ENFORCER_URL": enforcer_url,
            "BURSAR_AGGREGATOR_URL": aggregator_url,
            "BURSAR_ADMIN_TOKEN": secrets.admin_token,
            "BURSAR_CLICKHOUSE_URL": f"http://127.0.0.1:{addresses.clickhouse_port}/bursar",
            "BURSAR_PUBLIC_HOSTS": ",".join(hosts),
        },
        "edge": common
        | {
            "BURSAR_EDGE_LISTEN": addresses.edge_listen,
            "BURSAR_ENFORCER_URL": enforcer_url,
            "BURSAR_ADMIN_URL": admin_url,
            "BURSAR_AGGREGATOR_URL": aggregator_url,
            "BURSAR_PUBLIC_HOSTS": ",".join(hosts),
        }
        | dict(credential),
    }
