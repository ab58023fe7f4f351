"""Settings from the environment: the same names in every service. ``docs/settings.md`` is made from this module.

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

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    home: Path | None = None
    """Folder of one machine's state (log, keys, Redis, analytics). The event log is ``log.db`` in it unless
    ``BURSAR_KAFKA_BOOTSTRAP`` is set; every service needs one of the two."""
    kafka_bootstrap: str = ""
    """``host:port[,host:port]`` of Kafka, which is then the event log."""
    kafka_security_protocol: str = Field("PLAINTEXT", pattern="^(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)$")
    """How to talk to Kafka. Names ending in ``SSL`` check certificates against ``BURSAR_CA_FILE``."""
    kafka_sasl_mechanism: str = ""
    """With a ``SASL`` protocol: the mechanism; empty is ``PLAIN``."""
    kafka_sasl_username: str = ""
    """With a ``SASL`` protocol: the user."""
    kafka_sasl_password: SecretStr = SecretStr("")
    """With a ``SASL`` protocol: the user's password."""
    single_broker: bool = False
    """Accept topics with one replica (a laptop, docker compose)."""
    redis_url: str = ""
    """Enforcer, required: ``redis://[user:password@]host:port/0``, ``rediss://`` or ``unix:<path>`` (a relative path:
    to the working directory)."""
    clickhouse_url: str = ""
    """Aggregator and admin-api: ``http(s)://user:password@host:port/bursar``. Aggregator: ``chdb:///absolute/folder``
    opens the embedded engine, as does an empty value, below ``BURSAR_HOME``. Admin-api: empty, a budget whose window is
    made shorter opens with 0 spent."""
    enforcer_url: str = ""
    """Edge and admin-api, required: ``http://host:port`` or ``unix:<path>`` of the enforcer. Aggregator on one machine:
    asked what it has consumed before the log forgets anything; without it nothing is forgotten."""
    admin_url: str = ""
    """Edge on one machine: address of admin-api, as above."""
    aggregator_url: str = ""
    """Edge and admin-api on one machine: address of the aggregator, as above."""
    edge_listen: str = "127.0.0.1:8080"
    """Where the edge listens: ``host:port`` or ``unix:<path>``."""
    enforcer_listen: str = "127.0.0.1:8081"
    """Where the enforcer listens, likewise."""
    aggregator_listen: str = "127.0.0.1:8082"
    """Where the aggregator answers ``/livez`` and ``/readyz``, likewise."""
    admin_listen: str = "127.0.0.1:8083"
    """Where admin-api listens, likewise. Beyond loopback it needs ``BURSAR_ADMIN_TOKEN``."""
    clickhouse_listen: str = "127.0.0.1:8123"
    """Where the aggregator serves the embedded engine on the ClickHouse HTTP interface."""
    internal_token: SecretStr = SecretStr("")
    """What services show each other, the same in all. Required by edge, enforcer and admin-api, and by an aggregator
    with the embedded engine."""
    admin_token: SecretStr = SecretStr("")
    """Bearer token of the admin API, and beyond loopback the password of the embedded ClickHouse. Empty: none is asked
    for; allowed only where the public bind is loopback."""
    key_secret: SecretStr = SecretStr("")
    """What virtual keys are hashed with, the same in enforcer and admin-api, which require it. Lost or changed, no
    virtual key is known any more."""
    secrets_dir: Path | None = None
    """Folder of the files that credential references ``file:<name>`` name. Empty: such references are refused."""
    credential_env: str = "ANTHROPIC_API_KEY,BURSAR_ANTHROPIC_API_KEY"
    """Environment variables (comma separated) that credential references ``env:<NAME>`` may name. The edge reads them,
    admin-api checks references against them: the same in both."""
    upstream_allow: str = ""
    """Hosts (``host`` or ``host:port``, comma separated) of providers that may be http or private. The same in edge and
    admin-api."""
    anthropic_base_url: str = ""
    """Edge: address to use for the provider named ``anthropic`` in place of its own; its host counts as allowed."""
    anthropic_api_key: SecretStr = SecretStr("")
    """Edge: credential of the provider ``anthropic``; goes before ``ANTHROPIC_API_KEY``."""
    simulator_url: str = ""
    """Set by ``bursar up``: provider ``anthropic`` is answered by this simulator, and its traffic is marked so."""
    public_hosts: str = ""
    """Names (comma separated) under which people reach the admin API and the embedded ClickHouse, checked against
    ``Host``; loopback names always are accepted."""
    admission_wait_s: float = Field(60.0, ge=0, le=600)
    """Edge: seconds a request may wait for room that running requests hold."""
    hold_ttl_s: int = Field(60, ge=6, le=3600)
    """Seconds without a renewal after which a hold expires; the edge renews every sixth of it. The same in edge and
    enforcer."""
    usage_retention_days: int = Field(400, ge=1, le=36500)
    """Days that the event log keeps usage events: Kafka by ``bursar topics apply`` and the check at start; the SQLite
    log deletes older ones that are in ClickHouse."""
    usage_rows_days: int = Field(0, ge=0, le=36500)
    """Aggregator: days that ClickHouse keeps requests at least. They leave by whole UTC months, once a month is closed,
    its books are stored and its sums complete; sums and books stay. 0: for ever. Without ``BURSAR_USAGE_ARCHIVE`` at
    most ``BURSAR_USAGE_RETENTION_DAYS`` less 31, as a month leaves together: what ClickHouse keeps longer than the log
    cannot be rebuilt from it."""
    usage_archive: str = Field("", max_length=4096)
    """Aggregator: absolute path of a folder that requests are written to, as Parquet files, and read back from, before
    they leave ClickHouse. In a cluster one folder that all replicas have. Empty: they are not archived."""
    usage_storage_policy: str = Field("", pattern="^[A-Za-z0-9_-]{0,64}$")
    """Aggregator with a ClickHouse server: storage policy of the table of requests, from the server's configuration.
    Empty: as it is."""
    usage_cold_days: int = Field(0, ge=0, le=36500)
    """Aggregator with a ClickHouse server: days after which requests move to ``BURSAR_USAGE_COLD_VOLUME``; they stay
    readable. 0: they are not moved."""
    usage_cold_volume: str = Field("", pattern="^[A-Za-z0-9_-]{0,64}$")
    """Aggregator: the volume of the table's storage policy that older requests move to."""
    content_retention_days: int = Field(30, ge=1, le=3650)
    """Aggregator: days that ClickHouse keeps stored prompts and answers (which are stored only where content is on)."""
    content_topic_days: int = Field(7, ge=1, le=3650)
    """Days that the event log keeps prompts and answers, and those of them that could not be read: the time in which
    they can be written to ClickHouse again. Never longer than they are kept there."""
    content_max_bytes: int = Field(512 << 10, ge=1 << 10, le=2 << 20)
    """Edge: bytes of text stored of one prompt, and of one answer; what is beyond is left out, and marked."""
    content_patterns: str = Field("", max_length=16 << 10)
    """Edge: further secrets that are taken out of prompts and answers before they leave the process: regular
    expressions in RE2's syntax, one a line, at most 32 of 500 characters each. Of a pattern with a group only what the
    group matched is taken out."""
    outbox_dir: Path | None = None
    """Folder of the edge's outbox in a cluster (a volume that outlives the process); empty: ``BURSAR_HOME``."""
    outbox_max_bytes: int = Field(2 << 30, ge=1 << 20)
    """Bytes of events that may wait in the edge's outbox for Kafka; then requests are refused before forwarding."""
    ca_file: Path | None = None
    """Certificates (PEM) to trust when connecting to Kafka, Redis and ClickHouse, and beside the system's own when
    connecting to providers."""
    metrics_token: SecretStr = SecretStr("")
    """Bearer token that opens ``/metrics`` of every service and nothing else: for Prometheus. Empty: on one
    machine whoever may use the admin API may read it; elsewhere it takes the internal token or a listener on loopback.
    """
    metrics_tags: str = ""
    """Edge: names (comma separated, at most eight) of tags, of ``project``, ``repository``, ``branch``, ``environment``
    or ``cost_center`` to carry as labels ``tag_<name>`` on its metrics."""
    metrics_label_sets: int = Field(1000, ge=10, le=20_000)
    """Edge: how many sets of provider, model, customer, team, key and tags its metrics tell apart, some 65 series each.
    Requests beyond are counted under ``other``. Enforcer: how many budgets and limits it shows."""
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    """Of the log lines on standard error: ``debug``, ``info``, ``warning`` or ``error``."""
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
