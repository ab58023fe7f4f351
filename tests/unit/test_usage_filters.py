"""Filters, cursors, ranges and parameters of usage questions: what is accepted, and what is said of the rest."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from bursar_admin.analytics import literal, read_rows
from bursar_admin.errors import Refusal
from bursar_admin.queries import logs, sums
from bursar_admin.queries.criteria import criteria
from bursar_admin.queries.cursors import make_cursor, question_id, read_cursor
from bursar_admin.queries.dimensions import dimension
from bursar_admin.queries.filters import NAMES, Filters, moment_ms, read_filters
from bursar_admin.queries.ranges import DAY_MS, HOUR_MS, Hours, Span, buckets, hours_of, plan_of, span_of, whole_hours
from bursar_admin.queries.sums import Question
from bursar_admin.routes.logs import csv_cell
from bursar_admin.routes.usage_sums import times
from bursar_common.clock import rfc3339
from bursar_common.usage_sums import FORM
from tests.harness.usage_events import usage

NOON_MS = 1_795_262_400_000
"""2026-11-21T12:00:00Z"""


def read(*items: tuple[str, str]) -> Filters:
    return read_filters(MultiDict(items), ("limit",))


def problem(*items: tuple[str, str]) -> tuple[str, Any]:
    with pytest.raises(Refusal) as refusal:
        read(*items)
    assert refusal.value.status == 400
    first = refusal.value.problems[0]
    return first.field, first.allowed


def test_filters_are_read() -> None:
    found = read(
        ("team", "a"), ("team", ""), ("team", "a"), ("tag", "Ticket:ABC:1"), ("min_cost_usd", "0.000000001"),
        ("max_tokens", "12"), ("from", "2026-11-20"), ("to", "1795262400"), ("text", "O'Brien; DROP TABLE x"),
        ("limit", "9"),
    )  # fmt: skip
    assert found.team == ("a", "")
    assert found.tag == (("ticket", "ABC:1"),)
    assert found.min_cost_usd == 1
    assert found.max_tokens == 12
    assert found.from_ms == 1_795_132_800_000
    assert found.to_ms == NOON_MS
    assert found.text == "O'Brien; DROP TABLE x"
    assert read() == Filters()


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([("tema", "x")], "tema"),
        ([("model'; DROP TABLE usage_events; --", "x")], "model'; DROP TABLE usage_events; --"),
        ([("outcome", "completed"), ("outcome", "done")], "outcome"),
        ([("billing", "' OR 1=1")], "billing"),
        ([("refused_by", "budget_spent"), ("refused_by", "foo")], "refused_by"),
        ([("min_cost_usd", "1e999")], "min_cost_usd"),
        ([("min_cost_usd", "-1")], "min_cost_usd"),
        ([("min_tokens", "1.5")], "min_tokens"),
        ([("min_tokens", "1"), ("min_tokens", "2")], "min_tokens"),
        ([("max_latency_ms", "99999999999999999999")], "max_latency_ms"),
        ([("min_latency_ms", "5"), ("max_latency_ms", "4")], "max_latency_ms"),
        ([("tag", "no-colon")], "tag"),
        ([("tag", "ä:x")], "tag"),
        ([("team", "x" * 513)], "team"),
        ([("team", "x\x00")], "team"),
        ([("team", str(number)) for number in range(101)], "team"),
        ([("text", "")], "text"),
        ([("text", "x" * 201)], "text"),
        ([("from", "yesterday")], "from"),
        ([("from", "2026-13-01")], "from"),
        ([("from", "9" * 30)], "from"),
        ([("from", "1999-12-31")], "from"),
        ([("from", "2026-11-21"), ("to", "2026-11-20")], "to"),
        ([("from", "2026-11-21T00:00:00Z"), ("to", "2026-11-21T00:00:00Z")], "to"),
        ([("from", "2016-11-21"), ("to", "2026-11-20")], "from"),
    ],
)
def test_wrong_filters_are_named(items: list[tuple[str, str]], field: str) -> None:
    assert problem(*items)[0] == field


@pytest.mark.parametrize(("value", "message"), [("\x00", "has a character of code 0"), ("x" * 513, "is too long")])
def test_what_is_wrong_with_a_value_is_said(value: str, message: str) -> None:
    with pytest.raises(Refusal) as refusal:
        read(("session", value))
    assert refusal.value.problems[0].message == message


def test_reasons_of_refusals_are_told_and_all_of_them_taken() -> None:
    _, allowed = problem(("refused_by", "foo"))
    assert {"", "budget_spent", "no_key", "model_not_found", "internal"} <= set(allowed)
    assert read(*(("refused_by", reason) for reason in allowed)).refused_by == tuple(allowed)


def test_every_wrong_filter_is_listed_at_once() -> None:
    with pytest.raises(Refusal) as refusal:
        read(("tema", "x"), ("from", "?"), ("outcome", "?"))
    assert sorted(each.field for each in refusal.value.problems) == ["from", "outcome", "tema"]
    assert set(NAMES) <= set(problem(("tema", "x"))[1])


def test_moments() -> None:
    assert moment_ms("2026-11-21") == 1_795_219_200_000
    assert moment_ms("2026-11-21", end=True) == 1_795_305_600_000
    assert moment_ms("2026-11-21", "Asia/Kolkata") == 1_795_219_200_000 - 19_800_000
    assert moment_ms("2026-11-21T12:00:00+02:00", "Asia/Kolkata") == NOON_MS - 2 * HOUR_MS
    assert moment_ms("1795262400") == NOON_MS
    assert moment_ms("-5") is None
    assert moment_ms("") is None


def test_ranges_have_a_beginning_and_an_end() -> None:
    span = span_of(Filters(), NOON_MS)
    # What an edge whose clock is ahead has just served is read, but the range that is told ends now.
    assert span == Span(NOON_MS - 7 * 86_400_000, NOON_MS + HOUR_MS)
    assert span.until_ms == NOON_MS
    assert times(span, span.before) == {
        "from": rfc3339(NOON_MS - 7 * 86_400_000), "to": rfc3339(NOON_MS),
        "previous_from": rfc3339(NOON_MS - 14 * 86_400_000), "previous_to": rfc3339(NOON_MS - 7 * 86_400_000),
    }  # fmt: skip
    assert span.before == Span(NOON_MS - 14 * 86_400_000, NOON_MS - 7 * 86_400_000)
    asked = span_of(Filters(to_ms=NOON_MS), NOON_MS + HOUR_MS)
    assert (asked, asked.until_ms) == (Span(NOON_MS - 7 * 86_400_000, NOON_MS), NOON_MS)
    ahead = span_of(Filters(from_ms=NOON_MS + 1), NOON_MS)
    assert ahead.from_ms < ahead.until_ms == ahead.to_ms
    with pytest.raises(Refusal, match="long"):
        span_of(Filters(from_ms=1), NOON_MS)
    with pytest.raises(Refusal, match="before"):
        span_of(Filters(from_ms=NOON_MS * 2), NOON_MS)
    assert Span(10, 30).before == Span(-10, 10)


@given(st.text(max_size=30), st.integers(-(1 << 63) + 1, (1 << 63) - 1))
def test_cursors_belong_to_their_question(request_id: str, value: int) -> None:
    try:
        request_id.encode()
    except UnicodeEncodeError:
        return
    question = question_id("/api/logs", {"team": ["a"], "order": "desc"})
    cursor = make_cursor(question, [value, request_id])
    assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)
    assert read_cursor(cursor, question, (int, str)) == [value, request_id]
    for other in ({"team": ["b"], "order": "desc"}, {"team": ["a"], "order": "asc"}, {}):
        with pytest.raises(Refusal, match="another question"):
            read_cursor(cursor, question_id("/api/logs", other), (int, str))
    with pytest.raises(Refusal):
        read_cursor(cursor, question, (int,))


@pytest.mark.parametrize("text", ["", "x", "AAAA", "' OR 1=1 --", "W10", "WzEsMSxbXV0", "é" * 10, "A" * 5000, "bnVsbA"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as refusal:
        read_cursor(text, question_id("/api/logs", {}), (int, str))
    assert refusal.value.status == 400
    assert refusal.value.problems[0].field == "cursor"


HOSTILE = "'; DROP TABLE bursar.usage_events; -- {x:String} \\' \n\t`\x07"


def test_no_value_ever_stands_in_the_text_of_a_query() -> None:
    given_text = "marker'--"
    filters = Filters.model_validate(
        dict.fromkeys(("team", "user", "key", "model", "session", "project", "branch"), (given_text,))
        | {"tag": (f"a:{given_text}", "b':x"), "text": given_text, "min_tokens": "77123"}
    )
    wanted = criteria(filters, {"u-marker'--": given_text})
    span = Span(NOON_MS - HOUR_MS, NOON_MS)
    by = dimension(f"tag:{given_text}")
    question = Question(wanted, plan_of(span, Hours(True, frozenset(), True)))
    texts = [
        logs.candidates(wanted, span, "cost", descending=True, after=(1, given_text), count=5),
        logs.rows_at([{"day": "2026-11-21", "virtual_key_id": given_text, "request_id": given_text}], wanted, "cost"),
        sums.totals(question),
        sums.ranking(question, by, "cost", descending=True, count=3, offset=0),
        sums.by_bucket(question, sums.bucket_key("day", "Europe/Paris"), "cost", by, [given_text]),
        sums.distinct_values(question, by, given_text, 5),
        sums.latencies(question),
    ]
    for text, parameters in texts:
        assert "marker" not in text
        assert "77123" not in text
        for name in re.findall(r"{(\w+):[\w()]+}", text):
            assert name in parameters, (name, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (True, "1"),
        ("a\tb\\c\nd", "a\\tb\\\\c\\nd"),
        (["it's", "a\\b"], "['it\\'s','a\\\\b']"),
        ([1, 2], "[1,2]"),
        ([], "[]"),
    ],
)
def test_parameters_are_written_as_clickhouse_reads_them(value: Any, text: str) -> None:
    assert literal(value) == text


def test_wide_integers_stay_exact() -> None:
    body = (
        b'{"meta":[{"name":"a","type":"Int128"},{"name":"b","type":"Nullable(UInt64)"},{"name":"c","type":"String"}],'
    )
    body += b'"data":[["170141183460469231731687303715884105727",null,"5"]],"rows":1}'
    assert read_rows(body) == [{"a": (1 << 127) - 1, "b": None, "c": "5"}]
    with pytest.raises(Refusal):
        read_rows(b'{"meta":[')


def test_a_range_is_read_from_sums_but_for_its_edges_and_open_hours() -> None:
    hour = NOON_MS
    span = Span(hour - 5 * HOUR_MS - 1, hour + 1)
    open_hour = hour // 1000 - 2 * 3600
    plan = plan_of(span, Hours(True, frozenset({open_hour, 0}), False))
    assert plan.hours == (Span(hour - 5 * HOUR_MS, hour),)
    assert plan.open_hours == (open_hour,)
    assert plan.raw == (
        Span(span.from_ms, hour - 5 * HOUR_MS),
        Span(open_hour * 1000, open_hour * 1000 + HOUR_MS),
        Span(hour, hour + 1),
    )
    for unknown in (None, Hours(False, frozenset(), False)):
        assert plan_of(span, unknown).raw == (span,)
        assert not plan_of(span, unknown, "team").hours
    assert not plan_of(Span(hour + 1, hour + 2), Hours(True, frozenset(), False)).hours
    many = frozenset(range(hour // 1000 - 500 * 3600, hour // 1000, 3600))
    assert plan_of(Span(hour - 600 * HOUR_MS, hour), Hours(True, many, False)).hours == ()


@given(
    st.integers(0, 9000),
    st.integers(1, 9000),
    st.sets(st.integers(0, 290)),
    st.sets(st.integers(0, 290)),
    st.sets(st.integers(0, 13)),
    st.sampled_from([None, "team"]),
    st.booleans(),
)
def test_every_moment_is_read_once(
    start: int, length: int, opened: set[int], old: set[int], days: set[int], cut: str | None, short: bool
) -> None:
    base = (NOON_MS - 300 * HOUR_MS) // DAY_MS * DAY_MS
    minute = 60_000
    span = Span(base + start * minute, base + (start + length) * minute)
    open_hours = frozenset(base // 1000 + each * 3600 for each in opened)
    without_short = frozenset(base // 1000 + each * 3600 for each in old)
    # As the database says it: a day with an hour that is open, or of an older form, is open.
    open_days = frozenset(base // 1000 + each * 86_400 for each in days)
    open_days |= {hour // 86_400 * 86_400 for hour in open_hours | without_short}
    all_hours = [base // 1000 + each * 3600 for each in range(-24, 24 * 15)]
    hours = Hours(
        True,
        open_hours,
        False,
        without_short,
        open_days,
        hour_buildings={hour: hour for hour in all_hours if hour not in open_hours | without_short},
        day_buildings={hour: -hour for hour in all_hours if hour % 86_400 == 0 and hour not in open_days},
    )
    plan = plan_of(span, hours, cut, short=short)
    buildings = []
    for at in range(span.from_ms - minute, span.to_ms + minute, 7 * minute):
        inside = span.from_ms <= at < span.to_ms
        hour, day = at // HOUR_MS * 3600, at // DAY_MS * 86_400
        by_day = plan.days is not None and plan.days.from_ms <= at < plan.days.to_ms and day not in plan.open_days
        by_hour = [each for each in plan.hours if each.from_ms <= at < each.to_ms and hour not in plan.open_hours]
        raw = [each for each in plan.raw if each.from_ms <= at < each.to_ms]
        assert by_day + len(by_hour) + len(raw) == inside
        if by_day:
            assert cut
            assert day not in open_days
            buildings.append(-day)
        if by_hour:
            assert hour not in open_hours
            assert not (short and hour in without_short)
            buildings.append(hour)
    # All buildings that are read are named, or none: where an hour of an older form has no cuts.
    if plan.buildings is not None:
        assert sorted(plan.buildings) == sorted(set(buildings))
    else:
        assert cut is None or without_short & set(buildings) or not buildings


def test_sums_of_a_former_form_are_read_where_requests_have_left() -> None:
    """Request by request there would be nothing."""
    day = NOON_MS // DAY_MS * 86_400
    row = {
        "hours": [day], "complete": [1], "forms": [FORM - 1], "buildings": [7], "same": 1, "generation": 9,
        "corrections": 0, "day": day, "now_s": day + 86_400,
    }  # fmt: skip
    noted = {**row, "day": 0, "hours": [0]}
    span = Span(day * 1000, day * 1000 + HOUR_MS)
    for kept_from, raw in ((0, (span,)), (day, (span,)), (day + 86_400, ())):
        rows = [{**each, "kept_from": kept_from} for each in (noted, row)]
        plan = plan_of(span, hours_of(rows), "key", short=True)
        assert plan.raw == raw
        assert raw or (plan.hours == (span,) and plan.buildings is None)  # there are no cuts of that form


def test_buckets_follow_the_zone() -> None:
    start = int(datetime(2026, 10, 24, tzinfo=UTC).timestamp() * 1000)
    days = buckets(Span(start, start + 3 * 86_400_000), "day", "Europe/Paris")
    assert [key for key, _ in days] == ["2026-10-24", "2026-10-25", "2026-10-26", "2026-10-27"]
    assert [b - a for (_, a), (_, b) in zip(days, days[1:], strict=False)] == [86_400, 90_000, 86_400]
    hours = buckets(Span(start, start + 2 * HOUR_MS), "hour", "Asia/Kolkata")
    assert [at % 3600 for _, at in hours] == [1800, 1800, 1800]
    with pytest.raises(Refusal, match="interval"):
        buckets(Span(start, start + 1000 * 86_400_000), "hour", "UTC")
    assert whole_hours("Europe/Paris", Span(start, start + HOUR_MS))
    assert not whole_hours("Asia/Kolkata", Span(start, start + HOUR_MS))


def test_cells_are_no_formulas() -> None:
    assert csv_cell("=cmd|' /C calc'!A0") == "'=cmd|' /C calc'!A0"
    assert csv_cell("@x") == "'@x"
    assert csv_cell({"b": "2", "a": "=1"}) == "a==1; b=2"
    assert csv_cell(None) == ""
    assert csv_cell(-5) == -5


def test_unknown_counts_match_no_bound() -> None:
    unknown = usage(1, input_tokens=None)
    assert not criteria(Filters(min_tokens=0), {}).matches(unknown)
    assert not criteria(Filters(max_tokens=10**9), {}).matches(unknown)
    assert criteria(Filters(), {}).matches(unknown)


def test_a_name_of_a_key_is_asked_for_by_id() -> None:
    keys = {"key-1": "ci", "key-2": "alice", "key-3": "ci"}

    def asked(*values: str) -> tuple[tuple[str, ...], str]:
        wanted = criteria(Filters(key=values), {}, keys)
        parameters = wanted.sql("f_")[1]
        return tuple(parameters["f_key"]), wanted.early

    at_once = "virtual_key_id IN {f_key:Array(String)}"
    assert asked("alice") == (("key-2",), at_once)
    assert asked("ci", "key-2") == (("key-1", "key-3", "key-2"), at_once)
    # Nobody has that name today: it may stand in requests of a key that is gone.
    assert asked("alice", "former") == (("key-2", "former"), "")
    assert asked("") == (("",), "")
    assert criteria(Filters(key=("ci",)), {}, keys).matches(usage(virtual_key_id="key-3", virtual_key="before"))
    assert not criteria(Filters(key=("ci",)), {}, keys).matches(usage(virtual_key_id="key-9", virtual_key="ci"))
