"""The sidecar's hand on the budget: leases are got, filled up, settled and given back beside the calls.

A reservation is arithmetic on the lease that is held. Only where the lease is too small does a call wait for the
store, and for `wait_seconds` at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sidecar.core.budget import Caps, Holder, Lease, Reply, Reservation, Step

_log = logging.getLogger("sidecar.budget")

# Settled money is told to the store this long after the first of it, so that a burst of calls costs one write.
REPORT_SECONDS = 0.5
MAINTENANCE_SECONDS = 15.0
# How often a sidecar that has nothing to say is heard all the same, so that its caps and its share still count.
HEARTBEAT_SECONDS = 60.0
# The first and the longest pause before the last words are said again to a store that did not hear them.
CLOSE_AGAIN_SECONDS, CLOSE_AGAIN_MOST_SECONDS = 0.05, 1.0


class StoreError(Exception):
    """A store that cannot say. The text names what failed and, where there is one, the fix."""


class Store(Protocol):
    """A place that several sidecars share. Steps are linearizable; a repeated `seq` gets its first reply again."""

    async def step(self, step: Step) -> Reply:
        """Carries a step out. Raises StoreError; the step may have been carried out all the same."""

    async def close(self) -> None:
        """Lets go of files and connections."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Why there is no reservation: `budget_exceeded` or `budget_unavailable`, and a word on it."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How the budget stands, in micro-USD; `known` is False until the store has answered once."""

    known: bool
    free: int
    reserved: int
    settled: int
    reply: Reply | None


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that waits for money; `asked` once a step has left that knows of it."""

    want: int
    least: int
    asked: bool = False


class Keeper:
    """Holds this process's lease. One step to the store is under way at a time."""

    def __init__(
        self, store: Store, holder: Holder, wait_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._holder = holder
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._stepping: asyncio.Task[None] | None = None
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._maintenance: asyncio.TimerHandle | None = None
        self._unsent: Step | None = None
        self._closed = False
        self.failures = 0
        self.steps = 0
        self.last_error = ""

    def start(self) -> None:
        """Asks the store how the budget stands, without waiting for the answer."""
        self._kick()
        self._maintenance = self._loop.call_later(MAINTENANCE_SECONDS, self._maintain)

    # What calls need.

    @property
    def exceeded(self) -> bool:
        """Whether nothing is left of the day or the month."""
        return self._holder.exceeded(self._clock())

    def try_reserve(self, want: int, least: int) -> Reservation | None:
        """A reservation out of the lease at hand; None where it is too small."""
        now = self._clock()
        reservation = self._holder.reserve(want, least, now)
        # A store that fails is asked again in its own time, not with every call.
        if reservation is not None and not self.last_error and self._holder.runs_low(now):
            self._kick()
        return reservation

    async def reserve(self, want: int, least: int) -> Reservation | Denied:
        """`want` micro-USD, or what there is of it, but not under `least`."""
        reservation = self.try_reserve(want, want)
        if reservation is not None:
            return reservation
        deadline = self._loop.time() + self._wait_seconds
        while not (self.exceeded or self._holder.denied(least, self._clock())):
            answered = await self._ask(want, least, deadline)
            reservation = self.try_reserve(want, least)
            if reservation is not None:
                return reservation
            if not answered:
                return Denied("budget_unavailable", self.last_error or "the budget store did not answer in time")
            if self._holder.day_is_over(self._clock()):
                return Denied("budget_unavailable", "the budget store is still in a day that is over by our clock")
            if not self._holder.in_reach(least):
                break
            # There was enough, but other calls were quicker.
        reservation = self.try_reserve(want, least)
        if reservation is not None:
            return reservation
        used_up = self.exceeded
        return Denied(
            "budget_exceeded",
            "the day's or month's budget is used up" if used_up else "too little is left for this call's worst case",
        )

    def settled(self) -> None:
        """Says that a reservation ended, so that the store hears of it soon."""
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(REPORT_SECONDS, self._report)

    def set_caps(self, caps: Caps) -> None:
        """New caps from the settings."""
        self._holder.set_caps(caps)
        self._kick()

    @property
    def standing(self) -> Standing:
        lease = self._holder.lease or Lease("", "")
        ended = self._holder.ended
        reserved = lease.reserved + sum(one.reserved for one in ended)
        reply = self._holder.last_reply
        return Standing(reply is not None, lease.free, reserved, lease.settled, reply)

    async def close(self, seconds: float) -> None:
        """Reports what is settled and gives the rest of the lease back, for up to `seconds`."""
        self._closed = True
        for timer in (self._timer, self._maintenance):
            if timer is not None:
                timer.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if self._stepping is not None:
                    await asyncio.wait((self._stepping,))
                pause = CLOSE_AGAIN_SECONDS
                while not await self._exchange() and self._owes:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, CLOSE_AGAIN_MOST_SECONDS)
        if self._stepping is not None:
            self._stepping.cancel()
        await self._store.close()

    # Steps.

    async def _ask(self, want: int, least: int, deadline: float) -> bool:
        """Waits for a step that knows of this call; False where none was answered in time."""
        waiting = _Waiting(want, least)
        self._waiting.append(waiting)
        before = self._stepping
        try:
            while True:
                self._kick()
                stepping, left = self._stepping, deadline - self._loop.time()
                if stepping is None or left <= 0:
                    return False
                failures = self.failures
                done, _ = await asyncio.wait((stepping,), timeout=left)
                if not done or (self.failures != failures and (waiting.asked or stepping is not before)):
                    return False
                if waiting.asked:
                    return True
                # That step had left before this call came: the next one knows of it.
        finally:
            self._waiting.remove(waiting)

    def _kick(self) -> None:
        if self._stepping is None and not self._closed:
            self._stepping = self._loop.create_task(self._run_step())

    async def _run_step(self) -> None:
        try:
            ok = await self._exchange()
        finally:
            self._stepping = None
        if not ok:
            self.settled()  # tries again after a while
        elif self._holder.has_news:
            self._kick()  # the caps changed while the step was under way

    async def _exchange(self) -> bool:
        """One round with the store: what was not answered, then ended leases, then the current one."""
        holder = self._holder
        try:
            # A step that may have been carried out is said again as it was: only then is its reply known, and only
            # then is it known what there is still to ask for.
            if self._unsent is not None:
                await self._carry(self._unsent)
            holder.roll(self._clock())
            for lease in holder.to_close(leaving=self._closed):
                await self._carry(holder.closing_step(lease))
                holder.closed(lease)
            await self._carry(self._next_step())
        except StoreError as error:
            self._failed(str(error))
            return False
        except Exception as error:  # noqa: BLE001 - see below
            # A defect of a store must not take the calls with it: without money they run locally.
            if not self.last_error:
                _log.exception("the budget store failed")
            self._failed(f"the budget store failed ({type(error).__name__}); the log says where")
            return False
        self.last_error = ""
        return True

    @property
    def _owes(self) -> bool:
        """Whether there is money to give back, or may be: in a lost reply of a store that has worked before."""
        unsent = self._unsent
        asked = unsent is not None and max(unsent.need, unsent.want) > 0
        return self._holder.owes or (asked and self.steps > 0)

    def _failed(self, message: str) -> None:
        self.failures += 1
        if self.last_error != message:
            self.last_error = message
            _log.warning("the budget store did not answer: %s", message)

    def _next_step(self) -> Step:
        if self._closed:
            return self._holder.leaving_step()
        for waiting in self._waiting:
            waiting.asked = True
        wants = sum(waiting.want for waiting in self._waiting)
        least = min((waiting.least for waiting in self._waiting), default=0)
        return self._holder.step(wants, least, self._clock())

    async def _carry(self, step: Step) -> None:
        self._unsent = step
        reply = await self._store.step(step)
        self._unsent = None
        self.steps += 1
        self._heard_at = self._loop.time()
        self._holder.apply(step, reply, self._clock())

    def _report(self) -> None:
        self._timer = None
        self._kick()

    def _maintain(self) -> None:
        if self._holder.idle(self._clock()):
            self._holder.give_back()
            self._kick()
        elif self._holder.to_close() or self._loop.time() - self._heard_at >= HEARTBEAT_SECONDS:
            self._kick()
        self._maintenance = self._loop.call_later(MAINTENANCE_SECONDS, self._maintain)
