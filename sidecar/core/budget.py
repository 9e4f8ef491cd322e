"""The budget of one sidecar as arithmetic: a lease that is held, reservations out of it, steps to the store.

Money is moved, never copied (escrow): a store carves a lease out of the day's and the month's caps; a sidecar spends
its lease with no network at all. For each lease, always:

    granted - returned = free + reserved + settled        each of them >= 0, in micro-USD

A step tells the store the lease's totals so far, so that telling it twice changes nothing, and asks for more. What a
holder never reported counts as spent: a lease is not reclaimed because time passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Lease sizes: doubled when one is used up within this time, given back when idle for as long.
BUSY_SECONDS = 15 * 60
IDLE_SECONDS = 15 * 60
IDLE_SECONDS_WHEN_LOW = 60
LOW_SHARE = 10  # per cent of the day's cap that counts as low
MOST_SHARE = 100  # a lease is at most one hundredth of the day's cap


class Lease:
    """Money of one day (and its month) that this sidecar may spend, in micro-USD."""

    __slots__ = ("day", "free", "granted", "month", "reserved", "returned", "settled")

    def __init__(self, day: str, month: str) -> None:
        self.day = day
        self.month = month
        self.granted = 0
        self.returned = 0
        self.free = 0
        self.reserved = 0
        self.settled = 0

    def grant(self, amount: int) -> None:
        self.granted += amount
        self.free += amount

    def give_back(self) -> int:
        """Takes what is free out of the lease, to be told to the store with the next step."""
        amount = max(self.free, 0)
        self.free -= amount
        self.returned += amount
        return amount


class Reservation:
    """The worst case of one call, taken out of a lease. It ends exactly once: settled or released.

    Ending it a second time changes nothing and answers False, so that a path that ends it for safety's sake does no
    harm to a path that ended it with better knowledge.
    """

    __slots__ = ("_lease", "amount", "open")

    def __init__(self, lease: Lease, amount: int) -> None:
        self._lease = lease
        self.amount = amount
        self.open = True
        lease.free -= amount
        lease.reserved += amount

    @property
    def day(self) -> str:
        """The period that is charged: that of the reservation, also where the call ends after midnight."""
        return self._lease.day

    def settle(self, actual: int) -> bool:
        """Books the actual cost and frees the rest. A cost above the reservation is booked as it is.

        What a bill exceeds its reservation by comes out of what is free, else it shows as a negative `free`, which
        grants nothing more: the books stay true even where a provider breaks its word.
        """
        if not self.open:
            return False
        self.open = False
        lease = self._lease
        lease.reserved -= self.amount
        lease.settled += actual
        lease.free += self.amount - actual
        return True

    def release(self) -> bool:
        """Gives the whole reservation back: the call was never sent."""
        return self.settle(0)


@dataclass(frozen=True, slots=True)
class Caps:
    """The caps of this sidecar's settings, in micro-USD."""

    daily: int
    monthly: int

    @property
    def closed(self) -> bool:
        """Whether they let nothing be spent at all."""
        return self.daily <= 0 or self.monthly <= 0

    def below(self, other: Caps) -> bool:
        """Whether either of them is lower than it is there."""
        return self.daily < other.daily or self.monthly < other.monthly


@dataclass(frozen=True, slots=True)
class Step:
    """What a holder tells its store, and asks of it. Totals count from the lease's beginning.

    `day` is the lease's period, empty where there is no lease yet. What is asked for comes on top of what the lease
    has: `need` is what waiting calls could cost, `least` what one of them could do with, `want` what makes a lease of
    good size: all 0 where it only reports. `leaving` is the holder's last word. A repeated `seq` gets the reply that
    it got before.
    """

    holder: str
    seq: int
    day: str
    settled: int
    returned: int
    want: int
    need: int
    least: int
    caps: Caps
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """The store's answer: the current periods, what it granted, and how the budget stands.

    `left_*` is what the store could still grant; `settled_*` what all holders have settled; `retry_seconds` is how
    long not to ask again after too little was left.
    """

    day: str
    month: str
    day_end: float
    granted: int
    left_daily: int
    left_monthly: int
    settled_daily: int
    settled_monthly: int
    caps: Caps
    retry_seconds: float = 0.0

    @property
    def left(self) -> int:
        return min(self.left_daily, self.left_monthly)


@dataclass(frozen=True, slots=True)
class _Denial:
    """An amount that the store could not grant, for some seconds. A clock that goes back ends it."""

    amount: int = 0
    at: float = 0.0
    seconds: float = 0.0

    def holds(self, now: float) -> bool:
        return 0 <= now - self.at < self.seconds


class Holder:
    """One sidecar's side of the protocol. Pure: the time comes in, steps and replies go through the caller."""

    def __init__(self, holder: str, caps: Caps) -> None:
        self.id = holder
        self.caps = caps
        self.lease: Lease | None = None
        self.ended: list[Lease] = []
        self.last_reply: Reply | None = None
        self._seq = 0
        self._told = caps
        self._size = 0
        self._granted_at = 0.0
        self._used_at = 0.0
        self._resting = False
        # What the store could not grant on top of the lease, and when it said so.
        self._denied = _Denial()
        self._dry = _Denial()

    # Spending.

    def reserve(self, want: int, least: int, now: float) -> Reservation | None:
        """`want`, or as much of it as the lease has, but not under `least`; None where it has less."""
        self.roll(now)
        lease = self.lease
        if want <= 0:
            return Reservation(lease or Lease("", ""), 0)  # a model without a price tag needs no money
        if self.caps.closed:
            return None
        self._resting = False
        if lease is None or lease.free < max(least, 1):
            return None
        self._used_at = now
        return Reservation(lease, min(want, lease.free))

    def exceeded(self, now: float) -> bool:
        """Whether nothing is left of the day or the month, as far as this sidecar knows."""
        if self.caps.closed:
            return True
        reply = self.last_reply
        if reply is None or reply.left > 0:
            return False
        self.roll(now)
        if self.day_is_over(now) or self.has_news:
            return False
        lease = self.lease
        return lease is None or (lease.free <= 0 and lease.reserved <= 0)

    def denied(self, least: int, now: float) -> bool:
        """Whether the store has said lately that it cannot grant `least`, so that asking again is of no use yet."""
        return not self.day_is_over(now) and self._denied.holds(now) and least - self._free >= self._denied.amount

    def day_is_over(self, now: float) -> bool:
        """Whether by our clock the day is over that the store spoke of last."""
        return self.last_reply is not None and now >= self.last_reply.day_end

    def in_reach(self, least: int) -> bool:
        """Whether the lease and what the store had left when it last spoke make up `least` together."""
        reply = self.last_reply
        return reply is not None and self._free + reply.left >= least

    def set_caps(self, caps: Caps) -> None:
        """New caps from the settings. What the store said and granted under the old ones no longer counts.

        Where one falls, what is free goes back: the store knows what may be spent under the new ones.
        """
        if caps == self.caps:
            return
        if caps.below(self.caps):
            self.give_back()
        self.caps = caps
        self._denied = self._dry = _Denial()

    @property
    def owes(self) -> bool:
        """Whether there is a lease to report on or to give back."""
        return self.lease is not None or bool(self.ended)

    @property
    def has_news(self) -> bool:
        """Whether the store does not know these caps yet."""
        return self._told != self.caps

    @property
    def _free(self) -> int:
        return self.lease.free if self.lease is not None else 0

    # Steps.

    def runs_low(self, now: float) -> bool:
        """Whether the lease is worth filling up before a call has to wait, and the store may have something."""
        lease = self.lease
        if lease is None or self._resting or lease.free * 2 >= min(self._size, self.caps.daily // MOST_SHARE):
            return False
        return not self._dry.holds(now)

    def next_size(self, now: float) -> int:
        """What the lease should have after the next grant, apart from what calls wait for."""
        size = self._size
        if size and now - self._granted_at < BUSY_SECONDS:
            size *= 2
        return min(size, self.caps.daily // MOST_SHARE)

    def step(self, wants: int, least: int, now: float) -> Step:
        """The next step. `wants` is what waiting calls could cost in all, `least` what one of them could do with."""
        self.roll(now)
        # More than a whole budget is never to be had, however absurd a call is.
        need = min(max(wants - self._free, 0), self.caps.daily, self.caps.monthly)
        want = max(self.next_size(now) - self._free, 0) if need or self.runs_low(now) else 0
        return self._step(self.lease, want, need, max(least - self._free, 0))

    def leaving_step(self) -> Step:
        """The last step: gives the lease back."""
        if self.lease is not None:
            self.lease.give_back()
        return self._step(self.lease, 0, 0, 0, leaving=True)

    def to_close(self, *, leaving: bool = False) -> Sequence[Lease]:
        """The leases of past days that have something to tell: who leaves does not wait for their last calls."""
        return [lease for lease in self.ended if leaving or not lease.reserved]

    def closing_step(self, lease: Lease) -> Step:
        """A step that only tells what an ended lease settled, and gives the rest back."""
        lease.give_back()
        return self._step(lease, 0, 0, 0)

    def closed(self, lease: Lease) -> None:
        """The store has heard the lease's closing step. It is kept while the store's own day is not over.

        A store whose clock is behind ours may grant more of that day: its totals must go on then, not begin anew.
        """
        reply = self.last_reply
        if lease in self.ended and not lease.reserved and reply is not None and lease.day < reply.day:
            self.ended.remove(lease)

    def _step(self, lease: Lease | None, want: int, need: int, least: int, *, leaving: bool = False) -> Step:
        self._seq += 1
        day, settled, returned = ("", 0, 0) if lease is None else (lease.day, lease.settled, lease.returned)
        return Step(self.id, self._seq, day, settled, returned, want, need, least, self.caps, leaving)

    def apply(self, step: Step, reply: Reply, now: float) -> None:
        """Takes a reply in."""
        self.last_reply = reply
        self._told = step.caps
        if self.lease is not None and self.lease.day != reply.day:
            self._end_lease()
        if reply.granted:
            lease = self.lease = self.lease or self._resumed(reply.day) or Lease(reply.day, reply.month)
            lease.grant(reply.granted)
            self._size = max(lease.free, reply.granted)
            self._granted_at = self._used_at = now
        if step.caps != self.caps:
            if self.caps.below(step.caps):
                self.give_back()  # what was granted under higher ones, too
            return  # what was not to be had under other caps says nothing
        if step.least > reply.granted:
            self._denied = _Denial(step.least, now, reply.retry_seconds)
        if step.want and not reply.granted:
            self._dry = _Denial(step.want, now, reply.retry_seconds)

    def idle(self, now: float) -> bool:
        """Whether the lease has not been used for so long that others should have its money."""
        lease, reply = self.lease, self.last_reply
        if lease is None or lease.free <= 0:
            return False
        low = reply is not None and reply.left * 100 < LOW_SHARE * reply.caps.daily
        return now - self._used_at >= (IDLE_SECONDS_WHEN_LOW if low else IDLE_SECONDS)

    def give_back(self) -> None:
        """Empties the lease, to be asked for anew once a call comes; the next one will be half as large."""
        if self.lease is not None:
            self.lease.give_back()
            self._size //= 2
            self._resting = True

    def roll(self, now: float) -> None:
        """Ends the lease where its day is over."""
        if self.lease is not None and self.day_is_over(now):
            self._end_lease()

    def _end_lease(self) -> None:
        if self.lease is not None:
            self.ended.append(self.lease)
            self.lease = None

    def _resumed(self, day: str) -> Lease | None:
        """An ended lease of a day that the store still grants."""
        for lease in self.ended:
            if lease.day == day:
                self.ended.remove(lease)
                return lease
        return None
