"""Answers of every framing and oddity, written byte by byte: what a client gets through us is what was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from support.raw import Answer, connect, request
from support.wire import EndError, Heard, RawPeer, before_peer, ends, idle, nothing_left_behind, until


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"
# Name, method, the answer's bytes; those that end with the connection are in `CLOSING`.
ANSWERS: list[tuple[str, str, bytes]] = [
    ("counted", "GET", OK + b"Content-Length: 5\r\n\r\nhello"),
    ("empty", "GET", OK + EMPTY),
    ("chunked", "GET", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n"),
    ("chunked and empty", "GET", OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunked in another case", "GET", OK + b"transfer-encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("chunks with leading zeros", "GET", OK + b"Transfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n000\r\n\r\n"),
    ("HEAD with a length", "HEAD", OK + b"Content-Length: 5000\r\nContent-Type: text/x\r\n\r\n"),
    ("HEAD of chunks", "HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n"),
    ("HEAD without a length", "HEAD", OK + b"X: 1\r\n\r\n"),
    ("204", "GET", b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n"),
    ("204 with a length", "DELETE", b"HTTP/1.1 204 No Content\r\n" + EMPTY),
    ("304 with a length", "GET", b'HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\nETag: "x"\r\n\r\n'),
    ("304 of chunks", "GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("205", "GET", b"HTTP/1.1 205 Reset Content\r\n" + EMPTY),
    ("no phrase", "GET", b"HTTP/1.1 200 \r\n" + EMPTY),
    ("no blank behind the status", "GET", b"HTTP/1.1 200\r\n" + EMPTY),
    ("a phrase with obs-text", "GET", b"HTTP/1.1 299 Tr\xe8s bien: \t ok\r\n" + EMPTY),
    ("a status nobody knows", "GET", b"HTTP/1.1 599 Odd\r\nContent-Length: 1\r\n\r\nx"),
    ("a redirect", "POST", b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/x\r\n" + EMPTY),
    ("401", "GET", b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\n' + EMPTY),
    ("500 with a page", "GET", b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\n\x00\xff\n"),
    ("repeated fields", "GET", OK + b"Set-Cookie: a=1\r\nX: 1\r\nset-cookie: b=2\r\nX: 1\r\n" + EMPTY),
    ("odd case", "GET", OK + b"x-lower: a\r\nX-UPPER: b\r\ncOnTeNt-LeNgTh: 2\r\n\r\nok"),
    ("obs-text", "GET", OK + b"X-Name: \xff\xfe\x80\r\nX-Utf8: Zo\xc3\xab\r\n" + EMPTY),
    ("blanks", "GET", OK + b"X-A:\t a \t b \t\r\nX-None:\r\nX-Tight:x\r\nContent-Length:0\r\n\r\n"),
    ("large", "GET", OK + b"X-Large: " + b"v" * 100_000 + b"\r\nContent-Length: 2\r\n\r\nok"),
    ("many", "GET", OK + b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(3000)) + EMPTY),
    ("encoded", "GET", OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"),
    ("its own Date and Server", "GET", OK + b"Date: yesterday\r\nServer: x\r\n" + EMPTY),
    ("trailers", "GET", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nx-b:\r\n\r\n"),
    ("early hints", "GET", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok"),
    ("two interim ones", "GET", b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nA: b\r\n\r\n" + OK + EMPTY),
    ("100 unasked", "POST", b"HTTP/1.1 100 Continue\r\n\r\n" + OK + EMPTY),
    ("says keep-alive", "GET", OK + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
]  # fmt: skip
CLOSING: list[tuple[str, str, bytes]] = [
    ("until the end", "GET", OK + b"Content-Type: text/x\r\n\r\nhello\r\n0\r\n\r\n"),
    ("empty until the end", "GET", OK + b"\r\n"),
    ("HTTP/1.0 until the end", "GET", b"HTTP/1.0 200 OK\r\nX: 1\r\n\r\nhello"),
    ("HTTP/1.0 counted", "GET", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("counted and closed", "GET", OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello"),
    (
        "chunked and closed",
        "GET",
        OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    ("204 and closed", "GET", b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
    ("HEAD and closed", "HEAD", OK + b"Connection: Close\r\nContent-Length: 10\r\n\r\n"),
]
HOP = {b"connection", b"keep-alive", b"x-request-id"}


def compared(answer: Answer) -> dict[str, Any]:
    lines = answer.raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return {
        "status": answer.status_line.removeprefix(b"HTTP/1.0").removeprefix(b"HTTP/1.1"),
        "fields": [(name, value) for name, value in answer.fields if name.lower() not in HOP],
        "lines": [line for line in lines if line.split(b":")[0].lower() not in HOP],
        "body": answer.body,
        "chunks": answer.chunks,
        "trailers": answer.raw.rpartition(answer.chunks[-1])[2] if answer.chunks else b"",
        "interim": answer.interim,
        "whole": answer.complete,
    }


async def _exchange(port: int, method: str, data: bytes) -> tuple[dict[str, Any], str | None, bool]:
    async with connect(port) as client:
        await client.send(data)
        answer = await client.read(method)
        return compared(answer), answer.get("connection"), await ends(client, method)


@pytest.mark.parametrize(("method", "raw"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
async def test_an_answer_goes_through_as_it_came(tmp_path: Path, method: str, raw: bytes) -> None:
    async with RawPeer(raw) as direct, RawPeer(raw) as peer, before_peer(tmp_path, peer) as running:
        data = request(method, "/some/thing", [("X-Case", "1")], b"{}" if method == "POST" else b"")
        one = await _exchange(direct.port, method, data)
        other = await _exchange(running.port, method, data)
        assert other[0] == one[0]
        assert (other[1], other[2]) == (None, False) == (None, one[2])
        assert peer.accepted == 1, "the connection to the upstream was not kept"
        await until(lambda: len(idle(running)) == 1, "the connection back in the pool")


@pytest.mark.parametrize(("method", "raw"), [row[1:] for row in CLOSING], ids=[row[0] for row in CLOSING])
async def test_an_answer_that_ends_with_its_connection_does_so_here(tmp_path: Path, method: str, raw: bytes) -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        raise EndError

    async with RawPeer(play) as direct, RawPeer(play) as peer, before_peer(tmp_path, peer) as running:
        data = request(method, "/some/thing")
        one = await _exchange(direct.port, method, data)
        other = await _exchange(running.port, method, data)
        assert other[0] == one[0]
        assert (other[1], other[2], one[2]) == ("close", True, True)
        assert not idle(running)


@pytest.mark.parametrize("size", [1, 3])
async def test_an_answer_may_come_byte_by_byte(tmp_path: Path, size: int) -> None:
    cases = [row for row in ANSWERS if row[1] == "GET" and len(row[2]) < 1000]
    queue = [row[2] for row in cases]

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = queue.pop(0)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await asyncio.sleep(0)

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        for name, _, data in cases:
            await client.send(request("GET", "/x"))
            answer = await client.read()
            assert answer.complete, name
            async with RawPeer(data) as direct, connect(direct.port) as straight:
                await straight.send(request("GET", "/x"))
                expected = await straight.read()
            assert answer.body == expected.body, name
            assert answer.status == expected.status, name
        assert peer.accepted == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        b"\x00\xff stand-in garbage {]\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 0x5\r\n\r\nhello",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"X: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
        OK + b"X : 1\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
        OK + b"no colon\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: " + b"v" * 300_000,
    ],
)  # fmt: skip
async def test_an_answer_that_two_readers_could_frame_differently_becomes_502(tmp_path: Path, raw: bytes) -> None:
    async with RawPeer(raw) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        for path, shape in (("/x", None), ("/v1/x", "message"), ("/v1/messages/x", "type")):
            await client.send(request("GET", path))
            answer = await client.read()
            assert answer.status == 502
            error = answer.json()["error"]
            assert isinstance(error, str) if shape is None else shape in error
            assert raw[-20:] not in answer.raw
        assert not idle(running)
        await until(lambda: peer.ended == peer.accepted, "the end of the connections to the upstream")


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmugg", b"ok"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmugg", b""),
    ],
)
async def test_bytes_behind_an_answer_are_never_the_next_one(tmp_path: Path, raw: bytes, body: bytes) -> None:
    async with RawPeer(raw) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        for number in range(3):
            await client.send(request("GET", f"/{number}"))
            answer = await client.read()
            assert (answer.complete, answer.body) == (True, body)
            assert [one.target for one in peer.heard] == [b"/%d" % index for index in range(number + 1)]
        assert peer.accepted >= 3
        assert not idle(running)


async def test_a_body_behind_the_answer_to_head_is_never_the_next_answer(tmp_path: Path) -> None:
    raw = OK + b"Content-Length: 5\r\n\r\nhello"
    async with RawPeer(raw) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        for _ in range(2):
            await client.send(request("HEAD", "/x"))
            answer = await client.read("HEAD")
            assert (answer.status, answer.get("content-length")) == (200, "5")
        assert peer.accepted >= 2


@pytest.mark.parametrize(
    ("raw", "got"),
    [
        (OK + b"Content-Length: 10\r\n\r\nhello", b"hello"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"hello"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwo", b"hellowo"),
    ],
)
async def test_a_cut_answer_is_seen_to_be_cut_behind_all_that_came(tmp_path: Path, raw: bytes, got: bytes) -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        raise EndError

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        await client.send(request("GET", "/x") * 2)
        answer = await client.read()
        assert not answer.complete
        data = b"".join(answer.chunks) if answer.chunks else answer.body
        assert data == got[: len(data)]
        assert len(data) >= 5
        assert await client.closed()
        assert len(peer.heard) == 1, "a pipelined request ran on a connection that was cut"


async def test_an_answer_without_framing_that_breaks_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    """Its end is the connection's end, so only a reset can say that it broke, as it does without us."""
    import socket
    import struct

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Type: text/plain\r\n\r\nhello")
        await writer.drain()
        seen.set()
        await go.wait()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise EndError

    for version in ("HTTP/1.1", "HTTP/1.0"):
        seen, go = asyncio.Event(), asyncio.Event()
        async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
            await client.send(request("GET", "/x", version=version))
            await client.head()
            assert await client.reader.readexactly(5) == b"hello"
            go.set()
            with pytest.raises(ConnectionResetError):
                await client.reader.read()


async def test_an_http_1_0_client_sees_a_cut_stream_break(tmp_path: Path) -> None:
    """Without chunks only a reset says so."""

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        await go.wait()
        raise EndError

    go = asyncio.Event()
    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        await client.send(request("GET", "/x", version="HTTP/1.0"))
        head = await client.head()
        assert (head.get("transfer-encoding"), head.get("content-length")) == (None, None)
        assert await client.reader.readexactly(5) == b"hello"
        go.set()
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


@pytest.mark.parametrize("records", [b'{"status":"pulling"}\n', b'{"status":"pulling"}\n{"sta'])
async def test_a_cut_stream_of_records_ends_with_an_error_record(tmp_path: Path, records: bytes) -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = OK + b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%b\r\n" % (len(records), records))
        await writer.drain()
        raise EndError

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        await client.send(request("POST", "/api/pull", [], b'{"model":"x"}'))
        answer = await client.read("POST")
        assert answer.complete
        lines = answer.body.splitlines()
        assert lines[0] == records.splitlines()[0]
        assert b"error" in lines[-1]
        assert answer.body.endswith(b"}\n")
        assert isinstance(answer.lines()[-1]["error"] if len(records) < 25 else "x", str)


async def test_interim_answers_are_not_for_an_http_1_0_client(tmp_path: Path) -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok"
    async with RawPeer(raw) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        await client.send(request("GET", "/x", version="HTTP/1.0"))
        answer = await client.read()
        assert (answer.status, answer.interim, answer.body) == (200, [], b"ok")


async def test_hop_by_hop_fields_of_an_answer_end_here(tmp_path: Path) -> None:
    raw = (
        OK + b"Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n"
        b"Upgrade: h2c\r\nX-Stays: 1\r\nContent-Length: 0\r\n\r\n"
    )
    async with RawPeer(raw) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        await client.send(request("GET", "/x"))
        answer = await client.read()
        names = [name for name, _ in answer.fields]
        assert names == [b"X-Stays", b"Content-Length", b"X-Request-Id"]


async def test_our_id_is_the_one_that_the_client_gave_and_no_upstreams(tmp_path: Path) -> None:
    raw = OK + b"X-Request-Id: upstream\r\nContent-Length: 0\r\n\r\n"
    async with RawPeer(raw) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        await client.send(request("GET", "/x", [("X-Request-Id", "mine")]))
        assert [value for name, value in (await client.read()).fields if name == b"X-Request-Id"] == [b"mine"]
        await client.send(request("GET", "/x"))
        ids = [value for name, value in (await client.read()).fields if name == b"X-Request-Id"]
        assert len(ids) == 1
        assert ids[0] not in (b"upstream", b"mine")


# Anything that is valid, in any pieces.

TOKEN = st.text("!#$%&'*+-.^_`|~0189azAZ", min_size=1, max_size=12)
RESERVED = {
    *(
        "connection",
        "content-length",
        "transfer-encoding",
        "host",
        "te",
        "upgrade",
        "keep-alive",
        "expect",
        "trailer",
    ),
    *("http2-settings", "proxy-connection", "proxy-authorization", "proxy-authenticate", "x-request-id", "date"),
    "x-sidecar-probe",
}
NAME = TOKEN.filter(lambda name: name.lower() not in RESERVED)
VALUE = st.binary(max_size=40).map(lambda data: bytes(b for b in data if b == 9 or 32 <= b != 127).strip(b" \t"))
FIELDS = st.lists(st.tuples(NAME.map(str.encode), VALUE), max_size=6)
METHOD = TOKEN.filter(lambda name: name not in ("CONNECT", "TRACE", "HEAD")) | st.sampled_from(["GET", "POST", "PUT"])
TARGET = st.binary(max_size=30).map(lambda data: b"/x/" + bytes(b for b in data if b > 32 and b != 127))
PIECES = st.lists(st.binary(min_size=1, max_size=50) | st.just(b"x" * 20_000), max_size=4)
BLANK = st.sampled_from([b"", b" ", b"\t", b"  \t "])
CUTS = st.lists(st.integers(0, 400), max_size=5)


def framed(
    pieces: list[bytes], framing: str, extension: bytes, trailers: list[tuple[bytes, bytes]]
) -> tuple[bytes, bytes]:
    """The framing's header line, and the body in it."""
    if framing == "counted":
        body = b"".join(pieces)
        return b"Content-Length: %d\r\n" % len(body), body
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in trailers)
    return b"Transfer-Encoding: chunked\r\n", chunks + b"0\r\n" + lines + b"\r\n"


MESSAGE = st.tuples(
    FIELDS,
    PIECES,
    st.sampled_from(["counted", "chunked"]),
    st.sampled_from([b"", b";a", b';a="b c"']),
    FIELDS,
    BLANK,
    CUTS,
)
Message = tuple[list[tuple[bytes, bytes]], list[bytes], str, bytes, list[tuple[bytes, bytes]], bytes, list[int]]


def lines_of(fields: list[tuple[bytes, bytes]], blank: bytes) -> list[bytes]:
    return [name + b":" + blank + value + blank for name, value in fields]


async def in_pieces(write: Any, data: bytes, cuts: list[int]) -> None:
    last = 0
    for cut in (*sorted(cut for cut in cuts if cut < len(data)), len(data)):
        if cut > last:
            write(data[last:cut])
            await asyncio.sleep(0)
        last = cut


async def test_any_valid_exchange_is_the_same_on_both_sides(tmp_path: Path) -> None:
    answers: list[tuple[bytes, list[int]]] = []

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data, cuts = answers.pop()
        await in_pieces(writer.write, data, cuts)

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:

        async def once(method: str, target: bytes, asked: Message, status: int, told: Message) -> None:
            fields, pieces, framing, extension, trailers, blank, cuts = asked
            line, body = framed(pieces, framing, extension, trailers)
            head = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: localhost", *lines_of(fields, blank)]
            back_fields, back_pieces, back_framing, back_extension, back_trailers, back_blank, back_cuts = told
            back_line, back_body = framed(back_pieces, back_framing, back_extension, back_trailers)
            back_head = [b"HTTP/1.1 %d \xe9tat" % status, *lines_of(back_fields, back_blank)]
            answers[:] = [(b"\r\n".join((*back_head, back_line + b"\r\n")) + back_body, back_cuts)]
            await in_pieces(client.writer.write, b"\r\n".join((*head, line + b"\r\n")) + body, cuts)
            answer = await client.read(method)
            one = peer.heard[-1]
            # What arrived.
            got = one.head.split(b"\r\n")
            assert got[0] == head[0]
            assert got[2:-2] == [*head[2:], line[:-2]]
            assert one.body == b"".join(pieces)
            wanted = (
                b"".join(name + b": " + value + b"\r\n" for name, value in trailers) if framing == "chunked" else b""
            )
            assert one.trailers == wanted
            # What came back.
            assert answer.complete
            assert answer.status_line == back_head[0]
            assert answer.raw.split(b"\r\n")[1 : len(back_head) + 1] == [*back_head[1:], back_line[:-2]]
            assert [name for name, _ in answer.fields[len(back_head) :]] == [b"X-Request-Id"]
            assert answer.body == b"".join(back_pieces)
            if back_framing == "chunked":
                tail = b"".join(name + b": " + value + b"\r\n" for name, value in back_trailers)
                assert tail in answer.raw
            assert peer.accepted == 1

        loop = asyncio.get_running_loop()

        @hypothesis.settings(max_examples=150, deadline=None, database=None)
        @hypothesis.given(METHOD, TARGET, MESSAGE, st.sampled_from([200, 201, 299, 404, 500]), MESSAGE)
        def any_exchange(method: str, target: bytes, asked: Message, status: int, told: Message) -> None:
            asyncio.run_coroutine_threadsafe(once(method, target, asked, status, told), loop).result(30)

        await asyncio.to_thread(any_exchange)
        assert len(peer.heard) > 50
