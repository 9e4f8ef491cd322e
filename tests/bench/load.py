"""Clients for measurements: many calls by wrk, many streams, slow readers, one large upload."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from parts import Proxy, find

PROMPT = "why is the sky blue and not green? " * 26
BODY = '{"model":"llama3","messages":[{"role":"user","content":"%s"}],"stream":false}' % PROMPT  # noqa: UP031 - JSON
STREAM_BODY = BODY.replace('"stream":false', '"stream":true').encode()
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Calls:
    """What wrk saw and what the proxy's process used: seconds."""

    count: int
    per_second: float
    cpu_per_call: float
    p50: float


def wrk(proxy: Proxy | None, port: int, folder: Path, *, connections: int, seconds: int) -> Calls:
    """Posts a chat of 1 KB over and over. `proxy` is whose CPU is counted."""
    script = folder / "post.lua"
    body = BODY.replace("\\", "\\\\").replace("'", "\\'")
    script.write_text(f"wrk.method='POST'\nwrk.body='{body}'\nwrk.headers['Content-Type']='application/json'\n")
    before = proxy.cpu() if proxy is not None else 0.0
    command = [str(find("wrk")), "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(script)]
    out = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/api/chat"], capture_output=True, text=True, check=True
    ).stdout
    used = (proxy.cpu() if proxy is not None else 0.0) - before
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(f"the load met errors:\n{out}")
    requests = re.search(r"(\d+) requests in", out)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s)", out)
    if requests is None or p50 is None:
        raise RuntimeError(f"wrk said something else:\n{out}")
    count = int(requests[1])
    return Calls(count, count / seconds, used / count, float(p50[1]) * _TIMES[p50[2]])


def _post(target: str) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
        target.encode(),
        len(STREAM_BODY),
        STREAM_BODY,
    )


async def streams(proxy: Proxy, *, count: int, chunks: int, milliseconds: float) -> float:
    """Reads `count` streams at once to their ends; the proxy's CPU seconds per chunk."""

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(_post(f"/api/chat?chunks={chunks}&ms={milliseconds}"))
        while not (await reader.read(65536)).endswith(b"0\r\n\r\n"):
            pass
        writer.close()

    before = proxy.cpu()
    async with asyncio.timeout(300):
        await asyncio.gather(*(one() for _ in range(count)))
    return (proxy.cpu() - before) / (count * chunks)


def slow_readers(proxy: Proxy, *, count: int, path: str = "/flood") -> float:
    """Opens streams without end and reads none of them: the proxy's memory per stream, in bytes."""
    idle = proxy.rss()
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", proxy.port))
        client.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
        clients.append(client)
    grown = _settled(proxy)
    for client in clients:
        client.close()
    return (grown - idle) / count


def _settled(proxy: Proxy) -> int:
    """Memory once it has stopped to grow: all buffers on the way are full."""
    last, calm = 0, 0
    while calm < 8:
        time.sleep(0.25)
        now = proxy.rss()
        calm = calm + 1 if abs(now - last) < 64 * 1024 else 0
        last = now
    return last


def upload(proxy: Proxy, *, gigabytes: int) -> tuple[float, float]:
    """One blob: how much memory the proxy had more than when idle, at most, in bytes; and bytes per second."""
    size = gigabytes << 30
    block = bytes(1 << 20)
    idle = most = proxy.rss()
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        head = b"POST /api/blobs/sha256:0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
        client.sendall(head)
        for index in range(size // len(block)):
            client.sendall(block)
            if index % 64 == 0:
                most = max(most, proxy.rss())
        answer = client.recv(65536)
    if b" 200 " not in answer.split(b"\r\n")[0] or not answer.endswith(b"%d\n" % size):
        raise RuntimeError(f"the upload was not taken whole: {answer[:200]!r}")
    return most - idle, size / (time.monotonic() - started)
