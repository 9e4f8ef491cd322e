"""An upstream for measurements: `streams.py PORT`.

`/stream?chunks=N&ms=T` sends N records of NDJSON, one chunk each T ms; `/flood` sends without end and without pause;
anything else reads the request's body to its end and answers with its size.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import parse_qs, urlsplit

import uvloop

RECORD = (
    b'{"model":"llama3","created_at":"2026-11-23T10:00:00.0Z",'
    b'"message":{"role":"assistant","content":" word"},"done":false}\n'
)
LAST = b'{"model":"llama3","done":true,"done_reason":"stop","prompt_eval_count":26,"eval_count":259}\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(RECORD), RECORD)
END = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LAST), LAST)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await _answer(head, reader, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    size = await _body(head, reader)
    target = urlsplit(head.split(b" ", 2)[1].decode())
    query = parse_qs(target.query)
    if "chunks" in query:
        writer.write(HEAD)
        seconds = float(query["ms"][0]) / 1000
        for _ in range(int(query["chunks"][0])):
            writer.write(CHUNK)
            await asyncio.sleep(seconds)
        writer.write(END)
    elif target.path == "/flood":
        writer.write(HEAD)
        while True:
            writer.write(CHUNK * 64)
            await writer.drain()
    elif target.path.startswith("/api/show") or target.path.startswith("/api/tags"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
    else:
        text = b"%d\n" % size
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
        )
    await writer.drain()


async def _body(head: bytes, reader: asyncio.StreamReader) -> int:
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    left = length
    while left:
        data = await reader.read(min(left, 1 << 20))
        if not data:
            raise ConnectionError
        left -= len(data)
    return length


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), limit=1 << 20, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
