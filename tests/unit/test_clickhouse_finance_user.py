"""The ClickHouse user of finance, as deployed: reads, within bounds, and is locked without a password."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.harness.compose_file import compose_document, resolve
from tests.harness.require import CHECKOUT

FILE = CHECKOUT / "deploy" / "clickhouse" / "finance.xml"


def text(path: str) -> str:
    found = ElementTree.parse(FILE).find(path)
    assert found is not None, path
    return (found.text or "").strip()


def test_it_only_reads_bursars_database_within_a_quota() -> None:
    root = ElementTree.parse(FILE)
    grants = [query.text for query in root.findall("users/finance/grants/query")]
    assert grants == ["GRANT SELECT ON bursar.*", "GRANT SHOW ON bursar.*"]
    assert text("users/finance/profile") == text("users/finance/quota") == "finance"
    assert text("profiles/finance/readonly") == "2"  # neither writes nor may take this setting back
    assert int(text("quotas/finance/interval/queries")) > 0
    assert text("users/finance/databases/bursar/content/filter") == "0"  # prompts and answers are none of its business
    for setting in ("max_execution_time", "max_memory_usage", "max_result_rows"):
        assert text(f"profiles/finance/constraints/{setting}/max") == text(f"profiles/finance/{setting}")


def test_the_deployment_mounts_it_and_without_a_password_nobody_gets_in() -> None:
    server = compose_document()["services"]["clickhouse"]
    mount = next(volume for volume in server["volumes"] if "users.d" in volume)
    source, target, mode = mount.split(":")
    assert (CHECKOUT / source).samefile(FILE)
    assert (target, mode) == ("/etc/clickhouse-server/users.d/finance.xml", "ro")
    user = ElementTree.parse(FILE).find("users/finance/password_sha256_hex")
    assert user is not None
    name = user.attrib["from_env"]
    assert resolve(server["environment"][name], {}) == "0" * 64
    assert resolve(server["environment"][name], {name: "ab" * 32}) == "ab" * 32
