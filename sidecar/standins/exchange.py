"""One request and its answer in the making: what a handler gives back, and how that goes out on the wire."""

from __future__ import annotations

import asyncio
import email.utils
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sidecar.standins.wire import (
    BadBodyError,
    BadRequestError,
    Head,
    Inbound,
    Outcome,
    PeerClosedError,
    RecordedRequest,
    read_body,
)

if TYPE_CHECKING:
    from sidecar.standins.faults import Fault
    from sidecar.standins.generation import Generation

_log = logging.getLogger(__name__)
_UNFLUSHED = 2048
"""Go's response buffer: a body up to this size gets a Content-Length, a longer one is sent chunked."""
_PHRASES = {int(status): status.phrase for status in HTTPStatus}


class CutConnectionError(Exception):
    """Raised while an answer is made to break the connection. `partial` is written first, within a chunk (or a body)
    announced as `announced` bytes long; `reset` breaks with a TCP RST instead of an orderly FIN."""

    def __init__(self, partial: bytes = b"", announced: int = 0, *, reset: bool = False) -> None:
        super().__init__("cut by the stand-in")
        self.partial = partial
        self.announced = announced
        self.reset = reset


class Piece(NamedTuple):
    """One write of an answer: a record, an SSE event, or what Go would flush in one go. An empty one sends the head
    alone. `final` marks what closes a stream: the record with the counts and all after it."""

    data: bytes
    final: bool = False


@dataclass
class Answer:
    """What goes out. Either `body`, or `pieces` that are sent one by one (chunked, unless `declared_length` says a
    Content-Length, which need not be true). `raw` replaces all of it by bytes that need not be HTTP. `drip` is
    (bytes per write, awaited before each write with its number)."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    pieces: AsyncIterator[Piece] | None = None
    declared_length: int | None = None
    raw: bytes | None = None
    drip: tuple[int, Callable[[int], Awaitable[None]]] | None = None


def refusal(label: str, bad: BadRequestError) -> bytes:
    """What Go's server itself answers to a request that never reaches a handler: no Date, no length."""
    fields = f"Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\nX-Stand-In: {label}\r\n"
    return f"HTTP/1.1 {bad.line}\r\n{fields}\r\n{bad.body}".encode()


class Server(Protocol):
    """What an exchange needs of the server it belongs to."""

    label: str
    errors: list[Exception]

    async def answer(self, exchange: Exchange) -> Answer: ...

    def ended(self, exchange: Exchange) -> None: ...


class Connection(Protocol):
    """What an exchange needs of the connection it came on. Its writer has a write buffer limit of 0."""

    @property
    def writer(self) -> asyncio.StreamWriter: ...

    @property
    def inbound(self) -> Inbound: ...

    def abort(self, *, reset: bool) -> None: ...


class Exchange:
    """One request and its answer in the making."""

    def __init__(self, server: Server, connection: Connection, request: RecordedRequest, head: Head) -> None:
        self.server = server
        self.request = request
        self.head = head
        self.keep_alive = head.keep_alive
        self.generation: Generation | None = None
        """The work done for it, once it has begun."""
        self.faults: tuple[Fault, ...] = ()
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._content: bytes | None = None
        self._abortable = False
        self._head_sent = False
        self._chunked = False
        if not head.chunked and not head.length:
            request.body_read.set()

    async def body_pieces(self) -> AsyncIterator[bytes]:
        """The content as it arrives; what a client that waits for `100 Continue` needs is sent first."""
        if self.head.expects_continue and not self.request.body_read.is_set():
            self._connection.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async for data in read_body(self._connection.inbound, self.head, self.request):
            yield data

    async def read_body(self) -> bytes:
        """All of the content; whether the record keeps it or not."""
        if self._content is None:
            self._content = b"".join([data async for data in self.body_pieces()])
        return self._content

    def abort_when_peer_leaves(self) -> None:
        """From here on the peer's leaving cancels the work, as it cancels a generation in Go; an answer that is just
        written needs no such thing."""
        self._abortable = True
        if self._connection.inbound.closed:
            self.peer_left()
        if self.request.closed_by_peer.is_set():
            raise PeerClosedError

    async def hang(self) -> None:
        """Does nothing until the peer leaves or the server is closed."""
        self.abort_when_peer_leaves()
        await asyncio.get_running_loop().create_future()

    def peer_left(self) -> None:
        request = self.request
        if request.outcome != "pending" or request.closed_by_peer.is_set():
            return
        request.closed_by_peer_at = asyncio.get_running_loop().time()
        request.closed_by_peer.set()
        if self._abortable and self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    def cut_off(self) -> None:
        """The stand-in itself ends this exchange (crash, close)."""
        if self.request.outcome == "pending":
            self.request.outcome = "cut"
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        request = self.request
        try:
            await self._play(await self.server.answer(self))
        except CutConnectionError as cut:
            request.outcome = "cut"
            await self._cut(cut)
        except (PeerClosedError, ConnectionError):
            self.peer_left()
            self._give_up("aborted")
        except BadRequestError as bad:
            await self._refuse(bad)
        except BadBodyError as bad:
            await self._refuse(BadRequestError(f"400 Bad Request: {bad}"))
        except asyncio.CancelledError:
            if not request.closed_by_peer.is_set():
                self._give_up("cut")
                raise
            self._give_up("aborted")
        except Exception as error:  # noqa: BLE001 - a mistake in a stand-in must show in the test, not hang it
            _log.exception("the stand-in itself failed on %r", request)
            self.server.errors.append(error)
            self._give_up("cut")
        finally:
            request.finished_at = asyncio.get_running_loop().time()
            self.server.ended(self)
            request.finished.set()

    async def _refuse(self, bad: BadRequestError) -> None:
        self.request.status = int(bad.line.split()[0])
        try:
            await self._play(Answer(raw=refusal(self.server.label, bad)))
        except ConnectionError:
            self._give_up("aborted")

    def _give_up(self, outcome: Outcome) -> None:
        self.keep_alive = False
        if self.request.outcome == "pending":
            self.request.outcome = outcome

    async def _play(self, answer: Answer) -> None:
        if answer.raw is not None:
            self.keep_alive = False
            await self._write(answer, answer.raw, last=True)
            return
        if not self.request.body_read.is_set():
            self.keep_alive = False  # the rest of the body could not be told from the next request
        bodyless = self.request.method == "HEAD" or answer.status in (204, 304)
        length = answer.declared_length
        if answer.pieces is None and length is None and (len(answer.body) <= _UNFLUSHED):
            length = len(answer.body)
        if bodyless:
            length = length or None  # Go cannot tell the length of a body that nobody wrote
        self._chunked = length is None and not bodyless and self.request.version != "HTTP/1.0"
        if length is None and not bodyless and self.request.version == "HTTP/1.0":
            self.keep_alive = False
        head = self._render_head(answer, length)
        if bodyless or answer.pieces is None:
            body = b"" if bodyless else self._frame(answer.body) + (b"0\r\n\r\n" if self._chunked else b"")
            if not bodyless and length not in (None, len(answer.body)):
                self.keep_alive = False
            await self._write(answer, head + body, last=True)
            return
        async for piece in answer.pieces:
            await self._write(answer, head + self._frame(piece.data))
            head = b""
        if not self._chunked and answer.declared_length is not None:
            self.keep_alive = False
        await self._write(answer, head + (b"0\r\n\r\n" if self._chunked else b""), last=True)

    def _frame(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data

    async def _write(self, answer: Answer, data: bytes, *, last: bool = False) -> None:
        writer = self._connection.writer
        self._head_sent = True
        if answer.drip is not None:
            size, pause = answer.drip
            self.abort_when_peer_leaves()
            for number, start in enumerate(range(0, len(data), size)):
                await pause(number)
                writer.write(data[start : start + size])
                await writer.drain()
        else:
            writer.write(data)
        if last and not writer.transport.get_write_buffer_size():
            self.request.outcome = "complete"  # before the drain: a peer that has it all may close at once
        await writer.drain()  # until all of it is with the kernel, see `Connection`
        if last:
            self.request.outcome = "complete"

    async def _cut(self, cut: CutConnectionError) -> None:
        self.keep_alive = False
        writer = self._connection.writer
        try:
            if cut.partial and self._head_sent:
                start = b"%x\r\n" % cut.announced if self._chunked else b""
                writer.write(start + cut.partial)
            await writer.drain()
        except ConnectionError:
            pass
        self._connection.abort(reset=True) if cut.reset else writer.close()

    def _render_head(self, answer: Answer, length: int | None) -> bytes:
        """A head with Go's order: the handler's fields by name, then Date, Content-Length, Connection and
        Transfer-Encoding."""
        status = answer.status
        self.request.status = status
        old = self.request.version == "HTTP/1.0"
        phrase = _PHRASES.get(status, f"status code {status}")
        fields = [*answer.headers, ("X-Stand-In", self.server.label)]
        if not self.keep_alive:
            fields = [pair for pair in fields if pair[0] != "Connection"]
        fields.sort(key=lambda pair: pair[0])
        fields.append(("Date", email.utils.formatdate(usegmt=True)))
        if length is not None:
            fields.append(("Content-Length", str(length)))
        if not self.keep_alive and not old:
            fields.append(("Connection", "close"))
        elif self.keep_alive and old:
            fields.append(("Connection", "keep-alive"))
        if self._chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        lines = [f"HTTP/1.{0 if old else 1} {status} {phrase}", *(f"{name}: {value}" for name, value in fields)]
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1")
