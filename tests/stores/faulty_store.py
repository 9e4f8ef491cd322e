"""A store that obeys the protocol and fails on demand; what it carried out can be awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from zoneinfo import ZoneInfo

from sidecar.core.budget import Reply, Step
from sidecar.stores.embedded import MEMORY, EmbeddedStore
from sidecar.stores.keeper import StoreError

# 2026-11-23 12:00 UTC, and the end of that day.
NOON = 1_795_435_200.0
MIDNIGHT = NOON + 12 * 3600


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FaultyStore:
    """`faults` are taken one with each step; `gate` holds steps back while it is clear.

    `down` fails before the step, `lost` carries it out and loses the reply, `defect` raises what no store should, and
    an empty text works.
    """

    def __init__(self, clock: Clock) -> None:
        self._inner = EmbeddedStore(MEMORY, ZoneInfo("UTC"), clock)
        self._heard = asyncio.Condition()
        self.faults: deque[str] = deque()
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.asked: list[Step] = []
        self.closed = False
        self.on_reply: Callable[[], None] | None = None

    async def step(self, step: Step) -> Reply:
        self.asked.append(step)
        self.begun.set()
        fault = self.faults.popleft() if self.faults else ""
        await self.gate.wait()
        try:
            if fault == "down":
                raise StoreError("the store is down")
            if fault == "defect":
                raise KeyError("a defect")
            reply = self._inner.step_now(step)
            if fault == "lost":
                raise StoreError("no answer in time")
            if self.on_reply is not None:
                self.on_reply()
            return reply
        finally:
            async with self._heard:
                self._heard.notify_all()

    async def close(self) -> None:
        self.closed = True
        await self._inner.close()

    async def wait_for_steps(self, count: int) -> None:
        """Until so many steps have come, carried out or not."""
        async with self._heard:
            await self._heard.wait_for(lambda: len(self.asked) >= count)

    def other(self, step: Step) -> Reply:
        """A step of another sidecar, at once."""
        return self._inner.step_now(step)
