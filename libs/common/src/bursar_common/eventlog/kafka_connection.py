"""How to reach Kafka: the options every client takes, and what its errors mean to the port."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import ConsumerStoppedError, KafkaError, UnknownTopicOrPartitionError

from bursar_common.eventlog.port import LogUnavailable
from bursar_common.settings import Settings, SettingsError

REQUEST_TIMEOUT_MS = 10_000
"""How long one request to a broker may take, and how long a batch may wait to be acknowledged. Longer than electing a
new leader (about 5 s), shorter than the 15 s a caller waits before it tells its client."""
CALL_TIMEOUT_S = 15.0
"""How long one call of the port may take in all, retries inside the client included."""
CANCELLED_S = 1.0
"""How long a client whose closing was cancelled gets to notice it."""


def client_options(settings: Settings) -> dict[str, Any]:
    """Arguments shared by producer, consumers and admin client. Raises SettingsError (an unreadable CA file)."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap,
        "security_protocol": settings.kafka_security_protocol,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        try:
            options["ssl_context"] = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:
            raise SettingsError(f"BURSAR_CA_FILE: cannot read {settings.ca_file}: {error.strerror}.") from None
    if settings.kafka_security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism or "PLAIN"
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return options


@contextlib.contextmanager
def kafka_errors(doing: str) -> Iterator[None]:
    """Turn what the client raises into LogUnavailable, saying what was being done."""
    try:
        yield
    except UnknownTopicOrPartitionError as error:
        raise LogUnavailable(f"{doing}: the topic does not exist; create it with `bursar topics apply`") from error
    except (TimeoutError, KafkaError, ConsumerStoppedError, OSError) as error:
        raise LogUnavailable(f"{doing}: {str(error) or type(error).__name__}") from error


async def stop_client(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Close a client that may be broken; bounded, because closing flushes and the broker may be gone.

    In a task of its own: with the broker away, aiokafka's closing awaits a task it has just cancelled, and raises that
    task's CancelledError, which must not pass for a cancellation of the caller. The caller's own goes through."""
    stopping = asyncio.ensure_future(client.stop())
    try:
        await asyncio.wait({stopping}, timeout=CALL_TIMEOUT_S)
    finally:
        stopping.cancel()
    await asyncio.wait({stopping}, timeout=CANCELLED_S)
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        return
    # It broke off before it came to its sender and its connections, which would try for ever.
    if isinstance(client, AIOKafkaProducer):
        if client._sender is not None and client._sender.sender_task is not None:
            client._sender.sender_task.cancel()
        client._message_accumulator.fail_all(LogUnavailable("the log was closed before Kafka took this"))
    connections = client.client if isinstance(client, AIOKafkaProducer) else client._client
    with contextlib.suppress(Exception):
        await connections.close()
