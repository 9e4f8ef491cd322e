"""What the wire tests of the proxy share: raw peers, waiting for a state, and a loop that must end clean."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from sidecar.proxy.connection import ClientConnection
from sidecar.standins import StandInOllama
from sidecar.upstream.connection import UpstreamConnection
from support.raw import SECONDS, Answer, Client, connect
from support.world import World, world

VERSION = b'{"version":"0.24.0"}'
_PROBE = b"x-sidecar-probe:"


async def until(true: Callable[[], object], what: str = "the state that the test waits for") -> None:
    """Waits for a state that no event announces."""
    try:
        async with asyncio.timeout(SECONDS):
            while not true():  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"never came: {what}") from None


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Fails where the loop was told of an exception that nobody took, or a task outlives its world."""
    loop = asyncio.get_running_loop()
    told: list[Mapping[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    before = asyncio.all_tasks()

    def more() -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - before - {asyncio.current_task()}

    try:
        yield
        await until(lambda: not more(), f"the end of {more()}")
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert not told, told


Play = Callable[["Heard", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


class Heard:
    """One request as a raw peer got it: its head as it came, its body without framing."""

    def __init__(self, head: bytes, connection: int) -> None:
        self.head = head
        self.connection = connection
        self.body = b""
        self.trailers = b""

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    def field(self, name: bytes) -> bytes | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip()
        return None

    async def read_body(self, reader: asyncio.StreamReader) -> None:
        length = self.field(b"content-length")
        if length is not None:
            self.body = await reader.readexactly(int(length))
        elif self.field(b"transfer-encoding") is not None:
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                self.body += (await reader.readexactly(size + 2))[:-2]
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                self.trailers += line


class RawPeer:
    """An upstream that answers with bytes that a test writes itself. `play` gets every request but the sidecar's own
    probe; a connection goes on until it raises or the peer closes."""

    def __init__(self, play: Play | bytes, *, reads_body: bool = True) -> None:
        self._play = play
        self._reads_body = reads_body
        self.heard: list[Heard] = []
        self.accepted = 0
        self.ended = 0
        """Connections that the other side closed or reset."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._probe = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(VERSION), VERSION)
        self.probed = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> RawPeer:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self.writers:
            writer.transport.abort()  # what a peer that does not read left unwritten would keep the loop from closing

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self.accepted = self.accepted, self.accepted + 1
        self.writers.append(writer)
        try:
            while True:
                await self._one(number, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended += 1
        except asyncio.CancelledError:
            pass
        except EndError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        one = Heard(await reader.readuntil(b"\r\n\r\n"), number)
        if _PROBE in one.head.lower():
            writer.write(self._probe)
            self.probed.set()
            return
        self.heard.append(one)
        if self._reads_body:
            await one.read_body(reader)
        if isinstance(self._play, bytes):
            writer.write(self._play)
            await writer.drain()
        else:
            await self._play(one, reader, writer)


class EndError(Exception):
    """Raised by a `play` to close its connection."""


@asynccontextmanager
async def before_peer(folder: Path, peer: RawPeer, over: Mapping[str, Any] | None = None) -> AsyncIterator[World]:
    """A sidecar whose local server is a raw peer; its probe is over and its connection idle in the pool."""
    settings = {"local": {"base_url": peer.base_url}, "ollama_cloud": {"enabled": False}, **(over or {})}
    async with world(folder, settings) as running:
        await peer.probed.wait()
        await until(lambda: idle(running), "the probe's connection in the pool")
        yield running


async def probed(running: World) -> None:
    """Waits until the sidecar's own probe is over, so that what the local stand-in counts is ours alone."""
    first = await running.local.wait_for_request(1)
    await first.finished.wait()
    await until(lambda: idle(running), "the probe's connection in the pool")


def idle(running: World) -> list[UpstreamConnection]:
    """The idle connections to the local server."""
    return running.sidecar.services.local.pool._idle


def transport_of(writer: asyncio.StreamWriter) -> asyncio.Transport:
    """A stream's transport, whose reading can be paused."""
    return cast("asyncio.Transport", writer.transport)


def clients(running: World) -> list[ClientConnection]:
    """The connections of clients that are open now."""
    return list(running.sidecar.data._connections)


def local_counts(local: StandInOllama) -> tuple[int, int]:
    """What the local server saw so far: requests, and heads that it could not read."""
    return local.received, len(local.unreadable)


async def send_and_read(port: int, data: bytes, method: str = "GET") -> tuple[Answer, bool]:
    """One answer to some bytes, and whether the connection is closed behind it."""
    async with connect(port) as client:
        await client.send(data)
        answer = await client.read(method)
        return answer, await ends(client)


async def ends(client: Client, method: str = "GET") -> bool:
    """Whether the peer has closed: a further request gets no answer."""
    try:
        await client.send(f"{method} /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await client.head()
    except (asyncio.IncompleteReadError, ConnectionError):
        return True
    return False
