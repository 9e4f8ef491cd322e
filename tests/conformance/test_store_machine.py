"""Several sidecars on one store, under any order of calls, crashes, lost replies, changed caps and clocks.

The oracle is the provider: it bills every call that was sent, those of dead sidecars in full, and knows nothing of
the store's tables. Its bill of every day and month is at most the lowest cap.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from store_kinds import KINDS, Books, Kind

from sidecar.core.budget import Caps, Holder, Reply, Reservation, Step
from sidecar.stores.keeper import StoreError

# Certain to be heard still, whatever a store's lease period is.
SURELY_LIVE = 60.0
STARTS = [
    ("UTC", "2026-11-23T12:00"),
    ("UTC", "2026-11-30T23:59"),
    ("UTC", "2028-02-28T23:58"),
    ("Europe/Berlin", "2026-03-28T23:59"),
    ("Europe/Berlin", "2026-10-25T02:30"),
    ("America/Havana", "2026-10-31T23:59"),
    ("Pacific/Kiritimati", "2026-12-31T23:59"),
]
CAPS = [Caps(1000, 2500), Caps(1000, 2500), Caps(600, 2500), Caps(1000, 900), Caps(0, 2500), Caps(5000, 5000)]

any_of = st.integers(0, 11)


@dataclass(eq=False)
class Sidecar:
    holder: Holder
    open: list[Reservation] = field(default_factory=list)
    lost: Step | None = None
    told: tuple[Step, Reply] | None = None
    heard: float = float("-inf")


@dataclass
class Account:
    """What one holder's lease of one day moved, as its own steps and replies say."""

    granted: int = 0
    settled: int = 0
    returned: int = 0

    @property
    def drawn(self) -> int:
        return self.granted - self.returned


class StoreMachine(RuleBasedStateMachine):
    kind: ClassVar[type[Kind]]

    def __init__(self) -> None:
        super().__init__()
        self.books: Books
        self.sidecars: list[Sidecar] = []
        self.number = 0
        self.accounts: dict[tuple[str, str], Account] = defaultdict(Account)
        self.billed: dict[str, int] = defaultdict(int)  # by day
        self.dead: dict[str, int] = defaultdict(int)  # open calls of dead sidecars, by day
        self.allowed_day: dict[str, int] = defaultdict(int)
        self.allowed_month: dict[str, int] = defaultdict(int)
        self.newest = ""
        self.latest = 0.0

    @initialize(start=st.integers(0, len(STARTS) - 1))
    def begin(self, start: int) -> None:
        zone, text = STARTS[start]
        now = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()
        self.books = Books(self.kind, now, zone)
        self.latest = now

    # The protocol.

    def carry(self, sidecar: Sidecar, step: Step, *, lose: bool = False) -> None:
        books = self.books
        repeated = sidecar.told is not None and sidecar.told[0].seq == step.seq
        reply = books.step(step)
        if repeated:
            assert sidecar.told == (step, reply), "a repeated step got another reply"
        else:
            self.check_new(sidecar, step, reply)
        sidecar.told, sidecar.heard = (step, reply), books.clock.now
        sidecar.lost = step if lose else None
        if not lose:
            sidecar.holder.apply(step, reply, books.clock.now)

    def check_new(self, sidecar: Sidecar, step: Step, reply: Reply) -> None:
        now, zone = self.books.clock.now, self.books.zone
        # Days only go on, and end where the zone says so.
        self.newest = max(self.newest, datetime.fromtimestamp(now, zone).date().isoformat())
        assert (reply.day, reply.month) == (self.newest, self.newest[:7])
        assert datetime.fromtimestamp(reply.day_end - 0.001, zone).date().isoformat() == reply.day
        assert datetime.fromtimestamp(reply.day_end, zone).date().isoformat() > reply.day
        # What was told counts.
        if step.day:
            account = self.accounts[step.holder, step.day]
            account.settled = max(account.settled, step.settled)
            account.returned = max(account.returned, step.returned)
        self.accounts[step.holder, reply.day].granted += reply.granted
        # The lowest cap of those that are surely live.
        live = [
            one.told[0].caps
            for one in self.sidecars
            if one is not sidecar and one.told is not None and 0 <= now - one.heard <= SURELY_LIVE
        ]
        lowest = Caps(
            min(caps.daily for caps in [*live, step.caps]), min(caps.monthly for caps in [*live, step.caps])
        )
        day, month = self.drawn(reply.day), self.drawn(reply.month)
        assert reply.granted >= 0
        if reply.granted:
            assert day <= lowest.daily
            assert month <= lowest.monthly
            self.allowed_day[reply.day] = max(self.allowed_day[reply.day], lowest.daily)
            self.allowed_month[reply.month] = max(self.allowed_month[reply.month], lowest.monthly)
        assert 0 <= reply.left_daily <= max(lowest.daily - day, 0)
        assert 0 <= reply.left_monthly <= max(lowest.monthly - month, 0)
        assert reply.settled_daily == sum(
            one.settled for (_, name), one in self.accounts.items() if name == reply.day
        )
        if step.need:
            # Money is not left lying while a call waits that could do with it.
            assert reply.granted >= max(step.least, 1) or reply.left < max(step.least, 1)

    def drawn(self, period: str) -> int:
        return sum(one.drawn for (_, day), one in self.accounts.items() if day.startswith(period))

    def exchange(self, sidecar: Sidecar, wants: int, least: int, *, lose: bool = False) -> None:
        holder = sidecar.holder
        if sidecar.lost is not None:
            self.carry(sidecar, sidecar.lost)
        for lease in holder.to_close():
            self.carry(sidecar, holder.closing_step(lease))
            holder.closed(lease)
        self.carry(sidecar, holder.step(wants, least, self.books.clock.now), lose=lose)

    # What happens.

    @rule(caps=st.sampled_from(CAPS))
    def start(self, caps: Caps) -> None:
        if len(self.sidecars) < 4:
            self.number += 1
            self.sidecars.append(Sidecar(Holder(f"holder-{self.number}", caps)))

    @precondition(lambda self: self.sidecars)
    @rule(which=any_of, want=st.integers(1, 500), modest=st.booleans(), lose=st.booleans(), calls=st.integers(1, 3))
    def call(self, which: int, want: int, modest: bool, lose: bool, calls: int) -> None:
        sidecar = self.sidecars[which % len(self.sidecars)]
        holder, now = sidecar.holder, self.books.clock.now
        least = want // 3 + 1 if modest else want
        if holder.lease is None or holder.lease.free < want * calls:
            self.exchange(sidecar, want * calls, least, lose=lose)
        for _ in range(calls):
            reservation = holder.reserve(want, least, now)
            if reservation is not None:
                sidecar.open.append(reservation)

    @precondition(lambda self: any(one.open for one in self.sidecars))
    @rule(which=any_of, share=st.sampled_from([0.0, 0.3, 1.0]))
    def settle(self, which: int, share: float) -> None:
        calls = [(one, reservation) for one in self.sidecars for reservation in one.open]
        sidecar, reservation = calls[which % len(calls)]
        sidecar.open.remove(reservation)
        actual = int(reservation.amount * share)
        self.billed[reservation.day] += actual
        assert reservation.settle(actual)

    @precondition(lambda self: self.sidecars)
    @rule(which=any_of, lose=st.booleans(), idle=st.booleans())
    def report(self, which: int, lose: bool, idle: bool) -> None:
        sidecar = self.sidecars[which % len(self.sidecars)]
        if idle:
            sidecar.holder.give_back()
        self.exchange(sidecar, 0, 0, lose=lose)

    @precondition(lambda self: any(one.told is not None for one in self.sidecars))
    @rule(which=any_of)
    def say_again(self, which: int) -> None:
        told = [one.told for one in self.sidecars if one.told is not None]
        step, reply = told[which % len(told)]
        assert self.books.step(step) == reply

    @precondition(lambda self: any(one.told is not None for one in self.sidecars))
    @rule(which=any_of)
    def say_something_old(self, which: int) -> None:
        told = [one.told[0] for one in self.sidecars if one.told is not None]
        step = told[which % len(told)]
        with pytest.raises(StoreError):
            self.books.step(Step(step.holder, step.seq - 1, "", 0, 0, 0, 500, 1, CAPS[0]))

    @precondition(lambda self: self.sidecars)
    @rule(which=any_of)
    def crash(self, which: int) -> None:
        sidecar = self.sidecars.pop(which % len(self.sidecars))
        for reservation in sidecar.open:
            self.dead[reservation.day] += reservation.amount

    @precondition(lambda self: self.sidecars)
    @rule(which=any_of)
    def leave(self, which: int) -> None:
        self.go(self.sidecars[which % len(self.sidecars)])

    def go(self, sidecar: Sidecar) -> None:
        holder = sidecar.holder
        if sidecar.lost is not None:
            self.carry(sidecar, sidecar.lost)
        for lease in holder.to_close(leaving=True):
            self.carry(sidecar, holder.closing_step(lease))
        self.carry(sidecar, holder.leaving_step())
        for reservation in sidecar.open:
            self.dead[reservation.day] += reservation.amount
        self.sidecars.remove(sidecar)

    @precondition(lambda self: self.sidecars)
    @rule(which=any_of, caps=st.sampled_from(CAPS))
    def change_caps(self, which: int, caps: Caps) -> None:
        self.sidecars[which % len(self.sidecars)].holder.set_caps(caps)

    @rule(
        seconds=st.sampled_from(
            [1.0, 30.0, 61.0, 1000.0, 6 * 3600.0, 86400.0, -2.0, -3600.0, -86400.0, -40 * 86400.0]
        )
    )
    def pass_time(self, seconds: float) -> None:
        self.books.clock.now += seconds
        self.latest = max(self.latest, self.books.clock.now)

    @precondition(lambda self: self.books.shared)
    @rule()
    def restart_the_store(self) -> None:
        self.books.restart()

    # What must hold.

    @invariant()
    def the_bill_is_within_the_caps(self) -> None:
        bill: dict[str, int] = defaultdict(int)
        for days in (self.billed, self.dead):
            for day, amount in days.items():
                bill[day] += amount
        for sidecar in self.sidecars:
            for reservation in sidecar.open:
                bill[reservation.day] += reservation.amount
        months: dict[str, int] = defaultdict(int)
        for day, amount in bill.items():
            assert amount <= self.drawn(day)
            assert amount <= self.allowed_day[day]
            months[day[:7]] += amount
        for month, amount in months.items():
            assert amount <= self.allowed_month[month]

    def teardown(self) -> None:
        if not hasattr(self, "books"):
            return
        try:
            for sidecar in list(self.sidecars):
                self.go(sidecar)
            self.nothing_got_lost()
        finally:
            self.books.remove()

    def nothing_got_lost(self) -> None:
        """Once all have left, one more sidecar can have all that neither was spent nor died with its holder."""
        self.books.clock.now = self.latest + 7200.0  # so that no dead sidecar's caps count any more
        for seq in range(1, 4):
            reply = self.books.step(Step("last", seq, "", 0, 0, 0, 10_000, 1, Caps(5000, 5000)))
            self.accounts["last", reply.day].granted += reply.granted
        assert max(self.drawn(reply.day), self.drawn(reply.month)) == 5000


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_the_bill_is_never_over_a_cap(kind: type[Kind]) -> None:
    class OfThisKind(StoreMachine):
        pass

    OfThisKind.kind = kind
    run_state_machine_as_test(
        OfThisKind,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
