"""Kafka's topics: look at them, and make them right. The rules are in :mod:`bursar_common.topic_rules`.

The SQLite log needs none of this: it has no settings, and topics come into being when first appended to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from bursar_common.eventlog.kafka_connection import client_options, kafka_errors
from bursar_common.eventlog.port import LogUnavailable
from bursar_common.settings import Settings, SettingsError
from bursar_common.topic_rules import (
    APPLY,
    REPLICAS,
    FoundTopic,
    Problem,
    TopicSpec,
    changes_for,
    problems_of,
    topic_specs,
)

__all__ = ["Problem", "apply_topics", "check_topics", "refuse_wrong_topics"]

ADMIN_TIMEOUT_S = 60.0
"""Bound of a whole check or apply: creating twelve topics on a cold three-broker cluster takes a few seconds."""
_OVERRIDDEN_HERE = 1
"""Kafka's source of a setting that was set on the topic itself (DYNAMIC_TOPIC_CONFIG)."""
_ALREADY_EXISTS = 36


async def check_topics(settings: Settings) -> list[Problem]:
    """What is wrong with the topics; empty if nothing is, or if the log is SQLite. Raises LogUnavailable."""
    if not settings.kafka_bootstrap:
        return []
    async with _admin(settings) as admin:
        specs = topic_specs(settings.usage_retention_days, settings.content_topic_days)
        found = await _find(admin, [spec.name for spec in specs])
        return _judge(specs, found, settings.single_broker)


async def refuse_wrong_topics(settings: Settings) -> None:
    """What a service does at start. Raises SettingsError (naming every problem and its fix), LogUnavailable."""
    problems = await check_topics(settings)
    if problems:
        raise SettingsError("The event log's topics are not as they must be. " + "; ".join(map(str, problems)) + ".")


async def apply_topics(settings: Settings) -> list[str]:
    """Create what is missing and put right what settings can; returns a line for each thing done. Repeatable; what an
    operator set stricter, or beyond what Bursar asks for, stays. Afterwards ``check_topics`` names what is left.

    Raises LogUnavailable, also when Kafka refuses (its reason in the message)."""
    if not settings.kafka_bootstrap:
        return []
    done: list[str] = []
    async with _admin(settings) as admin:
        specs = topic_specs(settings.usage_retention_days, settings.content_topic_days)
        found = await _find(admin, [spec.name for spec in specs])
        missing = [spec for spec in specs if spec.name not in found]
        if missing:
            await _create(admin, missing, settings.single_broker)
            done += [f"{spec.name}: created with {_plural(spec.partitions)}" for spec in missing]
        for spec in specs:
            topic = found.get(spec.name)
            if topic is None:
                continue
            if spec.partitions > 1 and topic.partitions < spec.partitions:
                answer = await admin.create_partitions({spec.name: NewPartitions(spec.partitions)})
                _raise_first(answer.topic_errors)
                done.append(f"{spec.name}: {_plural(spec.partitions)} instead of {topic.partitions}")
            changes = changes_for(problems_of(spec, topic, single_broker=settings.single_broker))
            if changes:
                await _change(admin, spec.name, changes)
                done += [f"{spec.name}: {name}={value}" for name, value in changes.items()]
        await _until_seen(admin, specs, settings.single_broker)
    return done


def _judge(specs: Iterable[TopicSpec], found: Mapping[str, FoundTopic], single_broker: bool) -> list[Problem]:
    return [
        problem
        for spec in specs
        for problem in problems_of(spec, found.get(spec.name), single_broker=single_broker)
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    with kafka_errors(f"looking after the topics on {settings.kafka_bootstrap}"):
        async with asyncio.timeout(ADMIN_TIMEOUT_S):
            admin = AIOKafkaAdminClient(**client_options(settings))
            try:
                await admin.start()
                yield admin
            finally:
                await admin.close()


async def _find(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, FoundTopic]:
    # All topics are asked for, not these: naming one makes a careless cluster create it.
    described = [topic for topic in await admin.describe_topics() if topic["topic"] in names]
    configs = await _configs(admin, [topic["topic"] for topic in described])
    found = {}
    for topic in described:
        name, partitions = topic["topic"], topic["partitions"]
        if not partitions:
            continue  # being created or deleted just now
        config = {entry: value for entry, (value, _) in configs[name].items()}
        replicas = min(len(partition["replicas"]) for partition in partitions)
        found[name] = FoundTopic(len(partitions), replicas, config)
    return found


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, tuple[str, bool]]]:
    """Of each topic: setting -> (value, set on the topic itself)."""
    if not names:
        return {}
    configs: dict[str, dict[str, tuple[str, bool]]] = {}
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names]):
        for code, message, _type, name, entries in answer.resources:
            _raise_error(code, name, message)
            configs[name] = {entry[0]: (entry[1], entry[3] == _OVERRIDDEN_HERE) for entry in entries}
    return configs


async def _create(admin: AIOKafkaAdminClient, specs: list[TopicSpec], single_broker: bool) -> None:
    replicas = 1 if single_broker else REPLICAS
    topics = [
        NewTopic(spec.name, spec.partitions, replicas, topic_configs=spec.config(single_broker)) for spec in specs
    ]
    answer = await admin.create_topics(topics, timeout_ms=int(ADMIN_TIMEOUT_S * 1000))
    _raise_first([error for error in answer.topic_errors if error[1] != _ALREADY_EXISTS])


async def _change(admin: AIOKafkaAdminClient, name: str, changes: Mapping[str, str]) -> None:
    """Kafka's AlterConfigs replaces everything set on the topic, so what was there is sent along."""
    current = (await _configs(admin, [name]))[name]
    config = {entry: value for entry, (value, here) in current.items() if here} | dict(changes)
    for answer in await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, config)]):
        for code, message, _type, resource in answer.resources:
            _raise_error(code, resource, message)


async def _until_seen(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec], single_broker: bool) -> None:
    """Wait until the broker that answers us shows what was done (the controller tells the brokers a moment later).
    Bounded by ADMIN_TIMEOUT_S."""
    names = [spec.name for spec in specs]
    while True:
        problems = _judge(specs, await _find(admin, names), single_broker)
        if not any(problem.changes or problem.fix == APPLY for problem in problems):
            return
        await asyncio.sleep(0.05)


def _raise_first(errors: Iterable[Any]) -> None:
    for topic, code, *message in errors:
        _raise_error(code, topic, message[0] if message else None)


def _raise_error(code: int, name: str, message: str | None) -> None:
    if code:
        raise LogUnavailable(f"Kafka refused a change of {name}: {message or for_code(code).__name__}")


def _plural(partitions: int) -> str:
    return f"{partitions} partition" if partitions == 1 else f"{partitions} partitions"
