"""What tests start for real: Kafka, Redis and Valkey servers, the services as processes, the whole cluster shape."""

from tests.harness.kafka_server import KafkaServer
from tests.harness.processes import Process, ServiceProcess, free_port
from tests.harness.redis_server import RedisServer
from tests.harness.require import require
from tests.harness.waiting import clear_of_midnight, eventually

__all__ = [
    "KafkaServer",
    "Process",
    "RedisServer",
    "ServiceProcess",
    "clear_of_midnight",
    "eventually",
    "free_port",
    "require",
]
