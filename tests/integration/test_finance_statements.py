"""A team's statement: as JSON, CSV and a page to be printed; what it says, and that a closed one stays as it was."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar_common.eventlog.port import NewRecord
from bursar_common.events import CORRECTIONS_TOPIC, encode_event
from bursar_common.finance import USAGE_CORRECTED, Correction
from tests.harness.admin import running_admin
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import Finance, running_finance
from tests.harness.patience import patient_admin
from tests.harness.usage_events import STARTED_AT_MS, request_id, usage

HOSTILE = "<script>alert(1)</script>"
PATH = "/api/finance/statements"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)


@pytest.fixture
async def finance(tmp_path: Path) -> AsyncIterator[Finance]:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path, front) as finance:
            yield finance


def correction(number: int, cost: int) -> NewRecord:
    data = Correction(
        correction_id="k", request_id=request_id(number), corrected_at_ms=STARTED_AT_MS, reason="r", actor="a",
        cost_nusd=cost, list_cost_nusd=cost,
    )  # fmt: skip
    value = encode_event(
        id="k", source="bursar/admin", type=USAGE_CORRECTED, time="2026-12-01T00:00:00Z", subject="", data=data
    )
    return NewRecord(CORRECTIONS_TOPIC, "k", value)


async def test_a_statement_says_what_is_charged_and_a_closed_one_stays(finance: Finance) -> None:
    team = (await finance.admin.create("teams", name=HOSTILE))["team"]["id"]
    mine = {"team_id": team, "team": HOSTILE}
    await finance.append(
        usage(1, **mine, project="=cmd()", cost_nusd=10, list_cost_nusd=11),
        usage(2, **mine, outcome="expired", estimated=True, input_tokens=None, output_tokens=None, cost_nusd=500),
        usage(3, **mine, billing="subscription", cost_nusd=0, list_cost_nusd=77),
        usage(4, cost_nusd=9),
    )
    path = f"{PATH}/{team}/2026-11"
    status, closed = await finance.close("2026-11")
    assert status == 200, closed
    said: Any = await finance.get(path)
    assert (said["billed_nusd"], said["list_nusd"], said["not_on_our_bill_list_nusd"]) == (510, 511, 77)
    assert {each["charge_kind"]: each["billed_nusd"] for each in said["by_kind"]} == {"usage": 10, "expired_hold": 500}
    assert (said["state"], said["made_from"]["checksum"]) == ("closed", closed["close"]["checksum"])  # type: ignore[index]
    assert said["made_from"]["log_positions"] == closed["close"]["log_positions"]  # type: ignore[index]
    again = hashlib.sha256(msgspec.json.encode([team, "2026-11", said["lines"]])).hexdigest()
    assert said["statement_sha256"] == again
    csv_before, page_before = await finance.get(f"{path}?format=csv"), await page(finance, team, "2026-11")
    # Later: the truth of the hold, a request that was late, and a correction.
    await finance.append(usage(2, **mine, cost_nusd=300), usage(5, **mine, cost_nusd=20))
    await finance.append_correction(correction(1, -4))
    assert await finance.get(path) == said
    assert await finance.get(f"{path}?format=csv") == csv_before
    assert await page(finance, team, "2026-11") == page_before
    december: Any = await finance.get(f"{PATH}/{team}/2026-12")
    assert {each["charge_kind"]: each["billed_nusd"] for each in december["by_kind"]} == {
        "usage": 20, "correction": 300 - 500 - 4,
    }  # fmt: skip
    assert {line["belongs_to_month"] for line in december["lines"]} == {"2026-11"}
    sums: Any = await finance.get(f"{PATH}?month=2026-11")
    assert [(row["team_id"], row["billed_nusd"]) for row in sums["teams"]] == [(team, 510), ("team-1", 9)]


async def page(finance: Finance, team: str, month: str) -> str:
    status, text, headers = await finance.admin.call(
        "GET", f"/finance/statements/{team}/{month}", headers={"Accept": "text/html"}
    )
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8"), text
    return str(text)


async def test_the_csv_and_the_page(finance: Finance) -> None:
    customer = (await finance.admin.create("customers", name="Acme & Sons"))["customer"]["id"]
    team = (await finance.admin.create("teams", name=HOSTILE, customer_id=customer))["team"]["id"]
    await finance.append(
        usage(1, team_id=team, team=HOSTILE, customer_id=customer, customer="Acme & Sons", project="=cmd()",
              cost_nusd=-0 + 1_234_567_891),
    )  # fmt: skip
    text: Any = await finance.get(f"{PATH}/{team}/2026-11?format=csv")
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["project"], Decimal(row["billed_usd"]), row["state"]) == ("'=cmd()", Decimal("1.234567891"), "open")
    assert row["log_positions"] == "bursar.usage.v1/0:1"
    html = await page(finance, team, "2026-11")
    assert HOSTILE not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "Acme &amp; Sons" in html
    said: Any = await finance.get(f"{PATH}/{team}/2026-11")
    assert said["statement_sha256"] in html
    assert said["made_from"]["checksum"] in html
    assert "not final" in html
    status, listed, _ = await finance.admin.call("GET", "/fragments/finance/2026-11", headers={"Accept": "text/html"})
    assert (status, f"/finance/statements/{team}/2026-11" in listed, HOSTILE in listed) == (200, True, False)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{PATH}/t/2026-13", 400), (f"{PATH}/t/2027-05", 400), (f"{PATH}/t/2026-11?format=pdf", 400),
        (f"{PATH}/t/2026-11?month=2026-11", 400), (f"{PATH}?month=1'%20OR%201", 400), (PATH, 400),
        (f"{PATH}/%22;x/2026-11", 404), ("/api/finance/provider-bill?from=2016-01-01&to=2026-01-01", 400),
        ("/api/finance/provider-bill?from=2026-11-02&to=2026-11-01", 400),
        ("/api/finance/provider-bill?from=2026-02-30&to=2026-03-01", 400), ("/api/finance/provider-bill", 400),
        (f"{PATH}/t/2026-11", 503), (f"{PATH}?month=2026-11", 503),
    ],
)  # fmt: skip
async def test_questions_that_are_wrong_and_answers_without_clickhouse(tmp_path: Path, path: str, status: int) -> None:
    async with running_admin(tmp_path) as admin:
        found, answer, _ = await admin.call("GET", path)
        assert found == status, answer


async def test_sql_in_a_teams_name_is_a_name(finance: Finance) -> None:
    await finance.append(usage(1))
    for name in ("x' OR '1'='1", "{team:String}", "team-1') OR 1=1 --"):
        status, answer, _ = await finance.admin.call("GET", f"{PATH}/{name}/2026-11".replace(" ", "%20"))
        assert (status, answer["error"]["type"]) == (404, "not_found_error"), answer
