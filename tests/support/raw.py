"""HTTP on a bare socket: what was written and read, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

SECONDS = 15.0


@dataclass(slots=True)
class Answer:
    """One answer as it came: `fields` in order and case, `body` without framing, `raw` with everything."""

    status_line: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    raw: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = True
    interim: list[bytes] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.status_line.split()[1])

    def get(self, name: str) -> str | None:
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.fields if key.lower() == wanted), None)

    def json(self) -> Any:
        return json.loads(self.body)

    def lines(self) -> list[Any]:
        """The records of NDJSON."""
        return [json.loads(line) for line in self.body.splitlines() if line]

    def events(self) -> list[tuple[str, str]]:
        """The events of SSE: (name, data)."""
        found = []
        for block in self.body.replace(b"\r\n", b"\n").split(b"\n\n"):
            rows = [row.partition(b":") for row in block.split(b"\n") if row]
            if rows:
                name = b"".join(value.strip() for key, _, value in rows if key == b"event")
                data = b"\n".join(value.strip() for key, _, value in rows if key == b"data")
                found.append((name.decode(), data.decode()))
        return found


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, method: str = "GET") -> Answer:
        """The next whole answer; interim ones are kept aside."""
        interim = []
        while True:
            head = await self.head()
            if not 100 <= head.status < 200:
                break
            interim.append(head.raw)
        head.interim = interim
        await self.rest(head, method)
        return head

    async def head(self) -> Answer:
        async with asyncio.timeout(SECONDS):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        lines = raw[:-4].split(b"\r\n")
        fields = []
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            fields.append((name, value.strip()))
        return Answer(lines[0], fields, raw=raw)

    async def rest(self, answer: Answer, method: str = "GET") -> None:
        """Reads the body that belongs to a head; `complete` is False where it was cut."""
        length = answer.get("content-length")
        if method == "HEAD" or answer.status in (204, 304):
            return
        try:
            async with asyncio.timeout(SECONDS):
                if (answer.get("transfer-encoding") or "").lower() == "chunked":
                    while await self.chunk(answer) is not None:
                        pass
                elif length is not None:
                    answer.body = await self.reader.readexactly(int(length))
                    answer.raw += answer.body
                else:
                    answer.body = await self.reader.read()
                    answer.raw += answer.body
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            partial = error.partial if isinstance(error, asyncio.IncompleteReadError) else b""
            answer.body += partial
            answer.raw += partial
            answer.complete = False

    async def chunk(self, answer: Answer) -> bytes | None:
        """The next chunk's payload; None behind the last one."""
        async with asyncio.timeout(SECONDS):
            line = await self.reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            if not size:
                while (trailer := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                    answer.raw += trailer
                answer.raw += line + b"\r\n"
                return None
            data = await self.reader.readexactly(size + 2)
        answer.raw += line + data
        answer.body += data[:-2]
        answer.chunks.append(data[:-2])
        return data[:-2]

    async def closed(self) -> bool:
        """Whether the peer closes without another byte."""
        async with asyncio.timeout(SECONDS):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def leave(self) -> None:
        """Closes at once, as a client that is killed."""
        self.writer.transport.abort()


@asynccontextmanager
async def connect(port: int, host: str = "127.0.0.1") -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(host, port, limit=2**24)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def request(
    method: str,
    target: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    *,
    host: str = "localhost:11434",
    version: str = "HTTP/1.1",
    chunked: bool = False,
) -> bytes:
    """A request's bytes. A body gets a Content-Length unless it is `chunked` or the headers frame it."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    names = {name.lower() for name, _ in pairs}
    lines = [f"{method} {target} {version}"]
    if "host" not in names and host:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in pairs]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    elif body and "content-length" not in names and "transfer-encoding" not in names:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


async def ask(
    port: int,
    method: str,
    target: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes | Any = b"",
) -> Answer:
    """One request on a connection of its own. A body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with connect(port) as client:
        await client.send(request(method, target, headers, data))
        return await client.read(method)
