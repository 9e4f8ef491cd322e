"""One connection to an upstream server: a request out, its answer in, then back to the pool.

The answer's head is awaited; its body is pushed to a sink as it comes, so that a stream costs one callback per read.
Until a sink is attached the body waits here, bounded by a pause in reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from sidecar.http1 import (
    BodyDecoder,
    ChunkedDecoder,
    EmptyDecoder,
    LengthDecoder,
    MessageError,
    ResponseHead,
    UntilCloseDecoder,
    parse_response_head,
)

WRITE_HIGH = 256 * 1024
# What may wait here for a sink is given to a client at once, however slow that is: as much as one read.
EARLY_HIGH = 16 * 1024
MAX_HEAD = 256 * 1024
# What one read takes. It is also what a paused stream holds here, so it stays small: with 64 KiB, 200 clients that
# do not read cost 13 MiB; a model's tokens never fill it.
READ_BUFFER = 16 * 1024
# Within this time a connection that the server had closed before shows that it is, a reset on its way back included.
STALE_SECONDS = 0.25
# Servers send one or two (100, 103); they go out as they come, whether the client reads or not.
MAX_INTERIM = 16
_PROTOCOL = b"HTTP/1."


class UpstreamError(Exception):
    """An upstream that gave no answer, or not a whole one. The text names no content.

    `kind` is one of `connect`, `timeout`, `lost`, `protocol`, `incomplete`; `sent` says whether the request may have
    been taken up, so that it may be billed; `answered` says whether a byte of the answer came.
    """

    def __init__(self, kind: str, message: str, *, sent: bool, answered: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.sent = sent
        self.answered = answered


class Sink(Protocol):
    """Where an answer's body goes. Called from the transport's callbacks: it must not block or raise."""

    def data(self, pieces: list[bytes], raw: bytes | None, complete: bool) -> None:
        """Payload in the pieces in which it was framed; `raw` is the read itself where it was whole chunks.

        `complete` says that this was the body's end; with `raw`, the end of its framing is in there.
        """

    def end(self, trailers: list[bytes]) -> None:
        """The body is complete."""

    def lost(self, error: UpstreamError) -> None:
        """The body will not be complete."""


class UpstreamConnection(asyncio.BufferedProtocol):
    """A pooled connection. One request at a time: `send`, `response`, `attach`, and the pool takes it back."""

    __slots__ = (
        "_decoder",
        "_early",
        "_early_bytes",
        "_early_full",
        "_first",
        "_head",
        "_held",
        "_idle_timeout",
        "_idle_timer",
        "_interim",
        "_last_data",
        "_method",
        "_on_free",
        "_on_interim",
        "_on_lost",
        "_pending",
        "_request_done",
        "_sent_at",
        "_sink",
        "_transport",
        "_waiter",
        "_write_waiter",
        "answered",
        "buffer",
        "idle_since",
        "loop",
        "lost",
        "reused",
        "sent",
        "turn",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        buffer: memoryview,
        on_free: Callable[[UpstreamConnection], None],
        on_lost: Callable[[UpstreamConnection], None],
    ) -> None:
        self.loop = loop
        self.buffer = buffer
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self.lost = False
        self.reused = False
        self.idle_since = 0.0
        self._write_waiter: asyncio.Future[None] | None = None
        self.turn = 0
        self._reset()

    def _reset(self) -> None:
        self.turn += 1
        self._pending = b""
        self._head: ResponseHead | None = None
        self._decoder: BodyDecoder | None = None
        self._early: list[tuple[list[bytes], bytes | None, bool]] = []
        self._early_bytes = 0
        # The two reasons to read no more, apart from each other: a client that is slow, and a body without a sink.
        self._held = False
        self._early_full = False
        self._sink: Sink | None = None
        self._first: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[ResponseHead] | None = None
        self._on_interim: Callable[[bytes], None] | None = None
        self._interim = 0
        self._method = b""
        self._request_done = True
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_timeout = 0.0
        self._last_data = 0.0
        self._sent_at = float("inf")
        self.sent = False
        self.answered = False

    # The request.

    def send(self, method: bytes, data: bytes, body: bytes = b"", *, complete: bool = True) -> None:
        """Writes a head and, where it is in hand, the body. `complete` is False where `write` brings more.

        Raises UpstreamError where the connection is gone already.
        """
        if self.lost:
            raise self._error("lost", "the upstream closed the connection before it was asked")
        self._method = method
        self._request_done = complete
        self._waiter = self.loop.create_future()
        self._sent_at = self.loop.time()
        self.sent = True
        if not body:
            self._transport.write(data)
        elif len(body) < 16 * 1024:
            self._transport.write(data + body)
        else:
            self._transport.writelines((data, body))

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Writes more of a streamed request; waits while the upstream does not take it. Raises UpstreamError."""
        if self.lost:
            raise self._error("lost", "the upstream closed the connection while the request was sent")
        if data:
            self._transport.write(data)
        self._request_done = last
        if self._write_waiter is not None:
            await asyncio.shield(self._write_waiter)

    # The answer.

    async def response(self, seconds: float, on_interim: Callable[[bytes], None] | None = None) -> ResponseHead:
        """The answer's head; interim answers (1xx) go to `on_interim` as they came.

        `seconds` is how long to wait for it, 0 for ever. Raises UpstreamError.
        """
        self._on_interim = on_interim
        waiter = self._waiter
        if waiter is None:
            raise RuntimeError("no request was sent on this connection")
        if not seconds or waiter.done():
            return await waiter
        timer = self.loop.call_later(seconds, self._expire, waiter, seconds)
        try:
            return await waiter
        finally:
            timer.cancel()

    def _expire(self, waiter: asyncio.Future[ResponseHead], seconds: float) -> None:
        if not waiter.done():
            waiter.set_exception(self._error("timeout", f"the upstream sent no answer within {seconds:g} s"))

    def attach(self, sink: Sink, idle_timeout: float = 0.0) -> None:
        """Gives the body to a sink, first what has come already. `idle_timeout` seconds without a byte end it."""
        early, self._early, self._early_bytes = self._early, [], 0
        for pieces, raw, complete in early:
            sink.data(pieces, raw, complete)
        if self._decoder is None or self._decoder.done:
            self._complete(sink)
            return
        if self.lost:
            sink.lost(self._error("lost", "the upstream closed the connection before the answer was complete"))
            return
        self._sink = sink
        if idle_timeout:
            self._idle_timeout = idle_timeout
            self._last_data = self.loop.time()
            self._idle_timer = self.loop.call_later(idle_timeout, self._check_idle)
        if self._early_full:
            self._early_full = False
            if not self._held:  # the client may be slow already: then its own pace counts
                self._transport.resume_reading()

    async def first_data(self, seconds: float) -> bytes:
        """The first payload of the body, without taking it; empty where the body is. Raises UpstreamError."""
        if not self._early and self._decoder is not None and not self._decoder.done and not self.lost:
            self._first = self.loop.create_future()
            timer = self.loop.call_later(seconds, self._first_late, self._first) if seconds else None
            try:
                await self._first
            finally:
                self._first = None
                if timer is not None:
                    timer.cancel()
        if self._early:
            return self._early[0][0][0]
        if self.lost and self._decoder is not None and not self._decoder.done:
            raise self._error("lost", "the upstream closed the connection before the answer was complete")
        return b""

    def _first_late(self, first: asyncio.Future[None]) -> None:
        if not first.done():
            first.set_exception(self._error("timeout", "the upstream sent the head of an answer and then nothing"))

    def _wake_first(self) -> None:
        if self._first is not None and not self._first.done():
            self._first.set_result(None)

    def pause_reading(self) -> None:
        """The client is slow: no more is read until `resume_reading`."""
        self._held = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._held = False
        self._last_data = self.loop.time()  # the client was slow, not the upstream
        if not self._early_full:
            self._transport.resume_reading()

    def close(self) -> None:
        """Closes at once: whatever the upstream still does for this request, it should stop."""
        self._sink = None
        self._stop_idle_timer()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.cancel()
        if not self.lost:
            self._transport.abort()

    def cut(self, turn: int) -> None:
        """As `abandon`, but whoever waits for the answer hears that it is lost."""
        if self.turn == turn:
            self._transport.abort()

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._waiter is not None and not self.lost

    def was_stale(self, error: UpstreamError) -> bool:
        """Whether a request failed because its pooled connection had been closed before it was sent.

        Only then it may be sent again (RFC 9110, section 9.2.2): a server that breaks off later has begun with it.
        """
        late = self.loop.time() - self._sent_at > STALE_SECONDS
        return self.reused and error.kind == "lost" and not error.answered and not late

    def abandon(self, turn: int) -> None:
        """Closes the connection where the request of that `turn` is still under way.

        For whoever acquired it, whatever became of the request: an answer that is complete has brought the connection
        back to its pool, and by now it may be somebody else's.
        """
        if self.turn == turn and self.busy:
            self.close()

    @property
    def closing(self) -> bool:
        return self.lost or self._transport.is_closing()

    # Transport callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self.buffer[:nbytes])
        self.answered = True
        try:
            if self._decoder is not None:
                self._body(self._decoder, data)
            elif self._waiter is not None:
                self._pending += data
                self._read_head(self._waiter)
            else:
                self._transport.abort()  # bytes that nobody asked for: the next answer could not be told from them
        except MessageError as error:
            self._fail(self._error("protocol", f"the upstream's answer is not valid HTTP: {error.message}"))
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._write_waiter is not None and not self._write_waiter.done():
            self._write_waiter.set_result(None)
        decoder = self._decoder
        if decoder is not None and not decoder.done and exc is None and decoder.eof():
            sink, self._sink = self._sink, None
            if sink is not None:
                self._stop_idle_timer()
                sink.end([])
        elif decoder is None or not decoder.done:
            part = "before the answer was complete" if decoder is not None else "before it answered"
            self._fail(self._error("lost", f"the upstream closed the connection {part}"))
        self._wake_first()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._write_waiter = self.loop.create_future()

    def resume_writing(self) -> None:
        waiter, self._write_waiter = self._write_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Inside.

    def _read_head(self, waiter: asyncio.Future[ResponseHead]) -> None:
        while True:
            end = self._pending.find(b"\r\n\r\n")
            if end < 0:
                self._check_open_head()
                return
            raw, rest = self._pending[: end + 4], self._pending[end + 4 :]
            head = parse_response_head(raw)
            if head.status >= 200:
                break
            if head.status == 101:
                raise MessageError("it switches to a protocol that was not asked for")
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise MessageError(f"it sent more than {MAX_INTERIM} interim answers")
            self._pending = rest
            if self._on_interim is not None:
                self._on_interim(raw)
        self._pending = b""
        self._head = head
        self._decoder = decoder = self._decoder_for(head)
        if not waiter.done():
            waiter.set_result(head)
        if rest or decoder.done:
            self._body(decoder, rest)

    def _check_open_head(self) -> None:
        """What can become no answer is told so at once, instead of when the upstream closes."""
        data = self._pending
        if len(data) > MAX_HEAD:
            raise MessageError(f"its header section is larger than {MAX_HEAD} bytes")
        if data[: len(_PROTOCOL)] != _PROTOCOL[: len(data)]:
            raise MessageError("it does not speak HTTP/1")
        if data.count(b"\n") != data.count(b"\r\n"):
            raise MessageError("a line of its header section does not end with CRLF alone")

    def _decoder_for(self, head: ResponseHead) -> BodyDecoder:
        if not head.has_body(self._method):
            return EmptyDecoder()
        if head.chunked:
            return ChunkedDecoder(blanks=True)
        if head.content_length is not None:
            return LengthDecoder(head.content_length)
        return UntilCloseDecoder()

    def _body(self, decoder: BodyDecoder, data: bytes) -> None:
        pieces = decoder.feed(data) if data else []
        raw = data if decoder.whole else None
        sink = self._sink
        if sink is None:
            if pieces:
                self._early.append((pieces, raw, decoder.done))
                self._early_bytes += len(data)
                if self._early_bytes > EARLY_HIGH:
                    self._early_full = True
                    self._transport.pause_reading()
            self._wake_first()
            return
        if self._idle_timeout:
            self._last_data = self.loop.time()
        if pieces:
            sink.data(pieces, raw, decoder.done)
        if decoder.done:
            self._sink = None
            self._complete(sink)

    def _complete(self, sink: Sink) -> None:
        decoder, head = self._decoder, self._head
        trailers = decoder.trailers if decoder is not None else []
        clean = decoder is not None and not decoder.rest and head is not None and head.keep_alive
        self._stop_idle_timer()
        # An answer may come before its request is out: what is still to be written would stand before the next one.
        sent = self._request_done and not self._transport.get_write_buffer_size()
        if clean and sent and not self.closing and not isinstance(decoder, UntilCloseDecoder):
            paused = self._held or self._early_full
            self._reset()
            if paused:
                self._transport.resume_reading()
            self._on_free(self)
        else:
            self._transport.abort()
        sink.end(trailers)

    def _check_idle(self) -> None:
        # A timer per stream that looks when it fires, instead of one that is set again with every read.
        left = self._last_data + self._idle_timeout - self.loop.time()
        if self._held:
            left = self._idle_timeout
        if left > 0.001:
            self._idle_timer = self.loop.call_later(left, self._check_idle)
            return
        self._fail(self._error("timeout", f"the upstream sent nothing for {self._idle_timeout:g} s"))
        self._transport.abort()

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _fail(self, error: UpstreamError) -> None:
        self._stop_idle_timer()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.lost(error)

    def _error(self, kind: str, message: str) -> UpstreamError:
        return UpstreamError(kind, message, sent=self.sent, answered=self.answered)
