"""Faust's consumer, made to stop while Kafka is away.

Faust reads in a thread of its own and closes its aiokafka consumer there. With the broker away that closing raises
CancelledError (see ``stop_client``): the thread dies without having said that it ended, and the stopping application
waits a minute for it. Read in faust-streaming 0.15.3, ``faust/transport/drivers/aiokafka.py`` and ``mode/threads.py``.
"""

from __future__ import annotations

from typing import Any

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

from bursar_common.eventlog.kafka_connection import stop_client


class _ConsumerThread(AIOKafkaConsumerThread):
    async def on_thread_stop(self) -> None:
        # What the parent does, but for the last step. Its own parent ends the queue of calls first.
        await super(AIOKafkaConsumerThread, self).on_thread_stop()
        if self._consumer is not None:
            await stop_client(self._consumer)


class _Consumer(Consumer):
    def _new_consumer_thread(self) -> Any:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


def stop_without_kafka(app: faust.App) -> None:
    """Have ``app`` read through a consumer that ends within ``CALL_TIMEOUT_S`` also while no broker answers."""
    transport: Any = app.transport
    transport.Consumer = _Consumer
