"""A state directory that cannot be written: local calls go on, no paid call is made, and the log says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecar.standins import StandInCloud, StandInModel, StandInOllama
from support.process import COMMAND, can_unshare, serving, settings_file, started
from support.raw import ask
from support.world import KEY, PRICES, TEXT_MODEL

HIGH = {"X-Quality-Requirement": "high"}
CHAT = {"model": "llama3", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
EXTRACTION = {**CHAT, "format": {"type": "object"}}


def mounted(folder: Path, options: str) -> Sequence[str]:
    """The command with a file system of its own in a folder; it goes when the command does."""
    script = f'mount -t tmpfs -o {options} tmpfs "{folder}" && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh", *COMMAND)


@pytest.mark.parametrize("how", ["a file in its place", "read-only", "full"])
async def test_what_cannot_be_booked_is_not_spent(tmp_path: Path, how: str) -> None:
    state = tmp_path / "state"
    command: Sequence[str] = COMMAND
    if how == "a file in its place":
        state.write_bytes(b"")
    elif not can_unshare():
        pytest.skip("NOT RUN: a file system of its own needs root and unshare")
    else:
        state.mkdir()
        command = mounted(state, "ro" if how == "read-only" else "size=16k")
    async with (
        StandInOllama([StandInModel("llama3:latest")]) as local,
        StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES) as cloud,
    ):
        over = {
            "local": {"base_url": local.base_url},
            "ollama_cloud": {"api_key": KEY, "base_url": cloud.base_url},
            "budget": {"wait_ms": 100},
        }
        path = settings_file(tmp_path, over)
        async with started("serve", "--config", str(path), home=tmp_path, command=command) as process:
            port, admin = await process.ports()
            said = await process.logged(f"the budget store did not answer: {state}/budget.db: ")
            assert re.search(r"\. .*(writable|can be written|free space|budget\.embedded\.path)", said), "the fix"
            plain = await ask(port, "POST", "/api/chat", {}, CHAT)
            assert (plain.status, plain.get("x-sidecar-reason")) == (200, "default_local")
            for _ in range(3):
                answer = await ask(port, "POST", "/api/chat", HIGH, EXTRACTION)
                assert (answer.status, answer.get("x-sidecar-location")) == (200, "local")
                assert answer.get("x-sidecar-reason") == "budget_unavailable"
            assert (await ask(admin, "GET", "/readyz")).status == 200
            calls = await process.calls(4)
            assert str(state) in calls[-1]["detail"]
            assert await process.stop() == 0
        assert not cloud.requests
    warned = [event for event in process.events() if "the budget store did not answer" in event.get("message", "")]
    assert len(warned) == 1, "one reason is said once, not with every call"


async def test_an_audit_log_that_cannot_be_written_closes_the_cloud(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    async with (
        StandInOllama([StandInModel("llama3:latest")]) as local,
        StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES) as cloud,
    ):
        over = {
            "local": {"base_url": local.base_url},
            "ollama_cloud": {"api_key": KEY, "base_url": cloud.base_url},
            "audit": {"path": str(tmp_path / "audit")},
        }
        async with serving(tmp_path, over) as (process, port, admin):
            answer = await ask(port, "POST", "/api/chat", HIGH, EXTRACTION)
            assert (answer.status, answer.get("x-sidecar-location")) == (200, "local")
            assert answer.get("x-sidecar-reason") == "cloud_unavailable"
            (call,) = await process.calls(1)
            assert str(tmp_path / "audit") in json.dumps(call)
            page = (await ask(admin, "GET", "/metrics")).body.decode()
            failures = [line for line in page.splitlines() if line.startswith("ollama_sidecar_audit_failures ")]
            assert failures
            assert float(failures[0].split()[1]) > 0
        assert not cloud.requests
        assert cloud.billed_micro_usd == 0
