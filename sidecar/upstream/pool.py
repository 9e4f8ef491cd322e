"""Pooled connections to one origin."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from sidecar.upstream.connection import READ_BUFFER, UpstreamConnection, UpstreamError

# Below what servers and load balancers usually close at, so that a request seldom meets a closed connection.
KEEP_IDLE_SECONDS = 50.0
MAX_IDLE = 256


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream is: `base_url` split up. `prefix` is its path without a trailing slash."""

    scheme: str
    host: str
    port: int
    prefix: str

    @classmethod
    def of(cls, base_url: str) -> Origin:
        """Raises ValueError for anything but an http or https URL with a host."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{base_url!r} is no http or https URL")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def host_header(self) -> bytes:
        """What goes into Host: without the port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return (host if self.port == default else f"{host}:{self.port}").encode("ascii")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header.decode()}{self.prefix}"


class Pool:
    """Keeps idle connections, newest first, and opens new ones. Environment proxies are never asked."""

    def __init__(self, origin: Origin, connect_seconds: float) -> None:
        self.origin = origin
        self.host_header = origin.host_header
        self._connect_seconds = connect_seconds
        self._loop = asyncio.get_running_loop()
        self._idle: list[UpstreamConnection] = []
        self._buffer = memoryview(bytearray(READ_BUFFER))
        self._tls: ssl.SSLContext | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self) -> UpstreamConnection | None:
        """An idle connection; None where there is none."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.closing:
                connection.reused = True
                return connection
        return None

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        """A connection ready for a request. `fresh` asks for a new one. Raises UpstreamError of kind `connect`."""
        return (None if fresh else self.take()) or await self._connect()

    async def _connect(self) -> UpstreamConnection:
        origin = self.origin
        tls = await self._context() if origin.scheme == "https" else None
        try:
            async with asyncio.timeout(self._connect_seconds or None):
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self._loop, self._buffer, self._freed, self._lost),
                    origin.host,
                    origin.port,
                    ssl=tls,
                    server_hostname=origin.host if tls else None,
                )
        except TimeoutError as error:
            message = f"no connection to {origin} within {self._connect_seconds:g} s"
            raise UpstreamError("connect", message, sent=False) from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UpstreamError("connect", f"no connection to {origin}: {reason}", sent=False) from error
        return connection

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            # Reading the system's certificates takes 20 ms and more: not on the loop.
            self._tls = await self._loop.run_in_executor(None, ssl.create_default_context)
        return self._tls

    def release(self, connection: UpstreamConnection, turn: int) -> None:
        """As `connection.abandon`, and one that was acquired and never used goes back."""
        if connection.turn == turn and not connection.busy and not connection.closing:
            self._freed(connection)
        else:
            connection.abandon(turn)

    def close(self) -> None:
        """Closes idle connections at once, and those in use when they come back."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _freed(self, connection: UpstreamConnection) -> None:
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.close()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(KEEP_IDLE_SECONDS, self._sweep)

    def _lost(self, connection: UpstreamConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def _sweep(self) -> None:
        old = self._loop.time() - KEEP_IDLE_SECONDS
        for connection in [one for one in self._idle if one.idle_since <= old]:
            self._idle.remove(connection)
            connection.close()
        self._sweeper = self._loop.call_later(KEEP_IDLE_SECONDS / 2, self._sweep) if self._idle else None
