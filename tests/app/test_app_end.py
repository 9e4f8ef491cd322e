"""How `serve` ends: draining, cutting, exit codes, as PID 1, and in the middle of its start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.standins import StandInModel, StandInOllama, StepGate
from support.process import COMMAND, Process, can_unshare, serving, settings_file, started
from support.raw import Client, ask, connect, request

BODY = {"model": "llama3", "messages": [{"role": "user", "content": "Hello"}]}


@asynccontextmanager
async def streaming(folder: Path, **listen: float) -> AsyncIterator[tuple[Process, StandInOllama, StepGate, Client]]:
    """A sidecar in the middle of a streamed answer: two tokens are with the client, the third is held back."""
    async with StandInOllama([StandInModel("llama3:latest")]) as local:
        gate = local.gate = StepGate(open_through=2)
        over = {"local": {"base_url": local.base_url}, "listen": listen}
        async with serving(folder, over) as (process, port, _), connect(port) as client:
            await client.send(request("POST", "/api/chat", {}, json.dumps(BODY).encode()))
            await gate.reached(3)
            try:
                yield process, local, gate, client
            finally:
                gate.open_all()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_stream_that_ends_in_time_ends_whole(tmp_path: Path, number: signal.Signals, code: int) -> None:
    async with streaming(tmp_path, drain_seconds=20) as (process, _, gate, client):
        answer = await client.head()
        process.send(number)
        await asyncio.to_thread(_refused, (await process.ports())[0])
        gate.open_all()
        await client.rest(answer)
        assert answer.complete
        assert answer.lines()[-1]["done"] is True
        assert await process.ended() == code
    assert process.events()[-1]["message"] == "stopped"
    assert [event["outcome"] for event in process.events("call")] == ["ok"]


async def test_a_stream_that_does_not_end_in_time_gets_an_error_record(tmp_path: Path) -> None:
    async with streaming(tmp_path, drain_seconds=0) as (process, local, _, client):
        answer = await client.head()
        process.send(signal.SIGTERM)
        await client.rest(answer)
        assert answer.complete, "the framing is whole, and the record says that the answer is not"
        assert answer.lines()[-1] == {"error": "the sidecar is shutting down"}
        assert await process.ended() == 0
        (work,) = [request for request in local.requests if request.target == "/api/chat"]
        assert work.aborted
    assert process.events("call")[0]["outcome"] == "drained"
    assert "some answers were cut" in process.events()[-1]["message"]


async def test_readyz_says_so_while_it_drains_and_livez_stays_good(tmp_path: Path) -> None:
    async with streaming(tmp_path, drain_seconds=20) as (process, _, gate, __):
        port, admin = await process.ports()
        assert (await ask(admin, "GET", "/readyz")).status == 200
        process.send(signal.SIGTERM)
        await asyncio.to_thread(_refused, port)
        answer = await ask(admin, "GET", "/readyz")
        assert (answer.status, answer.body) == (503, b"draining\n")
        assert (await ask(admin, "GET", "/livez")).status == 200
        gate.open_all()
        assert await process.ended() == 0


async def test_the_second_ctrl_c_means_now(tmp_path: Path) -> None:
    async with streaming(tmp_path, drain_seconds=300) as (process, _, __, ___):
        process.send(signal.SIGINT)
        await asyncio.to_thread(_refused, (await process.ports())[0])
        process.send(signal.SIGINT)
        assert await process.ended() == 130


async def test_ctrl_c_ends_a_drain_that_sigterm_began(tmp_path: Path) -> None:
    async with streaming(tmp_path, drain_seconds=300) as (process, _, __, ___):
        process.send(signal.SIGTERM)
        await asyncio.to_thread(_refused, (await process.ports())[0])
        process.send(signal.SIGTERM)  # a second one changes nothing
        process.send(signal.SIGINT)
        assert await process.ended() == 130


async def test_an_idle_connection_does_not_hold_the_end_up(tmp_path: Path) -> None:
    async with serving(tmp_path, {"listen": {"drain_seconds": 300}}) as (process, port, _), connect(port) as client:
        await client.send(request("GET", "/"))
        assert (await client.read()).status == 503
        assert await process.stop() == 0
        assert await client.closed()


# In the middle of the start.

# Runs the command and stops it by a signal at the moment when a module is imported, or a function is entered.
_AT = """
import os, signal, sys
sys.argv = ["ollama-sidecar", "serve", "--config", sys.argv[1]]
def at(frame, event, _):
    if event == "call" and frame.f_code.co_filename.endswith(os.environ["AT_FILE"]):
        if frame.f_code.co_name == os.environ["AT_NAME"]:
            sys.setprofile(None)
            os.kill(os.getpid(), int(os.environ["AT_SIGNAL"]))
sys.setprofile(at)
from sidecar.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("settings/load.py", "load"),  # before anything
        ("sidecar/policies.py", "<module>"),  # among the imports
        ("sidecar/app.py", "run"),  # as the loop begins
        ("sidecar/app.py", "_open_ports"),  # before the ports
        ("proxy/admin.py", "__init__"),  # between ports and serving
    ],
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_during_the_start_ends_it(
    tmp_path: Path, file: str, name: str, number: signal.Signals, code: int
) -> None:
    path = settings_file(tmp_path)
    command = (sys.executable, "-c", _AT)
    env = {"AT_FILE": file, "AT_NAME": name, "AT_SIGNAL": str(int(number))}
    async with started(str(path), home=tmp_path, env=env, command=command) as process:
        assert await process.ended() == code
    assert not [line for line in process.lines if "Traceback" in line or '"exception"' in line]


# As PID 1 of a container.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_it_hears_signals_as_pid_1(tmp_path: Path, number: signal.Signals, code: int) -> None:
    if not can_unshare():
        pytest.skip("NOT RUN: a process tree of its own, to be PID 1 in, needs root and unshare")
    path = settings_file(tmp_path)
    command = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *COMMAND)
    async with started("serve", "--config", str(path), home=tmp_path, command=command) as process:
        port, _ = await process.ports()
        assert (await ask(port, "GET", "/")).status == 503
        with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as children:  # noqa: ASYNC230
            (child,) = map(int, children.read().split())
        with open(f"/proc/{child}/status", encoding="ascii") as status:  # noqa: ASYNC230
            assert next(line for line in status if line.startswith("NSpid")).split()[-1] == "1"
        os.kill(child, number)
        assert await process.ended() == code


def _refused(port: int) -> None:
    """Returns once nothing listens on a port any more."""
    import socket

    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionResetError:
            continue  # it came in just as the port was closed
        except ConnectionRefusedError:
            return
