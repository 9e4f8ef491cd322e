"""Budget periods: days and months of a zone, with the instants at which they end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Periods:
    """The day and month of one instant: ids that sort as time does, and the day's end in epoch seconds."""

    day: str
    month: str
    day_end: float
    month_end: float


def periods_at(now: float, zone: ZoneInfo) -> Periods:
    """The periods of an instant in epoch seconds. A day of 23 or 25 hours is one day."""
    return periods_of(datetime.fromtimestamp(now, zone).date(), zone)


def periods_of(today: date, zone: ZoneInfo) -> Periods:
    """The periods that a day is in, and when they end."""
    first = today.replace(day=1)
    next_month = (first + timedelta(days=32)).replace(day=1)
    return Periods(
        today.isoformat(),
        f"{today:%Y-%m}",
        datetime.combine(today + timedelta(days=1), datetime.min.time(), zone).timestamp(),
        datetime.combine(next_month, datetime.min.time(), zone).timestamp(),
    )


def periods_after(running: Periods | None, now: float, zone: ZoneInfo) -> Periods:
    """The periods at `now`, where `running` were the newest ones. `zone` is that of the next day, new or not.

    What runs goes on to the end that it had at its beginning, whatever the clock and the zone do. Ids only rise: a
    zone in which it is still the same day prolongs that day. A day has one month, and a month that runs is not
    followed by the next one early, even where a zone far ahead is there already.
    """
    if running is None:
        return periods_at(now, zone)
    if now < running.day_end:
        return running
    day = max(periods_at(now, zone).day, running.day)
    periods = periods_of(date.fromisoformat(day), zone)
    if periods.month != running.month and (day == running.day or now < running.month_end):
        return replace(periods, month=running.month, month_end=running.month_end)
    return periods
