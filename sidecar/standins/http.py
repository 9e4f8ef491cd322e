"""A small HTTP/1.1 server over asyncio streams that answers the way Go's net/http does and records what it was sent.

It exists so that tests and the demo have a peer that is written apart from the proxy and can be told to do what a
real server will not do on demand. Everything in it is a stand-in and says so: each answer carries `X-Stand-In`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

from sidecar.standins.exchange import Answer, Exchange, Piece, refusal
from sidecar.standins.pacing import Gate
from sidecar.standins.wire import BadRequestError, Head, Inbound, PeerClosedError, RecordedRequest

Answerer = Callable[[Exchange], Awaitable[Answer]]
_MAX_HEAD = 1 << 20
_LINGER_SECONDS = 0.5


class _Connection:
    def __init__(
        self, server: StandInServer, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.number = number
        self.writer = writer
        # A drain then waits for all bytes: a long answer is complete when it is out, not when it is buffered here.
        # (asyncio's TLS transport never resumes from a limit of 0.)
        writer.transport.set_write_buffer_limits(1 if writer.get_extra_info("ssl_object") else 0, 0)
        self.inbound = Inbound(reader, self._peer_closed)
        self._exchange: Exchange | None = None
        self._aborted = False

    def _peer_closed(self) -> None:
        if self._exchange is not None and not self._aborted:
            self._exchange.peer_left()

    def abort(self, *, reset: bool) -> None:
        self._aborted = True
        if self._exchange is not None and self._exchange.task is not asyncio.current_task():
            self._exchange.cut_off()
        if reset:
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def run(self) -> None:
        pump = asyncio.create_task(self.inbound.pump())
        try:
            while await self._serve_one():
                pass
        except BadRequestError as bad:
            self.writer.write(refusal(self.server.label, bad))
            await self._linger()
        except (PeerClosedError, ConnectionError):
            pass
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            self.writer.close()
            await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)

    async def _serve_one(self) -> bool:
        raw = await self.inbound.head(_MAX_HEAD)
        if raw is None:
            return False
        try:
            head = Head(raw)
        except BadRequestError:
            self.server.unreadable.append(raw)
            raise
        request = self.server.record(self.number, raw, head)
        exchange = Exchange(self.server, self, request, head)
        self._exchange = exchange
        exchange.task = asyncio.create_task(exchange.run())
        try:
            await asyncio.wait({exchange.task})
        finally:
            if not exchange.task.done():
                exchange.cut_off()
                await asyncio.gather(exchange.task, return_exceptions=True)
        if not exchange.keep_alive and request.outcome == "complete" and not request.body_read.is_set():
            await self._linger()
        return exchange.keep_alive and not self.writer.is_closing()

    async def _linger(self) -> None:
        """Closes our side first and reads on for a moment: closing with unread bytes would send a reset, which can
        take the answer with it."""
        try:
            await self.writer.drain()
            if self.writer.can_write_eof():
                self.writer.write_eof()
            async with asyncio.timeout(_LINGER_SECONDS):
                while True:
                    await self.inbound.some(1)
                    self.inbound.discard()
        except (PeerClosedError, ConnectionError, TimeoutError):
            pass


class StandInServer:
    """A stand-in HTTP server on a loopback port: records every request, answers with what `answer` says.

    `record_bodies`: True keeps bodies whole, an int keeps that many bytes of each, False none (sizes and hashes are
    always there). `keep_requests` bounds the list of requests, oldest out first (None: all). `reply_delay` and
    `token_delay` are seconds, `gate` see `pacing.Gate`; they apply to work (generation, progress), not to lookups.
    """

    label = "server"
    """The value of `X-Stand-In`."""

    def __init__(
        self,
        answerer: Answerer | None = None,
        *,
        record_bodies: bool | int = True,
        keep_requests: int | None = None,
        reply_delay: float = 0.0,
        token_delay: float = 0.0,
        gate: Gate | asyncio.Event | None = None,
    ) -> None:
        self.requests: list[RecordedRequest] = []
        self.received = 0
        """Requests so far, also those no longer in `requests`."""
        self.accepted = 0
        """Connections so far."""
        self.unreadable: list[bytes] = []
        """Heads that could not be parsed."""
        self.errors: list[Exception] = []
        """Mistakes of the stand-in itself; a test may assert that there are none."""
        self.reply_delay = reply_delay
        self.token_delay = token_delay
        self.gate = gate
        self._answerer = answerer
        self._keep = None if record_bodies is True else int(record_bodies)
        self._keep_requests = keep_requests
        self._waiters: list[tuple[Callable[[RecordedRequest], bool], int, asyncio.Future[RecordedRequest]]] = []
        self._connections: dict[_Connection, asyncio.Task[None] | None] = {}
        self._server: asyncio.Server | None = None
        self._host = "127.0.0.1"
        self._port = 0
        self._scheme = "http"

    async def start(self, host: str = "127.0.0.1", port: int = 0, ssl: tls.SSLContext | None = None) -> Self:
        """Listens; port 0 takes a free one. May be called again after `close`, e.g. on the same port."""
        self._server = await asyncio.start_server(self._connected, host, port, limit=1 << 18, backlog=512, ssl=ssl)
        self._host, self._port = host, self._server.sockets[0].getsockname()[1]
        self._scheme = "https" if ssl else "http"
        return self

    async def close(self) -> None:
        """Stops listening and ends every connection."""
        if self._server is None:
            return
        self._server.close()
        self.crash(reset=False)
        tasks = [task for task in self._connections.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        return self if self._server else await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.close()

    def crash(self, *, reset: bool = True) -> None:
        """Breaks every open connection at once, as a dying process does; the port keeps listening."""
        for connection in list(self._connections):
            connection.abort(reset=reset)

    @property
    def port(self) -> int:
        if not self._port:
            raise RuntimeError("this stand-in was never started")
        return self._port

    @property
    def base_url(self) -> str:
        return f"{self._scheme}://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def answer(self, exchange: Exchange) -> Answer:
        """What to answer; the base asks the `answerer` it was made with, and without one knows no path."""
        if self._answerer is not None:
            return await self._answerer(exchange)
        return Answer(404, [("Content-Type", "text/plain")], b"404 page not found")

    def ended(self, exchange: Exchange) -> None:
        """Called once per exchange, however it ended, before `request.finished` is set."""

    async def pace(self, exchange: Exchange, step: int) -> None:
        """Waits as long as this step is to take; ends the work when the peer has gone."""
        # Also without a delay one turn of the loop: the pump has to see the peer leave during a fast generation.
        await asyncio.sleep(self.token_delay if step else self.reply_delay)
        if isinstance(self.gate, asyncio.Event):
            await self.gate.wait()
        elif self.gate is not None:
            await self.gate(exchange.request, step)
        exchange.abort_when_peer_leaves()

    async def paced(self, exchange: Exchange, records: Iterable[bytes]) -> AsyncIterator[Piece]:
        """Records as pieces, each a step; the last one is final."""
        exchange.abort_when_peer_leaves()
        waiting = list(records)
        for step, record in enumerate(waiting, 1):
            await self.pace(exchange, step)
            yield Piece(record, final=step == len(waiting))

    async def wait_for_request(
        self, n: int = 1, matching: Callable[[RecordedRequest], bool] | None = None
    ) -> RecordedRequest:
        """The n-th request (from 1) as soon as its head is there; with `matching`, the n-th that matches."""
        wanted = matching or (lambda _request: True)
        found = [request for request in self.requests if wanted(request)]
        if len(found) >= n:
            return found[n - 1]
        future: asyncio.Future[RecordedRequest] = asyncio.get_running_loop().create_future()
        self._waiters.append((wanted, n - len(found), future))
        return await future

    def record(self, connection: int, raw: bytes, head: Head) -> RecordedRequest:
        now = asyncio.get_running_loop().time()
        request = RecordedRequest(
            index=self.received, connection=connection, raw_head=raw, head=head, arrived_at=now, keep=self._keep
        )
        self.received += 1
        self.requests.append(request)
        if self._keep_requests is not None and len(self.requests) > self._keep_requests:
            del self.requests[0]
        self._tell_waiters(request)
        return request

    def _tell_waiters(self, request: RecordedRequest) -> None:
        left = []
        for wanted, missing, future in self._waiters:
            if future.done():
                continue
            if not wanted(request):
                left.append((wanted, missing, future))
            elif missing > 1:
                left.append((wanted, missing - 1, future))
            else:
                future.set_result(request)
        self._waiters = left

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, self.accepted, reader, writer)
        self.accepted += 1
        self._connections[connection] = asyncio.current_task()
        try:
            await connection.run()
        except asyncio.CancelledError:
            pass  # closing the server ends its connections; there is nobody to tell
        finally:
            del self._connections[connection]
