"""Large bodies both ways: every byte, at constant memory, at the pace of the slower side, and to a clear end."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.proxy.connection import BODY_HIGH, WRITE_HIGH, ClientConnection
from sidecar.proxy.server import READ_BUFFER
from sidecar.standins import StandInOllama
from sidecar.upstream import connection as upstream
from support.raw import Client, connect, request
from support.wire import (
    EndError,
    Heard,
    RawPeer,
    before_peer,
    clients,
    idle,
    nothing_left_behind,
    probed,
    transport_of,
    until,
)
from support.world import World, world

MB = 1024 * 1024
SIZE = 64 * MB
BLOCK = bytes(range(256)) * 256
OK = b"HTTP/1.1 200 OK\r\n"
MEMORY = 8 * MB
"""What a body of 64 MB may cost at its worst, client and server of the test included."""


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


def blocks(size: int = SIZE) -> list[bytes]:
    """The body in pieces of odd lengths, so that no boundary of one hop is one of another."""
    pieces, left, length = [], size, 1
    while left:
        take = min(left, length % 50_021 + 15_000)
        pieces.append(BLOCK[:take])
        left -= take
        length = length * 48_271 % 2_147_483_647
    return pieces


def digest(pieces: list[bytes]) -> str:
    sha = hashlib.sha256()
    for piece in pieces:
        sha.update(piece)
    return sha.hexdigest()


async def peak(work: Any) -> int:
    """The most memory that Python's objects took beyond what was there, while something ran."""
    gc.collect()
    tracemalloc.start(1)
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        await work
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
async def test_a_blob_of_64_mb_arrives_whole_at_constant_memory(tmp_path: Path, chunked: bool) -> None:
    pieces = blocks()
    sha = digest(pieces)
    local = StandInOllama(["llama3"], record_bodies=0)
    async with world(tmp_path, local=local) as here, connect(here.port) as client:

        async def upload() -> None:
            framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(SIZE))
            await client.send(request("POST", f"/api/blobs/sha256:{sha}", [framing]))
            for piece in pieces:
                if chunked:
                    client.writer.write(b"%x\r\n" % len(piece))
                    client.writer.write(piece)
                    await client.send(b"\r\n")
                else:
                    await client.send(piece)
            if chunked:
                await client.send(b"0\r\n\r\n")
            answer = await client.read("POST")
            assert (answer.status, answer.body) == (201, b"")

        most = await peak(upload())
        assert most < MEMORY, most
        got = here.local.requests[-1]
        assert (got.body_size, got.body_sha256) == (SIZE, sha)
        assert got.header("transfer-encoding" if chunked else "content-length") == (
            "chunked" if chunked else str(SIZE)
        )


@pytest.mark.parametrize("framing", ["counted", "chunked", "until the end"])
async def test_a_download_of_64_mb_arrives_whole_at_constant_memory(tmp_path: Path, framing: str) -> None:
    pieces = blocks()
    lines = {"counted": b"Content-Length: %d\r\n" % SIZE, "chunked": b"Transfer-Encoding: chunked\r\n"}

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + lines.get(framing, b"") + b"\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n" if framing == "chunked" else piece)
            await writer.drain()
        if framing == "chunked":
            writer.write(b"0\r\n\r\n")
        if framing == "until the end":
            raise EndError

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running:
        # A small buffer in the client too, or the peak would be the test's own.
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=256 * 1024)
        client = Client(reader, writer)
        sha, size = hashlib.sha256(), 0

        async def download() -> None:
            nonlocal size
            await client.send(request("GET", "/big"))
            head = await client.head()
            assert head.status == 200
            if framing == "chunked":
                while length := int(await reader.readuntil(b"\r\n"), 16):
                    sha.update(await reader.readexactly(length))
                    size += length
                    assert await reader.readexactly(2) == b"\r\n"
                assert await reader.readexactly(2) == b"\r\n"
                return
            while size < SIZE and (data := await reader.read(MB)):
                sha.update(data)
                size += len(data)

        most = await peak(download())
        assert (size, sha.hexdigest()) == (SIZE, digest(pieces))
        assert most < MEMORY, most
        writer.transport.abort()


def held(one: ClientConnection) -> int:
    """The bytes of a request's body that are inside us and not yet on their way."""
    exchange = one.exchange
    return (exchange._size if exchange is not None else 0) + len(one._pending)


async def standstill(value: Callable[[], int]) -> None:
    """Waits until a figure has not changed for a good many turns of the loop."""
    last, turns = -1, 0

    def still() -> bool:
        nonlocal last, turns
        now = value()
        turns = turns + 1 if now == last else 0
        last = now
        return turns > 50

    await until(still, "a standstill")


def reading(one: Any) -> bool:
    return bool(one._transport.is_reading())


class SlowPeer:
    """Reads of an upload only as much as it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.read = 0
        self.sha = hashlib.sha256()
        self.started = asyncio.Event()

    async def __call__(self, one: Heard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.started.set()
        transport = transport_of(writer)
        transport.pause_reading()
        await self.go.wait()
        transport.resume_reading()
        left = int(one.field(b"content-length") or 0)
        while left:
            data = await reader.read(MB)
            if not data:
                raise EndError
            self.sha.update(data)
            self.read += len(data)
            left -= len(data)
        writer.write(OK + b"Content-Length: 2\r\n\r\nok")


async def test_an_upstream_that_does_not_read_pauses_the_client(tmp_path: Path) -> None:
    slow = SlowPeer()
    async with RawPeer(slow, reads_body=False) as peer, before_peer(tmp_path, peer) as running:
        port = running.port
        async with connect(port) as client:
            await client.send(request("POST", "/upload", [("Content-Length", str(SIZE))]))
            body = BLOCK * (SIZE // len(BLOCK))
            client.writer.write(body)
            await slow.started.wait()
            one = clients(running)[0]
            unsent = client.writer.transport.get_write_buffer_size
            await standstill(unsent)
            assert unsent() > SIZE // 2
            assert not reading(one)
            # What is inside us is bounded by the marks and a read each.
            assert held(one) <= BODY_HIGH + READ_BUFFER
            slow.go.set()
            answer = await client.read("POST")
            assert answer.body == b"ok"
            assert (slow.read, slow.sha.hexdigest()) == (SIZE, hashlib.sha256(body).hexdigest())
            await until(lambda: reading(one), "the client to be read again")


async def test_a_client_that_does_not_read_pauses_the_upstream(tmp_path: Path) -> None:
    sent = 0
    writers = []

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writers.append(writer)
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(BLOCK)):
            writer.write(BLOCK)
            sent += len(BLOCK)
            await writer.drain()

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running, connect(running.port) as client:
        transport = transport_of(client.writer)
        transport.pause_reading()
        await client.send(request("GET", "/big"))

        def source() -> Any:
            exchange = next((one.exchange for one in clients(running)), None)
            return exchange.source if exchange is not None else None

        await until(lambda: source() is not None and not reading(source()), "a pause of the upstream")
        one = clients(running)[0]
        assert one.write_paused
        assert one._transport.get_write_buffer_size() <= WRITE_HIGH + upstream.READ_BUFFER + 4096
        transport.resume_reading()
        answer = await client.read()
        assert len(answer.body) == SIZE
        assert answer.complete
        await until(lambda: idle(running), "the connection back in the pool")
        assert reading(idle(running)[0]), "a pooled connection that reads nothing would never answer again"


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
async def test_an_upstream_that_dies_in_an_upload_is_told_and_the_upload_not_repeated(
    tmp_path: Path, chunked: bool
) -> None:
    async def play(one: Heard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise EndError

    for path, dialect in (("/api/blobs/sha256:x", "ollama"), ("/v1/files", "openai")):
        async with RawPeer(play, reads_body=False) as peer, before_peer(tmp_path, peer) as running:
            async with connect(running.port) as client:
                framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(SIZE))
                await client.send(request("POST", path, [framing]))
                sending = asyncio.create_task(_send_on(client, chunked=chunked))
                answer = await client.read("POST")
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                assert answer.status == 502
                error = answer.json()["error"]
                assert isinstance(error, str if dialect == "ollama" else dict)
                assert answer.get("connection") == "close"
            assert len(peer.heard) == 1
            assert not idle(running)
            await until(lambda: not clients(running), "the end of the connection")


async def _send_on(client: Client, *, chunked: bool) -> None:
    while True:
        await client.send(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK)


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_client_that_dies_in_an_upload_closes_the_upstream_and_nothing_is_repeated(
    here: World, chunked: bool, reset: bool
) -> None:
    await probed(here)
    async with connect(here.port) as client:
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(SIZE))
        await client.send(request("POST", "/api/blobs/sha256:" + "a" * 64, [framing]))
        await client.send(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK)
        got = await here.local.wait_for_request(2)
        await until(lambda: got.body_size == len(BLOCK), "what was sent so far")
        if reset:
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.leave()
        await got.finished.wait()
    assert got.outcome == "aborted"
    assert not got.body_read.is_set()
    await until(lambda: not clients(here), "the end of the connection")
    assert here.local.received == 2
    assert not idle(here)


STALL = {"listen": {"body_idle_timeout_seconds": 0.1}}


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        *(("/api/blobs/sha256:" + "a" * 64, "ollama"), ("/v1/files", "openai"), ("/v1/messages/x", "anthropic")),
        *(("/api/chat", "ollama"), ("/v1/chat/completions", "openai"), ("/v1/messages", "anthropic")),
    ],
)
@pytest.mark.parametrize("begun", [False, True], ids=["no byte", "some bytes"])
async def test_an_upload_that_stalls_is_408(tmp_path: Path, path: str, dialect: str, begun: bool) -> None:
    async with world(tmp_path, STALL) as here:
        await probed(here)
        async with connect(here.port) as client:
            await client.send(request("POST", path, [("Content-Length", "100")]) + (b"{}" if begun else b""))
            answer = await client.read("POST")
            assert (answer.status, answer.get("connection")) == (408, "close")
            error = answer.json()
            assert isinstance(error["error"], str if dialect == "ollama" else dict)
            assert ("type" in error) == (dialect == "anthropic")
            assert await client.closed()
        new = [one for one in here.local.requests if one.target == path]
        for one in new:
            await one.finished.wait()
            assert not one.body_read.is_set()


async def test_an_upload_that_moves_is_not_stalled_however_slow_it_is(tmp_path: Path) -> None:
    async with world(tmp_path, STALL) as here, connect(here.port) as client:
        sha = hashlib.sha256(b"x" * 10).hexdigest()
        await client.send(request("POST", f"/api/blobs/sha256:{sha}", [("Content-Length", "10")]))
        for _ in range(10):
            await client.send(b"x")
            await asyncio.sleep(0.03)  # together longer than the timeout, which is what this is about
        assert (await client.read("POST")).status == 201


async def test_an_upstream_that_does_not_read_is_no_stall_of_the_client(tmp_path: Path) -> None:
    slow = SlowPeer()
    async with RawPeer(slow, reads_body=False) as peer, before_peer(tmp_path, peer, STALL) as running:
        size = 16 * MB
        async with connect(running.port) as client:
            await client.send(request("POST", "/upload", [("Content-Length", str(size))]))
            client.writer.write(BLOCK * (size // len(BLOCK)))
            await slow.started.wait()
            await until(lambda: not reading(clients(running)[0]), "a pause of the client")
            await asyncio.sleep(0.2)  # longer than the timeout, which is what this is about
            slow.go.set()
            assert (await client.read("POST")).body == b"ok"


async def test_an_answer_and_an_upload_may_run_at_the_same_time(tmp_path: Path) -> None:
    """A server may begin to answer while it still reads: neither side waits for the other."""

    async def play(one: Heard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while (line := await reader.readuntil(b"\r\n")) != b"0\r\n":
            data = await reader.readexactly(int(line, 16) + 2)
            writer.write(line + data)
        await reader.readuntil(b"\r\n")
        writer.write(b"0\r\n\r\n")

    async with RawPeer(play, reads_body=False) as peer, before_peer(tmp_path, peer) as running:
        async with connect(running.port) as client:
            await client.send(request("POST", "/echo", [("Transfer-Encoding", "chunked")]))
            answer = await client.head()
            for number in range(20):
                text = b"part %d" % number
                await client.send(b"%x\r\n%b\r\n" % (len(text), text))
                assert await client.chunk(answer) == text
            await client.send(b"0\r\n\r\n")
            assert await client.chunk(answer) is None
            await client.send(request("POST", "/echo", [], b"again", chunked=True))
            assert (await client.read("POST")).body == b"again"
        assert peer.accepted == 1


async def test_an_upload_that_breaks_under_its_answer_breaks_that_too(tmp_path: Path) -> None:
    async def play(_one: Heard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await reader.read()
        raise EndError

    async with RawPeer(play, reads_body=False) as peer, before_peer(tmp_path, peer) as running:
        async with connect(running.port) as client:
            await client.send(request("POST", "/echo", [("Transfer-Encoding", "chunked")]))
            answer = await client.head()
            assert await client.chunk(answer) == b"ok"
            await client.send(b"nonsense\r\n")
            await client.rest(answer, "POST")
            assert not answer.complete
        assert len(peer.heard) == 1
        assert not idle(running)


async def test_a_refused_upload_is_not_read_to_its_end_and_its_answer_arrives(here: World) -> None:
    """413 and the like: the answer comes at once, and a client that sends on sees it all the same."""
    await probed(here)
    async with connect(here.port) as client:
        await client.send(request("POST", "/api/blobs/sha256:wrong", [("Content-Length", str(SIZE))]))
        sending = asyncio.create_task(_send_on(client, chunked=False))
        answer = await client.read("POST")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert (answer.status, answer.complete, answer.get("connection")) == (400, True, "close")
    got = here.local.requests[-1]
    await got.finished.wait()
    assert got.body_size < SIZE
