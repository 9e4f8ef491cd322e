"""The holder's rules one by one: sizes, denials, idle returns, caps and midnight."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.budget import (
    BUSY_SECONDS,
    IDLE_SECONDS,
    IDLE_SECONDS_WHEN_LOW,
    Caps,
    Holder,
    Lease,
    Reply,
    Reservation,
    Step,
)

CAPS = Caps(1_000_000, 10_000_000)
ONE_PERCENT = 10_000
MIDNIGHT = 100_000.0


def reply(granted: int = 0, *, day: str = "2026-11-23", left: int = 900_000, end: float = MIDNIGHT) -> Reply:
    return Reply(day, day[:7], end, granted, left, left, 0, 0, CAPS, 2.0)


def holder_with(granted: int, *, now: float = 0.0, size: int | None = None) -> Holder:
    """A holder whose first lease was granted for calls of that cost."""
    holder = Holder("h", CAPS)
    step = holder.step(size or granted, size or granted, now)
    holder.apply(step, reply(granted), now)
    return holder


def reserved(holder: Holder, amount: int, now: float = 0.0) -> Reservation:
    reservation = holder.reserve(amount, amount, now)
    assert reservation is not None
    return reservation


# Reservations.


@given(granted=st.integers(1, 10**12), data=st.data())
def test_a_reservation_moves_money_and_its_end_moves_the_rest_back(granted: int, data: st.DataObject) -> None:
    lease = Lease("d", "m")
    lease.grant(granted)
    amount = data.draw(st.integers(0, granted))
    actual = data.draw(st.integers(0, amount))
    reservation = Reservation(lease, amount)
    assert (lease.free, lease.reserved, lease.settled) == (granted - amount, amount, 0)
    assert reservation.settle(actual) is True
    assert (lease.free, lease.reserved, lease.settled) == (granted - actual, 0, actual)
    assert reservation.settle(amount) is False
    assert reservation.release() is False
    assert (lease.free, lease.reserved, lease.settled) == (granted - actual, 0, actual)


def test_a_released_reservation_cannot_be_settled_any_more() -> None:
    lease = Lease("d", "m")
    lease.grant(10)
    reservation = Reservation(lease, 10)
    assert reservation.release() is True
    assert reservation.settle(10) is False
    assert (lease.free, lease.settled) == (10, 0)


def test_a_bill_above_its_reservation_comes_out_of_what_is_free() -> None:
    holder = holder_with(100)
    reserved(holder, 40).settle(70)
    lease = holder.lease
    assert lease is not None
    assert (lease.free, lease.reserved, lease.settled) == (30, 0, 70)
    assert holder.reserve(31, 31, 0.0) is None


def test_a_bill_above_the_whole_lease_leaves_nothing_to_spend_nor_to_return() -> None:
    holder = holder_with(100)
    reserved(holder, 100).settle(150)
    assert holder.reserve(1, 1, 0.0) is None
    assert holder.exceeded(0.0) is False  # the store has some left
    step = holder.leaving_step()
    assert (step.settled, step.returned) == (150, 0)
    # What is asked for next covers what is owed.
    assert holder.step(20, 20, 0.0).need == 70


@pytest.mark.parametrize(
    ("free", "want", "least", "amount"),
    [(100, 100, 100, 100), (100, 60, 60, 60), (100, 101, 100, 100), (100, 101, 101, None), (100, 500, 0, 100)],
)
def test_a_reservation_is_what_is_wanted_or_what_there_is_but_never_under_the_least(
    free: int, want: int, least: int, amount: int | None
) -> None:
    reservation = holder_with(free).reserve(want, least, 0.0)
    assert (None if reservation is None else reservation.amount) == amount


def test_a_call_that_costs_nothing_needs_no_lease() -> None:
    holder = Holder("h", CAPS)
    assert reserved(holder, 0).amount == 0
    assert holder.lease is None


def test_without_a_lease_or_with_an_empty_one_there_is_nothing() -> None:
    assert Holder("h", CAPS).reserve(1, 1, 0.0) is None
    holder = holder_with(10)
    reserved(holder, 10)
    assert holder.reserve(5, 0, 0.0) is None


# Sizes.


def test_the_first_lease_is_what_the_waiting_call_could_cost() -> None:
    step = Holder("h", CAPS).step(700, 300, 0.0)
    assert (step.day, step.want, step.need, step.least) == ("", 0, 700, 300)


def test_a_lease_that_is_used_up_soon_is_doubled_up_to_one_percent() -> None:
    holder, now, sizes = Holder("h", CAPS), 0.0, []
    for _ in range(8):
        step = holder.step(700, 700, now)
        granted = max(step.want, step.need)
        holder.apply(step, reply(granted), now)
        lease = holder.lease
        assert lease is not None
        sizes.append(lease.free)
        reserved(holder, lease.free, now)
        now += BUSY_SECONDS - 1
    assert sizes == [700, 1400, 2800, 5600, ONE_PERCENT, ONE_PERCENT, ONE_PERCENT, ONE_PERCENT]


def test_a_lease_that_lasted_long_is_not_doubled() -> None:
    holder = holder_with(700)
    reserved(holder, 700)
    assert holder.step(10, 10, BUSY_SECONDS - 1.0).want == 1400
    assert holder.step(10, 10, BUSY_SECONDS).want == 700


@given(free=st.integers(0, 30_000), size=st.integers(1, 30_000), wants=st.integers(0, 50_000), now=st.floats(0, 2000))
def test_a_lease_has_at_most_one_percent_unless_waiting_calls_need_more(
    free: int, size: int, wants: int, now: float
) -> None:
    holder = holder_with(size)
    lease = holder.lease
    assert lease is not None
    if size > free:
        reserved(holder, size - free)
    step = holder.step(wants, wants, now)
    after = lease.free + max(step.want, step.need)
    assert after <= max(ONE_PERCENT, wants, lease.free)
    assert after >= min(wants, CAPS.daily)


def test_what_the_lease_still_has_is_not_asked_for_again() -> None:
    holder = holder_with(500)
    step = holder.step(800, 600, 0.0)
    assert (step.need, step.least) == (300, 100)
    step = holder.step(800, 400, 0.0)
    assert (step.need, step.least) == (300, 0)


def test_no_call_asks_for_more_than_a_whole_budget() -> None:
    """However absurd its bounds are: a store's integers end somewhere."""
    step = Holder("h", Caps(1_000_000, 800)).step(10**30, 10**30, 0.0)
    assert step.need == 800
    assert step.least == 10**30  # so that nothing is granted for what can never run


def test_a_lease_under_half_its_size_is_filled_up_before_calls_wait() -> None:
    holder = holder_with(8000)
    assert not holder.runs_low(0.0)
    reserved(holder, 4000)
    assert not holder.runs_low(0.0)
    reserved(holder, 1)
    assert holder.runs_low(0.0)
    step = holder.step(0, 0, 0.0)
    assert (step.want, step.need, step.least) == (ONE_PERCENT - 3999, 0, 0)


def test_a_store_that_had_nothing_is_not_asked_to_fill_up_with_every_call() -> None:
    holder = holder_with(8000)
    reserved(holder, 5000)
    step = holder.step(0, 0, 0.0)
    assert step.want
    holder.apply(step, reply(0, left=0), 0.0)
    assert not holder.runs_low(1.9)
    assert holder.step(0, 0, 1.9).want == 0
    assert holder.runs_low(2.0)


def test_a_lease_that_was_granted_in_part_is_not_low_at_once() -> None:
    """Near the budget's end a store grants less than is wanted: that is the lease's size then."""
    holder = holder_with(8000)
    reserved(holder, 8000)
    holder.apply(holder.step(10, 10, 0.0), reply(40), 0.0)
    reserved(holder, 10)
    assert not holder.runs_low(0.0)


def test_an_idle_return_halves_the_next_lease() -> None:
    holder = holder_with(8000)
    holder.give_back()
    lease = holder.lease
    assert lease is not None
    assert (lease.free, lease.returned) == (0, 8000)
    # Nothing is asked for before a call comes: else it would not have been given back.
    assert not holder.runs_low(BUSY_SECONDS)
    assert holder.step(0, 0, BUSY_SECONDS).want == 0
    assert holder.step(10, 10, BUSY_SECONDS).want == 4000


@pytest.mark.parametrize(("left", "seconds"), [(900_000, IDLE_SECONDS), (99_999, IDLE_SECONDS_WHEN_LOW)])
def test_a_lease_is_idle_after_a_while_and_sooner_when_little_is_left(left: int, seconds: float) -> None:
    holder = Holder("h", CAPS)
    holder.apply(holder.step(100, 100, 0.0), reply(1000, left=left), 0.0)
    reserved(holder, 100, 50.0)
    assert not holder.idle(50.0 + seconds - 0.1)
    assert holder.idle(50.0 + seconds)
    reserved(holder, 900, 50.0 + seconds)
    assert not holder.idle(10_000.0)  # nothing is free


# Denials.


def denied_holder(caps: Caps = CAPS) -> Holder:
    holder = Holder("h", caps)
    holder.apply(holder.step(500, 400, 10.0), replace(reply(0, left=100), caps=caps), 10.0)
    return holder


def test_a_denial_is_remembered_for_calls_that_need_as_much_and_for_as_long_as_the_store_says() -> None:
    holder = denied_holder()
    assert holder.denied(400, 11.9)
    assert holder.denied(10_000, 11.9)
    assert not holder.denied(399, 11.9)
    assert not holder.denied(400, 12.0)


def test_a_denial_ends_at_a_raised_cap() -> None:
    holder = denied_holder()
    holder.set_caps(CAPS)
    assert holder.denied(400, 11.0)  # the same caps are no news
    holder.set_caps(replace(CAPS, daily=CAPS.daily + 1))
    assert not holder.denied(400, 11.0)


def test_a_denial_ends_with_its_day() -> None:
    holder = Holder("h", CAPS)
    holder.apply(holder.step(500, 400, MIDNIGHT - 1), reply(0, left=100), MIDNIGHT - 1)
    assert holder.denied(400, MIDNIGHT - 0.5)
    assert not holder.denied(400, MIDNIGHT)


def test_a_denial_ends_when_the_clock_goes_back() -> None:
    assert not denied_holder().denied(400, -3600.0)


def test_a_denial_under_caps_that_have_changed_meanwhile_does_not_count() -> None:
    holder = Holder("h", CAPS)
    step = holder.step(500, 400, 10.0)
    holder.set_caps(replace(CAPS, daily=CAPS.daily * 2))
    holder.apply(step, reply(0, left=0), 10.0)
    assert not holder.denied(400, 10.0)
    assert not holder.exceeded(10.0)
    assert holder.has_news


def test_money_that_was_freed_meanwhile_ends_a_denial() -> None:
    holder = holder_with(300)
    first = reserved(holder, 300)
    holder.apply(holder.step(400, 400, 0.0), reply(0, left=0), 0.0)
    assert holder.denied(400, 0.0)
    first.release()
    assert not holder.denied(400, 0.0)
    assert holder.denied(700, 0.0)


# Exceeded.


def test_exceeded_means_that_nothing_is_left_anywhere() -> None:
    holder = Holder("h", CAPS)
    assert not holder.exceeded(0.0)  # nobody knows yet
    holder.apply(holder.step(100, 100, 0.0), reply(100, left=0), 0.0)
    assert not holder.exceeded(0.0)  # we have some
    reservation = reserved(holder, 100)
    assert not holder.exceeded(0.0)  # some may come back
    reservation.settle(100)
    assert holder.exceeded(0.0)
    assert not holder.exceeded(MIDNIGHT)  # a new day


def test_either_period_counts() -> None:
    holder = Holder("h", CAPS)
    holder.apply(holder.step(1, 1, 0.0), replace(reply(), left_monthly=0), 0.0)
    assert holder.exceeded(0.0)
    holder.apply(holder.step(1, 1, 0.0), replace(reply(), left_monthly=1), 0.0)
    assert not holder.exceeded(0.0)


@pytest.mark.parametrize("caps", [Caps(0, 100), Caps(100, 0), Caps(0, 0)])
def test_a_cap_of_zero_is_exceeded_from_the_start(caps: Caps) -> None:
    assert Holder("h", caps).exceeded(0.0)


def test_new_caps_are_not_exceeded_before_the_store_says_so() -> None:
    holder = Holder("h", CAPS)
    holder.apply(holder.step(1, 1, 0.0), reply(0, left=0), 0.0)
    assert holder.exceeded(0.0)
    raised = replace(CAPS, daily=CAPS.daily * 2)
    holder.set_caps(raised)
    assert not holder.exceeded(0.0)
    step = holder.step(0, 0, 0.0)
    assert step.caps == raised
    holder.apply(step, reply(0, left=0), 0.0)
    assert holder.exceeded(0.0)


# Caps that fall.


@pytest.mark.parametrize("caps", [Caps(0, CAPS.monthly), Caps(CAPS.daily, 0), Caps(0, 0), Caps(-1, -1)])
def test_under_a_cap_of_zero_nothing_is_reserved_whatever_the_lease_has(caps: Caps) -> None:
    holder = holder_with(1000)
    holder.set_caps(caps)
    assert holder.reserve(1, 1, 0.0) is None
    assert holder.reserve(1, 0, 0.0) is None
    assert reserved(holder, 0).amount == 0  # a call that costs nothing


def test_under_a_cap_of_zero_a_grant_that_was_under_way_is_not_spent_either() -> None:
    holder = holder_with(1000)
    step = holder.step(500, 500, 0.0)
    holder.caps = Caps(0, 0)
    holder.apply(step, reply(500), 0.0)
    assert holder.reserve(1, 1, 0.0) is None


@pytest.mark.parametrize("lower", [Caps(CAPS.daily - 1, CAPS.monthly), Caps(CAPS.daily * 2, CAPS.monthly - 1)])
def test_a_cap_that_falls_takes_what_is_free_back(lower: Caps) -> None:
    holder = holder_with(1000)
    reservation = reserved(holder, 300)
    holder.set_caps(lower)
    lease = holder.lease
    assert lease is not None
    assert (lease.free, lease.reserved, lease.returned) == (0, 300, 700)
    step = holder.step(0, 0, 0.0)
    assert (step.returned, step.caps, step.want, step.need) == (700, lower, 0, 0)
    holder.apply(step, reply(), 0.0)
    assert holder.reserve(1, 1, 0.0) is None
    # A call that is under way ends as it would have.
    reservation.settle(100)
    assert (lease.free, lease.settled) == (200, 100)
    assert holder.step(500, 500, 0.0).need == 300


def test_what_was_granted_under_higher_caps_while_they_fell_goes_back_too() -> None:
    holder = holder_with(1000)
    step = holder.step(5000, 5000, 0.0)
    lower = replace(CAPS, daily=2000)
    holder.set_caps(lower)
    holder.apply(step, reply(4000), 0.0)
    after = holder.step(0, 0, 0.0)
    assert (after.returned, after.caps, after.want) == (5000, lower, 0)
    assert holder.reserve(1, 1, 0.0) is None


@pytest.mark.parametrize("caps", [CAPS, Caps(CAPS.daily + 1, CAPS.monthly), Caps(CAPS.daily, CAPS.monthly + 1)])
def test_caps_that_do_not_fall_leave_the_lease_as_it_is(caps: Caps) -> None:
    holder = holder_with(1000)
    step = holder.step(500, 500, 0.0)
    holder.set_caps(caps)
    holder.apply(step, reply(500), 0.0)
    assert reserved(holder, 1500).amount == 1500


# Midnight.


def test_a_call_over_midnight_is_charged_to_the_day_of_its_reservation() -> None:
    holder = holder_with(1000)
    reservation = reserved(holder, 600, MIDNIGHT - 1)
    old = holder.lease
    assert old is not None
    assert holder.reserve(100, 100, MIDNIGHT) is None  # the rest of yesterday is not today's
    assert holder.lease is None
    assert holder.to_close() == []  # a call is still open
    holder.apply(holder.step(100, 100, MIDNIGHT), reply(100, day="2026-11-24", end=MIDNIGHT * 2), MIDNIGHT)
    assert reserved(holder, 100, MIDNIGHT).day == "2026-11-24"
    assert reservation.day == "2026-11-23"
    reservation.settle(250)
    assert holder.to_close() == [old]
    step = holder.closing_step(old)
    assert (step.day, step.settled, step.returned, step.need) == ("2026-11-23", 250, 750, 0)
    holder.apply(step, reply(0, day="2026-11-24", end=MIDNIGHT * 2), MIDNIGHT)
    holder.closed(old)
    assert holder.ended == []


def test_the_stores_own_new_day_ends_the_lease_too() -> None:
    holder = holder_with(1000)
    holder.apply(holder.step(0, 0, 1.0), reply(0, day="2026-11-24", end=MIDNIGHT * 2), 1.0)
    assert holder.lease is None
    assert [lease.day for lease in holder.to_close()] == ["2026-11-23"]


def test_a_lost_reply_that_is_heard_after_midnight_goes_on_with_the_old_lease() -> None:
    """Two leases of one day would each count from zero: the store keeps one row for both."""
    holder = holder_with(1000)
    reserved(holder, 1000).settle(1000)
    lost = holder.step(500, 500, MIDNIGHT - 1)
    assert holder.reserve(1, 1, MIDNIGHT) is None  # the lease ends here
    holder.apply(lost, reply(500), MIDNIGHT)
    assert holder.reserve(1, 1, MIDNIGHT) is None
    assert [(lease.day, lease.granted, lease.settled) for lease in holder.ended] == [("2026-11-23", 1500, 1000)]
    assert holder.closing_step(holder.ended[0]).returned == 500


def test_a_store_whose_clock_is_behind_goes_on_with_the_same_lease() -> None:
    holder = holder_with(1000)
    reserved(holder, 400).settle(400)
    holder.roll(MIDNIGHT)
    (lease,) = holder.to_close()
    holder.apply(holder.closing_step(lease), reply(0), MIDNIGHT)  # it is still yesterday there
    holder.closed(lease)
    holder.apply(holder.step(100, 100, MIDNIGHT), reply(100), MIDNIGHT)
    assert holder.lease is lease
    assert (lease.granted, lease.returned, lease.settled, lease.free) == (1100, 600, 400, 100)


# Steps.


def test_steps_count_up_and_carry_the_totals() -> None:
    holder = holder_with(1000)
    reserved(holder, 300).settle(200)
    first, second = holder.step(0, 0, 0.0), holder.leaving_step()
    assert first == Step("h", 2, "2026-11-23", 200, 0, 0, 0, 0, CAPS)
    assert second == Step("h", 3, "2026-11-23", 200, 800, 0, 0, 0, CAPS, leaving=True)
    assert holder.owes


def test_who_leaves_reports_past_days_with_open_calls_too() -> None:
    holder = holder_with(1000)
    reservation = reserved(holder, 600)
    holder.roll(MIDNIGHT)
    (lease,) = holder.to_close(leaving=True)
    step = holder.closing_step(lease)
    assert (step.settled, step.returned) == (0, 400)
    assert reservation.open
