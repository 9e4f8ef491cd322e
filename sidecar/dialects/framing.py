"""Records of a streamed answer: lines of NDJSON and events of SSE, found in bytes that come in any pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.core.call import Usage
from sidecar.dialects.base import parse

# Ollama's own client takes lines of up to 8 MB.
MAX_RECORD = 16 * 1024 * 1024


class LastLine:
    """Keeps the last line of NDJSON that is not blank, and nothing else: one record at the end tells the usage."""

    __slots__ = ("_last", "_open", "_size", "_skipping", "overflowed")

    def __init__(self) -> None:
        self._last = b""
        self._open: list[bytes] = []
        self._size = 0
        self._skipping = False
        self.overflowed = False

    def feed(self, piece: bytes) -> None:
        end = piece.find(b"\n")
        if not self._size and not self._skipping and 0 < end == len(piece) - 1 <= MAX_RECORD:
            if not piece.isspace():
                self._last = piece
            return
        if end >= 0:
            self._grow(piece[:end])
            self._end_line()
            last = piece.rfind(b"\n")
            # Of the whole lines in between only the last one counts.
            for line in reversed(piece[end + 1 : last].split(b"\n")) if last > end else ():
                if line and not line.isspace():
                    self._grow(line)
                    self._end_line()
                    break
            piece = piece[last + 1 :]
        if piece:
            self._grow(piece)

    def _grow(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MAX_RECORD:
            self._open, self._skipping, self.overflowed = [], True, True
        else:
            self._open.append(part)

    def _end_line(self) -> None:
        line = b"".join(self._open)
        if self._skipping or (line and not line.isspace()):
            self._last = line  # nothing, where the line was too long
        self._open, self._size, self._skipping = [], 0, False

    @property
    def value(self) -> bytes:
        line = b"".join(self._open)
        return line if self._skipping or (line and not line.isspace()) else self._last


class Whole:
    """Keeps a whole answer that is one JSON value, up to a bound."""

    __slots__ = ("_parts", "_size", "overflowed")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.overflowed = False

    def feed(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > MAX_RECORD:
            self._parts, self.overflowed = [], True
        else:
            self._parts.append(piece)

    @property
    def value(self) -> bytes:
        return b"".join(self._parts)


class Events:
    """Splits SSE into events: `take` sees each of them, `drop` picks those to leave out.

    Without `drop` the pieces pass through untouched, and only an event's open end is kept between them. With it,
    complete events pass and the open end waits: an event that is to be dropped must not have gone out in part. An
    event that is too long is not looked at, and passes.
    """

    __slots__ = ("_drop", "_open", "_skipping", "_take", "overflowed")

    def __init__(self, take: Callable[[bytes], None], drop: Callable[[bytes], bool] | None = None) -> None:
        self._take = take
        self._drop = drop
        self._open = bytearray()
        self._skipping = False
        self.overflowed = False

    def feed(self, pieces: list[bytes]) -> list[bytes]:
        if self._drop is None:
            for piece in pieces:
                self._split(piece)
            return pieces
        kept = []
        for piece in pieces:
            passed = b"".join(self._split(piece))
            if passed:
                kept.append(passed)
        return kept

    def close(self) -> list[bytes]:
        rest = bytes(self._open)
        self._open.clear()
        passed = self._pass(rest) if rest else b""
        return [passed] if passed and self._drop is not None else []

    def _split(self, piece: bytes) -> list[bytes]:
        """What passes of the events that this piece completes; their end may have begun in the piece before."""
        scanned = len(self._open)
        data: bytes | bytearray = piece
        if scanned:
            self._open += piece
            data = self._open
        passed = []
        start, search = 0, max(scanned - 2, 0)
        plain = data.find(b"\n\n", search)
        carriage = data.find(b"\n\r\n", search)
        while plain >= 0 or carriage >= 0:
            end = plain + 2 if carriage < 0 or 0 <= plain < carriage else carriage + 3
            passed.append(self._pass(bytes(data[start:end])))
            start = end
            if 0 <= plain < start:
                plain = data.find(b"\n\n", start)
            if 0 <= carriage < start:
                carriage = data.find(b"\n\r\n", start)
        if data is piece:
            self._open += piece[start:]
        elif start:
            del self._open[:start]
        if len(self._open) > MAX_RECORD:
            self.overflowed = self._skipping = True
        if self._skipping and len(self._open) > 2:
            # The last two bytes may be the first of its end.
            passed.append(bytes(self._open[:-2]))
            del self._open[:-2]
        return passed

    def _pass(self, event: bytes) -> bytes:
        if self._skipping or len(event) > MAX_RECORD:
            self.overflowed, self._skipping = True, False
            return event
        self._take(event)
        return b"" if self._drop is not None and self._drop(event) else event


def event_name(event: bytes) -> bytes:
    """The name of an SSE event; empty where it has none."""
    for line in event.splitlines():
        if line.startswith(b"event:"):
            return line[6:].strip()
    return b""


def event_data(event: bytes) -> bytes:
    """The data of an SSE event, its lines joined."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


class WholeObserver:
    """For one JSON answer: everything passes, and `_learn` reads the whole of it when it has ended."""

    __slots__ = ("_whole", "usage")

    def __init__(self) -> None:
        self._whole = Whole()
        self.usage = Usage()

    def feed(self, pieces: list[bytes]) -> list[bytes]:
        for piece in pieces:
            self._whole.feed(piece)
        return pieces

    def close(self) -> list[bytes]:
        record = parse(self._whole.value)
        if record is not None:
            self._learn(record)
        return []

    def _learn(self, record: dict[str, Any]) -> None:
        raise NotImplementedError


class SilentObserver:
    """For answers whose usage nobody needs: everything passes."""

    __slots__ = ("usage",)

    def __init__(self) -> None:
        self.usage = Usage(complete=True)

    def feed(self, pieces: list[bytes]) -> list[bytes]:
        return pieces

    def close(self) -> list[bytes]:
        return []
