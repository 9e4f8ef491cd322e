"""Budget periods: days and months of a zone, with the instants at which they end."""

from __future__ import annotations

from dataclasses import dataclass
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
