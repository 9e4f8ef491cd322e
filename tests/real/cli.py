"""Ollama's own command line, which is the same program as its server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from real_ollama import binary
from support.raw import SECONDS


@dataclass(frozen=True)
class Ran:
    """What a command wrote and how it ended."""

    code: int
    out: str
    err: str

    def rows(self) -> list[list[str]]:
        """A table's rows as words, without their times."""
        return [line.split("  ") for line in self.out.splitlines()]


@asynccontextmanager
async def started(port: int, home: Path, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running command; it is ended with the block."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "TERM": "dumb",
    }
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        str(binary()), *words, stdin=none, stdout=pipe, stderr=pipe, env=environment, cwd=home
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ollama(port: int, home: Path, *words: str) -> Ran:
    """Runs a command to its end."""
    async with asyncio.timeout(2 * SECONDS), started(port, home, *words) as process:
        out, err = await process.communicate()
    return Ran(process.returncode or 0, out.decode(), err.decode())
