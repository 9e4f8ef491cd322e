"""Small questions to an upstream, and what it says of web pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from sidecar.standins import StandInOllama
from sidecar.upstream import cors, fetch
from sidecar.upstream.connection import UpstreamError
from sidecar.upstream.cors import CrossOrigin
from sidecar.upstream.pool import Origin, Pool
from support.wire import EndError, Heard, Play, RawPeer, nothing_left_behind, until

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


@asynccontextmanager
async def asked(play: Play | bytes, prefix: str = "") -> AsyncIterator[tuple[Pool, RawPeer]]:
    async with RawPeer(play) as peer:
        pool = Pool(Origin.of(peer.base_url + prefix), 5.0)
        try:
            yield pool, peer
        finally:
            pool.close()


async def test_a_question_and_its_answer() -> None:
    async with asked(OK + b'Content-Length: 7\r\n\r\n{"a":1}', "/base/") as (pool, peer):
        assert await fetch.fetch_json(pool, "GET", "/x", seconds=5) == (200, {"a": 1})
        assert await fetch.fetch_json(pool, "POST", "/y", {"b": 2}, seconds=5) == (200, {"a": 1})
        get, post = peer.heard
        assert get.head == (
            b"GET /base/x HTTP/1.1\r\nHost: " + pool.host_header + b"\r\nAccept: application/json\r\n\r\n"
        )
        assert (post.line, post.body) == (b"POST /base/y HTTP/1.1", b'{"b":2}')
        assert (post.field(b"content-type"), post.field(b"content-length")) == (b"application/json", b"7")
        assert peer.accepted == 1


@pytest.mark.parametrize(
    ("raw", "status", "value"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 11\r\n\r\n{\"error\":1}", 404, {"error": 1}),
        (OK + b"Content-Length: 4\r\n\r\nnone", 200, None),
        (OK + b"Content-Length: 0\r\n\r\n", 200, None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n1\r\n]\r\n0\r\n\r\n", 200, []),
    ],
)  # fmt: skip
async def test_any_answer_is_read_to_its_end(raw: bytes, status: int, value: object) -> None:
    async with asked(raw) as (pool, peer):
        for _ in range(2):
            assert await fetch.fetch_json(pool, "GET", "/x", seconds=5) == (status, value)
        assert peer.accepted == 1


async def test_an_answer_that_does_not_come_is_a_timeout_and_its_connection_ends() -> None:
    for raw in (b"", OK + b"Content-Length: 5\r\n\r\nhe"):
        async with asked(raw) as (pool, peer):
            with pytest.raises(UpstreamError, match=r"no answer within 0\.05 s") as raised:
                await fetch.fetch(pool, "GET", "/x", seconds=0.05)
            assert raised.value.kind == "timeout"
            await until(partial(getattr, peer, "ended"), "the end of the connection")
            assert not pool._idle


async def test_an_answer_beyond_all_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_ANSWER", 1000)
    async with asked(OK + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000) as (pool, peer):
        with pytest.raises(UpstreamError, match="too large"):
            await fetch.fetch(pool, "GET", "/x", seconds=5)
        await until(lambda: peer.ended == 1, "the end of the connection")
        assert not pool._idle


async def test_a_pooled_connection_that_was_closed_is_replaced_once() -> None:
    seen: list[int] = []

    async def play(one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(one.connection)
        if seen.count(one.connection) > 1:
            raise EndError
        writer.write(OK + b"Content-Length: 2\r\n\r\n{}")

    async with asked(play) as (pool, _):
        for _ in range(3):
            assert await fetch.fetch_json(pool, "GET", "/x", seconds=5) == (200, {})
        assert seen == [0, 0, 1, 1, 2]


async def test_a_new_connection_that_breaks_is_an_error_at_once() -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        raise EndError

    async with asked(play) as (pool, peer):
        with pytest.raises(UpstreamError) as raised:
            await fetch.fetch(pool, "GET", "/x", seconds=5)
        assert raised.value.kind == "lost"
        assert len(peer.heard) == 1


async def test_an_answer_that_is_cut_is_an_error() -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 5\r\n\r\nhe")
        raise EndError

    async with asked(play) as (pool, peer):
        with pytest.raises(UpstreamError, match="before the answer was complete"):
            await fetch.fetch(pool, "GET", "/x", seconds=5)
        assert len(peer.heard) == 1


async def test_a_question_that_nobody_waits_for_any_more_ends_its_connection() -> None:
    async with asked(b"") as (pool, peer):
        asking = asyncio.ensure_future(fetch.fetch(pool, "GET", "/x", seconds=5))
        await until(lambda: peer.heard, "the question")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: peer.ended == 1, "the end of the connection")


# What the local server says of web pages.


@asynccontextmanager
async def ollama() -> AsyncIterator[tuple[CrossOrigin, StandInOllama, Pool]]:
    async with StandInOllama(["llama3"]) as server:
        pool = Pool(Origin.of(server.base_url), 5.0)
        try:
            yield CrossOrigin(pool), server, pool
        finally:
            pool.close()


async def test_an_origin_that_may_call_gets_the_servers_own_lines() -> None:
    async with ollama() as (asks, server, _):
        lines = await asks.ask(b"http://localhost:3000")
        assert lines == b"Access-Control-Allow-Origin: http://localhost:3000\r\nVary: Origin\r\n"
        (question,) = server.requests
        assert (question.method, question.target) == ("HEAD", "/")
        assert question.header("origin") == "http://localhost:3000"


async def test_an_origin_that_may_not_call_gets_none() -> None:
    async with ollama() as (asks, _, _pool):
        assert await asks.ask(b"http://evil.example") is None


async def test_what_it_said_counts_for_a_moment() -> None:
    async with ollama() as (asks, server, _):
        for _ in range(3):
            assert await asks.ask(b"http://localhost") is not None
            assert await asks.ask(b"http://evil.example") is None
        assert server.received == 2
        asks._known = {origin: (at - cors.KEEP_SECONDS, lines) for origin, (at, lines) in asks._known.items()}
        assert await asks.ask(b"http://localhost") is not None
        assert server.received == 3


async def test_a_server_that_cannot_be_asked_is_no_leave_and_is_asked_again() -> None:
    async with ollama() as (asks, server, _):
        port = server.port
        await server.close()
        assert await asks.ask(b"http://localhost") is None
        await server.start(port=port)
        assert await asks.ask(b"http://localhost") is not None


async def test_only_so_many_origins_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cors, "MAX_ORIGINS", 3)
    async with ollama() as (asks, _, _pool):
        for number in range(10):
            await asks.ask(b"http://localhost:%d" % number)
            assert len(asks._known) <= 3
