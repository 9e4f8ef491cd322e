"""The local Ollama: its connections, its models, and the calls of ours that are there or wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass

from sidecar.upstream.cors import CrossOrigin
from sidecar.upstream.models import LocalModels
from sidecar.upstream.pool import Origin, Pool


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Times in seconds, 0 = no limit; `max_concurrent` inference calls at once, 0 = no limit."""

    base_url: str
    connect_seconds: float = 5.0
    first_byte_seconds: float = 0.0
    idle_seconds: float = 0.0
    max_concurrent: int = 0


class LocalUpstream:
    """One local server. `calls` counts our inference calls there, those that wait included."""

    def __init__(self, settings: LocalSettings) -> None:
        self.settings = settings
        self.pool = Pool(Origin.of(settings.base_url), settings.connect_seconds)
        self.models = LocalModels(self.pool)
        self.cors = CrossOrigin(self.pool).ask
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def calls(self) -> int:
        return self._running + len(self._waiting)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def try_enter(self) -> bool:
        """Takes one of the places where one is free and nobody waits for it. `leave` gives it back."""
        limit = self.settings.max_concurrent
        if limit and (self._running >= limit or self._waiting):
            return False
        self._running += 1
        return True

    async def enter(self) -> None:
        """Takes one of the places, in order of arrival; waits where all are taken. `leave` gives it back."""
        if self.try_enter():
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._pass_on()  # the place was given just when its call went away
            else:
                with contextlib.suppress(ValueError):  # `_pass_on` has come by in the meantime
                    self._waiting.remove(place)
            raise

    def leave(self) -> None:
        """Gives a place back, to the first that waits."""
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._running -= 1

    def close(self) -> None:
        self.pool.close()
