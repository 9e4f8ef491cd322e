"""Several real processes on one budget file: together they never get more than the cap, whoever is killed when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hammer import NOON

from sidecar.core.budget import Caps, Step
from sidecar.stores.embedded import EmbeddedStore

ROOT = Path(__file__).parents[2]
NEED = 7


class Hammers:
    """Processes that take money; all are gone at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, holder: str, cap: int) -> subprocess.Popen[str]:
        program = Path(__file__).with_name("hammer.py")
        process = subprocess.Popen(
            [sys.executable, str(program), str(self.path), holder, str(NEED), str(cap)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
        )
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def hammers(tmp_path: Path) -> Iterator[Hammers]:
    one = Hammers(tmp_path / "state" / "budget.db")
    yield one
    one.end()


def go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def said(process: subprocess.Popen[str], lines: int) -> list[int]:
    """What a process got first."""
    assert process.stdout is not None
    return [int(line) for line in (process.stdout.readline() for _ in range(lines)) if line]


def taken(process: subprocess.Popen[str]) -> list[int]:
    """What a process got from here to its end; an error among it fails."""
    assert process.stdout is not None
    return [int(line) for line in process.stdout.read().splitlines()]


def left(path: Path, cap: int) -> int:
    """What a fresh sidecar finds."""
    store = EmbeddedStore(str(path), ZoneInfo("UTC"), lambda: NOON)
    reply = store.step_now(Step("auditor", 1, "", 0, 0, 0, 0, 0, Caps(cap, cap)))
    store._close()
    return reply.left


def test_processes_that_start_at_once_on_a_new_file_share_one_cap(hammers: Hammers) -> None:
    cap = 1000
    processes = [hammers.start(f"holder-{number}", cap) for number in range(3)]
    go(*processes)
    grants = [taken(process) for process in processes]
    assert sum(map(sum, grants)) == cap
    assert left(hammers.path, cap) == 0


def test_what_a_killed_process_was_granted_counts_as_spent(hammers: Hammers) -> None:
    cap = 4000
    victim, other, successor = (hammers.start(name, cap) for name in ("victim", "other", "successor"))
    go(victim)
    granted = sum(said(victim, 10))
    go(other)
    granted += sum(said(other, 1))
    victim.kill()
    granted += sum(taken(victim)) + sum(taken(other))
    # The last grant may have been written down and never said.
    assert cap - NEED <= granted <= cap
    # Nor does its money come back to the process that takes its place.
    go(successor)
    assert taken(successor) == []
    assert left(hammers.path, cap) == 0


def test_a_file_whose_every_user_was_killed_goes_on_where_it_was(hammers: Hammers) -> None:
    cap = 1500
    *victims, last = (hammers.start(f"holder-{number}", cap) for number in range(4))
    granted = 0
    for victim in victims:
        go(victim)
        granted += sum(said(victim, 5))
        victim.kill()
        granted += sum(taken(victim))
    go(last)
    granted += sum(taken(last))
    assert cap - len(victims) * NEED <= granted <= cap
