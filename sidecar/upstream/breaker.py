"""A circuit breaker: after some failures in a row an upstream rests, then one call at a time tries it."""

from __future__ import annotations

from dataclasses import dataclass

CLOSED, HALF_OPEN, OPEN = "closed", "half_open", "open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """`failures` in a row open the circuit, for `open_seconds`."""

    failures: int = 5
    open_seconds: float = 30.0


class Breaker:
    """Counts failures. Times come in as seconds of any clock that does not go back.

    closed     every call goes; `failures` in a row → open
    open       no call goes, for `open_seconds` → half open
    half open  one call goes, the probe: an answer → closed, a failure → open

    A call that may go holds a ticket from `admit` to `leave`, so that a probe whose client left frees its place.
    """

    def __init__(self, settings: BreakerSettings) -> None:
        self.settings = settings
        self._failures = 0
        self._opened_at: float | None = None
        self._tickets = 0
        self._probe = 0

    def state(self, now: float) -> str:
        if self._opened_at is None:
            return CLOSED
        return OPEN if now - self._opened_at < self.settings.open_seconds else HALF_OPEN

    def admit(self, now: float) -> int:
        """A ticket for one call; 0 where none may go now. In the half-open state its holder is the probe."""
        state = self.state(now)
        if state == OPEN or (state == HALF_OPEN and self._probe):
            return 0
        self._tickets += 1
        if state == HALF_OPEN:
            self._probe = self._tickets
        return self._tickets

    def leave(self, ticket: int) -> None:
        """The holder's call has ended, whatever came of it."""
        if ticket == self._probe:
            self._probe = 0

    def answered(self, ticket: int) -> None:
        """An answer has begun. A probe's closes the circuit on trial, so that nobody waits for a long answer's end:
        the next failure opens it again."""
        if ticket == self._probe:
            self._opened_at = None
            self._probe = 0
            self._failures = self.settings.failures - 1

    def succeeded(self) -> None:
        self._failures = 0
        self._opened_at = None

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._opened_at is not None or self._failures >= self.settings.failures:
            self._opened_at = now
