"""OpenTelemetry's environment variables, and that no secret of theirs is told."""

from __future__ import annotations

import pytest

from bursar_common.otlp import destination, number_of, read_pairs, resource_attributes

SECRET = "s3cr3t-of-the-receiver"


def of(signal="traces", **environ):
    ignored: list[str] = []
    return destination({f"OTEL_{name}": value for name, value in environ.items()}, signal, ignored), ignored


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"EXPORTER_OTLP_ENDPOINT": " "},
        {"EXPORTER_OTLP_ENDPOINT": "http://c:4318", "SDK_DISABLED": "true"},
        {"EXPORTER_OTLP_ENDPOINT": "http://c:4318", "TRACES_EXPORTER": "none"},
        {"EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/v1/metrics"},
    ],
)
def test_off(environ):
    assert of(**environ) == (None, [])


def test_http_is_the_default_and_gets_the_signals_path():
    to, ignored = of(EXPORTER_OTLP_ENDPOINT="https://collector.example:4318/base/")
    assert (to.kind, to.endpoint, to.secure) == (
        "http/protobuf", "https://collector.example:4318/base/v1/traces", True,
    )  # fmt: skip
    assert (to.timeout_s, to.compress, to.headers, ignored) == (10.0, False, (), [])
    assert of("metrics", EXPORTER_OTLP_ENDPOINT="http://c:4318")[0].endpoint == "http://c:4318/v1/metrics"


def test_a_signals_own_variables_go_first_and_its_address_is_used_as_it_is():
    to, _ = of(
        EXPORTER_OTLP_ENDPOINT="http://general:4318",
        EXPORTER_OTLP_TRACES_ENDPOINT="https://traces.example/in",
        EXPORTER_OTLP_HEADERS="a=general",
        EXPORTER_OTLP_TRACES_HEADERS="a=own",
        EXPORTER_OTLP_TIMEOUT="2500",
        EXPORTER_OTLP_COMPRESSION="gzip",
        EXPORTER_OTLP_CERTIFICATE="/ca.pem",
    )
    assert to.endpoint == "https://traces.example/in"
    assert to.headers == (("a", "own"),)
    assert (to.timeout_s, to.compress, to.certificate) == (2.5, True, "/ca.pem")


@pytest.mark.parametrize(
    ("environ", "endpoint", "secure"),
    [
        ({"ENDPOINT": "http://c:4317"}, "c:4317", False),
        ({"ENDPOINT": "https://c:4317"}, "c:4317", True),
        ({"ENDPOINT": "c:4317"}, "c:4317", True),
        ({"ENDPOINT": "c:4317", "INSECURE": "true"}, "c:4317", False),
    ],
)
def test_grpc(environ, endpoint, secure):
    to, ignored = of(**{f"EXPORTER_OTLP_{name}": value for name, value in environ.items()},
                     EXPORTER_OTLP_PROTOCOL="grpc")  # fmt: skip
    assert (to.kind, to.endpoint, to.secure, ignored) == ("grpc", endpoint, secure, [])


def test_what_is_not_understood_is_named_and_ignored():
    to, ignored = of(
        EXPORTER_OTLP_ENDPOINT="http://c:4318",
        EXPORTER_OTLP_PROTOCOL="http/json",
        EXPORTER_OTLP_TIMEOUT="soon",
        EXPORTER_OTLP_COMPRESSION="zip",
        EXPORTER_OTLP_HEADERS=f"{SECRET}",
        TRACES_EXPORTER="zipkin",
    )
    assert to.kind == "http/protobuf"
    assert (to.timeout_s, to.compress, to.headers) == (10.0, False, ())
    assert ignored == [
        "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "OTEL_EXPORTER_OTLP_HEADERS",
    ]
    assert of(EXPORTER_OTLP_ENDPOINT="collector:4318") == (None, ["OTEL_EXPORTER_OTLP_ENDPOINT"])


def test_headers_may_be_percent_encoded_or_plain():
    assert read_pairs("authorization=Basic%20YTpi,x-key=a=b, team = core ,") == (
        {"authorization": "Basic YTpi", "x-key": "a=b", "team": "core"},
        True,
    )
    assert read_pairs("Authorization=Bearer abc") == ({"Authorization": "Bearer abc"}, True)
    assert read_pairs("no-value,a=1") == ({"a": "1"}, False)
    assert read_pairs("a=1%0d%0ax: y") == ({}, False)


def test_no_secret_is_told():
    to, _ = of(
        EXPORTER_OTLP_ENDPOINT=f"https://user:{SECRET}@c.example:4318", EXPORTER_OTLP_HEADERS=f"api-key={SECRET}"
    )
    assert to.headers == (("api-key", SECRET),)
    assert SECRET not in f"{to} {to!r} {to.where}"
    assert to.where == "https://c.example:4318/v1/traces"


def test_the_resource_is_ours_then_theirs_and_always_tells_the_services_apart():
    ignored: list[str] = []
    environ = {
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=prod,service.name=x,bursar.service=y,bad",
        "OTEL_SERVICE_NAME": "gateway",
    }
    found = resource_attributes(environ, "edge-proxy", "1.2", "i", ignored)
    assert found["deployment.environment.name"] == "prod"
    assert found["service.name"] == "gateway"
    assert found["bursar.service"] == "edge-proxy"
    assert found["service.namespace"] == "bursar"
    assert ignored == ["OTEL_RESOURCE_ATTRIBUTES"]
    assert resource_attributes({}, "edge-proxy", "1.2", "i", ignored)["service.name"] == "bursar-edge-proxy"


@pytest.mark.parametrize(("text", "value"), [("", 7), ("12", 12), ("0", 7), ("-1", 7), ("x", 7), ("inf", 7)])
def test_numbers(text, value):
    ignored: list[str] = []
    assert number_of({"N": text}, "N", 7, ignored) == value
    assert (ignored == ["N"]) is (text not in ("", "12"))
