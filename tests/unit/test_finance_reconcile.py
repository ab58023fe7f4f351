"""Our bill beside theirs: each reason is a rule over figures in sight; the report is read as it is published."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bursar.cli import main
from bursar.provider_bill import BillUnreadable, fetch, read_csv
from bursar.reconcile import ALL, RULES, Ours, Row, as_json, judge, model_name, our_rows, reconcile, table

DOLLAR = 1_000_000_000
CENT = DOLLAR // 100
DAY = "2026-11-21"


def row(theirs: int, *, edge_before: int = 0, **ours: int) -> Row:
    return Row(DAY, "claude-opus-4-8", ALL, Ours(**ours), theirs, edge_before)


@pytest.mark.parametrize(
    ("given_row", "reason"),
    [
        (row(DOLLAR, requests=1, billed_nusd=DOLLAR), "agrees"),
        (row(DOLLAR + CENT, requests=1, billed_nusd=DOLLAR), "agrees"),
        (row(0), "agrees"),
        (row(DOLLAR), "outside"),
        (row(DOLLAR, imported_list_nusd=DOLLAR), "imported"),
        (row(3 * DOLLAR, requests=1, billed_nusd=DOLLAR, imported_list_nusd=2 * DOLLAR), "imported"),
        (row(DOLLAR, requests=3, billed_nusd=3 * DOLLAR, unpriced_nusd=2 * DOLLAR), "unpriced"),
        (row(DOLLAR, requests=3, billed_nusd=2 * DOLLAR, expired_nusd=DOLLAR), "estimated"),
        (row(3 * DOLLAR, requests=3, billed_nusd=2 * DOLLAR, estimated_nusd=DOLLAR), "estimated"),
        (row(DOLLAR, requests=3, billed_nusd=2 * DOLLAR, edge_nusd=DOLLAR), "edge"),
        (row(3 * DOLLAR, edge_before=DOLLAR, requests=3, billed_nusd=2 * DOLLAR), "edge"),
        (row(0, requests=3, billed_nusd=2 * DOLLAR), "not_reported"),
        (row(10 * DOLLAR, requests=3, billed_nusd=9 * DOLLAR, list_nusd=10 * DOLLAR), "discount"),
        (row(9 * DOLLAR, requests=3, billed_nusd=10 * DOLLAR, list_nusd=10 * DOLLAR), "unexplained"),
        (row(10 * CENT, requests=3, billed_nusd=4_360 * CENT, list_nusd=4_360 * CENT), "unexplained"),
        (row(11 * DOLLAR, requests=3, billed_nusd=10 * DOLLAR, list_nusd=10 * DOLLAR), "more_outside"),
        (row(5 * DOLLAR, requests=1, billed_nusd=9 * DOLLAR, estimated_nusd=DOLLAR), "unexplained"),
    ],
)  # fmt: skip
def test_the_likely_reason(given_row: Row, reason: str) -> None:
    finding = judge(given_row, CENT)
    assert finding.reason == reason
    assert finding.within == (reason == "agrees")
    assert bool(finding.says) == (reason != "agrees")


def judged(*bills: tuple[int, int, int], tolerance: int = CENT) -> list[str]:
    """Reasons of days with these bills: ours, list, theirs."""
    keys = [(f"2026-11-{day:02}", "claude-opus-4-8", ALL) for day in range(1, len(bills) + 1)]
    ours = {
        key: Ours(requests=1, billed_nusd=billed, list_nusd=listed)
        for key, (billed, listed, _) in zip(keys, bills, strict=True)
    }
    result = reconcile(ours, {key: bill[2] for key, bill in zip(keys, bills, strict=True)}, tolerance)
    return [finding.reason for finding in result.findings]


def test_a_discount_is_one_that_is_seen() -> None:
    ten, twenty = 10 * DOLLAR, 20 * DOLLAR
    assert judged((ten, ten, 9 * DOLLAR), (twenty, twenty, 18 * DOLLAR)) == ["discount", "discount"]
    assert judged((ten, ten, 9 * DOLLAR), (twenty, twenty, 15 * DOLLAR)) == ["unexplained", "unexplained"]
    assert judged((9 * DOLLAR, ten, 9 * DOLLAR), (ten, ten, 9 * DOLLAR)) == ["agrees", "discount"]
    assert judged((ten, ten, ten), (twenty, twenty, 18 * DOLLAR)) == ["agrees", "unexplained"]
    assert judged((9 * DOLLAR, ten, 8 * DOLLAR), (18 * DOLLAR, twenty, 16 * DOLLAR)) == ["discount", "discount"]
    # Traffic that is missing from their report is no discount, on however many days.
    assert judged((4_360 * CENT, 4_360 * CENT, 10 * CENT), (8_720 * CENT, 8_720 * CENT, 20 * CENT)) == [
        "unexplained", "unexplained",
    ]  # fmt: skip


MONEY = st.integers(0, 10**13)


@given(MONEY, MONEY, MONEY, st.integers(0, 10**10))
def test_a_row_is_within_exactly_if_its_difference_is(theirs: int, billed: int, part: int, tolerance: int) -> None:
    finding = judge(row(theirs, requests=1, billed_nusd=billed, estimated_nusd=min(part, billed)), tolerance)
    assert finding.within == (abs(theirs - billed) <= tolerance)
    assert finding.reason in {"agrees", "unexplained", *(name for name, _, _ in RULES)}


@given(st.dictionaries(st.tuples(st.sampled_from(["2026-11-20", DAY]), st.sampled_from("ab"), st.just(ALL)), MONEY))
def test_the_sums_are_those_of_the_rows(theirs: dict[tuple[str, str, str], int]) -> None:
    ours = {key: Ours(requests=1, billed_nusd=amount // 2) for key, amount in theirs.items()}
    result = reconcile(ours, theirs, 0)
    assert result.totals["theirs_nusd"] == sum(theirs.values())
    assert result.totals["difference_nusd"] == sum(finding.row.difference_nusd for finding in result.findings)
    told: Any = as_json(result)
    assert sum(each["difference_nusd"] for each in told["rows"]) == told["difference_nusd"]


def test_what_ended_on_the_day_after_is_known_there() -> None:
    ours = {("2026-11-20", "m", ALL): Ours(requests=2, billed_nusd=3 * DOLLAR, edge_nusd=DOLLAR)}
    result = reconcile(ours, {("2026-11-20", "m", ALL): 2 * DOLLAR, (DAY, "m", ALL): DOLLAR}, CENT)
    assert [finding.reason for finding in result.findings] == ["edge", "outside"]
    ours[DAY, "m", ALL] = Ours(requests=1, billed_nusd=DOLLAR)
    result = reconcile(ours, {("2026-11-20", "m", ALL): 2 * DOLLAR, (DAY, "m", ALL): 2 * DOLLAR}, CENT)
    assert [finding.reason for finding in result.findings] == ["edge", "edge"]
    assert result.totals["difference_nusd"] == 0
    assert not result.agrees


def test_models_with_and_without_their_date_are_one() -> None:
    assert model_name("claude-opus-4-8-20260115") == model_name("claude-opus-4-8") == "claude-opus-4-8"
    names = Ours.__dataclass_fields__
    rows = [
        {"day": DAY, "provider_credential": "env:A", "model": "m-20260115", **dict.fromkeys(names, 1)},
        {"day": DAY, "provider_credential": "env:B", "model": "m", **dict.fromkeys(names, 2)},
    ]
    assert our_rows(rows, by_credential=False) == {(DAY, "m", ALL): Ours(*(3 for _ in names))}
    assert set(our_rows(rows, by_credential=True)) == {(DAY, "m", "env:A"), (DAY, "m", "env:B")}


def item(amount: str, **fields: Any) -> dict[str, Any]:
    return {
        "amount": amount, "currency": "USD", "cost_type": "tokens", "context_window": "0-200k",
        "description": "Claude Opus Usage", "model": "claude-opus-4-8", "service_tier": "standard",
        "token_type": "output_tokens", "workspace_id": None, "inference_geo": None, **fields,
    }  # fmt: skip


def bucket(day: str, *items: dict[str, Any]) -> dict[str, Any]:
    return {"starting_at": f"{day}T00:00:00Z", "ending_at": f"{day}T23:59:59Z", "results": list(items)}


class FakeProvider:
    """Answers the cost report as published, page by page; and Bursar's own bill."""

    def __init__(self) -> None:
        self.pages: list[Any] = []
        self.status = 200
        self.ours: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = parse_qs(parts.query)
                provider.asked.append(
                    (parts.path, query, {name.lower(): value for name, value in self.headers.items()})
                )
                if parts.path == "/api/finance/provider-bill":
                    body: Any = {"rows": provider.ours}
                    status = 200
                else:
                    status = provider.status
                    at = int(query.get("page", ["page_0"])[0].removeprefix("page_"))
                    body = provider.pages[at] if at < len(provider.pages) else {}
                self.send_response(status)
                content = json.dumps(body).encode()
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    fake = FakeProvider()
    yield fake
    fake.close()


FIRST, LAST = date(2026, 11, 20), date(2026, 11, 21)
KEY = "sk-ant-admin01-of-the-tests"


def test_the_report_is_read_page_by_page_in_cents(provider: FakeProvider) -> None:
    provider.pages = [
        {"data": [bucket("2026-11-20", item("12.5"), item("0.123456789", token_type="cache_read_input_tokens"))],
         "has_more": True, "next_page": "page_1"},
        {"data": [bucket(DAY, item("100", workspace_id="wrkspc_1"), item("7", model=None, cost_type="web_search"))],
         "has_more": False, "next_page": None},
    ]  # fmt: skip
    found = fetch(provider.url, KEY, FIRST, LAST, {})
    assert found == {
        ("2026-11-20", "claude-opus-4-8", ALL): 126_234_568,
        (DAY, "claude-opus-4-8", ALL): DOLLAR,
        (DAY, "(web_search)", ALL): 70_000_000,
    }
    path, query, headers = provider.asked[0]
    assert path == "/v1/organizations/cost_report"
    assert query["group_by[]"] == ["description", "workspace_id"]
    assert (query["starting_at"], query["ending_at"]) == (["2026-11-20T00:00:00Z"], ["2026-11-22T00:00:00Z"])
    assert (headers["x-api-key"], headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert fetch(provider.url, KEY, FIRST, LAST, {"wrkspc_1": "env:A"})[DAY, "claude-opus-4-8", "env:A"] == DOLLAR


@pytest.mark.parametrize(
    "pages",
    [
        [{"data": [bucket(DAY)], "has_more": True, "next_page": "page_0"}],
        [{"data": [bucket(DAY)], "has_more": True, "next_page": None}],
        [{"data": [{"starting_at": "yesterday", "results": []}]}],
        [{"data": [bucket(DAY, item("many"))]}],
        [{"data": [bucket(DAY, item("NaN"))]}],
        [{"data": [bucket(DAY, item("1", currency="EUR"))]}],
        [{"error": "no"}],
        [[]],
        ["text"],
    ],
)
def test_a_report_that_is_none(provider: FakeProvider, pages: list[Any]) -> None:
    provider.pages = pages
    with pytest.raises(BillUnreadable):
        fetch(provider.url, KEY, FIRST, LAST, {})


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_provider_that_refuses(provider: FakeProvider, status: int) -> None:
    provider.status, provider.pages = status, [{"data": []}]
    with pytest.raises(BillUnreadable) as refusal:
        fetch(provider.url, KEY, FIRST, LAST, {})
    assert KEY not in str(refusal.value)


def test_a_file_in_place_of_the_api(tmp_path: Path) -> None:
    path = tmp_path / "bill.csv"
    path.write_text(
        "usage_date_utc,model,workspace,cost_usd\n"
        "2026-11-20,claude-opus-4-8-20260115,Default,$1.5\n2026-11-21,claude-opus-4-8,Default,0.25\n"
        "2026-11-21,claude-opus-4-8,Default,0.000000001\n2026-12-01,claude-opus-4-8,Default,9\n"
    )
    assert read_csv(path, FIRST, LAST, {}) == {
        ("2026-11-20", "claude-opus-4-8", ALL): 1_500_000_000, (DAY, "claude-opus-4-8", ALL): 250_000_001,
    }  # fmt: skip
    assert (DAY, "claude-opus-4-8", "env:A") in read_csv(path, FIRST, LAST, {"Default": "env:A"})


@pytest.mark.parametrize(
    "content",
    [b"", b"a,b\n1,2\n", b"date,model,cost\nmonday,m,1\n", b"date,model,cost\n2026-11-20,m,a lot\n",
     b"date,model,cost\n2026-11-20\n", b"date,model,cost\n2026-11-20,\xff,1\n"],
)  # fmt: skip
def test_a_file_that_is_no_bill(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bill.csv"
    path.write_bytes(content)
    with pytest.raises(BillUnreadable):
        read_csv(path, FIRST, LAST, {})


def run(provider: FakeProvider, *words: str, key: str = KEY) -> tuple[int, str]:
    environment = {"ANTHROPIC_ADMIN_KEY": key, "ANTHROPIC_ADMIN_API_KEY": "", "BURSAR_ADMIN_TOKEN": "token"}
    command = ["reconcile", "--url", provider.url, "--provider-url", provider.url, *words]
    result = CliRunner().invoke(main, command, env=environment)
    return result.exit_code, result.output


def ours(billed: int, **fields: Any) -> dict[str, Any]:
    record = {**dict.fromkeys(Ours.__dataclass_fields__, 0), "requests": 1, "billed_nusd": billed, "list_nusd": billed}
    return {
        "day": DAY,
        "provider": "anthropic",
        "provider_credential": "env:A",
        "model": "claude-opus-4-8",
        **record,
        **fields,
    }


def test_the_command(provider: FakeProvider, tmp_path: Path) -> None:
    provider.pages = [{"data": [bucket(DAY, item("100", workspace_id="w"))], "has_more": False}]
    provider.ours = [ours(DOLLAR)]
    assert run(provider, "--month", "2026-11")[0] == 0
    provider.ours = [ours(2 * DOLLAR, expired_nusd=DOLLAR)]
    code, text = run(provider, "--since", DAY, "--workspace", "w=env:A")
    assert code == 1
    assert "-$1.0000" in text
    assert "estimated:" in text
    code, text = run(provider, "--since", DAY, "--json")
    (told,) = json.loads(text)["rows"]
    assert (code, told["reason"], told["figures"]["expired_nusd"]) == (1, "estimated", DOLLAR)
    assert run(provider, "--since", DAY, "--tolerance", "1")[0] == 0
    assert provider.asked[-1][1] == {"from": [DAY], "to": [DAY]}
    path = tmp_path / "bill.csv"
    path.write_text(f"date,model,cost\n{DAY},claude-opus-4-8,2\n")
    assert run(provider, "--since", DAY, "--csv", str(path), key="")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        (), ("--month", "2026-13"), ("--month", "2026-11-01"), ("--month", "november"),
        ("--since", "2016-01-01", "--until", "2026-01-01"), ("--since", DAY, "--until", "2026-11-20"),
        ("--month", "2026-11", "--since", DAY), ("--month", "2026-11", "--workspace", "w"),
        ("--month", "2026-11", "--tolerance", "-1"), ("--month", "2026-11", "--tolerance", "nan"),
        ("--month", "2026-11", "--csv", "/nowhere/bill.csv"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(provider: FakeProvider, words: tuple[str, ...]) -> None:
    code, text = run(provider, *words)
    assert (code, text.startswith("Error: "), KEY in text) == (2, True, False)


def test_without_a_key_it_says_what_to_set(provider: FakeProvider) -> None:
    code, text = run(provider, "--month", "2026-11", key="")
    assert (code, "ANTHROPIC_ADMIN_KEY" in text) == (2, True)


def test_a_table_of_nothing() -> None:
    assert "0 rows, 0 differ" in table(reconcile({}, {}, 0))
