"""Where a message's body ends (RFC 9112, sections 6 and 7): bytes in, payload out, and what is left over."""

from __future__ import annotations

from typing import Protocol

from sidecar.http1.errors import MessageError
from sidecar.http1.head import TOKEN

MAX_CHUNK_LINE = 256
MAX_TRAILERS = 16 * 1024
_HEX = frozenset(b"0123456789abcdefABCDEF")
_LINE_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])


class BodyDecoder(Protocol):
    """Takes the bytes of one body as they come.

    `done` says that the body is complete; `rest` then holds the bytes behind it. `whole` says of the last `feed`
    that its bytes were whole chunks without extensions, so that they can be passed on as they came.
    """

    done: bool
    rest: bytes
    whole: bool
    trailers: list[bytes]

    def feed(self, data: bytes) -> list[bytes]:
        """The payload in `data`, in the pieces in which it was framed. Raises MessageError."""

    def eof(self) -> bool:
        """Whether a body may end where the connection ended."""


class EmptyDecoder:
    """No body at all."""

    __slots__ = ("done", "rest", "trailers", "whole")

    def __init__(self) -> None:
        self.done = True
        self.rest = b""
        self.whole = False
        self.trailers: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        self.rest += data
        return []

    def eof(self) -> bool:
        return True


class LengthDecoder:
    """A body of `length` bytes."""

    __slots__ = ("_left", "done", "rest", "trailers", "whole")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.rest = b""
        self.whole = False
        self.trailers: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        size = len(data)
        if size < self._left:
            self._left -= size
            return [data]
        self.done = True
        if size > self._left:
            self.rest += data[self._left :]
            data = data[: self._left]
        self._left = 0
        return [data] if data else []

    def eof(self) -> bool:
        return self.done


class UntilCloseDecoder:
    """A response that ends with its connection."""

    __slots__ = ("done", "rest", "trailers", "whole")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self.whole = False
        self.trailers: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        return [data]

    def eof(self) -> bool:
        self.done = True
        return True


class ChunkedDecoder:
    """Chunks (RFC 9112, section 7.1): CRLF alone, extensions bounded and dropped, trailers kept apart.

    `whole` and `pieces` let a relay keep the sender's own chunk boundaries. `blanks` takes them behind a size, as the
    section asks of a recipient; in a request, where the next reader may stumble over them, they are refused.
    """

    __slots__ = ("_blanks", "_left", "_line", "_state", "_trailer_bytes", "done", "rest", "trailers", "whole")

    # What the next byte belongs to.
    _SIZE, _DATA, _DATA_END, _TRAILER = range(4)

    def __init__(self, *, blanks: bool = False) -> None:
        self._blanks = blanks
        self._state = self._SIZE
        self._left = 0
        self._line = b""
        self._trailer_bytes = 0
        self.done = False
        self.rest = b""
        self.whole = False
        self.trailers: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        pieces: list[bytes] = []
        whole = self._state == self._SIZE and not self._line
        position, size = 0, len(data)
        while position < size and not self.done:
            if self._state == self._DATA:
                end = position + self._left
                if end <= size:
                    pieces.append(data[position:end])
                    position, self._left, self._state = end, 0, self._DATA_END
                else:
                    pieces.append(data[position:])
                    self._left -= size - position
                    position = size
                continue
            if self._state == self._DATA_END and not self._line and data.startswith(b"\r\n", position):
                position += 2
                self._state = self._SIZE
                continue
            if self._line[-1:] == b"\r" and data.startswith(b"\n", position):
                line, self._line = self._line[:-1], b""
                position += 1
            else:
                line_end = data.find(b"\r\n", position)
                if line_end < 0:
                    self._keep_line(data[position:])
                    break
                line, self._line = self._line + data[position:line_end], b""
                position = line_end + 2
            if self._state == self._SIZE:
                whole = self._start_chunk(line) and whole
            elif self._state == self._DATA_END:
                if line:
                    raise MessageError("a chunk is longer than its size says")
                self._state = self._SIZE
            elif line:
                whole = False
                self._add_trailer(line)
            else:
                self.done = True
        if self.done:
            self.rest += data[position:]
        self.whole = whole and not self.rest and (self.done or (self._state == self._SIZE and not self._line))
        return pieces

    def _keep_line(self, part: bytes) -> None:
        """Keeps a line that is not complete yet, within bounds."""
        self._line += part
        if len(self._line) > (MAX_TRAILERS if self._state == self._TRAILER else MAX_CHUNK_LINE):
            raise MessageError("a chunk's size line or trailer is too long")
        if b"\n" in self._line or b"\r" in self._line[:-1]:
            raise MessageError("a line of the chunked body does not end with CRLF alone")

    def _start_chunk(self, line: bytes) -> bool:
        digits, _, text = line.partition(b";")
        if len(line) > MAX_CHUNK_LINE or text.translate(None, _LINE_BYTES):
            raise MessageError("a chunk's extension is too long or has a control character")
        if self._blanks:
            digits = digits.rstrip(b" \t")
        if not digits or len(digits) > 15 or not _HEX.issuperset(digits):
            raise MessageError("a chunk's size is not a hexadecimal number")
        self._left = int(digits, 16)
        self._state = self._DATA if self._left else self._TRAILER
        return digits == line

    def _add_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > MAX_TRAILERS:
            raise MessageError("the trailers are too long", 431)
        name, colon, _ = line.partition(b":")
        if not (name and colon and TOKEN.issuperset(name)) or line.translate(None, _LINE_BYTES):
            raise MessageError("a trailer is not a header line")
        self.trailers.append(line)

    def eof(self) -> bool:
        return self.done


def encode_chunk(payload: bytes) -> bytes:
    """One chunk. An empty payload would end the body, so it makes nothing."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def encode_chunks(pieces: list[bytes]) -> bytes:
    """The pieces, a chunk each."""
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece])
