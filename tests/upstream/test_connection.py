"""One upstream connection: what its sink gets, when it reads, when it is pooled again, and how it fails."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from sidecar.upstream.connection import (
    EARLY_HIGH,
    MAX_INTERIM,
    READ_BUFFER,
    STALE_SECONDS,
    UpstreamConnection,
    UpstreamError,
)
from sidecar.upstream.pool import Origin, Pool
from support.wire import EndError, Heard, Play, RawPeer, nothing_left_behind, until

OK = b"HTTP/1.1 200 OK\r\n"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


class Sink:
    """Keeps what it gets; with `pauses` it holds the connection up at the first piece, as a slow client does."""

    def __init__(self, connection: UpstreamConnection | None = None) -> None:
        self.pauses = connection
        self.pieces: list[bytes] = []
        self.raw: list[bytes | None] = []
        self.complete: list[bool] = []
        self.trailers: list[bytes] = []
        self.done: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()

    def data(self, pieces: list[bytes], raw: bytes | None, complete: bool) -> None:
        self.pieces += pieces
        self.raw.append(raw)
        self.complete.append(complete)
        if self.pauses is not None:
            self.pauses.pause_reading()
            self.pauses = None  # as a transport does: once, until it is below its mark again

    def end(self, trailers: list[bytes]) -> None:
        self.trailers = trailers
        self.done.set_result(None)

    def lost(self, error: UpstreamError) -> None:
        self.done.set_result(error)


@asynccontextmanager
async def pooled(play: Play | bytes, *, reads_body: bool = True) -> AsyncIterator[tuple[Pool, RawPeer]]:
    async with RawPeer(play, reads_body=reads_body) as peer:
        pool = Pool(Origin.of(peer.base_url), 5.0)
        try:
            yield pool, peer
        finally:
            pool.close()


def reads(connection: UpstreamConnection) -> bool:
    transport: Any = connection._transport
    return bool(transport.is_reading())


async def ask(connection: UpstreamConnection, request: bytes = GET) -> Sink:
    connection.send(request.split(b" ")[0], request)
    await connection.response(5.0)
    sink = Sink()
    connection.attach(sink)
    await sink.done
    return sink


async def test_an_answer_comes_in_the_pieces_in_which_it_was_framed() -> None:
    async with pooled(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX: 1\r\n\r\n") as (pool, _):
        connection = await pool.acquire()
        sink = await ask(connection)
        assert (sink.pieces, sink.trailers, sink.done.result()) == ([b"ab", b"c"], [b"X: 1"], None)
        assert await pool.acquire() is connection
        connection.close()


async def test_whole_chunks_come_as_they_were_read() -> None:
    raw = b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    async with pooled(OK + b"Transfer-Encoding: chunked\r\n\r\n" + raw) as (pool, _):
        sink = await ask(await pool.acquire())
        assert (sink.raw, sink.complete) == ([raw], [True])


async def test_a_body_without_a_sink_waits_bounded_and_is_given_whole_later() -> None:
    size = 10 * 1024 * 1024

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
        await writer.drain()

    async with pooled(play) as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        await connection.response(5.0)
        await until(lambda: not reads(connection), "a pause")
        assert connection._early_bytes <= EARLY_HIGH + READ_BUFFER
        connection.resume_reading()  # a client that was slow before is no reason to read on for nobody
        assert not reads(connection)
        sink = Sink()
        connection.attach(sink)
        await sink.done
        assert sum(map(len, sink.pieces)) == size
        await until(lambda: pool._idle, "the connection in the pool")
        assert reads(connection)


async def test_a_sink_that_is_slow_from_the_start_holds_the_connection_up() -> None:
    """What came early is given at once; that must not undo the pause that it causes."""

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 50000000\r\n\r\n")
        for _ in range(500):
            writer.write(b"x" * 100_000)
            await writer.drain()

    async with pooled(play) as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        await connection.response(5.0)
        await until(lambda: not reads(connection), "a pause")
        sink = Sink(connection)
        connection.attach(sink)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not reads(connection)
        assert sum(map(len, sink.pieces)) <= EARLY_HIGH + READ_BUFFER
        connection.close()


async def test_a_client_that_is_slow_before_the_sink_is_there_holds_the_connection_up() -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 1000\r\n\r\n" + b"x" * 10)
        await go.wait()
        writer.write(b"x" * 990)

    go = asyncio.Event()
    async with pooled(play) as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        await connection.response(5.0)
        connection.pause_reading()
        sink = Sink()
        connection.attach(sink)
        assert not reads(connection)
        connection.resume_reading()
        go.set()
        await sink.done
        assert sum(map(len, sink.pieces)) == 1000


async def test_an_answer_that_comes_before_its_request_is_out_ends_the_connection() -> None:
    """What is still to be written would stand before the next request."""

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 2\r\n\r\nok")
        await asyncio.get_running_loop().create_future()  # and reads no further

    async with pooled(play, reads_body=False) as (pool, peer):
        connection = await pool.acquire()
        connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        body = b"x" * 64_000_000
        connection.send(b"POST", b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body), body)
        answer = await connection.response(5.0)
        assert answer.status == 200
        assert connection._transport.get_write_buffer_size() > 0
        sink = Sink()
        connection.attach(sink)
        await sink.done
        assert sink.pieces == [b"ok"]
        assert connection.closing
        assert not pool._idle
        assert len(peer.heard) == 1


async def test_a_request_on_a_connection_that_is_gone_is_an_error_that_says_that_nothing_was_sent() -> None:
    async with pooled(OK + b"Content-Length: 0\r\n\r\n") as (pool, peer):
        connection = await pool.acquire()
        await until(lambda: peer.writers, "the connection")
        peer.writers[0].close()
        await until(lambda: connection.lost, "its end")
        with pytest.raises(UpstreamError) as raised:
            connection.send(b"GET", GET)
        assert (raised.value.kind, raised.value.sent, raised.value.answered) == ("lost", False, False)


async def test_writing_on_a_connection_that_is_gone_is_an_error() -> None:
    async with pooled(b"", reads_body=False) as (pool, peer):
        connection = await pool.acquire()
        connection.send(b"POST", b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", complete=False)
        waiting = asyncio.ensure_future(connection.response(0))
        await until(lambda: peer.heard, "the request")
        peer.writers[0].close()
        with pytest.raises(UpstreamError, match="before it answered") as raised:
            await waiting
        assert (raised.value.kind, raised.value.sent, raised.value.answered) == ("lost", True, False)
        with pytest.raises(UpstreamError, match="while the request was sent"):
            await connection.write(b"hello", last=True)


async def test_writing_waits_while_the_upstream_does_not_read_and_ends_with_the_connection() -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.get_running_loop().create_future()

    async with pooled(play, reads_body=False) as (pool, peer):
        connection = await pool.acquire()
        connection.send(b"POST", b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n", complete=False)
        writing = asyncio.ensure_future(connection.write(b"x" * 64_000_000))
        await until(lambda: peer.heard, "the request")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not writing.done()
        peer.writers[0].transport.abort()
        await writing
        with pytest.raises(UpstreamError):
            await connection.response(0)


async def test_an_answer_that_does_not_come_in_time_is_a_timeout() -> None:
    async with pooled(b"") as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        with pytest.raises(UpstreamError, match=r"no answer within 0\.05 s") as raised:
            await connection.response(0.05)
        assert (raised.value.kind, raised.value.sent) == ("timeout", True)
        assert connection.busy
        connection.close()
        await until(lambda: connection.lost, "its end")
        assert not connection.busy


async def test_a_body_that_stops_is_a_timeout_but_not_while_the_client_is_slow() -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 10\r\n\r\nhello")

    async with pooled(play) as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        await connection.response(5.0)
        sink = Sink(connection)
        connection.attach(sink, 0.05)
        if not sink.pieces:
            await until(lambda: sink.pieces, "the first piece")
        await asyncio.sleep(0.15)  # longer than the timeout, which is what this is about
        assert not sink.done.done()
        connection.resume_reading()
        error = await sink.done
        assert error is not None
        assert (error.kind, error.answered) == ("timeout", True)
        await until(lambda: connection.lost, "its end")


@pytest.mark.parametrize(
    ("raw", "first"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (OK + b"Content-Length: 0\r\n\r\n", b""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"ab"),
    ],
)
async def test_the_first_payload_can_be_seen_without_taking_it(raw: bytes, first: bytes) -> None:
    async with pooled(raw) as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        await connection.response(5.0)
        assert await connection.first_data(5.0) == first
        assert await connection.first_data(5.0) == first
        sink = Sink()
        connection.attach(sink)
        await sink.done
        assert b"".join(sink.pieces).startswith(first)
        await until(lambda: pool._idle, "the connection in the pool")


async def test_the_first_payload_may_not_come() -> None:
    async def play(one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 5\r\n\r\n")
        await writer.drain()
        if one.target == b"/end":
            raise EndError
        await asyncio.get_running_loop().create_future()

    for target, kind in ((b"/end", "lost"), (b"/hang", "timeout")):
        async with pooled(play) as (pool, _):
            connection = await pool.acquire()
            connection.send(b"GET", GET.replace(b"/x", target))
            await connection.response(5.0)
            with pytest.raises(UpstreamError) as raised:
                await connection.first_data(0.1 if kind == "timeout" else 5.0)
            assert (raised.value.kind, raised.value.answered) == (kind, True)
            connection.close()


async def test_interim_answers_are_told_and_a_switch_of_protocols_is_an_error() -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    told: list[bytes] = []
    async with pooled(raw + OK + b"Content-Length: 0\r\n\r\n") as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        assert (await connection.response(5.0, told.append)).status == 200
        assert told == [raw]
        connection.close()
    async with pooled(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n") as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        with pytest.raises(UpstreamError, match="switches to a protocol") as raised:
            await connection.response(5.0)
        assert raised.value.kind == "protocol"
        await until(lambda: connection.lost, "its end")


@pytest.mark.parametrize(("reset", "whole"), [(False, True), (True, False)])
async def test_a_body_until_the_end_is_whole_only_if_the_end_was_orderly(reset: bool, whole: bool) -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"\r\nhello")
        await writer.drain()
        await got.wait()
        if reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        raise EndError

    for early in (False, True):  # with a sink at the end, and with one that comes later
        got = asyncio.Event()
        async with pooled(play) as (pool, _):
            connection = await pool.acquire()
            connection.send(b"GET", GET)
            await connection.response(5.0)
            assert await connection.first_data(5.0) == b"hello"
            sink = Sink()
            if not early:
                connection.attach(sink)
            got.set()
            await until(partial(getattr, connection, "lost"), "its end")
            if early:
                connection.attach(sink)
            error = await sink.done
            assert (error is None) == whole
            assert sink.pieces == [b"hello"]
            assert not pool._idle


async def test_a_body_that_breaks_its_framing_is_an_error_of_the_protocol() -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await go.wait()
        writer.write(b"nonsense\r\n")

    go = asyncio.Event()
    async with pooled(play) as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        await connection.response(5.0)
        sink = Sink()
        connection.attach(sink)
        await until(lambda: sink.pieces, "the first piece")
        go.set()
        error = await sink.done
        assert error is not None
        assert error.kind == "protocol"
        assert "nonsense" not in error.message
        await until(lambda: connection.lost, "its end")


async def test_whoever_waits_for_an_answer_on_a_connection_that_is_cut_hears_of_it() -> None:
    async with pooled(b"") as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        waiting = asyncio.ensure_future(connection.response(0))
        await asyncio.sleep(0)
        connection.cut(connection.turn)
        with pytest.raises(UpstreamError) as raised:
            await waiting
        assert raised.value.kind == "lost"


async def test_an_answer_cannot_be_awaited_before_a_request() -> None:
    async with pooled(b"") as (pool, _):
        connection = await pool.acquire()
        with pytest.raises(RuntimeError, match="no request was sent"):
            await connection.response(1.0)
        connection.close()


# Whose connection it is.


async def test_whoever_had_it_before_has_no_say_over_the_next_request() -> None:
    async with pooled(OK + b"Content-Length: 2\r\n\r\nok") as (pool, _):
        connection = await pool.acquire()
        first = connection.turn
        await ask(connection)
        assert await pool.acquire() is connection
        connection.send(b"GET", GET)
        connection.abandon(first)
        pool.release(connection, first)
        connection.cut(first)
        assert (await connection.response(5.0)).status == 200
        connection.abandon(connection.turn)
        assert connection.closing


async def test_one_that_was_acquired_and_not_used_goes_back() -> None:
    async with pooled(OK + b"Content-Length: 2\r\n\r\nok") as (pool, _):
        connection = await pool.acquire()
        pool.release(connection, connection.turn)
        assert await pool.acquire() is connection
        await ask(connection)


async def test_only_an_early_loss_on_a_reused_connection_was_a_stale_one() -> None:
    async with pooled(OK + b"Content-Length: 2\r\n\r\nok") as (pool, _):
        connection = await pool.acquire()
        await ask(connection)
        connection = await pool.acquire()
        lost = UpstreamError("lost", "gone", sent=True)
        assert connection.was_stale(lost)  # before it was sent at all
        connection.send(b"GET", GET)
        assert connection.was_stale(lost)
        assert not connection.was_stale(UpstreamError("lost", "gone", sent=True, answered=True))
        assert not connection.was_stale(UpstreamError("timeout", "late", sent=True))
        connection._sent_at -= STALE_SECONDS + 1
        assert not connection.was_stale(lost), "the server had begun with it"
        connection.close()


# What is no answer.


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"<html>hello</html>\r\n",
        b"H2",
    ],
)
async def test_what_can_become_no_answer_is_an_error_at_once(raw: bytes) -> None:
    """The peer stays connected and silent."""
    async with pooled(raw) as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        async with asyncio.timeout(5.0):
            with pytest.raises(UpstreamError) as caught:
                await connection.response(0)
        assert caught.value.kind == "protocol"


async def test_interim_answers_without_end_are_an_error() -> None:
    told: list[bytes] = []
    async with pooled(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * (MAX_INTERIM + 1)) as (pool, _):
        connection = await pool.acquire()
        connection.send(b"GET", GET)
        with pytest.raises(UpstreamError, match="interim"):
            await connection.response(5.0, told.append)
        assert len(told) == MAX_INTERIM


@pytest.mark.parametrize("size", [b"2 ", b"2\t ", b"2 ;a=b", b"2;a=b"])
async def test_blanks_behind_a_chunks_size_are_taken(size: bytes) -> None:
    raw = OK + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\nok\r\n0\r\n\r\n"
    async with pooled(raw) as (pool, _):
        sink = await ask(await pool.acquire())
        assert sink.pieces == [b"ok"]
        assert sink.raw == [None], "they are not for the client"
