"""stdout and stderr that are closed, gone or stuck hold no call up, and nothing else gets their numbers."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sidecar.standins import StandInCloud, StandInModel, StandInOllama
from support.process import COMMAND, Process, free_port, listens, run_command, settings_file, started
from support.raw import Answer, ask
from support.world import KEY, PRICES, TEXT_MODEL

HIGH = {"X-Quality-Requirement": "high"}
CHAT = {"model": "llama3", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
EXTRACTION = {**CHAT, "format": {"type": "object"}}
F_SETPIPE_SZ = 1031


@asynccontextmanager
async def cloudy(folder: Path, **how: Any) -> AsyncIterator[tuple[Process, int, StandInCloud]]:
    """A sidecar with a cloud and audit lines on stdout; what `how` says becomes of its streams."""
    port = free_port()
    async with (
        StandInOllama([StandInModel("llama3:latest")]) as local,
        StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES) as cloud,
    ):
        over = {
            "listen": {"data": [f"127.0.0.1:{port}"]},
            "local": {"base_url": local.base_url},
            "ollama_cloud": {"api_key": KEY, "base_url": cloud.base_url},
            "audit": {"stdout": True},
        }
        path = settings_file(folder, over)
        async with started("serve", "--config", str(path), home=folder, **how) as process:
            await listens(port)
            yield process, port, cloud


async def test_closed_streams_become_nothing_and_no_connection_gets_their_numbers(tmp_path: Path) -> None:
    command = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND)
    async with cloudy(tmp_path, command=command) as (process, port, cloud):
        assert [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (0, 1, 2)] == ["/dev/null"] * 3
        answers = await asyncio.gather(*(_extraction(port) for _ in range(20)))
        assert {(answer.status, answer.get("x-sidecar-location")) for answer in answers} == {(200, "cloud")}
        assert all(answer.json()["done"] is True for answer in answers)
        assert process.code is None
        assert await process.stop() == 0
        billed = cloud.billed_micro_usd
    with sqlite3.connect(tmp_path / "state" / "budget.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT settled FROM period WHERE kind = 'day'").fetchone() == (billed,)
    lines = [json.loads(line) for line in (tmp_path / "state" / "audit.log").read_text().splitlines()]
    assert sum(line["event"] == "ollama_cloud_execution" for line in lines) == 20


@pytest.mark.parametrize("which", ["stdout", "stderr"])
async def test_a_pipe_that_nobody_reads_delays_no_call(tmp_path: Path, which: str) -> None:
    reader, writer = os.pipe()
    try:
        with suppress(OSError):
            fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"\n" * 4096)  # full before the sidecar has said a word
        os.set_blocking(writer, True)
        async with cloudy(tmp_path, **{which: writer}) as (process, port, _):
            for _ in range(3):
                answers = await asyncio.gather(*(_extraction(port) for _ in range(15)))
                assert {answer.status for answer in answers} == {200}
            assert await process.stop() == 0, "it gives the waiting lines up after a moment"
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("which", ["stdout", "stderr"])
async def test_a_pipe_whose_reader_is_gone_ends_nothing(tmp_path: Path, which: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    async with cloudy(tmp_path, **{which: writer}) as (process, port, _):
        os.close(writer)
        assert {(await _extraction(port)).status for _ in range(5)} == {200}
        assert await process.stop() == 0


async def _extraction(port: int) -> Answer:
    return await ask(port, "POST", "/api/chat", HIGH, EXTRACTION)


# The other commands.


@pytest.mark.parametrize("arguments", [("version",), ("explain",), ("check", "settings.yaml"), ("demo", "--once")])
async def test_commands_with_closed_streams_do_their_work(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    settings_file(tmp_path)
    command = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND)
    assert (await run_command(*arguments, home=tmp_path, command=command)).code == 0


@pytest.mark.parametrize("arguments", [("version",), ("explain",), ("demo", "--once")])
async def test_an_output_that_cannot_be_written_is_an_error_and_no_traceback(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    command = ("sh", "-c", 'exec "$@" >/dev/full', "sh", *COMMAND)
    done = await run_command(*arguments, home=tmp_path, command=command, stdin=json.dumps(CHAT).encode())
    assert (done.code, done.err) == (2, "ollama-sidecar: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("arguments", ["version", "explain", "demo --once"])
async def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, arguments: str) -> None:
    """As with `… | head -1`: the reader is gone before the first word."""
    script = f'"$@" {arguments} | :; echo "${{PIPESTATUS[0]}}"'
    done = await run_command(home=tmp_path, command=("bash", "-c", script, "bash", *COMMAND))
    assert (done.out, done.err) == ("0\n", "")
