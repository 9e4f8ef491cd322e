"""What stands before a real server in these tests: a relay that remembers every byte, and the same as a cloud.

Nothing of the sidecar is in here but the stand-ins' reading of requests, which shares no code with the proxy's own.
Answers are read by httptools.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httptools

from sidecar.standins.wire import (
    BadBodyError,
    BadRequestError,
    Head,
    Inbound,
    PeerClosedError,
    RecordedRequest,
    read_body,
)
from support.raw import SECONDS

_MAX_HEAD = 1 << 20


class Relayed(RecordedRequest):
    """A request with its answer: `answer` as it was relayed, head and framing too, `content` its body alone."""

    def __init__(self, **known: Any) -> None:
        super().__init__(keep=None, **known)
        self.answer = bytearray()
        self.content = bytearray()

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class _Reading:
    """Follows one answer: callbacks of httptools."""

    def __init__(self, request: Relayed) -> None:
        self.request = request
        self.done = False
        self.keep_alive = False
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        if self.parser.get_status_code() >= 200:
            self.request.status = self.parser.get_status_code()
            self.keep_alive = self.parser.should_keep_alive()
            self.done = self.request.method == "HEAD"

    def on_body(self, data: bytes) -> None:
        self.request.content += data

    def on_message_complete(self) -> None:
        self.done = self.parser.get_status_code() >= 200


class Relay:
    """Listens on a free port and passes each request on to a server, one connection for each, and its answer back as
    it comes. When the client leaves, the server's connection is closed, too."""

    def __init__(self, upstream_port: int) -> None:
        self.requests: list[Relayed] = []
        self.errors: list[BaseException] = []
        """Mistakes of the relay itself; the fixtures check that there are none."""
        self._upstream_port = upstream_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stops to listen and ends what is under way."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def wait_for(self, matching: Callable[[Relayed], bool]) -> Relayed:
        """The first request that matches, once its body is there."""
        async with asyncio.timeout(SECONDS):
            while True:
                for request in self.requests:
                    if request.body_read.is_set() and matching(request):
                        return request
                await self._changed.wait()

    def inference(self) -> list[Relayed]:
        """The calls that a model would answer."""
        return [request for request in self.requests if request.method == "POST" and request.path in INFERENCE]

    # What the cloud does more.

    def refusal(self, request: Relayed) -> bytes | None:
        """An answer instead of the server's."""
        return None

    def ended(self, request: Relayed) -> None:
        """Called once for each request that was relayed, however it ended."""

    # One connection.

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        left = asyncio.Event()
        inbound = Inbound(reader, left.set)
        pump = asyncio.create_task(inbound.pump())
        try:
            while await self._serve(inbound, left, writer):
                pass
        except (PeerClosedError, BadRequestError, BadBodyError, ConnectionError, asyncio.CancelledError):
            pass  # a relay that is closed ends its connections; there is nobody to tell
        finally:
            pump.cancel()
            writer.transport.abort()
            await asyncio.gather(pump, return_exceptions=True)
            self._tasks.discard(task)

    async def _serve(self, inbound: Inbound, left: asyncio.Event, writer: asyncio.StreamWriter) -> bool:
        raw = await inbound.head(_MAX_HEAD)
        if raw is None:
            return False
        head = Head(raw)
        now = asyncio.get_running_loop().time()
        request = Relayed(index=len(self.requests), connection=0, raw_head=raw, head=head, arrived_at=now)
        self.requests.append(request)
        async for _ in read_body(inbound, head, request):
            pass
        self._announce()
        work = asyncio.create_task(self._answer(request, writer))
        leaving = asyncio.create_task(left.wait())
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            request.outcome = "complete" if work.done() and not work.exception() else "aborted"
        finally:
            leaving.cancel()
            work.cancel()
            await asyncio.gather(work, leaving, return_exceptions=True)
        if request.outcome == "aborted":
            request.closed_by_peer.set()
        error = None if work.cancelled() else work.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.errors.append(error)
        self.ended(request)
        request.finished.set()
        return request.outcome == "complete" and work.result() and head.keep_alive

    async def _answer(self, request: Relayed, writer: asyncio.StreamWriter) -> bool:
        """Relays one answer; whether the connection may serve another."""
        refused = self.refusal(request)
        if refused is not None:
            writer.write(refused)
            await writer.drain()
            return True
        reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        reading = _Reading(request)
        try:
            upstream.write(self._head(request) + request.raw_body)
            while not reading.done:
                data = await reader.read(65536)
                if not data:
                    return False
                request.answer += data
                if writer.transport.is_closing():
                    raise ConnectionResetError("the client has left")  # uvloop would say so as a RuntimeError
                writer.write(data)
                await writer.drain()
                reading.parser.feed_data(data)
            return reading.keep_alive
        finally:
            upstream.transport.abort()

    def _head(self, request: Relayed) -> bytes:
        """The head as it came, with the server's own Host and without the key, which is not the server's."""
        line, *fields = request.raw_head[:-4].split(b"\r\n")
        kept = [field for field in fields if field.partition(b":")[0].lower() not in (b"host", b"authorization")]
        return b"\r\n".join((line, b"Host: 127.0.0.1:%d" % self._upstream_port, *kept, b"", b""))

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


INFERENCE = frozenset(
    (
        *("/api/chat", "/api/generate", "/api/embed", "/api/embeddings"),
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"),
    )
)
CLOUD_ROUTES = frozenset(
    (
        *(("GET", path) for path in ("/", "/api/tags", "/v1/models")),
        *(
            ("POST", path)
            for path in ("/api/chat", "/api/generate", "/api/show", "/api/web_search", "/api/web_fetch")
        ),
        *(("POST", path) for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages")),
    )
)


@dataclass(frozen=True)
class Bill:
    """What one call cost. `counted` says that the server told its tokens; else they are the front's own count of
    what passed."""

    model: str
    tokens_in: int
    tokens_out: int
    micro_usd: int
    counted: bool


class CloudFront(Relay):
    """A cloud that is a real server behind a key and a price list: `prices` in micro-USD per million tokens."""

    def __init__(self, upstream_port: int, *, key: str, prices: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(upstream_port)
        self.bills: list[Bill] = []
        self._key = key
        self._prices = prices

    @property
    def billed(self) -> int:
        """Micro-USD."""
        return sum(bill.micro_usd for bill in self.bills)

    def refusal(self, request: Relayed) -> bytes | None:
        if request.header_values("authorization") != [f"Bearer {self._key}"]:
            return _answer(b"401 Unauthorized", b"application/json; charset=utf-8", b'{"error":"unauthorized"}')
        if (request.method, request.path) not in CLOUD_ROUTES:
            return _answer(b"404 Not Found", b"text/plain", b"404 page not found")
        return None

    def ended(self, request: Relayed) -> None:
        if request.path not in INFERENCE or not request.answer or (request.status or 0) >= 400:
            return
        model = str(request.json()["model"])
        counts = told(request.path, bytes(request.content))
        counted = counts is not None and request.outcome == "complete"
        # Nobody told: no more than a byte is a token, and every record but the last is at least one.
        tokens_in, tokens_out = counts or (len(request.body), request.content.count(b"\n\n") or 1)
        price_in, price_out = self._prices[model]
        amount = -(-tokens_in * price_in // 1_000_000) - (-tokens_out * price_out // 1_000_000)
        self.bills.append(Bill(model, tokens_in, tokens_out, amount, counted))


def told(path: str, content: bytes) -> tuple[int, int] | None:
    """The tokens in and out that an answer tells of, in any dialect, streamed or whole; None where it tells none."""
    if path.startswith("/api/"):
        lines = content.splitlines()
        last = _object(lines[-1]) if lines else {}
        if last.get("done") is not True:
            return None
        return int(last.get("prompt_eval_count", 0)), int(last.get("eval_count", 0))
    records = [_object(content)] if content[:1] == b"{" else [
        _object(line[5:]) for line in content.splitlines() if line.startswith(b"data:")
    ]  # fmt: skip
    counts: tuple[Any, Any] | None = None
    for record in records:
        for usage in (record.get("usage"), (record.get("response") or {}).get("usage")):
            if isinstance(usage, dict) and record.get("type") != "message_start":
                counts = (
                    usage.get("prompt_tokens", usage.get("input_tokens")),
                    usage.get("completion_tokens", usage.get("output_tokens")),
                )
    if counts is None or None in counts:
        return None
    return int(counts[0]), int(counts[1])


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _answer(status: bytes, media: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (status, media, len(body), body)
