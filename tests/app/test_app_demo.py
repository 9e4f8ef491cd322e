"""`demo`: the first thing that a new user runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.demo import CALLS, WIDE
from support.process import OWN_NETWORK, can_unshare, free_port, run_command, started
from support.raw import ask

ROW = re.compile(r"^(.{41})  (\w+) +(\w+) +(\S+) +(\S+) +([\d.]+)$")


@contextlib.contextmanager
def taken(port: int) -> Iterator[bool]:
    """Holds a port; False where somebody else on this machine does already."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            yield True
    except OSError:
        yield False


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


async def test_once_shows_every_row_and_leaves_nothing_behind(tmp_path: Path, temporary: Path) -> None:
    done = await run_command("demo", "--once", home=tmp_path, env={"TMPDIR": str(temporary)})
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 120
    rows = [match.groups() for line in lines if (match := ROW.match(line))]
    assert [row[0].rstrip() for row in rows] == [call.title for call in CALLS]
    wheres = [row[1] for row in rows]
    reasons = [row[2] for row in rows]
    assert wheres == [
        *("local", "cloud", "local", "local", "cloud", "local", "local", "cloud", "local", "cloud", "local"),
        *("cloud", "local"),
    ]
    assert reasons == [
        *("default_local", "high_quality_extraction", "sensitive_data", "sensitive_data", "high_quality_extraction"),
        *("low_latency_required", "default_local", "high_quality_extraction", "default_local"),
        *("cloud_model_requested", "cloud_unavailable", "high_quality_extraction", "budget_exceeded"),
    ]
    # What is booked: something for each answer of the cloud, nothing for any other.
    assert [row[4] != "-" for row in rows] == [where == "cloud" for where in wheres]
    said = re.search(r"Booked: ([\d.]+) of the day's 0.02 USD. The stand-in cloud billed ([\d.]+)\.", done.out)
    assert said
    assert float(said[1]) == pytest.approx(sum(float(row[4]) for row in rows if row[4] != "-"), abs=1e-5)
    assert float(said[1]) >= float(said[2]) > 0
    # Nobody can take the answers for a model's.
    assert "two STAND-INS with no models in them" in done.out
    assert "Their answers are invented" in done.out
    assert os.listdir(temporary) == []
    assert os.listdir(tmp_path) == ["tmp"]


async def test_ollamas_port_is_used_where_it_is_free_and_another_where_it_is_not(tmp_path: Path) -> None:
    """In a network of its own where there can be one, else with this machine's port held for a moment."""
    if can_unshare():
        command = (*OWN_NETWORK, sys.executable, "-m", "sidecar")
        free = await run_command("demo", "--once", home=tmp_path, command=command)
        assert free.out.splitlines()[0] == "The sidecar serves on 127.0.0.1:11434."
        holder = "import socket,sys,subprocess as s; h=socket.create_server(('127.0.0.1',11434)); "
        holder += "sys.exit(s.run([sys.executable,'-m','sidecar',*sys.argv[1:]]).returncode)"
        command = (*OWN_NETWORK, sys.executable, "-c", holder)
        other = await run_command("demo", "--once", home=tmp_path, command=command)
    else:
        with taken(11434):
            other = await run_command("demo", "--once", home=tmp_path)
    assert other.code == 0
    first = other.out.splitlines()[0]
    assert re.fullmatch(r"The sidecar serves on 127\.0\.0\.1:\d+, as Ollama's own port 11434 is taken\.", first)
    assert ":11434," not in first


async def test_a_port_that_was_asked_for_and_is_taken_is_an_error(tmp_path: Path, temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        env = {"TMPDIR": str(temporary)}
        done = await run_command("demo", "--once", "--port", str(port), home=tmp_path, env=env)
    assert (done.code, done.out) == (2, "")
    assert f"127.0.0.1:{port} is taken by " in done.err
    assert "Give --port another one" in done.err
    assert len(done.err.splitlines()) == 1
    assert os.listdir(temporary) == []


async def test_a_port_of_choice_and_a_narrow_terminal(tmp_path: Path) -> None:
    port = free_port()
    done = await run_command("demo", "--once", "--port", str(port), home=tmp_path, env={"COLUMNS": "80"})
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == f"The sidecar serves on 127.0.0.1:{port}."
    table = [line for line in lines if not line.startswith("  a local Ollama on http")]
    assert max(map(len, table)) <= 80 < WIDE
    assert [call.title in lines for call in CALLS] == [True] * len(CALLS)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_it_stays_up_until_a_signal_and_what_it_prints_can_be_tried(
    tmp_path: Path, temporary: Path, number: signal.Signals, code: int
) -> None:
    port = free_port()  # one that no other demonstration takes meanwhile
    async with started("demo", "--port", str(port), home=tmp_path, env={"TMPDIR": str(temporary)}) as process:
        last = await process.printed("sidecar.log")
        curl, _ = await process.printed("/api/chat"), await process.printed("    -d ")
        body = next(line for line in process.out if line.startswith("    -d "))
        arguments = shlex.split(curl.removesuffix("\\") + body)
        assert f"http://127.0.0.1:{port}/api/chat" in curl
        if shutil.which("curl"):
            done = await run_command(*arguments[1:], home=tmp_path, command=("curl", "-sS"))
            assert done.code == 0
            assert "X-Sidecar-Location: cloud" in done.out
            assert "X-Sidecar-Reason: high_quality_extraction" in done.out
        else:
            headers = {"X-Quality-Requirement": "high"}
            answer = await ask(port, "POST", "/api/chat", headers, arguments[arguments.index("-d") + 1].encode())
            assert answer.get("x-sidecar-location") == "cloud"
        for line in (last, await process.printed("audit.log")):
            assert os.stat(shlex.split(line)[1]).st_size > 0
        admin = int(re.search(r":(\d+)/metrics", await process.printed("/metrics"))[1])  # type: ignore[index]
        assert (await ask(admin, "GET", "/metrics")).status == 200
        assert await process.stop(number) == code
        assert process.lines == [], "its log is in its file"
    assert os.listdir(temporary) == []
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_ctrl_c_in_the_middle_of_the_table(tmp_path: Path, temporary: Path) -> None:
    async with started("demo", home=tmp_path, env={"TMPDIR": str(temporary)}) as process:
        await process.printed("a plain chat")
        assert await process.stop(signal.SIGINT) == 130
    assert not [line for line in process.lines if "Traceback" in line]
    assert os.listdir(temporary) == []


async def test_it_needs_no_home_no_writable_folder_and_no_settings(tmp_path: Path, temporary: Path) -> None:
    """It runs where it is, on settings of its own: what is set for the real one does not reach it."""
    env = {
        "TMPDIR": str(temporary),
        "OLLAMA_SIDECAR_CONFIG": "/not/there.yaml",
        "OLLAMA_SIDECAR_OLLAMA_CLOUD__ENABLED": "false",
        "OLLAMA_HOST": "http://192.0.2.1",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    command = ("env", "-u", "HOME", sys.executable, "-m", "sidecar")
    done = await run_command("demo", "--once", home=tmp_path, env=env, cwd=Path("/proc"), command=command)
    assert (done.code, done.err) == (0, "")
    assert done.out.count(" cloud ") >= 5


async def test_without_any_folder_for_its_files_it_says_so(tmp_path: Path) -> None:
    if not can_unshare():
        pytest.skip("NOT RUN: folders that nobody can write to need root and unshare")
    # As they are, for the checkout itself may be in one of them, but read-only.
    script = 'for at in /tmp /var/tmp; do mount --bind $at $at && mount -o remount,bind,ro $at; done && exec "$@"'
    command = ("unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "sidecar")
    done = await run_command("demo", "--once", home=tmp_path, cwd=Path("/proc"), command=command)
    if os.access("/usr/tmp", os.W_OK):
        pytest.skip("NOT RUN: Python finds a further folder here")
    assert (done.code, done.out) == (2, "")
    assert "Set TMPDIR to one" in done.err
