"""The way of an answer's body to the client: as it came, in the client's framing.

Chunks that came whole go out as they came, so a client that takes one read for one record sees what it would see
without us. `observer` watches the payload; what it holds back or drops is re-framed. The open end of a record waits
for the rest of it: where that never comes, no error record may stand behind half a record, which a client would try
to read first.
"""

from __future__ import annotations

import asyncio

from sidecar.dialects.base import Observer
from sidecar.dialects.framing import MAX_RECORD
from sidecar.http1 import ResponseHead, encode_chunk, encode_chunks
from sidecar.proxy.connection import Exchange
from sidecar.upstream.connection import UpstreamError

_LAST_CHUNK = b"0\r\n\r\n"


# What ends a record, by the separator that its dialect writes: an event may have either kind of line end.
_MARKS = {b"\n": (b"\n",), b"\n\n": (b"\n\n", b"\n\r\n", b"\r\r")}


def _end_of(data: bytes, mark: bytes) -> int:
    at = data.rfind(mark)
    return at + len(mark) if at >= 0 else 0


class Relay:
    """A sink for one answer. `done` gets None, or the error that broke the answer.

    `first_at` is the loop's time of the first payload; `size` counts the payload's bytes so far. With `whole`, an
    answer that ends without its own last record counts as broken, and its end is not written. `separator` is what
    ends a record of the answer, where it is made of records. Without `trailers` those of the answer end here.
    """

    __slots__ = (
        "_chunked",
        "_counted",
        "_exchange",
        "_loop",
        "_open",
        "_open_size",
        "_separator",
        "_tail",
        "_terminated",
        "_trailers",
        "done",
        "first_at",
        "observer",
        "size",
        "whole",
    )

    def __init__(
        self,
        exchange: Exchange,
        head: ResponseHead,
        observer: Observer | None,
        *,
        separator: bytes = b"",
        whole: bool = False,
        trailers: bool = True,
    ) -> None:
        self._exchange = exchange
        self._loop = exchange.loop
        self._chunked = head.chunked and exchange.head.minor == 1 and head.has_body(exchange.head.method)
        self._counted = head.content_length is not None
        self._terminated = False
        self._tail = b""
        self._separator = separator
        self._open: list[bytes] = []
        self._open_size = 0
        self._trailers = trailers
        self.whole = whole
        self.observer = observer
        self.done: asyncio.Future[UpstreamError | None] = self._loop.create_future()
        self.first_at = 0.0
        self.size = 0

    def data(self, pieces: list[bytes], raw: bytes | None, complete: bool) -> None:
        if not self.first_at:
            self.first_at = self._loop.time()
        observer = self.observer
        if observer is not None:
            passed = observer.feed(pieces)
            if passed is not pieces:
                pieces, raw = passed, None
                if not pieces:
                    return
        if self._open or not pieces[-1].endswith(self._separator):
            pieces, raw = self._whole_records(pieces), None
            if not pieces:
                return
        self._tail = pieces[-1][-2:]
        if not self._chunked:
            for piece in pieces:
                self.size += len(piece)
                self._exchange.write(piece)
        elif raw is not None and not (complete and (self.whole or not self._trailers)):
            self.size += len(raw)
            self._terminated = complete
            self._exchange.write(raw)
        else:
            self.size += sum(map(len, pieces))
            self._exchange.write(encode_chunks(pieces))

    def _whole_records(self, pieces: list[bytes]) -> list[bytes]:
        """What is complete of the records that these pieces go on with; the open end of the last one is kept."""
        data = b"".join(pieces)
        before = b"".join(self._open[-3:])[-3:]
        end = max(_end_of(before + data, mark) for mark in _MARKS[self._separator]) - len(before)
        if end <= 0:
            self._open.append(data)
            self._open_size += len(data)
            if self._open_size <= MAX_RECORD:
                return []
            end = len(data)
            self._open.pop()
        passed = b"".join([*self._open, data[:end]])
        self._open = [data[end:]] if end < len(data) else []
        self._open_size = len(data) - end
        return [passed]

    def end(self, trailers: list[bytes]) -> None:
        # The connection to the upstream is back in its pool: what is written from here on must not pause it.
        self._exchange.source = None
        observer = self.observer
        held = observer.close() if observer is not None else []
        if self.whole and observer is not None and not (observer.usage.complete or observer.usage.error):
            self._finish(
                UpstreamError("incomplete", "the answer ended without its last record", sent=True, answered=True)
            )
            return
        held = [piece for piece in (*self._open, *held) if piece]
        self.size += sum(map(len, held))
        if self._chunked and not self._terminated:
            lines = b"".join([line + b"\r\n" for line in trailers]) if self._trailers else b""
            self._exchange.write(encode_chunks(held) + b"0\r\n" + lines + b"\r\n")
        else:
            for piece in held:
                self._exchange.write(piece)
        self._finish(None)

    def lost(self, error: UpstreamError) -> None:
        self._exchange.source = None
        if self.observer is not None:
            self._open += self.observer.close()
        self._finish(error)

    def break_off(self, record: bytes, separator: bytes) -> None:
        """Ends a broken answer with an error record where the framing has room for one; else cuts the connection.

        Where the answer broke inside a record, `separator` (a line end, or two) keeps ours apart from it. Without a
        `record` the answer is whole but for the end of its framing: then what waited of it goes out.
        """
        if self._counted:
            self.cut()
            return
        if not record:
            record, self._open = b"".join(self._open), []
            self.size += len(record)
        elif self.size and not self._tail.endswith(separator):
            record = separator + record
        if self._chunked:
            self._exchange.write(encode_chunk(record) + _LAST_CHUNK)
        else:
            self._exchange.write(record)
            self._exchange.close = True

    def cut(self) -> None:
        """Ends a broken answer so that the client sees that it is not complete."""
        self._exchange.abort(framed=self._chunked or self._counted)

    def _finish(self, error: UpstreamError | None) -> None:
        if not self.done.done():
            self.done.set_result(error)
