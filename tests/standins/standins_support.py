"""A raw HTTP client for looking at a stand-in byte by byte; written apart from it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self


@dataclass
class RawAnswer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    chunks: list[bytes]

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        return found[-1] if found else None

    def json(self) -> Any:
        return json.loads(self.body)

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    def events(self) -> list[tuple[str, Any]]:
        """(name, data) of each SSE event; the data of [DONE] stays text."""
        found = []
        for block in self.body.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            if fields:
                data = fields["data"]
                found.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
        return found


class RawPeer:
    """One connection. Reads raise `asyncio.IncompleteReadError` when the server ends early."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 23))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(self, method: str, path: str, body: Any = None, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.send(request_bytes(method, path, body, headers))

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw.strip().split("\r\n")
        return int(first.split(" ")[1]), [(line.split(": ", 1)[0], line.split(": ", 1)[1]) for line in lines]

    async def chunk(self) -> bytes:
        """The next chunk; empty for the last one."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self, *, method: str = "GET") -> RawAnswer:
        status, headers = await self.head()
        named = {name.lower(): value for name, value in headers}
        chunks: list[bytes] = []
        if method == "HEAD" or status in (204, 304):
            pass
        elif named.get("transfer-encoding") == "chunked":
            chunks = await self.rest_of_chunks()
        elif "content-length" in named:
            chunks = [await self.reader.readexactly(int(named["content-length"]))]
        else:
            chunks = [await self.reader.read()]
        return RawAnswer(status, headers, b"".join(chunks), chunks)

    async def rest_of_chunks(self) -> list[bytes]:
        chunks = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return chunks

    async def rest(self) -> bytes:
        """All until the server ends the connection."""
        return await self.reader.read()

    def leave(self, *, reset: bool = False) -> None:
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()


def request_bytes(method: str, path: str, body: Any = None, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers)]
    if body is not None:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "\r\n"]).encode() + content


@asynccontextmanager
async def peer(port: int) -> AsyncIterator[RawPeer]:
    one = await RawPeer.open(port)
    try:
        yield one
    finally:
        one.writer.close()
        await asyncio.gather(one.writer.wait_closed(), return_exceptions=True)


async def ask(
    port: int, method: str, path: str, body: Any = None, headers: tuple[tuple[str, str], ...] = ()
) -> RawAnswer:
    """One request on a connection of its own."""
    async with peer(port) as one:
        one.ask(method, path, body, headers)
        return await one.answer(method=method)


def chat(text: str = "hello there", **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}
