"""The listeners: sockets, connections, drain. What a request means is the handler's business."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sidecar.http1 import MessageError
from sidecar.proxy.connection import ClientConnection, Exchange

READ_BUFFER = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener takes: sizes in bytes, times in seconds (0 = no limit)."""

    connections: int = 4096
    head_bytes: int = 64 * 1024
    head_seconds: float = 10.0
    body_idle_seconds: float = 60.0


class Server:
    """Accepts connections on given sockets and runs `serve` for each request.

    `serve` answers the exchange and raises nothing but CancelledError. `protocol_error` renders the answer to a
    message that is no valid HTTP, given the error and the bytes that came.
    """

    def __init__(
        self,
        serve: Callable[[Exchange], Awaitable[None]],
        protocol_error: Callable[[MessageError, bytes], bytes],
        limits: Limits,
    ) -> None:
        self.serve = serve
        self.protocol_error = protocol_error
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.read_buffer = memoryview(bytearray(READ_BUFFER))
        self.draining = False
        self._connections: set[ClientConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._emptied: asyncio.Event = asyncio.Event()

    async def start(self, sockets: list[socket.socket]) -> None:
        """Starts to accept on sockets that listen already."""
        for sock in sockets:
            self._servers.append(await self.loop.create_server(lambda: ClientConnection(self), sock=sock))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: host and port."""
        return [sock.getsockname()[:2] for server in self._servers for sock in server.sockets]

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def drain(self, seconds: float) -> bool:
        """Stops accepting, lets what runs end for up to `seconds`, then cuts it. True where nothing was cut."""
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close()
        clean = await self._empty(seconds)
        if not clean:
            for connection in list(self._connections):
                if connection.exchange is not None and connection.exchange.task is not None:
                    connection.exchange.task.cancel()
            # Long enough to write an error record to each; a client that does not read is cut.
            await self._empty(1.0)
            for connection in list(self._connections):
                connection.abort()
        return clean

    async def _empty(self, seconds: float) -> bool:
        self._emptied.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._emptied.wait()
        return not self._connections

    # What connections tell.

    def admit(self, connection: ClientConnection) -> bool:
        self._connections.add(connection)
        return len(self._connections) <= self.limits.connections

    def forget(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._emptied.set()
