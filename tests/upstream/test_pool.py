"""Connections to one origin: which are kept, which is taken, when a new one is opened, and why none can be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar.upstream import pool as pools
from sidecar.upstream.connection import UpstreamConnection, UpstreamError
from sidecar.upstream.pool import Origin, Pool
from support.wire import RawPeer, nothing_left_behind, until

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


@asynccontextmanager
async def pooled() -> AsyncIterator[tuple[Pool, RawPeer]]:
    async with RawPeer(ANSWER) as peer:
        pool = Pool(Origin.of(peer.base_url), 5.0)
        try:
            yield pool, peer
        finally:
            pool.close()


class _Sink:
    def __init__(self) -> None:
        self.done = asyncio.Event()

    def data(self, pieces: list[bytes], raw: bytes | None, complete: bool) -> None:
        pass

    def end(self, trailers: list[bytes]) -> None:
        self.done.set()

    def lost(self, error: UpstreamError) -> None:
        raise error


async def use(*connections: UpstreamConnection) -> None:
    """One exchange on each, so that it goes back to the pool."""
    for connection in connections:
        connection.send(b"GET", GET)
        await connection.response(5.0)
        sink = _Sink()
        connection.attach(sink)
        await sink.done.wait()


# Origins.


@pytest.mark.parametrize(
    ("url", "host", "shown"),
    [
        ("http://127.0.0.1:11435", "127.0.0.1:11435", "http://127.0.0.1:11435"),
        ("http://localhost", "localhost", "http://localhost"),
        ("http://localhost:80/", "localhost", "http://localhost"),
        ("https://ollama.com", "ollama.com", "https://ollama.com"),
        ("https://ollama.com:443/api/", "ollama.com", "https://ollama.com/api"),
        ("https://ollama.com:8443", "ollama.com:8443", "https://ollama.com:8443"),
        ("http://[::1]:11435", "[::1]:11435", "http://[::1]:11435"),
        ("http://[::1]", "[::1]", "http://[::1]"),
    ],
)
def test_an_origin_is_read_and_shown(url: str, host: str, shown: str) -> None:
    origin = Origin.of(url)
    assert (origin.host_header.decode(), str(origin)) == (host, shown)


@pytest.mark.parametrize("url", ["", "localhost:11435", "ftp://x", "http://", "unix:///run/x", "http:///x"])
def test_what_is_no_origin_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no http or https URL"):
        Origin.of(url)


# Which connection.


async def test_a_connection_is_used_again_and_says_so() -> None:
    async with pooled() as (pool, peer):
        first = await pool.acquire()
        assert not first.reused
        await use(first)
        again = await pool.acquire()
        assert again is first
        assert again.reused
        await use(again)
        assert peer.accepted == 1


async def test_the_newest_is_taken_first_and_a_busy_one_never() -> None:
    async with pooled() as (pool, peer):
        one, two, three = [await pool.acquire() for _ in range(3)]
        await use(one, three, two)
        assert [await pool.acquire() for _ in range(3)] == [two, three, one]
        four = await pool.acquire()
        assert four not in (one, two, three)
        await use(one, two, three, four)
        assert peer.accepted == 4


async def test_a_fresh_one_is_never_from_the_pool() -> None:
    async with pooled() as (pool, _):
        first = await pool.acquire()
        await use(first)
        fresh = await pool.acquire(fresh=True)
        assert fresh is not first
        assert not fresh.reused
        await use(fresh)


async def test_one_that_is_closing_is_passed_over() -> None:
    async with pooled() as (pool, peer):
        first = await pool.acquire()
        await use(first)
        first._transport.abort()  # its end has not been told yet
        second = await pool.acquire()
        assert second is not first
        await use(second)
        assert peer.accepted == 2


async def test_one_that_the_server_closed_is_forgotten() -> None:
    async with pooled() as (pool, peer):
        first = await pool.acquire()
        await use(first)
        assert pool._idle == [first]
        peer.writers[0].close()
        await until(lambda: not pool._idle, "its end")


async def test_no_more_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MAX_IDLE", 2)
    async with pooled() as (pool, peer):
        connections = [await pool.acquire() for _ in range(4)]
        await use(*connections)
        assert pool._idle == connections[:2]
        await until(lambda: peer.ended == 2, "the end of the others")


async def test_those_that_were_idle_for_long_are_closed_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "KEEP_IDLE_SECONDS", 0.05)
    async with pooled() as (pool, peer):
        old, new = await pool.acquire(), await pool.acquire()
        await use(old)
        busy = await pool.acquire()
        assert busy is old
        await use(new)
        await until(lambda: not pool._idle, "the end of the idle one")
        await until(lambda: peer.ended == 1, "its end at the server")
        assert not busy.closing, "one in use is nobody's to close"
        await use(busy)
        await until(lambda: peer.ended == 2, "the end of the other")


async def test_a_closed_pool_keeps_nothing() -> None:
    async with pooled() as (pool, peer):
        idle, busy = await pool.acquire(), await pool.acquire()
        await use(idle)
        pool.close()
        assert idle.closing
        assert not busy.closing
        await use(busy)
        await until(lambda: peer.ended == 2, "the end of both")


# Opening.


async def test_a_port_where_nobody_listens_says_so() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        pool = Pool(Origin.of(f"http://127.0.0.1:{port}"), 5.0)
        with pytest.raises(UpstreamError, match=rf"no connection to http://127\.0\.0\.1:{port}: ") as raised:
            await pool.acquire()
        assert (raised.value.kind, raised.value.sent, raised.value.answered) == ("connect", False, False)


async def test_a_name_that_is_not_known_says_so() -> None:
    pool = Pool(Origin.of("http://no-such-host.invalid"), 5.0)
    with pytest.raises(UpstreamError, match=r"no connection to http://no-such-host\.invalid: ") as raised:
        await pool.acquire()
    assert raised.value.kind == "connect"


async def test_a_connection_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pooled() as (pool, _):

        class Stuck:
            """A loop whose network swallows what is sent to it."""

            time = asyncio.get_running_loop().time

            async def create_connection(self, *_args: Any, **_more: Any) -> Any:
                await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(pool, "_connect_seconds", 0.05)
        monkeypatch.setattr(pool, "_loop", Stuck())
        with pytest.raises(UpstreamError, match=r"within 0\.05 s") as raised:
            await pool.acquire()
        assert (raised.value.kind, raised.value.sent) == ("connect", False)


async def test_who_waits_for_a_connection_can_be_cancelled() -> None:
    async with pooled() as (pool, peer):
        waiting = asyncio.ensure_future(pool.acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: peer.ended == peer.accepted, "the end of what was opened")
        assert not pool._idle


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with pooled() as (pool, peer):
        await use(await pool.acquire())
        assert peer.accepted == 1


async def test_an_ipv6_server_is_reached() -> None:
    try:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "::1", 0)
    except OSError:
        pytest.skip("there is no IPv6 loopback")
    async with server:
        pool = Pool(Origin.of(f"http://[::1]:{server.sockets[0].getsockname()[1]}"), 5.0)
        connection = await pool.acquire()
        await until(lambda: connection.lost, "its end")
