"""The real command in a process of its own, on free ports, always ended by its own pid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.world import merge

SECONDS = 30.0
COMMAND = (sys.executable, "-m", "sidecar")
# A new network with a loopback of its own, so that every port is free; needs root.
OWN_NETWORK = ("unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def can_unshare() -> bool:
    """Whether this process may make namespaces, so that the tests that need one can run."""
    return os.geteuid() == 0 and os.path.exists("/usr/bin/unshare")


def free_port() -> int:
    """A port that was free a moment ago, for what cannot say which one it took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def listens(port: int) -> None:
    """Waits until something listens on a port."""
    async with asyncio.timeout(SECONDS):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Nothing of ours and nothing of the machine's: what the sidecar sees is what the test says."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), **(more or {})}


async def run_command(
    *arguments: str,
    home: Path,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    command: Sequence[str] = COMMAND,
) -> Done:
    """Runs a command to its end."""
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd or home,
        env=environment(home, env),
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Done(process.returncode or 0, out.decode(), err.decode())


class Process:
    """A command that runs. `lines` are those of stderr so far, `out` those of stdout."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._changed = asyncio.Event()
        self.lines: list[str] = []
        self.out: list[str] = []
        pairs = ((process.stderr, self.lines), (process.stdout, self.out))
        self._pumps = [asyncio.create_task(self._pump(stream, into)) for stream, into in pairs if stream is not None]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.returncode

    async def _pump(self, stream: asyncio.StreamReader, into: list[str]) -> None:
        while line := await stream.readline():
            into.append(line.decode().rstrip("\n"))
            self._tell()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, wanted: Callable[[], Any], what: str) -> Any:
        """Waits for a line that makes `wanted` true, and gives its value."""
        try:
            async with asyncio.timeout(SECONDS):
                while not (value := wanted()):
                    if all(pump.done() for pump in self._pumps):
                        raise AssertionError(f"it ended without {what}: {self.lines} {self.out}")
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {what} in {self.lines} {self.out}") from None
        return value

    async def logged(self, text: str, times: int = 1) -> str:
        """The message of the log line in which a text stands, the nth of them."""

        def found() -> str | None:
            lines = [event["message"] for event in self.events() if text in event.get("message", "")]
            return lines[times - 1] if len(lines) >= times else None

        return str(await self.until(found, f"log line with {text!r}"))

    async def printed(self, text: str) -> str:
        """The line of stdout in which a text stands."""
        return str(await self.until(lambda: next((line for line in self.out if text in line), None), repr(text)))

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """The log so far."""
        parsed = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [event for event in parsed if not kind or event["event"] == kind]

    async def calls(self, count: int) -> list[dict[str, Any]]:
        """The log lines of the first `count` calls."""
        wanted = lambda: (found := self.events("call")) and len(found) >= count and found  # noqa: E731
        found: list[dict[str, Any]] = await self.until(wanted, f"{count} lines of calls")
        return found

    async def ports(self) -> tuple[int, int]:
        """The data port and the admin port that it took."""
        said = await self.logged("serving on ")
        found = re.search(r"serving on \S*?:(\d+),.*? admin on \S*?:(\d+);", said)
        assert found, said
        return int(found[1]), int(found[2])

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Waits for the end and gives the exit code."""
        async with asyncio.timeout(SECONDS):
            code = await self._process.wait()
            await asyncio.gather(*self._pumps)
        return code

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send(number)
        return await self.ended()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


@asynccontextmanager
async def started(
    *arguments: str,
    home: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    command: Sequence[str] = COMMAND,
    stdout: int | None = asyncio.subprocess.PIPE,
    stderr: int | None = asyncio.subprocess.PIPE,
) -> AsyncIterator[Process]:
    """A command that runs until its test is over."""
    made = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd or home,
        env=environment(home, env),
        limit=2**22,
    )
    process = Process(made)
    try:
        yield process
    finally:
        await process.kill()


def settings_file(folder: Path, over: Mapping[str, Any] | None = None, name: str = "settings.yaml") -> Path:
    """A settings file with free ports and its state in `folder`; `over` is merged into it."""
    settings = merge(
        {
            "listen": {"data": ["127.0.0.1:0"], "admin": "127.0.0.1:0", "drain_seconds": 1},
            "local": {"base_url": "http://127.0.0.1:9", "gpu": {"source": "none"}},
            "state_dir": str(folder / "state"),
            "audit": {"stdout": False},
            # Wide enough for a disk that is busy with other tests.
            "budget": {"wait_ms": 10_000},
        },
        over or {},
    )
    path = folder / name
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@asynccontextmanager
async def serving(
    folder: Path,
    over: Mapping[str, Any] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | None = asyncio.subprocess.PIPE,
) -> AsyncIterator[tuple[Process, int, int]]:
    """`serve` with settings as in `settings_file`: the process, its data port and its admin port."""
    path = settings_file(folder, over)
    async with started("serve", "--config", str(path), home=folder, env=env, stdout=stdout) as process:
        port, admin = await process.ports()
        yield process, port, admin
