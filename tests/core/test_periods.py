"""Days and months of any zone: no gap, no overlap, and ids that sort as time does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core.periods import periods_at, periods_of

# Clocks that change at midnight (Beirut, Havana, São Paulo, Cairo), by half an hour (Lord Howe), by a day (Apia).
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Beirut",
    "America/Havana",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Asia/Kolkata",
]
zones = st.sampled_from(ZONES).map(ZoneInfo)
instants = st.floats(0, datetime(2040, 1, 1, tzinfo=UTC).timestamp())


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@given(now=instants, zone=zones)
@example(now=at("2011-12-29T23:59:59", "Pacific/Apia"), zone=ZoneInfo("Pacific/Apia"))
@example(now=at("2018-11-03T23:30:00", "America/Sao_Paulo"), zone=ZoneInfo("America/Sao_Paulo"))
@example(now=at("2026-11-01T00:30:00", "America/Havana"), zone=ZoneInfo("America/Havana"))
def test_a_day_lasts_until_its_end_and_the_next_begins_there(now: float, zone: ZoneInfo) -> None:
    periods = periods_at(now, zone)
    assert now < periods.day_end <= periods.month_end
    assert periods_at(now, zone).day == datetime.fromtimestamp(now, zone).date().isoformat()
    before, after = periods_at(periods.day_end - 0.001, zone), periods_at(periods.day_end, zone)
    assert before == periods
    assert after.day > periods.day
    assert after.month >= periods.month
    assert periods_at(periods.month_end - 0.001, zone).month == periods.month
    assert periods_at(periods.month_end, zone).month > periods.month


@given(moments=st.lists(instants, min_size=2, max_size=2), zone=zones)
def test_ids_sort_as_time_does(moments: list[float], zone: ZoneInfo) -> None:
    earlier, later = (periods_at(now, zone) for now in sorted(moments))
    assert (earlier.day, earlier.month) <= (later.day, later.month)
    assert earlier.day_end <= later.day_end


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("UTC", "2026-03-29", 24),
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Asia/Beirut", "2026-03-29", 23),
        ("America/Havana", "2026-11-01", 25),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
    ],
)
def test_a_day_with_a_clock_change_is_one_day(zone: str, day: str, hours: float) -> None:
    midnight = periods_of(datetime.fromisoformat(day).date() - timedelta(days=1), ZoneInfo(zone)).day_end
    periods = periods_at(midnight, ZoneInfo(zone))
    assert periods.day == day
    assert periods.day_end - midnight == hours * 3600


@pytest.mark.parametrize(
    ("now", "day", "month", "month_end"),
    [
        ("2028-02-28T23:59:59", "2028-02-28", "2028-02", "2028-03-01T00:00:00"),
        ("2028-02-29T00:00:00", "2028-02-29", "2028-02", "2028-03-01T00:00:00"),
        ("2027-02-28T12:00:00", "2027-02-28", "2027-02", "2027-03-01T00:00:00"),
        ("2026-12-31T23:59:59", "2026-12-31", "2026-12", "2027-01-01T00:00:00"),
        ("2026-01-31T00:00:00", "2026-01-31", "2026-01", "2026-02-01T00:00:00"),
    ],
)
def test_leap_days_and_ends_of_months(now: str, day: str, month: str, month_end: str) -> None:
    periods = periods_at(at(now), ZoneInfo("UTC"))
    assert (periods.day, periods.month, periods.month_end) == (day, month, at(month_end))


@given(now=instants, zone=zones)
def test_a_days_periods_are_those_of_every_instant_in_it(now: float, zone: ZoneInfo) -> None:
    periods = periods_at(now, zone)
    assert periods_of(datetime.fromisoformat(periods.day).date(), zone) == periods
