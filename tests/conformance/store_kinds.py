"""The stores under test. A new store is a class here; every test of this folder then holds for it, too."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar, Protocol
from zoneinfo import ZoneInfo

from sidecar.core.budget import Reply, Step
from sidecar.stores.embedded import MEMORY, EmbeddedStore
from sidecar.stores.keeper import Store


class Clock:
    """The wall clock of all sidecars and of the store."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Kind(Protocol):
    """The books of one budget, and how a sidecar opens them."""

    shared: ClassVar[bool]
    """Whether a second store on the same books, or a restarted one, finds what the first one wrote."""

    def __init__(self, clock: Clock, zone: ZoneInfo) -> None: ...
    def open(self, zone: ZoneInfo | None = None) -> Store: ...
    def remove(self) -> None: ...


class EmbeddedFile:
    shared: ClassVar[bool] = True

    def __init__(self, clock: Clock, zone: ZoneInfo) -> None:
        self._clock, self._zone = clock, zone
        self._folder = Path(tempfile.mkdtemp(prefix="budget-"))

    def open(self, zone: ZoneInfo | None = None) -> Store:
        return EmbeddedStore(str(self._folder / "budget.db"), zone or self._zone, self._clock)

    def remove(self) -> None:
        shutil.rmtree(self._folder)


class EmbeddedMemory:
    shared: ClassVar[bool] = False

    def __init__(self, clock: Clock, zone: ZoneInfo) -> None:
        self._clock, self._zone = clock, zone

    def open(self, zone: ZoneInfo | None = None) -> Store:
        return EmbeddedStore(MEMORY, zone or self._zone, self._clock)

    def remove(self) -> None:
        pass


KINDS: tuple[type[Kind], ...] = (EmbeddedFile, EmbeddedMemory)


class Books:
    """One budget's books behind a store, for tests that are not async. `step` raises what the store raises."""

    def __init__(self, kind: type[Kind], now: float, zone: str = "UTC") -> None:
        self.clock = Clock(now)
        self.zone = ZoneInfo(zone)
        self.shared = kind.shared
        self._kind = kind(self.clock, self.zone)
        self._loop = asyncio.new_event_loop()
        self._store = self._kind.open()
        self._others: list[Store] = []

    def step(self, step: Step) -> Reply:
        return self._loop.run_until_complete(self._store.step(step))

    def step_of_another_process(self, step: Step, zone: str = "") -> Reply:
        """`zone` is that of the other one's settings, where it is not the same."""
        if not self._others:
            self._others.append(self._kind.open(ZoneInfo(zone) if zone else None))
        return self._loop.run_until_complete(self._others[0].step(step))

    def restart(self, zone: str = "") -> None:
        """All sidecars that have the store open close it, and the next one opens it, with another zone if so said."""
        self._close()
        self._store = self._kind.open(ZoneInfo(zone) if zone else None)

    def remove(self) -> None:
        self._close()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self._kind.remove()

    def _close(self) -> None:
        for store in (self._store, *self._others):
            self._loop.run_until_complete(store.close())
        self._others.clear()
