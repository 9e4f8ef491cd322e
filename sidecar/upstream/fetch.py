"""Small questions to an upstream: one request, one answer in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from sidecar.http1 import ResponseHead
from sidecar.upstream.connection import UpstreamConnection, UpstreamError
from sidecar.upstream.pool import Pool

MAX_ANSWER = 32 * 1024 * 1024


class _Collect:
    """A sink that keeps the body, up to a bound."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        self._pieces: list[bytes] = []
        self._size = 0
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data(self, pieces: list[bytes], raw: bytes | None, complete: bool) -> None:
        self._pieces += pieces
        self._size += sum(map(len, pieces))
        if self._size > MAX_ANSWER:
            self._connection.close()
            self.lost(UpstreamError("protocol", "the answer is too large", sent=True, answered=True))

    def end(self, trailers: list[bytes]) -> None:
        if not self.done.done():
            self.done.set_result(b"".join(self._pieces))

    def lost(self, error: UpstreamError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


async def fetch(
    pool: Pool, method: str, path: str, body: bytes = b"", *, seconds: float, headers: bytes = b""
) -> tuple[ResponseHead, bytes]:
    """One request and its whole answer, within `seconds`. `headers` are lines with CRLF. Raises UpstreamError."""
    target = f"{pool.origin.prefix}{path}".encode()
    head = b"%b %b HTTP/1.1\r\nHost: %b\r\nAccept: application/json\r\n%b" % (
        method.encode(),
        target,
        pool.host_header,
        headers,
    )
    if body:
        head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    connection: UpstreamConnection | None = None
    turn = 0
    try:
        async with asyncio.timeout(seconds):
            connection = await pool.acquire()
            turn = connection.turn
            connection.send(method.encode(), head + b"\r\n", body)
            try:
                answer = await connection.response(0)
            except UpstreamError as error:
                if not connection.was_stale(error):
                    raise
                connection = await pool.acquire(fresh=True)  # the pooled one had been closed in the meantime
                turn = connection.turn
                connection.send(method.encode(), head + b"\r\n", body)
                answer = await connection.response(0)
            sink = _Collect(connection)
            connection.attach(sink)
            return answer, await sink.done
    except TimeoutError as error:
        raise UpstreamError("timeout", f"no answer within {seconds:g} s", sent=True) from error
    finally:
        if connection is not None:
            connection.abandon(turn)


async def fetch_json(pool: Pool, method: str, path: str, value: Any = None, *, seconds: float) -> tuple[int, Any]:
    """The status and JSON value of an answer; None for a body that is no JSON. Raises UpstreamError."""
    body = b"" if value is None else orjson.dumps(value)
    head, answer = await fetch(pool, method, path, body, seconds=seconds)
    try:
        return head.status, orjson.loads(answer)
    except orjson.JSONDecodeError:
        return head.status, None
