"""Where telemetry goes: OpenTelemetry's own environment variables, read once and handed to its exporters as arguments.

The variables and their defaults are those of the OTLP exporter specification; a value it does not know is ignored and
named in a warning. One departs from it: without ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or the signal's own) nothing is sent.
Values of header variables are secrets: no message tells them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from bursar_common.spans import Value

Signal = Literal["traces", "metrics"]
Kind = Literal["http/protobuf", "grpc"]

_HEADER_NAMES: dict[Kind, re.Pattern[str]] = {
    "http/protobuf": re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"),
    "grpc": re.compile(r"[0-9A-Za-z_.-]+"),
}
TIMEOUT_S = 10.0
"""One attempt to send, unless ``OTEL_EXPORTER_OTLP_TIMEOUT`` says otherwise."""


class Destination(NamedTuple):
    """One signal's receiver."""

    signal: Signal
    kind: Kind
    endpoint: str
    """For HTTP the whole address with the signal's path; for gRPC ``host:port``."""
    headers: tuple[tuple[str, str], ...]
    timeout_s: float
    compress: bool
    secure: bool
    certificate: str = ""
    """File of certificates to trust in place of the system's; the next two: the client's own."""
    client_key: str = ""
    client_certificate: str = ""

    def __repr__(self) -> str:
        return f"Destination({self.signal}, {self.kind}, {self.where})"

    @property
    def where(self) -> str:
        """The endpoint without user and password, to be told."""
        if "@" not in self.endpoint:
            return self.endpoint
        scheme, separator, rest = self.endpoint.rpartition("://")
        return scheme + separator + rest.rpartition("@")[2]


def disabled(environ: Mapping[str, str]) -> bool:
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def destination(environ: Mapping[str, str], signal: Signal, ignored: list[str]) -> Destination | None:
    """Where ``signal`` goes; None: nowhere. Names of variables whose values are not understood go to ``ignored``."""
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_"

    def variable(name: str) -> tuple[str, str]:
        """The signal's own variable goes before the general one; which it was, and its value."""
        for full in (own + name, "OTEL_EXPORTER_OTLP_" + name):
            if environ.get(full, "").strip():
                return full, environ[full].strip()
        return "", ""

    endpoint_variable, endpoint = variable("ENDPOINT")
    exporter = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower()
    if not endpoint or disabled(environ) or exporter == "none":
        return None
    if exporter not in ("", "otlp"):
        ignored.append(f"OTEL_{signal.upper()}_EXPORTER")
    name, text = variable("PROTOCOL")
    kind: Kind = "http/protobuf"
    if text.lower() == "grpc":
        kind = "grpc"
    elif text and text.lower() != "http/protobuf":
        ignored.append(name)
    name, text = variable("TIMEOUT")
    timeout_s = TIMEOUT_S
    if text:
        try:
            timeout_s = max(float(text) / 1000, 0.001)
        except ValueError:
            ignored.append(name)
    name, text = variable("COMPRESSION")
    if text.lower() not in ("", "none", "gzip"):
        ignored.append(name)
    headers_variable, headers_text = variable("HEADERS")
    headers, understood = read_pairs(headers_text)
    allowed = {name.lower(): value for name, value in headers.items() if _HEADER_NAMES[kind].fullmatch(name)}
    if not understood or len(allowed) < len(headers):
        ignored.append(headers_variable)
    parts = urlsplit(endpoint)
    secure = parts.scheme == "https"
    if kind == "grpc":
        if parts.scheme in ("http", "https"):
            endpoint = parts.netloc
        else:
            secure = variable("INSECURE")[1].lower() != "true"
    elif parts.scheme not in ("http", "https"):
        ignored.append(endpoint_variable)
        return None
    elif endpoint_variable != own + "ENDPOINT":
        endpoint = f"{endpoint.rstrip('/')}/v1/{signal}"
    return Destination(
        signal=signal,
        kind=kind,
        endpoint=endpoint,
        headers=tuple(allowed.items()),
        timeout_s=timeout_s,
        compress=text.lower() == "gzip",
        secure=secure,
        certificate=variable("CERTIFICATE")[1],
        client_key=variable("CLIENT_KEY")[1],
        client_certificate=variable("CLIENT_CERTIFICATE")[1],
    )


def read_pairs(text: str) -> tuple[dict[str, str], bool]:
    """``name=value,name=value`` with values percent-encoded (plain ones are taken too); False: some part was not such
    a pair, or holds what no header may, and was left out."""
    pairs: dict[str, str] = {}
    understood = True
    for part in text.split(","):
        name, equals, value = part.partition("=")
        name, value = unquote(name).strip(), unquote(value).strip()
        if not part.strip():
            continue
        if not equals or not name or not (name.isascii() and name.isprintable()) or not value.isprintable():
            understood = False
            continue
        pairs[name] = value
    return pairs, understood


def resource_attributes(
    environ: Mapping[str, str], service: str, version: str, instance: str, ignored: list[str]
) -> dict[str, Value]:
    """What says whose telemetry it is: our own description, then ``OTEL_RESOURCE_ATTRIBUTES``, then
    ``OTEL_SERVICE_NAME``. ``bursar.service`` always tells the parts apart."""
    given, understood = read_pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if not understood:
        ignored.append("OTEL_RESOURCE_ATTRIBUTES")
    found: dict[str, Value] = {
        "service.namespace": "bursar",
        "service.name": f"bursar-{service}",
        "service.version": version,
        "service.instance.id": instance,
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "bursar",
        "telemetry.sdk.version": version,
        **given,
        "bursar.service": service,
    }
    if name := environ.get("OTEL_SERVICE_NAME", "").strip():
        found["service.name"] = name
    return found


def number_of(environ: Mapping[str, str], name: str, default: float, ignored: list[str]) -> float:
    """A positive number from a variable."""
    text = environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        ignored.append(name)
        return default
    return value
