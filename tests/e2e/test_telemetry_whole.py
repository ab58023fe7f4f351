"""A whole Bursar at log level debug, exporting to an OTLP receiver: what its services write about good, bad, refused
and cut requests, and one trace of a request through edge, enforcer and provider call."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from bursar_common.keys import new_key_value
from tests.harness import eventually
from tests.harness.gateway import Gateway
from tests.harness.one_machine import OneMachine
from tests.harness.otlp_receiver import GotSpan, OtlpReceiver, values
from tests.harness.processes import free_port
from tests.harness.simulated_cluster import SimulatedCluster

pytestmark = pytest.mark.timeout(400)

PROMPT, ANSWER, ERROR = "marker-of-the-prompt-7391", "marker-of-the-answer-7392", "marker-of-an-error-7393"
RECEIVER_SECRET, STRANGER = "marker-of-the-receiver-7394", "sk-bf-" + "7395" * 16
MODEL = "claude-sonnet-4-6"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

OF_A_REQUEST = {
    "admin_unreachable",
    "analytics_refused",
    "analytics_refused_because",
    "analytics_unreachable",
    "enforcer_called_it_invalid",
    "ledger_unreachable",
    "operation_failed",
    "record_failed",
    "refused_unowned",
    "request_failed",
    "served_model_has_no_price",
    "upstream_cut",
    "upstream_died",
    "upstream_silent",
    "upstream_unreachable",
    "usage_reader_failed",
}
"""Events of lines that are about one request, whatever service writes them."""
SCRIPTS_OF_A_REQUEST = ("admit", "renew", "close")


def settings(receiver_port: int) -> dict[str, str]:
    return {
        "BURSAR_LOG_LEVEL": "debug",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver_port}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-api-token={RECEIVER_SECRET}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    }


class Stack:
    """One shape, with where its services write their lines."""

    def __init__(self, shape: Any, logs: dict[str, Path], secrets: list[str], receiver_port: int) -> None:
        self.shape = shape
        self.logs = logs
        self.secrets = secrets
        self.receiver_port = receiver_port


@pytest.fixture(scope="module", params=["one_machine", pytest.param("cluster", marks=pytest.mark.kafka)])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    port = free_port()
    folder = tmp_path_factory.mktemp("telemetry")
    names = ("edge", "enforcer", "aggregator", "admin")
    if request.param == "one_machine":
        with OneMachine(folder, **settings(port)) as machine:
            home = machine.home
            kept = [(home / name).read_text().strip() for name in ("internal-token", "key-secret")]
            yield Stack(machine, {name: home / "logs" / f"{name}.log" for name in names}, kept, port)
    else:
        with SimulatedCluster(folder, overrides=settings(port)) as cluster:
            kept = [cluster.variables[f"BURSAR_{name}"] for name in ("INTERNAL_TOKEN", "KEY_SECRET", "ADMIN_TOKEN")]
            yield Stack(cluster, {name: cluster.services[name].log_path for name in names}, kept, port)


@pytest.fixture
async def receiver(stack: Stack) -> Any:
    made = OtlpReceiver()
    await made.start(stack.receiver_port)
    yield made
    await made.stop()


def lines_of(stack: Stack) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, path in stack.logs.items():
        whole, _, _ = path.read_text().rpartition("\n")  # not the line that is being written
        for line in whole.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                raise AssertionError(f"{name} wrote a line that is not JSON: {line[:300]}") from None
            assert isinstance(record, dict), line
            found.append((name, record))
    return found


async def cut_stream(gateway: Gateway, key: str) -> None:
    """Leave in the middle of an answer."""
    sent = {"x-api-key": key, "x-sim-pace-ms": "300", "x-sim-events": "50", "x-sim-text": ANSWER}
    body = {"model": MODEL, "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    async with ClientSession() as session:
        async with session.post(gateway.url + "/v1/messages", json=body, headers=sent) as answer:
            assert answer.status == 200
            await answer.content.readany()


def raw(gateway: Gateway, data: bytes) -> bytes:
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(data)
        return connection.recv(65536)


async def traffic(gateway: Gateway, key: str, poor: str) -> list[str]:
    """Requests of every kind; ids of those that were answered."""
    answers = [
        await gateway.message(key, prompt=PROMPT, sim={"text": ANSWER}),
        await gateway.message(key, prompt=PROMPT, stream=True, sim={"text": ANSWER}),
        await gateway.message(key, prompt=PROMPT, sim={"status": 500, "error-message": ERROR}),
        await gateway.message(key, prompt=PROMPT, sim={"usage": "garbage", "text": ANSWER}),
        await gateway.message(key, prompt=PROMPT, sim={"drop": "before-head"}),
        await gateway.message(key, prompt=PROMPT, stream=True, sim={"drop": "mid-event:3", "text": ANSWER}),
        await gateway.message(key, prompt=PROMPT, model="claude-nonsense-" + "9" * 300),
        await gateway.message(poor, prompt=PROMPT, max_tokens=64_000, model="claude-opus-4-8"),
        await gateway.message(STRANGER, prompt=PROMPT),
        await gateway.message("", prompt=PROMPT, headers={"authorization": "", "x-api-key": ""}),
        await gateway.message(key, body=f"{PROMPT} is no JSON".encode()),
        await gateway.message(key, body=json.dumps({"model": MODEL, "max_tokens": PROMPT}).encode()),
        await gateway.message(key, prompt=PROMPT, headers={"content-type": f"text/{PROMPT}"}),
    ]
    expected = [200, 200, 500, 200, 502, 200, 400, 402, 401, 401, 400, 400, 415]
    assert [each.status for each in answers] == expected
    await cut_stream(gateway, key)
    raw(gateway, f"POST /v1/messages HTTP/1.1\r\nx-api-key {key}\r\n{PROMPT}\r\n\r\n".encode())
    raw(gateway, f"NONSENSE {PROMPT}\r\nauthorization: {key}\r\n\r\n".encode())
    async with ClientSession(headers=gateway.admin_headers) as session:
        for method, path, body in (
            ("POST", "/api/governance/teams", f'{{"name": "{PROMPT}", "nonsense": "{key}"}}'),
            ("POST", "/api/governance/teams", f"{PROMPT} is no JSON"),
            ("GET", f"/api/logs?text={PROMPT}&limit=5", None),
            ("GET", f"/api/logs?nonsense={PROMPT}", None),
            ("GET", f"/api/logs?cursor={PROMPT}", None),
        ):
            headers = {"content-type": "application/json"} if body else {}
            async with session.request(method, gateway.admin_url + path, data=body, headers=headers) as answer:
                await answer.read()
    return [each.headers["x-bursar-request-id"] for each in answers if "x-bursar-request-id" in each.headers]


async def test_lines_are_json_name_their_request_and_tell_no_secret_and_no_content(
    stack: Stack, receiver: OtlpReceiver
) -> None:
    async with stack.shape.gateway() as gateway:
        key = await gateway.create_key("loud", budget={"max_limit": 100, "reset_duration": "1M"})
        poor = await gateway.create_key("poor", budget={"max_limit": 0.001, "reset_duration": "1M"})
        brought = new_key_value()
        await gateway.api("POST", "/api/governance/virtual-keys", {"name": "brought", "value": brought})
        answered = await traffic(gateway, key.value, poor.value)
        stack.shape.provider.kill9()
        unreachable = await gateway.message(key.value, prompt=PROMPT)
        assert unreachable.status == 502
        await stack.shape.provider.start_ready()
        answered.append(unreachable.headers["x-bursar-request-id"])
        await gateway.usage_rows(key.id, at_least=8)

    def written() -> bool:
        events = {record["event"] for _, record in lines_of(stack)}
        return {"refused_unowned", "upstream_died", "upstream_cut", "upstream_unreachable"} <= events

    await eventually(written)
    lines = lines_of(stack)
    assert {name for name, _ in lines} == set(stack.logs)
    for name, record in lines:
        assert {"event", "level", "service", "timestamp"} <= set(record), (name, record)
    services = {name: {record["service"] for each, record in lines if each == name} for name in stack.logs}
    assert all(len(found) == 1 for found in services.values()), services
    assert len(set.union(*services.values())) == len(services)
    about = [record for _, record in lines if record["event"] in OF_A_REQUEST]
    assert {"refused_unowned", "upstream_died", "upstream_cut", "upstream_unreachable"} <= {r["event"] for r in about}
    for record in about:
        assert len(record.get("request_id", "")) == 36, record
    assert {record["request_id"] for record in about} & set(answered)
    scripts = [record for _, record in lines if record["event"] == "script_reply"]
    of_requests = [record for record in scripts if record["script"] in SCRIPTS_OF_A_REQUEST]
    assert of_requests
    assert all(len(record.get("request_id", "")) == 36 for record in of_requests)
    assert {record["request_id"] for record in of_requests} >= {answered[0], answered[1]}
    markers = [PROMPT, ANSWER, ERROR, RECEIVER_SECRET, STRANGER, key.value, poor.value, brought]
    markers += ["sk-ant-test-credential", *stack.secrets]
    for name, path in stack.logs.items():
        text = path.read_text()
        assert not [marker for marker in markers if marker in text], f"{name} tells a secret or content"


async def test_one_trace_goes_through_edge_enforcer_and_provider_call(stack: Stack, receiver: OtlpReceiver) -> None:
    async with stack.shape.gateway() as gateway:
        team = await gateway.create_team("traced team")
        key = await gateway.create_key("traced", team_id=team["id"])
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-claude-code-session-id": "session-7"}
        answer = await gateway.message(key.value, stream=True, headers=headers)
        assert answer.status == 200
        (row,) = await gateway.usage_rows(key.id, at_least=1)
        served = await gateway.provider.served()

    def mine() -> list[GotSpan]:
        return [each for each in receiver.spans if each.trace_id == TRACE]

    await receiver.until(lambda: len(mine()) >= 4, 120)
    assert len(mine()) == 4
    by = {(each.service, each.name): each for each in mine()}
    request, asked = by["edge-proxy", "POST /v1/messages"], by["edge-proxy", "admit"]
    decided, call = by["budget-enforcer", "admit"], by["edge-proxy", f"chat {MODEL}"]
    assert request.parent_id == CALLER
    assert asked.parent_id == call.parent_id == request.span_id
    assert decided.parent_id == asked.span_id
    assert asked.start_ns <= decided.start_ns <= decided.end_ns <= asked.end_ns <= call.start_ns
    assert decided.attributes["bursar.admission"] == "admitted"
    assert {each.attributes["bursar.request_id"] for each in (request, decided, call)} == {row["request_id"]}
    assert request.attributes["bursar.key"] == "traced"
    assert request.attributes["bursar.team"] == "traced team"
    assert request.attributes["bursar.cost_nusd"] == row["cost_nusd"] > 0
    assert request.attributes["gen_ai.conversation.id"] == "session-7"
    assert call.attributes["gen_ai.usage.output_tokens"] == row["output_tokens"]
    assert call.attributes["bursar.upstream_request_id"] == row["upstream_request_id"] == served[-1]["request_id"]


async def test_every_service_pushes_its_metrics(stack: Stack, receiver: OtlpReceiver) -> None:
    def services() -> set[str]:
        return {
            str(values(each.resource.attributes)["bursar.service"])
            for request in receiver.metrics
            for each in request.resource_metrics
        }

    expected = {"edge-proxy", "budget-enforcer", "usage-aggregator", "admin-api"}
    await receiver.until(lambda: services() >= expected, 120)
    assert services() == expected
    names = {
        metric.name
        for request in receiver.metrics
        for each in request.resource_metrics
        for scope in each.scope_metrics
        for metric in scope.metrics
    }
    assert {"bursar_ready", "process_cpu_seconds_total", "bursar_edge_requests_total"} <= names


async def test_a_receiver_that_goes_away_is_not_felt(stack: Stack) -> None:
    async with stack.shape.gateway() as gateway:
        key = await gateway.create_key("unseen")
        for _ in range(5):
            assert (await gateway.message(key.value)).status == 200
        await gateway.usage_rows(key.id, at_least=5)

    async def told() -> bool:
        return any(record["event"] == "telemetry_not_delivered" for name, record in lines_of(stack) if name == "edge")

    await eventually(told, 120)
