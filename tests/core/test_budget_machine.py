"""One holder under any order of calls, steps, lost replies, midnights and clocks that go back: its books stay true.

The bank at the other side is a few lines and knows nothing of the holder's own sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.core.budget import Caps, Holder, Lease, Reply, Reservation, Step

DAY = 1000.0  # virtual seconds
CAPS = Caps(100_000, 250_000)
DAYS_A_MONTH = 3


class Bank:
    """Grants what it has of a day and its month; a repeated step gets its first reply."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.returned: dict[str, int] = {}
        self.settled: dict[str, int] = {}
        self.replies: dict[int, Reply] = {}
        self.newest = 0

    def names(self, number: int) -> tuple[str, str]:
        return f"day-{number:05}", f"month-{number // DAYS_A_MONTH:05}"

    def drawn(self, number: int) -> tuple[int, int]:
        first = number // DAYS_A_MONTH * DAYS_A_MONTH
        days = [self.names(one)[0] for one in range(first, first + DAYS_A_MONTH)]
        used = {day: self.held.get(day, 0) - self.returned.get(day, 0) for day in days}
        return used[self.names(number)[0]], sum(used.values())

    def step(self, step: Step, now: float) -> Reply:
        if step.seq in self.replies:
            return self.replies[step.seq]
        assert step.seq > max(self.replies, default=0), "an older step after a newer one"
        if step.day:
            assert step.day in self.held, "a report on a lease that was never granted"
            assert step.settled >= self.settled.get(step.day, 0), "settled money fell"
            assert step.returned >= self.returned.get(step.day, 0), "returned money fell"
            assert step.settled + step.returned <= self.held[step.day], "more than was granted"
            self.settled[step.day], self.returned[step.day] = step.settled, step.returned
        self.newest = max(self.newest, int(now // DAY))
        day, month = self.names(self.newest)
        drawn_day, drawn_month = self.drawn(self.newest)
        left = min(step.caps.daily - drawn_day, step.caps.monthly - drawn_month)
        granted = min(left, max(step.need, step.want)) if left >= max(step.least, 1) else 0
        if granted:
            self.held[day] = self.held.get(day, 0) + granted
        reply = Reply(
            day,
            month,
            (self.newest + 1) * DAY,
            granted,
            max(step.caps.daily - drawn_day - granted, 0),
            max(step.caps.monthly - drawn_month - granted, 0),
            self.settled.get(day, 0),
            0,
            step.caps,
            2.0,
        )
        self.replies[step.seq] = reply
        return reply


@dataclass
class Open:
    """A reservation, the lease that it came from by the holder's own word, and the day that was then."""

    reservation: Reservation
    lease: Lease


class HolderMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 5 * DAY
        self.bank = Bank()
        self.holder = Holder("h", CAPS)
        self.open: list[Open] = []
        self.ended: list[Open] = []
        self.actual: dict[int, int] = {}  # settled by lease (its id)
        self.leases: list[Lease] = []
        self.unsent: Step | None = None
        self.granted_under: list[Caps] = []  # the caps of the grants that what is free came from

    def know(self, lease: Lease | None) -> None:
        if lease is not None and not any(lease is known for known in self.leases):
            self.leases.append(lease)

    def carry(self, step: Step, *, lose: bool = False) -> None:
        reply = self.bank.step(step, self.now)
        if lose:
            self.unsent = step
            return
        self.unsent = None
        if reply.granted:
            self.granted_under.append(step.caps)
        self.holder.apply(step, reply, self.now)
        self.forget_what_is_empty()
        self.know(self.holder.lease)

    @rule(want=st.integers(0, 5000), modest=st.booleans(), lose=st.booleans())
    def call(self, want: int, modest: bool, lose: bool) -> None:
        """A call as the keeper serves it: from the lease, else by a step."""
        least = want // 3 if modest else want
        reservation = self.holder.reserve(want, want, self.now)
        if reservation is None and not self.holder.denied(least, self.now):
            self.exchange(want, least, lose=lose)
            reservation = self.holder.reserve(want, least, self.now)
        if reservation is None:
            return
        assert (least if want else 0) <= reservation.amount <= want
        if want:
            assert self.holder.caps.daily > 0
            assert not self.granted_above(self.holder.caps), "money of higher caps was spent"
            assert self.holder.lease is not None
            assert reservation.day == self.holder.lease.day
            self.open.append(Open(reservation, self.holder.lease))

    @rule(lose=st.booleans())
    def report(self, lose: bool) -> None:
        self.exchange(0, 0, lose=lose)

    def exchange(self, wants: int, least: int, *, lose: bool) -> None:
        if self.unsent is not None:
            self.carry(self.unsent)
        for lease in self.holder.to_close():
            self.carry(self.holder.closing_step(lease))
            self.holder.closed(lease)
        self.carry(self.holder.step(wants, least, self.now), lose=lose)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.floats(0, 1))
    def settle(self, data: st.DataObject, share: float) -> None:
        chosen = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        actual = int(chosen.reservation.amount * share)
        assert chosen.reservation.settle(actual) is True
        self.actual[id(chosen.lease)] = self.actual.get(id(chosen.lease), 0) + actual
        self.ended.append(chosen)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        chosen = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        assert chosen.reservation.release() is True
        self.ended.append(chosen)

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), actual=st.integers(0, 5000))
    def end_again(self, data: st.DataObject, actual: int) -> None:
        chosen = data.draw(st.sampled_from(self.ended))
        assert chosen.reservation.settle(actual) is False
        assert chosen.reservation.release() is False

    @rule()
    def idle_return(self) -> None:
        self.holder.give_back()

    @rule(seconds=st.sampled_from([0.0, 1.0, 70.0, 500.0, DAY, 2 * DAY, -1.0, -300.0, -DAY]))
    def pass_time(self, seconds: float) -> None:
        self.now = max(self.now + seconds, 0.0)

    @rule(past=st.booleans())
    def to_midnight(self, past: bool) -> None:
        self.now = (self.now // DAY + 1) * DAY - (0.0 if past else 0.5)

    @rule(daily=st.sampled_from([0, 50, 100_000, 120_000]))
    def set_caps(self, daily: int) -> None:
        self.holder.set_caps(replace(CAPS, daily=daily))
        self.forget_what_is_empty()

    def granted_above(self, caps: Caps) -> bool:
        return any(one.daily > caps.daily for one in self.granted_under)

    def forget_what_is_empty(self) -> None:
        """A lease with nothing free has no money left that is not reserved already."""
        if self.holder.lease is None or self.holder.lease.free <= 0:
            self.granted_under.clear()

    @invariant()
    def money_is_moved_and_never_copied(self) -> None:
        for lease in self.leases:
            assert lease.granted - lease.returned == lease.free + lease.reserved + lease.settled
            assert min(lease.granted, lease.returned, lease.free, lease.reserved, lease.settled) >= 0
            assert lease.reserved == sum(one.reservation.amount for one in self.open if one.lease is lease)
            assert lease.settled == self.actual.get(id(lease), 0)

    @invariant()
    def there_is_one_lease_for_a_day(self) -> None:
        """Two of them would each count from zero, and the store could not tell their totals apart."""
        live = [lease.day for lease in (self.holder.lease, *self.holder.ended) if lease is not None]
        assert len(live) == len(set(live))
        granted: dict[str, int] = {}
        for lease in self.leases:
            granted[lease.day] = granted.get(lease.day, 0) + lease.granted
        if self.unsent is None:
            assert granted == self.bank.held

    @invariant()
    def a_reservation_keeps_its_day(self) -> None:
        for one in self.open:
            assert one.reservation.day == one.lease.day

    def teardown(self) -> None:
        """Once all calls have ended and the day is over, the bank has every micro-USD that was not spent."""
        for one in self.open:
            one.reservation.settle(one.reservation.amount)
            self.actual[id(one.lease)] = self.actual.get(id(one.lease), 0) + one.reservation.amount
        self.open.clear()
        self.now = (max(self.bank.newest, self.now // DAY) + 1) * DAY
        self.exchange(0, 0, lose=False)
        self.exchange(0, 0, lose=False)
        assert not self.holder.ended
        spent = {day: self.bank.held[day] - self.bank.returned.get(day, 0) for day in self.bank.held}
        assert spent == {day: self.bank.settled.get(day, 0) for day in self.bank.held}
        assert sum(spent.values()) == sum(self.actual.values())


HolderMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestHolderMachine = HolderMachine.TestCase
