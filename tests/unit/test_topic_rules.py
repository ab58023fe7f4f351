"""Which topics are refused, and what is said about them."""

from __future__ import annotations

import pytest

from bursar_common.topic_rules import DAY_MS, FoundTopic, TopicSpec, changes_for, problems_of, topic_specs

SPECS = {spec.name: spec for spec in topic_specs(400)}
GOVERNANCE, USAGE, SNAPSHOTS, CONTENT = (
    SPECS[f"bursar.{name}.v1"] for name in ("governance", "usage", "ledger-snapshots", "content")
)


def found(spec: TopicSpec, *, partitions: int | None = None, replicas: int = 3, **config: str) -> FoundTopic:
    """A topic as ``apply`` makes it, but for what is named (``_`` for ``.``)."""
    merged = spec.config(single_broker=False) | {key.replace("_", "."): value for key, value in config.items()}
    return FoundTopic(partitions or spec.partitions, replicas, merged)


def wrong(spec: TopicSpec, topic: FoundTopic | None, single_broker: bool = False) -> list[str]:
    return [problem.wrong for problem in problems_of(spec, topic, single_broker=single_broker)]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_apply_makes_is_accepted(spec: TopicSpec) -> None:
    assert wrong(spec, found(spec)) == []
    assert wrong(spec, FoundTopic(spec.partitions, 1, spec.config(True)), single_broker=True) == []


def test_every_topic_has_a_dead_letter_topic_of_as_many_partitions_kept_until_handled() -> None:
    sources = [spec for name, spec in SPECS.items() if not name.endswith(".dlq")]
    assert len(sources) == 6
    for spec in sources:
        dead = SPECS[f"{spec.name}.dlq"]
        kept_ms = spec.retention_ms if spec is CONTENT else -1  # prompts that cannot be read are prompts
        assert (dead.partitions, dead.retention_ms, dead.compacted) == (spec.partitions, kept_ms, False)


@pytest.mark.parametrize(
    ("spec", "topic", "part"),
    [
        (GOVERNANCE, None, "does not exist"),
        (GOVERNANCE, found(GOVERNANCE, partitions=3), "takes exactly 1"),
        (GOVERNANCE, found(GOVERNANCE, cleanup_policy="compact"), "is compacted"),
        (GOVERNANCE, found(GOVERNANCE, cleanup_policy="compact,delete"), "is compacted"),
        (GOVERNANCE, found(GOVERNANCE, retention_ms=str(4000 * DAY_MS)), "kept 4000 days instead of for ever"),
        (GOVERNANCE, found(GOVERNANCE, retention_bytes="1000"), "above 1000 bytes"),
        (GOVERNANCE, found(GOVERNANCE, min_insync_replicas="1"), "min.insync.replicas=1"),
        (GOVERNANCE, found(GOVERNANCE, replicas=1), "on 1 broker only"),
        (GOVERNANCE, found(GOVERNANCE, min_insync_replicas="4"), "nothing can be appended"),
        (GOVERNANCE, found(GOVERNANCE, unclean_leader_election_enable="true"), "which loses them"),
        (GOVERNANCE, found(GOVERNANCE, max_message_bytes="1048588"), "up to 1048588 bytes"),
        (USAGE, found(USAGE, retention_ms=str(399 * DAY_MS)), "kept 399 days instead of 400 days"),
        (USAGE, found(USAGE, partitions=6), "has 6 partitions instead of 12"),
        (SNAPSHOTS, found(SNAPSHOTS, cleanup_policy="delete"), "cleanup.policy=delete"),
        (CONTENT, found(CONTENT, retention_ms=str(6 * DAY_MS)), "kept 6 days instead of 7 days"),
        (CONTENT, found(CONTENT, retention_ms=str(8 * DAY_MS)), "kept 8 days, and prompts"),
        (CONTENT, found(CONTENT, retention_ms="-1"), "kept for ever, and prompts"),
        (CONTENT, found(CONTENT, segment_ms=str(7 * DAY_MS)), "forgotten 7 days at a time"),
    ],
)
def test_a_wrong_topic_is_named_with_its_fix(spec: TopicSpec, topic: FoundTopic | None, part: str) -> None:
    (problem,) = problems_of(spec, topic, single_broker=False)
    assert part in problem.wrong
    assert problem.topic in str(problem)
    assert problem.fix in str(problem)


def test_kafkas_own_defaults_are_refused_for_governance() -> None:
    """What a topic created by hand looks like: a week, one replica in sync, 1 MiB."""
    assert len(wrong(GOVERNANCE, FoundTopic(1, 3, {}))) == 3


def test_stricter_and_larger_is_left_alone() -> None:
    assert wrong(USAGE, found(USAGE, partitions=24, replicas=5, retention_ms="-1", min_insync_replicas="3")) == []


def test_one_broker_is_accepted_only_when_asked_for() -> None:
    one = found(USAGE, replicas=1, min_insync_replicas="1")
    assert wrong(USAGE, one, single_broker=True) == []
    assert len(wrong(USAGE, one, single_broker=False)) == 1


def test_the_changes_put_right_what_settings_can() -> None:
    topic = found(GOVERNANCE, cleanup_policy="compact", retention_ms="1", retention_bytes="5", min_insync_replicas="1")
    changes = changes_for(problems_of(GOVERNANCE, topic, single_broker=False))
    assert wrong(GOVERNANCE, FoundTopic(1, 3, {**topic.config, **changes})) == []
