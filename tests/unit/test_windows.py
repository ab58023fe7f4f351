from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_common.windows import bounds, parse_window, zone

ALIGNED = ["1m", "1h", "1d", "1w", "1M", "1Q", "1Y"]
ZONES = [
    "",
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",  # changes by half an hour
    "Asia/Kathmandu",  # 5:45
    "America/Sao_Paulo",  # skipped midnights until 2018
    "America/St_Johns",  # changed at 00:01 until 2011: a date came back
    "Africa/Cairo",  # skips midnight
    "Pacific/Apia",  # skipped 30 December 2011
    "America/Scoresbysund",
]
MOMENTS = st.integers(
    int(datetime(2005, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2040, 1, 1, tzinfo=UTC).timestamp())
)


def at(text: str, zone_name: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone_name)).timestamp())


@pytest.mark.parametrize(
    "text",
    ["60s", "1m", "90m", "1h", "5h", "1d", "30d", "366d", "1w", "52w", "1M", "12M", "1Q", "4Q", "1Y", "31622400s"],
)
def test_windows_that_exist(text: str) -> None:
    assert str(parse_window(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "M", "0M", "-1M", "1.5h", " 1d", "1d ", "1D", "1y", "59s", "31622401s", "367d", "53w", "13M", "5Q",
        "2Y", "01d", "1dd", "١d", "1e3s", "99999999999999s", "1mo",
    ],
)  # fmt: skip
def test_windows_that_do_not(text: str) -> None:
    with pytest.raises(ValueError, match="at least 60 s and at most one year"):
        parse_window(text)


@pytest.mark.parametrize("text", ["2d", "60s", "90m", "3M", "4Q", "60m"])
def test_only_single_units_follow_the_calendar(text: str) -> None:
    parse_window(text)
    with pytest.raises(ValueError, match="calendar-aligned"):
        parse_window(text, calendar_aligned=True)


def test_sixty_seconds_do_not_follow_the_calendar_but_a_minute_does() -> None:
    assert parse_window("1m", calendar_aligned=True) == (1, "m")


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "/etc/localtime", "Europe", "\0", "europe/nowhere"])
def test_unknown_zones(name: str) -> None:
    with pytest.raises(ValueError, match="IANA"):
        zone(name)


@pytest.mark.parametrize(
    ("text", "zone_name", "now", "start", "end"),
    [
        ("1m", "", "2026-11-21T09:31:15", "2026-11-21T09:31", "2026-11-21T09:32"),
        ("1h", "Asia/Kathmandu", "2026-11-21T09:31:15", "2026-11-21T09:00", "2026-11-21T10:00"),
        ("1d", "Europe/Paris", "2026-11-21T00:00:00", "2026-11-21T00:00", "2026-11-22T00:00"),
        ("1d", "Europe/Paris", "2026-03-29T12:00:00", "2026-03-29T00:00", "2026-03-30T00:00"),  # 23 hours
        ("1d", "Europe/Paris", "2026-10-25T12:00:00", "2026-10-25T00:00", "2026-10-26T00:00"),  # 25 hours
        ("1w", "America/New_York", "2026-11-22T23:59:59", "2026-11-16T00:00", "2026-11-23T00:00"),  # a Sunday
        ("1w", "America/New_York", "2026-11-23T00:00:00", "2026-11-23T00:00", "2026-11-30T00:00"),  # a Monday
        ("1M", "Europe/Paris", "2026-12-31T23:59:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("1Q", "Europe/Paris", "2026-05-15T00:00:00", "2026-04-01T00:00", "2026-07-01T00:00"),
        ("1Q", "Europe/Paris", "2026-12-15T00:00:00", "2026-10-01T00:00", "2027-01-01T00:00"),
        ("1Y", "Pacific/Apia", "2026-05-15T00:00:00", "2026-01-01T00:00", "2027-01-01T00:00"),
    ],
)
def test_calendar_windows(text: str, zone_name: str, now: str, start: str, end: str) -> None:
    local = zone_name or "UTC"
    found = bounds(parse_window(text, True), True, 12345, zone_name, at(now, local))
    assert found == (at(start, local), at(end, local))


def test_days_around_a_change_of_clock_have_23_and_25_hours() -> None:
    spring = bounds(parse_window("1d"), True, 0, "Europe/Paris", at("2026-03-29T12:00"))
    autumn = bounds(parse_window("1d"), True, 0, "Europe/Paris", at("2026-10-25T12:00"))
    assert [(end - start) / 3600 for start, end in (spring, autumn)] == [23, 25]


def test_the_repeated_hour_is_two_windows() -> None:
    first = bounds(parse_window("1h"), True, 0, "Europe/Paris", at("2026-10-25T00:30"))
    second = bounds(parse_window("1h"), True, 0, "Europe/Paris", at("2026-10-25T01:30"))
    assert first == (at("2026-10-25T00:00"), at("2026-10-25T01:00"))
    assert second == (at("2026-10-25T01:00"), at("2026-10-25T02:00"))


@pytest.mark.parametrize(
    ("zone_name", "edges"),
    [
        # 00:01 became 23:01, at 02:31 UTC: the hour from midnight was a minute long.
        ("America/St_Johns", ["2010-11-07T02:30", "2010-11-07T02:31", "2010-11-07T03:30"]),
        # 02:00 became 01:30, at 15:00 UTC: half an hour remained of the hour from one.
        ("Australia/Lord_Howe", ["2026-04-04T14:00", "2026-04-04T15:00", "2026-04-04T15:30"]),
        # 02:00 became 02:30, at 15:30 UTC.
        ("Australia/Lord_Howe", ["2026-10-03T14:30", "2026-10-03T15:30", "2026-10-03T16:00"]),
    ],
)
def test_hours_are_cut_where_the_clock_is_changed_within_them(zone_name: str, edges: list[str]) -> None:
    moments = [at(edge) for edge in edges]
    for start, end in pairwise(moments):
        for now in (start, (start + end) // 2, end - 1):
            assert bounds(parse_window("1h"), True, 0, zone_name, now) == (start, end)


def test_a_day_that_a_country_skipped_is_no_window() -> None:
    """Samoa went from Thursday 29 to Saturday 31 December 2011."""
    start, end = bounds(parse_window("1d"), True, 0, "Pacific/Apia", at("2011-12-29T12:00", "Pacific/Apia"))
    assert bounds(parse_window("1d"), True, 0, "Pacific/Apia", end)[0] == end
    assert (end - start, datetime.fromtimestamp(end, ZoneInfo("Pacific/Apia")).day) == (86_400, 31)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(ALIGNED), st.sampled_from(ZONES), MOMENTS)
def test_calendar_windows_tile_time(text: str, zone_name: str, now_s: int) -> None:
    window = parse_window(text, True)
    start, end = bounds(window, True, 0, zone_name, now_s)
    assert start <= now_s < end
    assert bounds(window, True, 0, zone_name, start) == (start, end)
    assert bounds(window, True, 0, zone_name, end - 1) == (start, end)
    assert bounds(window, True, 0, zone_name, end)[0] == end
    assert bounds(window, True, 0, zone_name, start - 1)[1] == start


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(["1d", "1w", "1M", "1Q", "1Y"]), st.sampled_from(["", "Europe/Paris", "America/New_York"]), MOMENTS
)
def test_calendar_windows_begin_at_local_midnight_of_the_right_day(text: str, zone_name: str, now_s: int) -> None:
    tz = ZoneInfo(zone_name or "UTC")
    start, end = bounds(parse_window(text, True), True, 0, zone_name, now_s)
    for edge in (start, end):
        local = datetime.fromtimestamp(edge, tz)
        assert (local.hour, local.minute, local.second) == (0, 0, 0)
        if text == "1w":
            assert local.isoweekday() == 1
        if text in ("1M", "1Q", "1Y"):
            assert local.day == 1
        if text == "1Q":
            assert local.month in (1, 4, 7, 10)
        if text == "1Y":
            assert local.month == 1
    longest = {"1d": 1, "1w": 7, "1M": 31, "1Q": 92, "1Y": 366}[text]
    assert end - start <= longest * 86_400 + 3600


def test_months_follow_the_anchor_without_drift() -> None:
    anchor = at("2026-01-31T10:00")
    starts, now = [], anchor
    for _ in range(15):
        start, end = bounds(parse_window("1M"), False, anchor, "", now)
        starts.append(datetime.fromtimestamp(start, UTC).strftime("%m-%d %H"))
        now = end
    assert starts[:6] == ["01-31 10", "02-28 10", "03-31 10", "04-30 10", "05-31 10", "06-30 10"]
    assert starts[12:15] == ["01-31 10", "02-28 10", "03-31 10"]


def test_a_leap_days_year_ends_on_the_28th_until_the_next_leap_year() -> None:
    anchor = at("2024-02-29T00:00")
    ends = [bounds(parse_window("1Y"), False, anchor, "", at(f"{year}-06-01T00:00"))[1] for year in (2024, 2026, 2027)]
    assert ends == [at("2025-02-28T00:00"), at("2027-02-28T00:00"), at("2028-02-29T00:00")]


def test_anchored_months_keep_the_local_time_of_day() -> None:
    anchor = at("2026-01-15T09:30", "Europe/Paris")
    start, end = bounds(parse_window("1M"), False, anchor, "Europe/Paris", at("2026-04-01T00:00"))
    assert (start, end) == (at("2026-03-15T09:30", "Europe/Paris"), at("2026-04-15T09:30", "Europe/Paris"))


def test_before_its_anchor_a_limit_is_in_its_first_window() -> None:
    anchor = at("2026-01-31T10:00")
    for text, end in (("1M", at("2026-02-28T10:00")), ("90m", anchor + 5400)):
        assert bounds(parse_window(text), False, anchor, "", anchor - 10_000_000) == (anchor, end)
        assert bounds(parse_window(text), False, anchor, "", anchor) == (anchor, end)


def clamped(anchor: datetime, months: int) -> datetime:
    year, month0 = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    return anchor.replace(year=year, month=month0 + 1, day=min(anchor.day, monthrange(year, month0 + 1)[1]))


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["1M", "5M", "12M", "1Q", "3Q", "1Y"]), MOMENTS, st.integers(0, 10 * 366 * 86_400))
def test_anchored_months_against_counting_them_one_by_one(text: str, anchor_s: int, later_s: int) -> None:
    months = int(text[:-1]) * {"M": 1, "Q": 3, "Y": 12}[text[-1]]
    now_s, count = anchor_s + later_s, 0
    anchor = datetime.fromtimestamp(anchor_s, UTC)
    while clamped(anchor, (count + 1) * months).timestamp() <= now_s:
        count += 1
    expected = tuple(int(clamped(anchor, n * months).timestamp()) for n in (count, count + 1))
    assert bounds(parse_window(text), False, anchor_s, "", now_s) == expected


@given(st.sampled_from(["60s", "90m", "5h", "1d", "30d", "2w"]), MOMENTS, st.integers(0, 10**9), st.sampled_from(ZONES))
def test_anchored_seconds_are_multiples_of_their_length(text: str, anchor_s: int, later_s: int, zone_name: str) -> None:
    start, end = bounds(parse_window(text), False, anchor_s, zone_name, anchor_s + later_s)
    seconds = int(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[text[-1]]
    assert (end - start, (start - anchor_s) % seconds) == (seconds, 0)
    assert start <= anchor_s + later_s < end


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["1M", "1Q", "1Y"]), st.sampled_from(ZONES), MOMENTS, st.integers(0, 5 * 366 * 86_400))
def test_anchored_months_tile_time_in_every_zone(text: str, zone_name: str, anchor_s: int, later_s: int) -> None:
    window, now_s = parse_window(text), anchor_s + later_s
    start, end = bounds(window, False, anchor_s, zone_name, now_s)
    assert start <= now_s < end
    assert bounds(window, False, anchor_s, zone_name, start) == (start, end)
    assert bounds(window, False, anchor_s, zone_name, end)[0] == end


def test_words() -> None:
    assert [parse_window(text).words() for text in ("1M", "90m", "1Q")] == ["month", "90 minutes", "quarter"]


def test_a_fraction_of_a_second_lies_in_the_second_it_began_in() -> None:
    start, end = bounds(parse_window("1m"), True, 0, "", 119.9)
    assert (start, end) == (60, 120)
    assert bounds(parse_window("60s"), False, 0, "", 119.9) == (60, 120)
    assert timedelta(seconds=end - start) == timedelta(minutes=1)
