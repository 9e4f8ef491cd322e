"""The server under the stand-ins: what it records, how it frames, and that it sees a peer leave."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator

import pytest
from standins_support import RawPeer, ask, chat, peer, request_bytes

from sidecar.standins import Answer, Exchange, Piece, StandInOllama, StandInServer, StepGate, faults


@pytest.fixture
async def server() -> AsyncIterator[StandInOllama]:
    async with StandInOllama(["tiny"], answer_tokens=5) as running:
        yield running
    assert running.errors == []


async def test_a_head_is_recorded_byte_for_byte(server: StandInOllama) -> None:
    raw = b"GET /api/version?x=%41 HTTP/1.1\r\nhOsT:localhost\r\nX-Odd :  a b \r\n"
    raw += b"X-Odd: \xff\r\nX-Long: a\r\n  b\r\n\r\n"
    async with peer(server.port) as one:
        one.send(raw)
        assert (await one.answer()).status == 200
    request = server.requests[0]
    assert request.raw_head == raw
    assert (request.method, request.target, request.version) == ("GET", "/api/version?x=%41", "HTTP/1.1")
    assert request.headers == [
        (b"hOsT", b"localhost"),
        (b"X-Odd ", b"a b"),
        (b"X-Odd", b"\xff"),
        (b"X-Long", b"a b"),
    ]
    assert request.header("host") == "localhost"
    assert request.finished_at is not None
    assert request.finished_at >= request.arrived_at


async def test_bare_line_feeds_and_leading_blank_lines_are_read(server: StandInOllama) -> None:
    raw = b"\r\n\r\nGET / HTTP/1.1\nHost: localhost\n\n"
    async with peer(server.port) as one:
        one.send(raw)
        assert (await one.answer()).body == b"Ollama is running"
    assert server.requests[0].raw_head == raw


async def test_a_chunked_body_is_recorded_on_the_wire_and_decoded(server: StandInOllama) -> None:
    framed = b'8;ext="1"\r\n{"model"\r\nD\r\n: "missing" }\r\n0\r\nX-Trailer: t\r\n\r\n'
    async with peer(server.port) as one:
        one.send(b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + framed)
        assert (await one.answer()).json() == {"error": "model 'missing' not found"}
        one.ask("GET", "/api/version")  # nothing of the body was taken for a request
        assert (await one.answer()).status == 200
    request = server.requests[0]
    assert request.body == b'{"model": "missing" }'
    assert request.raw_body == framed
    assert (request.body_size, request.raw_body_size) == (len(request.body), len(framed))
    assert request.body_sha256 == hashlib.sha256(request.body).hexdigest()
    assert request.trailers == [(b"X-Trailer", b"t")]
    assert request.json() == {"model": "missing"}


async def test_pipelined_requests_are_answered_in_order_on_one_connection(server: StandInOllama) -> None:
    async with peer(server.port) as one:
        one.send(
            request_bytes("GET", "/api/version")
            + request_bytes("POST", "/api/chat", chat())
            + request_bytes("GET", "/")
            + request_bytes("GET", "/nowhere", headers=(("Connection", "close"),))
        )
        answers = [await one.answer() for _ in range(4)]
        assert await one.rest() == b""
    assert [answer.status for answer in answers] == [200, 200, 200, 404]
    assert answers[1].lines()[-1]["done"] is True
    assert answers[2].body == b"Ollama is running"
    assert answers[3].header("Connection") == "close"
    assert {request.connection for request in server.requests} == {0}
    assert server.accepted == 1


async def test_100_continue_comes_before_the_body_is_awaited(server: StandInOllama) -> None:
    async with peer(server.port) as one:
        one.send(b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 16\r\n\r\n")
        assert await one.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.send(b'{"model":"none"}')
        assert (await one.answer()).status == 404


async def test_an_unknown_route_asks_for_no_body_and_closes(server: StandInOllama) -> None:
    async with peer(server.port) as one:
        one.send(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 16\r\n\r\n")
        answer = await one.answer()
        assert (answer.status, answer.header("Connection")) == (404, "close")
        assert await one.rest() == b""


async def test_http_1_0_gets_no_chunks_and_no_second_request(server: StandInOllama) -> None:
    body = b'{"model":"tiny","prompt":"hello"}'
    async with peer(server.port) as one:
        one.send(b"POST /api/generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = await one.answer()
    assert answer.header("Transfer-Encoding") is None
    assert len(answer.lines()) == 6
    async with peer(server.port) as one:
        one.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await one.answer()).header("Connection") == "keep-alive"


async def test_head_has_the_headers_of_get_and_no_body(server: StandInOllama) -> None:
    got = await ask(server.port, "GET", "/api/tags")
    async with peer(server.port) as one:
        one.ask("HEAD", "/api/tags")
        headed = await one.answer(method="HEAD")
        one.ask("GET", "/")
        assert (await one.answer()).body == b"Ollama is running"
    assert headed.header("Content-Length") == got.header("Content-Length") == str(len(got.body))


async def test_headers_come_in_go_s_order_and_name_the_stand_in(server: StandInOllama) -> None:
    answer = await ask(server.port, "GET", "/api/version", headers=(("Connection", "close"),))
    assert [name for name, _ in answer.headers] == [
        "Content-Type",
        "X-Stand-In",
        "Date",
        "Content-Length",
        "Connection",
    ]
    assert answer.header("X-Stand-In") == "local"
    stream = await ask(server.port, "POST", "/v1/messages", chat(max_tokens=3, stream=True))
    assert [name for name, _ in stream.headers] == [
        "Cache-Control",
        "Connection",
        "Content-Type",
        "X-Stand-In",
        "Date",
        "Transfer-Encoding",
    ]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"hello\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400 Bad Request: missing required Host header"),
        (b"GET / HTTP/1.1\r\nHost: a.local\r\nHost: b.local\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", b"501 Not Implemented"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 20), b"431 Request Header Fields Too Large"),
    ],
    ids=["garbage", "no host", "two hosts", "two lengths", "coding", "too large"],
)
async def test_what_cannot_be_framed_is_refused_as_go_does(server: StandInOllama, raw: bytes, status: bytes) -> None:
    async with peer(server.port) as one:
        one.send(raw)
        answer = await one.rest()
    assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert b"X-Stand-In: local" in answer


async def test_a_broken_chunk_is_answered_in_the_dialect(server: StandInOllama) -> None:
    async with peer(server.port) as one:
        one.send(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        answer = await one.answer()
    assert answer.status == 400
    assert answer.json()["error"]["message"] == "invalid byte in chunk length"


async def test_a_large_upload_costs_no_memory() -> None:
    piece = bytes(range(256)) * 256
    digest = hashlib.sha256(piece * 256).hexdigest()
    async with StandInOllama(["tiny"], record_bodies=False) as server, peer(server.port) as one:
        one.send(b"POST /api/blobs/sha256:%b HTTP/1.1\r\nHost: localhost\r\n" % digest.encode())
        one.send(b"Transfer-Encoding: chunked\r\n\r\n")
        await one.writer.drain()
        tracemalloc.start()
        for _ in range(256):
            one.send(b"%x\r\n" % len(piece) + piece + b"\r\n")
            await one.writer.drain()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        one.send(b"0\r\n\r\n")
        assert (await one.answer()).status == 201
        request = server.requests[0]
        assert request.body == request.raw_body == b""
        assert request.body_size == 256 * len(piece) == server.blobs[f"sha256:{digest}"]
        assert request.raw_body_size > request.body_size
        assert request.body_sha256 == digest
        assert peak < 4 << 20


async def test_recording_can_be_bounded() -> None:
    async with StandInOllama(["tiny"], record_bodies=4, keep_requests=2) as server:
        for _ in range(3):
            await ask(server.port, "POST", "/api/show", {"model": "tiny"})
        assert [request.index for request in server.requests] == [1, 2]
        assert server.received == 3
        assert server.requests[0].body == b'{"mo'
        assert server.requests[0].body_size == len(b'{"model": "tiny"}')


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reset", [True, False])
async def test_a_peer_that_leaves_aborts_the_generation(server: StandInOllama, stream: bool, reset: bool) -> None:
    gate = server.gate = StepGate(open_through=2)
    one = await RawPeer.open(server.port)
    one.ask("POST", "/api/chat", chat(stream=stream))
    request = await gate.reached(3)
    assert not request.closed_by_peer.is_set()
    one.leave(reset=reset)
    await request.closed_by_peer.wait()
    await request.finished.wait()
    assert request.aborted
    assert request.closed_by_peer_at is not None
    assert request.closed_by_peer_at >= request.arrived_at


async def test_a_peer_that_leaves_is_seen_without_any_gate() -> None:
    async with StandInOllama(["tiny"], answer_tokens=50_000) as server:
        one = await RawPeer.open(server.port)
        one.ask("POST", "/api/generate", {"model": "tiny", "prompt": "x", "stream": False})
        request = await server.wait_for_request()
        one.leave()
        await request.finished.wait()
        assert request.aborted


@pytest.mark.parametrize("stream", [True, False])
async def test_a_peer_that_leaves_a_long_answer_unread_is_seen(server: StandInOllama, stream: bool) -> None:
    server.misbehave = [faults.GiantRecord(64 << 20)]  # more than the kernel takes
    one = await RawPeer.open(server.port)
    one.ask("POST", "/api/chat", chat(stream=stream))
    await one.head()
    one.leave()
    request = await server.wait_for_request()
    await request.finished.wait()
    assert request.aborted
    assert request.closed_by_peer.is_set()


async def test_a_peer_that_leaves_in_its_own_upload_is_recorded(server: StandInOllama) -> None:
    one = await RawPeer.open(server.port)
    one.send(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
    request = await server.wait_for_request()
    one.leave()
    await request.finished.wait()
    assert (request.outcome, request.body, request.body_read.is_set()) == ("aborted", b"half", False)
    assert request.closed_by_peer.is_set()


async def test_a_peer_that_closes_after_the_answer_did_not_leave_early(server: StandInOllama) -> None:
    await ask(server.port, "POST", "/api/chat", chat())
    request = server.requests[0]
    assert (request.outcome, request.closed_by_peer_at) == ("complete", None)


async def test_a_half_closed_peer_still_gets_what_needs_no_generation(server: StandInOllama) -> None:
    async with peer(server.port) as one:
        one.ask("GET", "/api/version")
        one.writer.write_eof()
        assert (await one.answer()).status == 200
    async with peer(server.port) as one:
        one.ask("POST", "/api/generate", {"model": "tiny", "prompt": "x"})
        one.writer.write_eof()
        assert await one.rest() == b""  # to Go an end of input is the peer's leaving


async def test_a_gate_lets_tokens_out_one_by_one(server: StandInOllama) -> None:
    gate = server.gate = StepGate()
    async with peer(server.port) as one:
        one.ask("POST", "/api/chat", chat())
        await gate.reached(0)
        gate.open(2)
        await gate.reached(3)
        assert (await one.head())[0] == 200
        assert [b'"done":false' in await one.chunk() for _ in range(2)] == [True, True]
        gate.open_all()
        rest = await one.rest_of_chunks()
    assert b'"done":true' in rest[-1]


async def test_an_event_holds_all_steps(server: StandInOllama) -> None:
    server.gate = asyncio.Event()
    async with peer(server.port) as one:
        one.ask("POST", "/api/embed", {"model": "tiny", "input": "x"})
        request = await server.wait_for_request(matching=lambda request: request.target == "/api/embed")
        assert request.outcome == "pending"
        server.gate.set()
        assert (await one.answer()).status == 200


async def test_a_crash_breaks_every_connection_and_the_port_can_be_used_again(server: StandInOllama) -> None:
    gate = server.gate = StepGate(open_through=1)
    async with peer(server.port) as one, peer(server.port) as idle:
        idle.ask("GET", "/")
        await idle.answer()
        one.ask("POST", "/api/chat", chat())
        request = await gate.reached(2)
        server.crash()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await one.answer()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await idle.answer()
    await request.finished.wait()
    assert (request.outcome, request.closed_by_peer_at) == ("cut", None)
    assert (await ask(server.port, "GET", "/")).status == 200
    port = server.port
    await server.close()
    with pytest.raises(ConnectionRefusedError):
        await RawPeer.open(port)
    await server.start(port=port)
    assert (await ask(port, "GET", "/")).status == 200


async def test_closing_ends_what_still_runs() -> None:
    gate = StepGate()
    async with StandInOllama(["tiny"], gate=gate) as server:
        one = await RawPeer.open(server.port)
        one.ask("POST", "/api/chat", chat())
        request = await gate.reached(0)
    assert request.outcome == "cut"
    assert server.open_connections == 0
    one.leave()


async def test_any_answerer_can_stand_behind_the_server() -> None:
    async def pieces(exchange: Exchange) -> AsyncIterator[Piece]:
        async for data in exchange.body_pieces():
            yield Piece(data.upper())

    async def echo(exchange: Exchange) -> Answer:
        return Answer(207, [("X-B", "2"), ("X-A", "1")], pieces=pieces(exchange))

    async with StandInServer(echo) as server:
        answer = await ask(server.port, "POST", "/x", b"abc")
        assert (answer.status, answer.body) == (207, b"ABC")
        assert [name for name, _ in answer.headers][:3] == ["X-A", "X-B", "X-Stand-In"]
    async with StandInServer() as server:
        assert (await ask(server.port, "GET", "/x")).status == 404


async def test_a_mistake_of_the_stand_in_is_kept_for_the_test(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(exchange: Exchange) -> Answer:
        raise ZeroDivisionError

    async with StandInServer(broken) as server, peer(server.port) as one:
        one.ask("GET", "/")
        assert await one.rest() == b""
        assert [type(error) for error in server.errors] == [ZeroDivisionError]
    assert "the stand-in itself failed" in caplog.text
