"""The event log on Kafka.

Appending: one idempotent producer, ``acks=all``, no compression (the CPU of the edge is dearer than the broker's disk,
and brokers can compress a topic themselves). A key's partition is Kafka's default: murmur2 of its UTF-8 bytes. Reading:
one consumer a topic, see :mod:`bursar_common.eventlog.kafka_reader`. Positions: Kafka's own group offsets, without
joining the group. Topics are never created here, see :mod:`bursar_common.topics`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import UnknownTopicOrPartitionError

from bursar_common.eventlog.kafka_connection import CALL_TIMEOUT_S, client_options, kafka_errors, stop_client
from bursar_common.eventlog.kafka_reader import TopicReader
from bursar_common.eventlog.port import (
    MAX_RECORD_BYTES,
    LogPosition,
    LogRecord,
    LogUnavailable,
    NewRecord,
    OffsetLost,
    RecordTooLarge,
    record_bytes,
)
from bursar_common.settings import Settings
from bursar_common.topic_rules import FRAMING_BYTES

BATCH_BYTES = 256 << 10
"""What the producer sends to a partition at once; about a hundred usage events."""
MAX_IN_FLIGHT_RECORDS = 20_000
"""Records appended but not acknowledged. When Kafka stands still, callers are told instead of filling the memory."""


class KafkaEventLog:
    """EventLog on the cluster that the settings name. To be used from one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._options = client_options(settings)
        self._bootstrap = settings.kafka_bootstrap
        self._producer: AIOKafkaProducer | None = None
        self._asker: AIOKafkaConsumer | None = None
        self._readers: dict[str, TopicReader] = {}
        self._groups: dict[tuple[str, str], AIOKafkaConsumer] = {}
        self._opening = asyncio.Lock()
        self._in_flight = 0
        self._closed = False

    async def start(self) -> None:
        """Connect. Raises LogUnavailable. Idempotent."""
        await self._connected()

    async def append(self, records: Sequence[NewRecord]) -> list[LogPosition]:
        for record in records:
            size = record_bytes(record)
            if size > MAX_RECORD_BYTES:
                raise RecordTooLarge(f"a record of {size} bytes; the log takes up to {MAX_RECORD_BYTES}")
        if not records:
            return []
        if self._in_flight and self._in_flight + len(records) > MAX_IN_FLIGHT_RECORDS:
            raise LogUnavailable(f"Kafka is not keeping up: {self._in_flight} records are not acknowledged")
        producer = await self._connected()
        self._in_flight += len(records)
        pending: list[asyncio.Future[Any]] = []
        try:
            with kafka_errors("appending"):
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    for record in records:
                        headers = list(record.headers)
                        pending.append(
                            await producer.send(record.topic, record.value, key=record.key.encode(), headers=headers)
                        )
                    done = [await future for future in pending]
        except LogUnavailable as error:
            for future in pending:
                future.add_done_callback(_retrieve)
            if not isinstance(error.__cause__, UnknownTopicOrPartitionError):
                # A producer that lost a batch may refuse all later ones (its sequence has a hole): the next call makes
                # a new one. Other callers' batches on this one end for themselves.
                await self._forget(producer)
            raise
        finally:
            self._in_flight -= len(records)
        return [LogPosition(metadata.topic, metadata.partition, metadata.offset) for metadata in done]

    async def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_records: int = 500,
        max_bytes: int = 4 << 20,
        wait_s: float = 0.0,
    ) -> list[LogRecord]:
        reader = await self._reader(topic, partition)
        return await reader.read(partition, offset, max_records, max_bytes, wait_s)

    async def partitions(self, topic: str) -> int:
        producer = await self._connected()
        with kafka_errors(f"asking for the partitions of {topic}"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return len(await producer.partitions_for(topic))

    async def end_offset(self, topic: str, partition: int) -> int:
        return await (await self._reader(topic, partition)).end_offset(partition)

    async def begin_offset(self, topic: str, partition: int) -> int:
        return await (await self._reader(topic, partition)).begin_offset(partition)

    async def committed(self, group: str, topic: str, partition: int) -> int | None:
        consumer = await self._group(group, topic)
        with kafka_errors(f"asking where {group} continues"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                offset: int | None = await consumer.committed(TopicPartition(topic, partition))
                return offset

    async def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        consumer = await self._group(group, topic)
        with kafka_errors(f"remembering where {group} continues"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await consumer.commit({TopicPartition(topic, partition): offset})

    async def close(self) -> None:
        self._closed = True
        producer, self._producer = self._producer, None
        readers, self._readers = self._readers, {}
        groups, self._groups = self._groups, {}
        asker, self._asker = self._asker, None
        clients = [producer, *(reader.consumer for reader in readers.values()), *groups.values(), asker]
        # At once: each may take its whole time when the broker is away.
        await asyncio.gather(*(stop_client(client) for client in clients if client is not None))

    # ---- connections

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        async with self._opening:
            if self._closed:
                raise LogUnavailable("the log is closed")
            if self._producer is None:
                self._producer = await self._open(
                    AIOKafkaProducer(
                        enable_idempotence=True,
                        acks="all",
                        max_batch_size=BATCH_BYTES,
                        max_request_size=MAX_RECORD_BYTES + FRAMING_BYTES,
                        **self._options,
                    )
                )
            return self._producer

    async def _reader(self, topic: str, partition: int) -> TopicReader:
        reader = self._readers.get(topic)
        if reader is None:
            partitions = await self.partitions(topic)
            async with self._opening:
                reader = self._readers.get(topic)
                if reader is None:
                    if self._asker is None:
                        self._asker = await self._open(AIOKafkaConsumer(enable_auto_commit=False, **self._options))
                    reader = TopicReader(topic, self._options, self._asker)
                    with kafka_errors(f"connecting to {self._bootstrap}"):
                        try:
                            async with asyncio.timeout(CALL_TIMEOUT_S):
                                await reader.start(partitions)
                        except BaseException:
                            await stop_client(reader.consumer)
                            raise
                    self._readers[topic] = reader
        if not 0 <= partition < reader.partitions:
            raise OffsetLost(f"{topic} has {reader.partitions} partitions, and number {partition} was asked for")
        return reader

    async def _group(self, group: str, topic: str) -> AIOKafkaConsumer:
        """A consumer that only knows the group's offsets of the topic: it never joins the group and fetches nothing."""
        consumer = self._groups.get((group, topic))
        if consumer is not None:
            return consumer
        partitions = await self.partitions(topic)
        async with self._opening:
            consumer = self._groups.get((group, topic))
            if consumer is None:
                consumer = await self._open(
                    AIOKafkaConsumer(
                        group_id=group, enable_auto_commit=False, auto_offset_reset="none", **self._options
                    )
                )
                assigned = [TopicPartition(topic, number) for number in range(partitions)]
                consumer.assign(assigned)
                for partition in assigned:
                    consumer.seek(partition, 0)
                    consumer.pause(partition)
                self._groups[group, topic] = consumer
            return consumer

    async def _open(self, client: Any) -> Any:
        with kafka_errors(f"connecting to {self._bootstrap}"):
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await client.start()
            except BaseException:
                await stop_client(client)
                raise
        return client

    async def _forget(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
            await stop_client(producer)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Nobody waits for this delivery any more: its error was the same call's, and is not to be logged again."""
    if not future.cancelled():
        future.exception()
