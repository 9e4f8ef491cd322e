"""What came over the wire: reading a connection, and one request kept exactly as it arrived.

The reader here is lenient and shares no code with the proxy's own HTTP code: a stand-in that read requests with
the code under test would agree with every mistake in it. What it cannot frame (a wrong Content-Length, an unknown
transfer coding) it refuses the way Go's net/http does; everything else is recorded, byte for byte, and read on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

Outcome = Literal["pending", "complete", "aborted", "cut"]
"""How an exchange ended: still running, answered whole, given up because the peer left, cut by the stand-in."""

_BLANK_LINE = re.compile(rb"\n\r?\n")
_PIECE = 65536


class PeerClosedError(Exception):
    """The peer closed or reset the connection while the stand-in still expected it to be there."""


class BadRequestError(Exception):
    """A request that cannot be framed. `line` is the status line's tail, e.g. `400 Bad Request`, as Go writes it;
    `body` the text under it, which is the same but for an unknown transfer coding."""

    def __init__(self, line: str = "400 Bad Request", body: str = "") -> None:
        super().__init__(line)
        self.line = line
        self.body = body or line


class BadBodyError(Exception):
    """A request body whose chunked framing is broken; the text is Go's."""


class RecordedRequest:
    """One request as it came.

    `index` counts requests of this server from 0, `connection` its connections from 0. `raw_head` holds the head's
    bytes up to and with the blank line; `headers` its fields in order, names in their own case, values trimmed.
    `body` is the content (dechunked), `raw_body` the bytes on the wire; both stop at the server's `record_bodies`
    limit, while `body_size`, `raw_body_size` and `body_sha256` (hex) always cover all of it. Times are the event
    loop's (`loop.time()`, seconds); `closed_by_peer_at` is when the peer closed before the answer was complete.
    """

    def __init__(
        self,
        *,
        index: int,
        connection: int,
        raw_head: bytes,
        head: Head,
        arrived_at: float,
        keep: int | None,
    ) -> None:
        self.index = index
        self.connection = connection
        self.raw_head = raw_head
        self.method = head.method
        self.target = head.target
        self.version = head.version
        self.headers = head.headers
        self.trailers: list[tuple[bytes, bytes]] = []
        self.arrived_at = arrived_at
        self.body_size = 0
        self.raw_body_size = 0
        self.body_read = asyncio.Event()
        """Set once the body is there to its last byte."""
        self.closed_by_peer_at: float | None = None
        self.closed_by_peer = asyncio.Event()
        """Set when the peer closed before the answer was complete."""
        self.finished_at: float | None = None
        self.finished = asyncio.Event()
        """Set when the exchange is over, however it ended."""
        self.outcome: Outcome = "pending"
        self.status: int | None = None
        """The status that was answered; None as long as no head was sent."""
        self._keep = keep
        self._body = bytearray()
        self._raw_body = bytearray()
        self._hash = hashlib.sha256()

    def __repr__(self) -> str:
        return f"<{self.index}: {self.method} {self.target} {self.outcome}>"

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    @property
    def raw_body(self) -> bytes:
        return bytes(self._raw_body)

    @property
    def body_sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def aborted(self) -> bool:
        """Whether the work was given up because the peer went away."""
        return self.outcome == "aborted"

    def header(self, name: str) -> str | None:
        """The last value of a header, whatever its case; None without one."""
        found = self.header_values(name)
        return found[-1] if found else None

    def header_values(self, name: str) -> list[str]:
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]

    def json(self) -> Any:
        return json.loads(self._body)

    def record_raw(self, data: bytes) -> None:
        self.raw_body_size += len(data)
        _keep_up_to(self._raw_body, data, self._keep)

    def record_content(self, data: bytes) -> None:
        self.body_size += len(data)
        self._hash.update(data)
        _keep_up_to(self._body, data, self._keep)


def _keep_up_to(into: bytearray, data: bytes, limit: int | None) -> None:
    room = len(data) if limit is None else max(0, limit - len(into))
    into += data[:room] if room < len(data) else data


class Head:
    """A request head's parts. `target` and `version` as sent; `length` is the Content-Length, None when chunked or
    absent; `keep_alive` what the client asked for."""

    def __init__(self, raw: bytes) -> None:
        lines = [line.rstrip(b"\r") for line in raw.lstrip(b"\r\n").split(b"\n")]
        words = lines[0].decode("latin-1").split(" ")
        if len(words) < 3 or not words[-1].startswith("HTTP/"):
            raise BadRequestError
        self.method, self.target, self.version = words[0], " ".join(words[1:-1]), words[-1]
        self.headers: list[tuple[bytes, bytes]] = []
        for line in lines[1:]:
            if not line:
                break
            self._field(line)
        self.chunked = False
        self.length: int | None = None
        codings = self._values(b"transfer-encoding")
        lengths = self._values(b"content-length")
        if codings:
            if len(codings) > 1 or codings[0].lower() != b"chunked":
                raise BadRequestError("501 Not Implemented", "Unsupported transfer encoding")
            self.chunked = True
        elif lengths:
            if len(set(lengths)) > 1 or not lengths[0].isdigit():
                raise BadRequestError
            self.length = int(lengths[0])
        options = b",".join(self._values(b"connection")).lower()
        self.keep_alive = b"close" not in options if self.version == "HTTP/1.1" else b"keep-alive" in options
        self.expects_continue = self.version == "HTTP/1.1" and any(
            value.lower() == b"100-continue" for value in self._values(b"expect")
        )

    def _field(self, line: bytes) -> None:
        if line[:1] in b" \t" and self.headers:  # a folded line belongs to the field above it
            name, value = self.headers[-1]
            self.headers[-1] = (name, value + b" " + line.strip(b" \t"))
            return
        name, _, value = line.partition(b":")
        self.headers.append((name, value.strip(b" \t")))

    def _values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]


class Inbound:
    """The bytes of one connection. A pump reads all the time, also while an answer is being made, because that is
    the only way to see at once that the peer has gone; what it reads ahead (pipelined requests) waits here. Above
    `_HIGH` bytes it stops reading, so an upload costs constant memory, and the peer's end is seen once there is
    room again."""

    _HIGH = 4 * _PIECE

    def __init__(self, reader: asyncio.StreamReader, on_closed: Callable[[], None]) -> None:
        self._reader = reader
        self._on_closed = on_closed
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self.closed = False

    async def pump(self) -> None:
        try:
            while data := await self._reader.read(_PIECE):
                self._buffer += data
                self._more.set()
                if len(self._buffer) >= self._HIGH:
                    self._room.clear()
                    await self._room.wait()
        except OSError:
            pass  # a reset: the peer is as gone as after an orderly end
        finally:
            self.closed = True
            self._more.set()
        self._on_closed()

    async def _wait(self) -> None:
        if self.closed:
            raise PeerClosedError
        self._room.set()  # who waits for more needs it, however much is here: a head may be longer than `_HIGH`
        self._more.clear()
        await self._more.wait()

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        if len(self._buffer) < self._HIGH:
            self._room.set()
        return data

    def discard(self) -> None:
        self._take(len(self._buffer))

    async def some(self, limit: int) -> bytes:
        """At least one byte, at most `limit`."""
        while not self._buffer:
            await self._wait()
        return self._take(min(limit, len(self._buffer)))

    async def line(self, limit: int = 8192) -> bytes:
        """One line with its end."""
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                return self._take(end + 1)
            if len(self._buffer) > limit:
                raise BadBodyError("http: chunk line too long")
            await self._wait()

    async def head(self, limit: int) -> bytes | None:
        """A request head with its blank line; None when the peer ended between two requests."""
        seen = 0
        while True:
            lead = 0
            while bytes(self._buffer[lead : lead + 1]) in (b"\r", b"\n"):
                lead += 1  # blank lines before a request line are no end of a head
            found = _BLANK_LINE.search(self._buffer, max(lead, seen - 3))
            if found:
                return self._take(found.end())
            seen = len(self._buffer)
            if seen > limit:
                raise BadRequestError("431 Request Header Fields Too Large")
            if self.closed:
                if not self._buffer:
                    return None
                raise PeerClosedError
            await self._wait()


async def read_body(inbound: Inbound, head: Head, request: RecordedRequest) -> AsyncIterator[bytes]:
    """The content piece by piece, recorded on its way."""
    if head.chunked:
        async for data in _read_chunked(inbound, request):
            yield data
    else:
        left = head.length or 0
        while left:
            data = await inbound.some(min(left, _PIECE))
            left -= len(data)
            request.record_raw(data)
            request.record_content(data)
            yield data
    request.body_read.set()


async def _read_chunked(inbound: Inbound, request: RecordedRequest) -> AsyncIterator[bytes]:
    while True:
        line = await inbound.line()
        request.record_raw(line)
        digits = line.split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", digits):
            raise BadBodyError("invalid byte in chunk length")
        left = int(digits, 16)
        if not left:
            break
        while left:
            data = await inbound.some(min(left, _PIECE))
            left -= len(data)
            request.record_raw(data)
            request.record_content(data)
            yield data
        end = await inbound.line()
        request.record_raw(end)
        if end.strip(b"\r\n"):
            raise BadBodyError("malformed chunked encoding")
    while (line := await inbound.line()).strip(b"\r\n"):
        request.record_raw(line)
        name, _, value = line.partition(b":")
        request.trailers.append((name, value.strip()))
    request.record_raw(line)
