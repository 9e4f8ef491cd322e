"""One client connection: bytes in, one exchange at a time, bytes out.

The life of a connection, as states of its `_exchange` and flags:

    idle        no exchange; bytes gather in `_pending` until a head is complete
    serving     one exchange runs as one task; its body is fed as it comes; pipelined bytes wait in `_pending`
    lingering   the answer is out and the rest of the request is not wanted: read and dropped for a moment, so that
                the close does not reset the answer away (RFC 9112, section 9.6)
    closed      the transport is gone; the task, if one still runs, has been cancelled

Reads go through one buffer of the server: parsing is synchronous, so no two connections use it at once, and an idle
connection holds no memory for reads.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol, cast

from sidecar.http1 import (
    BodyDecoder,
    ChunkedDecoder,
    EmptyDecoder,
    LengthDecoder,
    MessageError,
    RequestHead,
    parse_request_head,
)

if TYPE_CHECKING:
    from sidecar.proxy.server import Server

WRITE_HIGH = 16 * 1024
WRITE_LOW = 4 * 1024
BODY_HIGH = 256 * 1024
PIPELINED_HIGH = 64 * 1024
# A client that sends its whole body before it reads (most do) hears why that was refused, however long it takes it;
# one that only holds the connection does not keep it.
LINGER_QUIET_SECONDS = 2.0
LINGER_SECONDS = 30.0
# A client that closes and one that only ends its sending look alike. A moment lets a short answer reach the second
# kind; the first kind's upstream call is closed well within 100 ms.
LEAVE_GRACE_SECONDS = 0.03
# What reads and changes nothing may as well be answered; a download to nobody ends by its first bytes.
SAFE_GRACE_SECONDS = 5.0
_SAFE = frozenset((b"GET", b"HEAD"))
# A connection that is not read shows nothing of its end by itself.
LOOK_SECONDS = 0.05
_GONE = select.POLLERR | select.POLLHUP
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)


class Pausable(Protocol):
    """Where the bytes for a slow client come from."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Exchange:
    """One request and its answer, as the handler sees them.

    `started` is the loop's time when the head was complete. `responded` says that a head was written, so that an
    error can no longer be a status. `close` says that the connection ends with this answer. `streamed` says that a
    part of the body was taken by `stream`, so that it cannot be taken again. `error` is what is wrong with the body,
    as soon as that is known: whoever reads it gets it raised, and no byte behind it is read.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_decoder",
        "_held",
        "_pieces",
        "_size",
        "_waiter",
        "_whole",
        "close",
        "error",
        "head",
        "left",
        "responded",
        "source",
        "started",
        "streamed",
        "task",
    )

    def __init__(self, connection: ClientConnection, head: RequestHead, started: float) -> None:
        self._connection = connection
        self._decoder: BodyDecoder
        if head.chunked:
            self._decoder = ChunkedDecoder()
        elif head.content_length:
            self._decoder = LengthDecoder(head.content_length)
        else:
            self._decoder = EmptyDecoder()
        self._pieces: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._whole = False
        self._held = b""
        self.head = head
        self.started = started
        self.responded = False
        self.close = not head.keep_alive
        self.error: MessageError | None = None
        self.left = False
        self.streamed = False
        self.source: Pausable | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._connection.loop

    @property
    def peer(self) -> str:
        """The client's address, without its port."""
        return self._connection.peer

    @property
    def body_done(self) -> bool:
        return self._decoder.done

    @property
    def trailers(self) -> list[bytes]:
        """The request's trailer lines; they are never read as headers."""
        return self._decoder.trailers

    # The request's body.

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises MessageError: 413 over `limit` bytes, 408 where it stalls, 400 if broken."""
        self._whole = True
        self._connection.resume_body()
        length = self.head.content_length
        if length is not None and length > limit:
            raise MessageError(f"the request body has {length} bytes; at most {limit} are taken here", 413)
        if not self._decoder.done:
            if self.head.expects_continue and self.error is None:
                self._connection.write(_CONTINUE)
            while not self._decoder.done:
                if self._size > limit:
                    raise MessageError(f"the request body has more than the {limit} bytes taken here", 413)
                await self._more()
        if self._size > limit:
            raise MessageError(f"the request body has more than the {limit} bytes taken here", 413)
        return self.take()

    def take(self) -> bytes:
        """What is here of the body, without waiting for more."""
        pieces, self._pieces, self._size = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it comes, at constant memory. Raises MessageError as `read` does, but for the limit."""
        while True:
            if self._pieces:
                self.streamed = True
                data = self.take()
                self._connection.resume_body()
                yield data
            elif self._decoder.done:
                return
            else:
                await self._more()

    def feed(self, data: bytes) -> bytes:
        """Takes bytes of the body; gives back those behind its end."""
        if self.error is not None:
            return b""
        try:
            pieces = self._decoder.feed(data)
        except MessageError as error:
            self.fail(error)
            return b""
        if pieces:
            # One piece for a read: a body of tiny chunks must not become an object for each.
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._pieces.append(piece)
            self._size += len(piece)
        if self._waiter is not None and (pieces or self._decoder.done) and not self._waiter.done():
            self._waiter.set_result(None)
        rest, self._decoder.rest = self._decoder.rest, b""
        return rest

    def fail(self, error: MessageError) -> None:
        """The body will not be complete: tells whoever waits for it, or will ask for it."""
        self.error = error
        self.close = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    @property
    def overfull(self) -> bool:
        """Whether a streamed body has run ahead of its reader."""
        return self._size > BODY_HIGH and not self._whole

    async def _more(self) -> None:
        if self.error is not None:
            raise self.error
        connection = self._connection
        self._waiter = connection.loop.create_future()
        timer = connection.stall_timer(self)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    # The answer.

    def start(self, head: bytes, source: Pausable | None = None, *, hold: bool = False) -> None:
        """Writes the answer's head. A slow client pauses `source`.

        With `hold` the head waits for the first `write`, which is often due at once, to save a system call; whoever
        holds it back calls `flush` before it waits for anything.
        """
        self.responded = True
        self.source = source
        if hold:
            self._held = head
        else:
            self._connection.write(head)
        if source is not None and self._connection.write_paused:
            source.pause_reading()

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        self._connection.write(data)

    def flush(self) -> None:
        """Writes a head that was held back."""
        if self._held:
            self.write(b"")

    def interim(self, head: bytes) -> None:
        """Passes on a 1xx answer (RFC 9110, section 15.2), which HTTP/1.0 does not know."""
        if self.head.minor == 1 and not self.responded:
            self._connection.write(head)

    def abort(self, *, framed: bool = False) -> None:
        """Cuts the connection: the client must see that the answer is not complete.

        Where the answer's own framing says so (`framed`), all that came goes out before; else only a reset can.
        """
        self.flush()
        self._connection.cut(framed=framed)


class ClientConnection(asyncio.BufferedProtocol):
    """Reads requests off one socket and runs the server's handler for each, in order."""

    __slots__ = (
        "_exchange",
        "_leave_timer",
        "_linger_until",
        "_lingered",
        "_lingering",
        "_look_timer",
        "_pending",
        "_reading_paused",
        "_server",
        "_timer",
        "_transport",
        "loop",
        "lost",
        "peer",
        "write_paused",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self.loop = server.loop
        self._transport: asyncio.Transport
        self._exchange: Exchange | None = None
        self._pending = b""
        self._timer: asyncio.TimerHandle | None = None
        self._leave_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._lingering = False
        self._lingered = False
        self._linger_until = 0.0
        self._reading_paused = False
        self.write_paused = False
        self.lost = False
        self.peer = ""

    # Transport callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        peername = self._transport.get_extra_info("peername")
        self.peer = peername[0] if peername else ""
        if not self._server.admit(self):
            self._answer_error(MessageError("too many connections are open; close some", 503), b"")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._server.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._server.read_buffer[:nbytes])
        exchange = self._exchange
        if self._lingering:
            self._lingered = True
        elif exchange is None:
            self._pending += data
            if not self.write_paused:
                self._next_request()
            elif len(self._pending) > PIPELINED_HIGH:
                self._pause_reading()
        elif not exchange.body_done:
            self._feed_body(exchange, data)
        else:
            self._pending += data
            if len(self._pending) > PIPELINED_HIGH:
                self._pause_reading()

    def eof_received(self) -> bool:
        if self._exchange is None and not (self.write_paused and self._pending):
            return False
        exchange = self._exchange
        safe = exchange is not None and exchange.head.method in _SAFE
        self._leave_timer = self.loop.call_later(SAFE_GRACE_SECONDS if safe else LEAVE_GRACE_SECONDS, self._leave)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        for timer in (self._timer, self._leave_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self._leave()
        task = self._exchange.task if self._exchange is not None else None
        if task is None or task.done():
            self._server.forget(self)
        else:  # a drain waits for what it still does: its call is booked and told of
            task.add_done_callback(lambda _: self._server.forget(self))

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._exchange is not None and self._exchange.source is not None:
            self._exchange.source.pause_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._exchange is None:
            self._go_on()
        elif self._exchange.source is not None:
            self._exchange.source.resume_reading()

    # What the exchange needs.

    def write(self, data: bytes) -> None:
        # A transport that is gone raises, but the upstream's next read may come before the task hears of it.
        if not self.lost:
            self._transport.write(data)

    def abort(self) -> None:
        self._transport.abort()

    def cut(self, *, framed: bool) -> None:
        """Ends the connection in the middle of an answer: see `Exchange.abort`."""
        if framed:
            self._transport.close()
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self.lost:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def resume_body(self) -> None:
        # Where many pipelined requests wait, no more of them are read: a body that is awaited stands before those.
        if self._reading_paused and len(self._pending) <= PIPELINED_HIGH:
            self._reading_paused = False
            self._transport.resume_reading()

    def stall_timer(self, exchange: Exchange) -> asyncio.TimerHandle | None:
        seconds = self._server.limits.body_idle_seconds
        if not seconds:
            return None
        stalled = MessageError(f"no byte of the request body came for {seconds:g} s", 408)
        return self.loop.call_later(seconds, exchange.fail, stalled)

    # From one request to the next.

    @property
    def idle(self) -> bool:
        return self._exchange is None

    @property
    def exchange(self) -> Exchange | None:
        return self._exchange

    def close(self) -> None:
        """Closes an idle connection; one that is serving closes with its answer."""
        if self._exchange is None:
            self._transport.close()
        else:
            self._exchange.close = True

    def _next_request(self) -> None:
        data = self._pending
        if data[:1] in b"\r\n":
            data = self._pending = data.lstrip(b"\r\n")  # a stray line end after a body (RFC 9112, section 2.2)
            if not data:
                return
        end = data.find(b"\r\n\r\n")
        limit = self._server.limits.head_bytes
        if end < 0 and len(data) <= limit:
            self._await_head(data)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pending = b""
        if end < 0 or end + 4 > limit:
            self._answer_error(
                MessageError(f"the header section is larger than the {limit} bytes taken here", 431), data
            )
            return
        try:
            head = parse_request_head(data[: end + 4])
        except MessageError as error:
            self._answer_error(error, data)
            return
        exchange = self._exchange = Exchange(self, head, self.loop.time())
        if self._server.draining:
            exchange.close = True
        if len(data) > end + 4:
            self._feed_body(exchange, data[end + 4 :])
        exchange.task = self.loop.create_task(self._serve(exchange))

    def _await_head(self, data: bytes) -> None:
        # What cannot become a request (a bare LF, another protocol such as TLS) is told so at once, instead of by the
        # timeout.
        if data.count(b"\n") != data.count(b"\r\n"):
            self._answer_error(MessageError("a line of the header section does not end with CRLF alone"), data)
        elif not 0x20 < data[0] < 0x7F:
            self._answer_error(MessageError("this is no HTTP request"), data)
        elif self._timer is None:
            self._timer = self.loop.call_later(self._server.limits.head_seconds, self._head_late)

    def _head_late(self) -> None:
        seconds = self._server.limits.head_seconds
        late = MessageError(f"the header section was not complete within {seconds:g} s", 408)
        self._answer_error(late, self._pending)

    def _feed_body(self, exchange: Exchange, data: bytes) -> None:
        self._pending += exchange.feed(data)
        if exchange.overfull:
            self._pause_reading()

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._server.serve(exchange)
        except asyncio.CancelledError:
            exchange.flush()
            if exchange.left:
                self._transport.abort()
            else:
                self._transport.close()  # the drain ended: what was written still goes out
        else:
            exchange.flush()
            self._finished(exchange)

    def _finished(self, exchange: Exchange) -> None:
        self._exchange = None
        if self._transport.is_closing():
            return
        if not exchange.body_done:
            self._linger()
        elif exchange.close:
            self._transport.close()
        elif not self.write_paused:
            self._go_on()
        # Else the client asks for more than it reads: it gets no further answer before it has taken this one.

    def _go_on(self) -> None:
        """From one request to the next, if that is there already."""
        if self._lingering or self._transport.is_closing():
            return
        if self._pending:
            self._next_request()
        self.resume_body()
        if self._leave_timer is not None and self._exchange is None:
            self._transport.close()  # it ended its sending, and has all answers

    def _answer_error(self, error: MessageError, data: bytes) -> None:
        if self._transport.is_closing() or self._lingering:
            return
        self._pending = b""
        self._transport.write(self._server.protocol_error(error, data))
        self._linger()

    def _linger(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._leave_timer is not None:
            self._transport.close()  # its sending has ended, so nothing can come that would reset the answer away
            return
        self._lingering = True
        self._exchange = None
        self._pending = b""
        self.resume_body()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._linger_until = self.loop.time() + LINGER_SECONDS
        self._timer = self.loop.call_later(LINGER_QUIET_SECONDS, self._lingered_enough)

    def _lingered_enough(self) -> None:
        if self._lingered and self.loop.time() < self._linger_until:
            self._lingered = False
            self._timer = self.loop.call_later(LINGER_QUIET_SECONDS, self._lingered_enough)
        else:
            self._transport.abort()

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
            if self._look_timer is None:
                self._look_timer = self.loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Whether a client that is not read has gone."""
        self._look_timer = None
        if self.lost or not self._reading_paused:
            return
        sock = self._transport.get_extra_info("socket")
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        if any(events & _GONE for _, events in poll.poll(0)):
            self._transport.abort()
        else:
            self._look_timer = self.loop.call_later(LOOK_SECONDS, self._look)

    def _leave(self) -> None:
        exchange = self._exchange
        if exchange is None:
            self._transport.close()
        elif exchange.task is not None and not exchange.task.done():
            exchange.left = True
            exchange.task.cancel()
