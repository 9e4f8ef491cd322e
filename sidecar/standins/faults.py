"""What a stand-in can be told to do wrong, one small class per fault. See `ollama.Misbehave` for how they are chosen.

A fault acts at one of three places: `before` the route's handler runs (it may answer instead), on the `generation`
when that begins, or `after` the handler on the answer it made. In a stream, `after=n` lets n writes out first; in an
answer that is one body the fault acts in the middle of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from sidecar.standins.dialect import ApiError, error_answer, error_record
from sidecar.standins.exchange import Answer, CutConnectionError, Exchange, Piece
from sidecar.standins.generation import Generation, Step

Place = Literal["before_work", "before_head", "after_head", "mid_stream"]
CutPlace = Literal["before_work", "before_head", "after_head", "mid_record", "between_records"]

_MESSAGES = {
    401: "unauthorized",
    402: "this model requires a subscription, upgrade for access: https://ollama.com/upgrade",
    403: "this model is not available on your plan",
    404: "model not found",
    429: "you have reached your session usage limit, upgrade for higher limits: https://ollama.com/upgrade",
    500: "Internal Server Error",
    502: "upstream error",
    503: "server overloaded, please retry shortly",
}
_HTML = b"<html><head><title>%d</title></head><body>This is a stand-in's error page.</body></html>\r\n"
_FLUSH = Piece(b"")
"""Sends the head alone."""


class Fault:
    """The base; does nothing wrong."""

    before_body = False
    """Whether it acts before the request's body is read (from a queue, and alone in its entry)."""

    async def before(self, exchange: Exchange) -> Answer | None:
        """May wait, break the connection, or answer instead of the handler. Nothing is billed up to here."""
        return None

    def generation(self, run: Generation) -> None:
        """May change what is generated or reported. From here on the input is billed."""

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        """May change the answer."""
        return answer


@dataclass
class Status(Fault):
    """An error status with a JSON body in the route's dialect; nothing is generated. `retry_after` is the header's
    value (seconds or an HTTP date), None for none; `html` answers with a page, as a gateway in between would."""

    status: int
    message: str = ""
    retry_after: str | int | None = None
    html: bool = False
    before_body: bool = False

    async def before(self, exchange: Exchange) -> Answer | None:
        text = self.message or _MESSAGES.get(self.status, f"stand-in error {self.status}")
        answer = error_answer(exchange.request.target.partition("?")[0], ApiError(self.status, text, early=True))
        if self.html:
            answer = Answer(self.status, [("Content-Type", "text/html")], _HTML % self.status)
        if self.retry_after is not None:
            answer.headers.append(("Retry-After", str(self.retry_after)))
        return answer


@dataclass
class Redirect(Fault):
    """Sends the client elsewhere, e.g. to another port."""

    location: str
    status: int = 307

    async def before(self, exchange: Exchange) -> Answer | None:
        return Answer(self.status, [("Location", self.location)])


@dataclass
class SlowFirstByte(Fault):
    """Waits before it does anything: `delay` seconds, or until `gate` is set."""

    delay: float = 0.0
    gate: asyncio.Event | None = None

    async def before(self, exchange: Exchange) -> Answer | None:
        exchange.abort_when_peer_leaves()
        await asyncio.sleep(self.delay)
        if self.gate is not None:
            await self.gate.wait()
        return None


@dataclass
class Hang(Fault):
    """Stops for good, until the client leaves: `before_work` nothing is generated nor billed; `before_head` the work
    has begun (a call that is not streamed has even done it); `after_head` the head is out; `mid_stream` after that
    many writes, or half of a body."""

    at: Place = "before_work"
    after_writes: int = 2

    async def before(self, exchange: Exchange) -> Answer | None:
        if self.at == "before_work":
            await exchange.hang()
        return None

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        if self.at == "before_head":
            await exchange.hang()
        if self.at in ("after_head", "mid_stream"):
            answer.pieces = self._pieces(exchange, in_pieces(answer, halved=True))
        return answer

    async def _pieces(self, exchange: Exchange, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        yield _FLUSH
        if self.at == "mid_stream":
            async for piece in first(pieces, self.after_writes):
                yield piece
        await exchange.hang()


@dataclass
class Cut(Fault):
    """Breaks the connection: before any byte (`before_work`: nothing billed; `before_head`: the work has begun),
    after the head, in the middle of a record or of a body, or between two records (the last chunk never comes). With
    `reset` by a TCP RST. A whole body is cut in its middle, wherever that is."""

    at: CutPlace = "between_records"
    after_writes: int = 2
    reset: bool = False
    before_body: bool = False

    async def before(self, exchange: Exchange) -> Answer | None:
        if self.at == "before_work":
            raise CutConnectionError(reset=self.reset)
        return None

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        if self.at == "before_head":
            raise CutConnectionError(reset=self.reset)
        if self.at != "before_work":
            halved = answer.pieces is None
            answer.pieces = self._pieces(in_pieces(answer, halved=halved), halved=halved)
        return answer

    async def _pieces(self, pieces: AsyncIterator[Piece], *, halved: bool) -> AsyncIterator[Piece]:
        yield _FLUSH
        if self.at != "after_head":
            async for piece in first(pieces, 1 if halved else self.after_writes):
                yield piece
        if self.at == "mid_record" and not halved:
            async for piece in first(pieces, 1):
                data = piece.data
                raise CutConnectionError(data[: len(data) // 2], len(data), reset=self.reset)
        raise CutConnectionError(reset=self.reset)


@dataclass
class NoFinalRecord(Fault):
    """A stream that ends in good order, but without its closing records: no counts, no [DONE]."""

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        if answer.pieces is not None:
            answer.pieces = self._pieces(answer.pieces)
        return answer

    async def _pieces(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        async for piece in pieces:
            if not piece.final:
                yield piece


@dataclass
class ErrorRecord(Fault):
    """Status 200, some output, then an error record as the last one; with `after_writes=0` as the only one."""

    after_writes: int = 2
    message: str = "an error was encountered while running the model: unexpected EOF"

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        path = exchange.request.target.partition("?")[0]
        answer.pieces = self._pieces(path, in_pieces(answer, halved=False))
        answer.declared_length = None
        return answer

    async def _pieces(self, path: str, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        async for piece in first(pieces, self.after_writes):
            yield piece
        yield Piece(error_record(path, self.message), final=True)


@dataclass
class Garbage(Fault):
    """Bytes that make no sense: instead of an HTTP answer (`http`), instead of the body (`body`), or as one more
    record in the middle of an otherwise good stream (`record`)."""

    where: Literal["http", "body", "record"] = "http"
    data: bytes = b"\x00\xff stand-in garbage {]\r\n\r\n"
    after_writes: int = 2

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        if self.where == "http":
            return Answer(raw=self.data)
        if answer.pieces is None:
            answer.body = self.data
        else:
            answer.pieces = self._pieces(answer.pieces)
        return answer

    async def _pieces(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        number = 0
        async for piece in pieces:
            if self.where == "body":
                yield Piece(self.data, piece.final)
                continue
            if number == self.after_writes:
                yield Piece(self.data)
            number += 1
            yield piece


@dataclass
class WrongLength(Fault):
    """A Content-Length that is off by `by` bytes: more, and the rest never comes; fewer, and the client finds bytes
    after the end. A stream is collected for it."""

    by: int = 10

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        if answer.pieces is not None:
            answer.body = b"".join([piece.data async for piece in answer.pieces])
            answer.pieces = None
        answer.declared_length = max(0, len(answer.body) + self.by)
        return answer


@dataclass
class BadUsage(Fault):
    """Counts that are not to be believed: left out, negative, far too large, or fractions; or the two values given.
    The bill stays right."""

    kind: Literal["missing", "negative", "huge", "float"] | tuple[Any, Any] = "missing"

    def generation(self, run: Generation) -> None:
        values = {"missing": (None, None), "negative": (-7, -3), "huge": (10**18, 10**18), "float": (12.5, 3.25)}
        run.reported = values[self.kind] if isinstance(self.kind, str) else self.kind


@dataclass
class GiantRecord(Fault):
    """The first token is `size` characters long: a line of more than that many bytes."""

    size: int = 2 << 20

    def generation(self, run: Generation) -> None:
        if run.steps:
            run.steps[0] = Step("x" * self.size, tokens=run.steps[0].tokens)


@dataclass
class Drip(Fault):
    """Sends the whole answer, head and all, `size` bytes at a time, with `delay` seconds before each of them or after
    what `pause(number)` awaits."""

    size: int = 1
    delay: float = 0.0
    pause: Callable[[int], Awaitable[None]] | None = None

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        answer.drip = (self.size, self._wait)
        return answer

    async def _wait(self, number: int) -> None:
        await asyncio.sleep(self.delay)
        if self.pause is not None:
            await self.pause(number)


@dataclass
class ExtraHeaders(Fault):
    """Headers that a client of the proxy must not see, or must see once."""

    headers: tuple[tuple[str, str], ...] = (
        ("Set-Cookie", "session=stand-in; Path=/; HttpOnly"),
        ("Set-Cookie", "tracking=stand-in"),
        ("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),
        ("Alt-Svc", 'h3=":443"; ma=2592000'),
        ("Server", "stand-in"),
    )

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        answer.headers += self.headers
        return answer


@dataclass
class TruncatedEvent(Fault):
    """A stream that ends in good order in the middle of an event or line: of the one after `after_writes` writes, or
    of the last one (None)."""

    after_writes: int | None = None

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        if answer.pieces is not None:
            answer.pieces = self._pieces(answer.pieces)
        return answer

    async def _pieces(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        sent, held = 0, _FLUSH
        async for piece in pieces:
            if held.data:
                yield held
                sent += 1
            held = piece
            if sent == self.after_writes:
                break
        yield Piece(held.data[: len(held.data) // 2], final=True)


def in_pieces(answer: Answer, *, halved: bool) -> AsyncIterator[Piece]:
    """The writes of an answer; a body becomes one write, or two halves, under its true Content-Length."""
    if answer.pieces is not None:
        return answer.pieces
    answer.declared_length = len(answer.body)
    half = len(answer.body) // 2 if halved else 0
    return _iterate([Piece(part) for part in (answer.body[:half], answer.body[half:]) if part])


async def _iterate(pieces: list[Piece]) -> AsyncIterator[Piece]:
    for piece in pieces:
        yield piece


async def first(pieces: AsyncIterator[Piece], count: int) -> AsyncIterator[Piece]:
    """The next so many; the iterator can be read on afterwards."""
    for _ in range(count):
        try:
            yield await anext(pieces)
        except StopAsyncIteration:
            return
