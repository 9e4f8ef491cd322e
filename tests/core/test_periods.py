"""Days and months of any zone: no gap, no overlap, and ids that sort as time does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core.periods import Periods, periods_after, periods_at, periods_of

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
    "Etc/GMT+12",
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


# One after another, also where the zone or the clock changes.


@given(first=instants, later=st.floats(0, 100 * 86400), zone=zones)
def test_in_one_zone_periods_follow_the_clock(first: float, later: float, zone: ZoneInfo) -> None:
    running = periods_after(None, first, zone)
    assert running == periods_at(first, zone)
    assert periods_after(running, first + later, zone) == periods_at(first + later, zone)


@given(first=instants, back=st.floats(0, 100 * 86400), zone=zones)
def test_a_clock_that_goes_back_ends_no_day(first: float, back: float, zone: ZoneInfo) -> None:
    running = periods_at(first, zone)
    assert periods_after(running, first - back, zone) == running


@given(
    first=instants,
    moves=st.lists(st.tuples(zones, st.floats(-3 * 86400, 5 * 86400)), min_size=1, max_size=8),
    ends=st.booleans(),
)
def test_no_period_begins_before_the_one_that_runs_has_ended(
    first: float, moves: list[tuple[ZoneInfo, float]], ends: bool
) -> None:
    running: Periods | None = None
    months: dict[str, str] = {}
    now = first
    for zone, seconds in moves:
        now = max(now + seconds, 0.0)
        if ends and running is not None:
            now = running.day_end
        after = periods_after(running, now, zone)
        assert now < after.day_end
        assert months.setdefault(after.day, after.month) == after.month, "a day has one month"
        if running is not None:
            assert (after.day, after.month) >= (running.day, running.month)
            assert after.day == running.day or now >= running.day_end
            assert after.month == running.month or now >= running.month_end
        running = after


def test_a_zone_where_it_is_still_yesterday_prolongs_the_day_to_its_own_end_of_it() -> None:
    """A day whose id was used is the same day again, not the one before it, nor does it begin anew."""
    behind, ahead = ZoneInfo("Etc/GMT+12"), ZoneInfo("Pacific/Kiritimati")
    running = periods_at(at("2026-11-23T12:00", "Pacific/Kiritimati"), ahead)
    assert periods_at(running.day_end, behind).day == "2026-11-22"
    after = periods_after(running, running.day_end, behind)
    assert after == periods_at(at("2026-11-23T12:00", "Etc/GMT+12"), behind)


def test_a_day_that_is_prolonged_keeps_its_month() -> None:
    behind, ahead = ZoneInfo("Etc/GMT+12"), ZoneInfo("Pacific/Kiritimati")
    running = periods_at(at("2026-11-29T12:00", "Etc/GMT+12"), behind)
    for _ in range(2):
        running = periods_after(running, running.day_end, ahead)
    assert (running.day, running.month) == ("2026-12-02", "2026-11")
    assert running.day_end > running.month_end
    after = periods_after(running, running.day_end, behind)
    assert (after.day, after.month, after.day_end) == ("2026-12-02", "2026-11", at("2026-12-03T00:00", "Etc/GMT+12"))
    assert periods_after(after, after.day_end, behind).month == "2026-12"


def test_a_month_that_was_held_back_ends_with_a_later_day() -> None:
    behind, ahead = ZoneInfo("Etc/GMT+12"), ZoneInfo("Pacific/Kiritimati")
    running = periods_at(at("2026-11-29T12:00", "Etc/GMT+12"), behind)
    first = periods_after(running, running.day_end, ahead)
    assert (first.day, first.month, first.month_end) == ("2026-12-01", "2026-11", running.month_end)
    second = periods_after(first, first.day_end, ahead)
    assert (second.day, second.month) == ("2026-12-02", "2026-11")
    third = periods_after(second, second.day_end, ahead)
    assert third == periods_of(datetime(2026, 12, 3).date(), ahead)  # noqa: DTZ001
