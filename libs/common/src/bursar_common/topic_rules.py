"""What each topic has to be on Kafka, and what is wrong with one that is not. Pure: compares what was found.

The log is the truth everything else is rebuilt from, so a topic that forgets, or that acknowledges what one broken disk
can lose, is refused at start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bursar_common.eventlog.port import MAX_RECORD_BYTES
from bursar_common.events import (
    ALERTS_TOPIC,
    CONTENT_TOPIC,
    CORRECTIONS_TOPIC,
    GOVERNANCE_TOPIC,
    SNAPSHOTS_TOPIC,
    USAGE_TOPIC,
)

FOR_EVER_MS = -1
DAY_MS = 24 * 3600 * 1000
USAGE_PARTITIONS = 12
"""Divides evenly over 2, 3, 4, 6 and 12 consumers."""
ALERTS_DAYS = 90
CONTENT_DAYS = 7
"""Bodies are the most private thing there is: long enough to write them to where they are kept, and to repair that.
Their dead letters are bodies as well, and wait no longer."""
FORGETTING_SEGMENT_MS = DAY_MS
"""Kafka forgets a segment at a time, once its newest record is old enough: of a topic that must forget, a record stays
this much longer at most. Its default is a week."""
REPLICAS = 3
MIN_IN_SYNC_REPLICAS = 2
"""An acknowledged event is on two brokers: it survives the loss of any one."""
FRAMING_BYTES = 64 << 10
"""What Kafka's framing may add to a record of MAX_RECORD_BYTES."""

APPLY = "bursar topics apply"


@dataclass(frozen=True)
class TopicSpec:
    name: str
    partitions: int
    """Exactly 1 where the events have one order; elsewhere more than this are fine, fewer are not."""
    retention_ms: int
    """Kept at least this long; FOR_EVER_MS: for ever."""
    compacted: bool = False
    why: str = ""
    """What goes wrong when it forgets; of a topic that must forget, when it does not."""
    forgets: bool = False
    """Kept no longer than ``retention_ms``, either."""

    def config(self, single_broker: bool) -> dict[str, str]:
        """Kafka's settings for a new topic."""
        config = {
            "cleanup.policy": "compact" if self.compacted else "delete",
            "max.message.bytes": str(MAX_RECORD_BYTES + FRAMING_BYTES),
            "min.insync.replicas": str(1 if single_broker else MIN_IN_SYNC_REPLICAS),
            "unclean.leader.election.enable": "false",
        }
        if not self.compacted:
            config |= {"retention.ms": str(self.retention_ms), "retention.bytes": "-1"}
        if self.forgets:
            config["segment.ms"] = str(FORGETTING_SEGMENT_MS)
        return config


@dataclass(frozen=True)
class FoundTopic:
    """A topic as the cluster has it."""

    partitions: int
    replicas: int
    """Of the partition that has the fewest."""
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something about a topic that Bursar refuses to run on."""

    topic: str
    wrong: str
    fix: str
    changes: Mapping[str, str] = field(default_factory=dict)
    """The Kafka settings that put it right; empty where settings cannot."""

    def __str__(self) -> str:
        return f"{self.topic}: {self.wrong}. To fix it: {self.fix}"


def topic_specs(usage_retention_days: int, content_days: int = CONTENT_DAYS) -> tuple[TopicSpec, ...]:
    """All topics, each with its dead-letter topic behind it."""
    sources = (
        TopicSpec(GOVERNANCE_TOPIC, 1, FOR_EVER_MS, why="keys, teams and budgets are rebuilt from it"),
        TopicSpec(
            USAGE_TOPIC, USAGE_PARTITIONS, usage_retention_days * DAY_MS, why="spend is rebuilt from it"
        ),
        TopicSpec(CORRECTIONS_TOPIC, 1, FOR_EVER_MS, why="corrected bills are rebuilt from it"),
        TopicSpec(SNAPSHOTS_TOPIC, 1, FOR_EVER_MS, compacted=True, why="only the latest of each counter is wanted"),
        TopicSpec(ALERTS_TOPIC, 1, ALERTS_DAYS * DAY_MS, why="alerts of a quarter are looked up in it"),
        TopicSpec(
            CONTENT_TOPIC, USAGE_PARTITIONS, content_days * DAY_MS, why="prompts wait in it to be written", forgets=True
        ),
    )  # fmt: skip
    specs: list[TopicSpec] = []
    for source in sources:
        dead = TopicSpec(
            f"{source.name}.dlq",
            source.partitions,
            source.retention_ms if source.forgets else FOR_EVER_MS,
            why="dead letters wait to be handled",
            forgets=source.forgets,
        )
        specs += (source, dead)
    return tuple(specs)


def problems_of(spec: TopicSpec, found: FoundTopic | None, *, single_broker: bool) -> list[Problem]:
    """What is wrong with a topic; nothing, if Bursar can run on it. Settings stricter than asked for are left alone."""
    if found is None:
        return [Problem(spec.name, "does not exist", APPLY)]
    return [
        *_partition_problems(spec, found),
        *_replica_problems(spec, found, single_broker),
        *_retention_problems(spec, found),
        *_size_problems(spec, found),
    ]


def _partition_problems(spec: TopicSpec, found: FoundTopic) -> list[Problem]:
    if spec.partitions == 1 and found.partitions != 1:
        return [
            Problem(
                spec.name,
                f"has {found.partitions} partitions, and its events have one order, which takes exactly 1",
                "Kafka cannot take partitions away; copy what it holds elsewhere, "
                f"`kafka-topics.sh --delete --topic {spec.name}`, then `{APPLY}`",
            )
        ]
    if found.partitions < spec.partitions:
        return [Problem(spec.name, f"has {found.partitions} partitions instead of {spec.partitions}", APPLY)]
    return []


def _replica_problems(spec: TopicSpec, found: FoundTopic, single_broker: bool) -> list[Problem]:
    problems = []
    wanted = 1 if single_broker else MIN_IN_SYNC_REPLICAS
    in_sync = _number(found, "min.insync.replicas", 1)
    if found.replicas < wanted:
        problems.append(
            Problem(
                spec.name,
                f"is kept on {found.replicas} broker only, whose disk would take every event with it",
                f"give it {REPLICAS} replicas with kafka-reassign-partitions.sh, or accept the risk "
                "with BURSAR_SINGLE_BROKER=true",
            )
        )
    elif in_sync < wanted:
        problems.append(
            Problem(
                spec.name,
                f"has min.insync.replicas={in_sync}, so that an acknowledged event may be on one broker only",
                f"`{APPLY}`, or accept the risk with BURSAR_SINGLE_BROKER=true",
                {"min.insync.replicas": str(wanted)},
            )
        )
    if in_sync > found.replicas >= wanted:
        problems.append(
            Problem(
                spec.name,
                f"has min.insync.replicas={in_sync} but {found.replicas} replicas, so that nothing can be appended",
                APPLY,
                {"min.insync.replicas": str(found.replicas)},
            )
        )
    if found.config.get("unclean.leader.election.enable", "false") != "false":
        problems.append(
            Problem(
                spec.name,
                "lets a broker that missed events become leader (unclean.leader.election.enable), which loses them",
                APPLY,
                {"unclean.leader.election.enable": "false"},
            )
        )
    return problems


def _retention_problems(spec: TopicSpec, found: FoundTopic) -> list[Problem]:
    policy = {part.strip() for part in found.config.get("cleanup.policy", "delete").split(",")}
    if spec.compacted:
        if policy == {"compact"}:
            return []
        named = ",".join(sorted(policy))
        return [Problem(spec.name, f"has cleanup.policy={named}, but {spec.why}", APPLY, {"cleanup.policy": "compact"})]
    problems = []
    if "compact" in policy:
        problems.append(
            Problem(
                spec.name,
                f"is compacted, which drops older events, but {spec.why}",
                APPLY,
                {"cleanup.policy": "delete"},
            )
        )
    retention_ms = _number(found, "retention.ms", 7 * DAY_MS)
    if retention_ms != FOR_EVER_MS and (spec.retention_ms == FOR_EVER_MS or retention_ms < spec.retention_ms):
        wanted = "for ever" if spec.retention_ms == FOR_EVER_MS else f"{spec.retention_ms / DAY_MS:g} days"
        problems.append(
            Problem(
                spec.name,
                f"is kept {retention_ms / DAY_MS:g} days instead of {wanted}, but {spec.why}",
                APPLY,
                {"retention.ms": str(spec.retention_ms)},
            )
        )
    if spec.forgets and not 0 <= retention_ms <= spec.retention_ms:
        kept = "for ever" if retention_ms < 0 else f"{retention_ms / DAY_MS:g} days"
        problems.append(
            Problem(
                spec.name,
                f"is kept {kept}, and prompts and answers must be forgotten after {spec.retention_ms / DAY_MS:g} days",
                APPLY,
                {"retention.ms": str(spec.retention_ms)},
            )
        )
    segment_ms = _number(found, "segment.ms", 7 * DAY_MS)
    if spec.forgets and segment_ms > FORGETTING_SEGMENT_MS:
        problems.append(
            Problem(
                spec.name,
                f"is forgotten {segment_ms / DAY_MS:g} days at a time (segment.ms), so prompts and answers stay up to "
                "that much longer",
                APPLY,
                {"segment.ms": str(FORGETTING_SEGMENT_MS)},
            )
        )
    retention_bytes = _number(found, "retention.bytes", -1)
    if retention_bytes != -1:
        problems.append(
            Problem(
                spec.name,
                f"forgets what is above {retention_bytes} bytes (retention.bytes), but {spec.why}",
                APPLY,
                {"retention.bytes": "-1"},
            )
        )
    return problems


def _size_problems(spec: TopicSpec, found: FoundTopic) -> list[Problem]:
    limit, wanted = _number(found, "max.message.bytes", 1_048_588), MAX_RECORD_BYTES + FRAMING_BYTES
    if limit >= wanted:
        return []
    return [
        Problem(
            spec.name,
            f"takes records up to {limit} bytes (max.message.bytes), and events can have {wanted}",
            APPLY,
            {"max.message.bytes": str(wanted)},
        )
    ]


def changes_for(problems: Sequence[Problem]) -> dict[str, str]:
    """The settings that put right what settings can."""
    changes: dict[str, str] = {}
    for problem in problems:
        changes |= problem.changes
    return changes


def _number(found: FoundTopic, name: str, kafka_default: int) -> int:
    try:
        return int(found.config.get(name, kafka_default))
    except ValueError:
        return kafka_default
