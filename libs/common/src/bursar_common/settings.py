"""Settings from the environment: the same names in every service (``docs/settings`` part of the README).

An unknown ``BURSAR_*`` name refuses to start and suggests the nearest one: a misspelled limit must never be ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

PREFIX = "BURSAR_"
_KUBERNETES_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_.*)?$|_PORT$|_PORT_\d+_[A-Z_]+$")


class SettingsError(Exception):
    """Fatal: the message names the setting, what was given and what is allowed."""


class Settings(BaseModel):
    """Every setting; the environment variable is the upper-case name behind ``BURSAR_``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path | None = None
    """State of one machine (log, keys, Redis, analytics). Set: the SQLite log is used unless Kafka is named."""
    kafka_bootstrap: str = ""
    """``host:port[,host:port]``; empty: the SQLite log below ``home``."""
    kafka_security_protocol: str = Field("PLAINTEXT", pattern="^(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)$")
    kafka_sasl_mechanism: str = ""
    kafka_sasl_username: str = ""
    kafka_sasl_password: SecretStr = SecretStr("")
    single_broker: bool = False
    """Accept topics with one replica (a laptop, docker compose)."""
    redis_url: str = ""
    """``redis://``, ``rediss://`` or ``unix:<path>`` (relative paths: to the working directory)."""
    clickhouse_url: str = ""
    """``http(s)://user:password@host:port/bursar``; aggregator of one machine: ``chdb:///absolute/folder``."""
    enforcer_url: str = ""
    """``http://host:port`` or ``unix:<path>``; likewise the other service addresses."""
    admin_url: str = ""
    aggregator_url: str = ""
    edge_listen: str = "127.0.0.1:8080"
    """``host:port`` or ``unix:<path>``, likewise below."""
    enforcer_listen: str = "127.0.0.1:8081"
    aggregator_listen: str = "127.0.0.1:8082"
    admin_listen: str = "127.0.0.1:8083"
    clickhouse_listen: str = "127.0.0.1:8123"
    """Where the aggregator of one machine serves chDB on the ClickHouse HTTP interface."""
    internal_token: SecretStr = SecretStr("")
    admin_token: SecretStr = SecretStr("")
    """Empty: no token is asked for; allowed only where the public bind is loopback."""
    key_secret: SecretStr = SecretStr("")
    secrets_dir: Path | None = None
    credential_env: str = "ANTHROPIC_API_KEY,BURSAR_ANTHROPIC_API_KEY"
    upstream_allow: str = ""
    """Hosts (``host`` or ``host:port``, comma separated) that may be http or private."""
    anthropic_base_url: str = ""
    anthropic_api_key: SecretStr = SecretStr("")
    simulator_url: str = ""
    """Set by ``bursar up``: provider ``anthropic`` is answered by this simulator, and its traffic is marked so."""
    public_hosts: str = ""
    """Names (comma separated) under which people reach the admin API, checked against ``Host``; loopback names always
    are accepted."""
    admission_wait_s: float = Field(60.0, ge=0, le=600)
    hold_ttl_s: int = Field(60, ge=6, le=3600)
    usage_retention_days: int = Field(400, ge=1, le=36500)
    outbox_dir: Path | None = None
    """Folder of the edge's outbox in a cluster (a volume that outlives the process)."""
    outbox_max_bytes: int = Field(2 << 30, ge=1 << 20)
    ca_file: Path | None = None
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    single_machine: bool = False
    """Set by ``bursar up``: the edge relays what is not its own to admin-api and answers ``/healthz`` for all parts."""

    def credential_names(self) -> frozenset[str]:
        return frozenset(name.strip() for name in self.credential_env.split(",") if name.strip())

    def upstream_allow_hosts(self) -> frozenset[str]:
        return frozenset(host.strip().lower() for host in self.upstream_allow.split(",") if host.strip())


def load_settings(environ: Mapping[str, str], *, required: Iterable[str] = ()) -> Settings:
    """Settings from an environment. ``required`` are field names that must not be empty.

    Raises SettingsError naming the variable: unknown, malformed or missing."""
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    credential_names = {n.strip() for n in environ.get("BURSAR_CREDENTIAL_ENV", "").split(",")}
    values: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        if variable in known:
            if value != "":
                values[known[variable]] = value
        elif variable not in credential_names and not _KUBERNETES_SERVICE_LINK.search(variable):
            near = difflib.get_close_matches(variable, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise SettingsError(f"{variable} is not a setting of Bursar.{hint}")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise SettingsError(f"{PREFIX}{str(first['loc'][0]).upper()}: {first['msg']}.") from None
    for name in required:
        value = getattr(settings, name)
        if (value.get_secret_value() if isinstance(value, SecretStr) else value) in ("", None):
            raise SettingsError(f"{PREFIX}{name.upper()} is not set, and this service cannot run without it.")
    return settings
