"""`python -m sidecar.standins`: says what it is and where, and ends on Ctrl-C."""

from __future__ import annotations

import asyncio
import re
import signal
import sys

import pytest
from standins_support import ask


@pytest.mark.parametrize(("which", "number", "code"), [("local", signal.SIGINT, 130), ("cloud", signal.SIGTERM, 0)])
async def test_it_serves_until_a_signal(which: str, number: signal.Signals, code: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sidecar.standins", which, "--key", "k", "--model", "tiny", "--token-delay", "0"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert "stand-in" in line
    assert "not the real thing" in line
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    assert found
    answer = await ask(int(found.group(1)), "GET", "/api/tags", None, (("Authorization", "Bearer k"),))
    assert answer.header("X-Stand-In") == which
    assert [model["name"] for model in answer.json()["models"]] == ["tiny:latest"]
    process.send_signal(number)
    rest, _ = await process.communicate()
    assert (process.returncode, rest) == (code, b"stand-in ended\n")
