"""How fast a stand-in works: gates that a test opens, so that it awaits events where it would otherwise sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sidecar.standins.wire import RecordedRequest

Gate = Callable[[RecordedRequest, int], Awaitable[None]]
"""Awaited before every step of a piece of work. Step 0 stands before anything is generated (and before the answer's
head), step n before the n-th token or progress record, the step after the last token before the final record."""


class StepGate:
    """A gate that stands at every step until it is opened for it.

    >>> gate = StepGate()
    >>> server.gate = gate                  # doctest: +SKIP
    >>> request = await gate.reached(3)     # doctest: +SKIP  (two tokens are out, the third is not)
    >>> gate.open_all()                     # doctest: +SKIP
    """

    def __init__(self, open_through: int = -1) -> None:
        """Steps up to and with `open_through` are open from the start: -1 holds before the head, 2 lets two tokens
        pass."""
        self._open_through: float = open_through
        self._reached: list[tuple[RecordedRequest, int]] = []
        self._changed = asyncio.Event()

    async def __call__(self, request: RecordedRequest, step: int) -> None:
        self._reached.append((request, step))
        self._announce()
        while step > self._open_through:
            await self._changed.wait()

    def open(self, through: int) -> None:
        """Lets every request pass the steps up to and with this one."""
        self._open_through = max(self._open_through, through)
        self._announce()

    def open_all(self) -> None:
        self._open_through = float("inf")
        self._announce()

    async def reached(self, step: int, nth: int = 1) -> RecordedRequest:
        """Returns once the nth request stands before this step (or has passed it)."""
        while len(found := [request for request, at in self._reached if at == step]) < nth:
            await self._changed.wait()
        return found[nth - 1]

    def _announce(self) -> None:
        # Whoever waits holds the old event; a fresh one makes the next wait wait for the next change.
        self._changed.set()
        self._changed = asyncio.Event()
