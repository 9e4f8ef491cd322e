"""The seal: a budget file that lacks draws of money grants nothing, and no crash refuses one that is whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hammer import NOON

from sidecar.core.budget import Caps, Reply, Step
from sidecar.stores import embedded
from sidecar.stores.embedded import EmbeddedStore
from sidecar.stores.keeper import StoreError
from sidecar.stores.seal import Seal, read_seal, seal_path, write_seal

ROOT = Path(__file__).parents[2]
CAPS = Caps(10_000, 10_000)


class Sidecar:
    """One holder on one store, as a process that starts has them."""

    def __init__(self, path: Path, holder: str = "a") -> None:
        self.store = EmbeddedStore(str(path), ZoneInfo("UTC"), lambda: NOON)
        self._holder = holder
        self._seq = 0

    def ask(self, need: int = 100) -> Reply:
        self._seq += 1
        return self.again(need)

    def again(self, need: int = 100) -> Reply:
        return self.store.step_now(Step(self._holder, self._seq, "", 0, 0, 0, need, need, CAPS))

    def fails(self, *texts: str) -> None:
        self._seq += 1
        self.fails_again(*texts)
        self._seq -= 1

    def fails_again(self, *texts: str) -> None:
        with pytest.raises(StoreError) as caught:
            self.again()
        for text in (self.store._path, str(self.store._seal), *texts):
            assert text in str(caught.value)

    def close(self) -> None:
        self.store._close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "budget.db"


@pytest.fixture
def seal(path: Path) -> Path:
    return path.with_name("budget.seal")


@pytest.fixture
def start(path: Path) -> Iterator[list[Sidecar]]:
    """The sidecars that a test started, closed at its end."""
    started: list[Sidecar] = []
    yield started
    for one in started:
        one.close()


def spend(path: Path, need: int = 6_000, times: int = 1) -> None:
    """A sidecar that took money and is gone without a word."""
    one = Sidecar(path, f"gone-{os.urandom(4).hex()}")
    for _ in range(times):
        assert one.ask(need).granted == need
    one.close()


# Databases that lack draws.


def test_a_database_that_is_removed_between_two_runs_is_missed(path: Path, seal: Path) -> None:
    spend(path)
    for one in path.parent.glob("budget.db*"):
        one.unlink()
    newcomer = Sidecar(path)
    for _ in range(2):
        newcomer.fails("missing", "put the newest database back", "delete both")
    assert not path.exists()
    assert seal.exists()


def test_a_database_that_is_emptied_between_two_runs_is_missed(path: Path) -> None:
    spend(path)
    path.write_bytes(b"")
    Sidecar(path).fails("another database")


def test_an_older_copy_is_recognised_by_a_sidecar_that_never_saw_the_newer_one(path: Path) -> None:
    spend(path, 1_000)
    shutil.copy(path, path.with_name("copy"))
    spend(path, 2_000, times=2)
    shutil.copy(path.with_name("copy"), path)
    Sidecar(path).fails("older", "1 of 3 draws", "put the newest database back")


def test_the_database_of_another_budget_is_recognised(path: Path, tmp_path: Path) -> None:
    spend(path)
    spend(tmp_path / "other" / "budget.db", 1, times=9)
    shutil.copy(tmp_path / "other" / "budget.db", path)
    Sidecar(path).fails("another database")


@pytest.mark.parametrize("how", ["in place", "renamed"])
def test_the_newest_database_put_back_is_good_without_a_restart(path: Path, how: str) -> None:
    spend(path, 1_000)
    old = path.with_name("old")
    shutil.copy(path, old)
    spend(path)
    new = path.with_name("new")
    shutil.copy(path, new)
    shutil.copy(old, path)
    sidecar = Sidecar(path)
    sidecar.fails("older")
    if how == "in place":
        shutil.copy(new, path)
    else:
        new.rename(path)
    assert sidecar.ask(100).left == 2_900
    sidecar.close()


def test_with_both_files_gone_a_new_budget_begins(path: Path, seal: Path) -> None:
    spend(path)
    path.unlink()
    sidecar = Sidecar(path)
    sidecar.fails("delete both")
    seal.unlink()
    assert sidecar.ask(100).left == 9_900
    sidecar.close()


@pytest.mark.parametrize("content", [b"", b"notes\n", b"[]", b'{"database": 1, "draws": 1}', b'{"database": "x"}'])
def test_what_is_no_seal_is_said_and_left_as_it_is(path: Path, seal: Path, content: bytes) -> None:
    spend(path)
    seal.write_bytes(content)
    sidecar = Sidecar(path)
    sidecar.fails("no seal", "delete that file")
    assert seal.read_bytes() == content
    seal.unlink()
    assert sidecar.ask(100).left == 3_900
    sidecar.close()


# Databases that are whole.


def test_a_database_without_a_seal_is_taken_as_it_is_and_sealed_again(path: Path, seal: Path) -> None:
    spend(path, times=1)
    before = read_seal(seal)
    seal.unlink()
    sidecar = Sidecar(path)
    assert sidecar.ask(0).left == 4_000
    assert read_seal(seal) == before
    sidecar.close()


def test_a_database_that_granted_nothing_has_no_seal(path: Path, seal: Path) -> None:
    """So a first start that is cut off leaves nothing behind that refuses the second one."""
    sidecar = Sidecar(path)
    sidecar.ask(0)
    assert not seal.exists()
    sidecar.close()
    path.unlink()
    assert Sidecar(path).ask(0).left == 10_000


def test_the_seal_is_ours_alone_and_follows_every_draw(path: Path, seal: Path) -> None:
    sidecar = Sidecar(path)
    for draws in range(1, 4):
        sidecar.ask()
        found = read_seal(seal)
        assert found is not None
        assert found.draws == draws
        sidecar.ask(0)
        assert read_seal(seal) == found
    assert seal.stat().st_mode & 0o777 == 0o600
    sidecar.close()


def test_a_crash_between_a_draw_and_its_seal_refuses_nothing_and_forgets_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spend(path, 1_000)

    def crash(where: Path, seal: Seal) -> None:
        raise KeyboardInterrupt

    victim = Sidecar(path, "victim")
    with monkeypatch.context() as patched:
        patched.setattr(embedded, "write_seal", crash)
        with pytest.raises(KeyboardInterrupt):
            victim.ask(2_000)
    victim.close()
    next_one = Sidecar(path, "next")
    assert next_one.ask(500).left == 6_500
    next_one.close()


def test_money_whose_draw_cannot_be_sealed_is_not_used_until_it_can(
    path: Path, seal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spend(path, 1_000)
    before = read_seal(seal)

    def full(where: Path, seal: Seal) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sidecar = Sidecar(path)
    sidecar._seq = 1
    with monkeypatch.context() as patched:
        patched.setattr(embedded, "write_seal", full)
        sidecar.fails_again("No space left", "free space")
        sidecar.fails_again("No space left", "free space")  # nor when the step is said again
    assert read_seal(seal) == before
    reply = sidecar.again()
    assert (reply.granted, reply.left) == (100, 8_900)
    after = read_seal(seal)
    assert after is not None
    assert after.draws == 2
    sidecar.close()


def test_the_older_of_two_seals_does_not_replace_the_newer_one(
    path: Path, seal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process draws between another one's draw and its seal, at the last moment before the lock."""
    slow, quick = Sidecar(path, "slow"), Sidecar(path, "quick")
    is_sealed = slow.store._is_sealed

    def and_meanwhile(root: Any) -> bool:
        answer = is_sealed(root)
        monkeypatch.setattr(slow.store, "_is_sealed", is_sealed)
        quick.ask()
        return answer

    monkeypatch.setattr(slow.store, "_is_sealed", and_meanwhile)
    slow.ask()
    found = read_seal(seal)
    assert found is not None
    assert found.draws == 2
    slow.close()
    quick.close()


def test_processes_that_are_killed_at_any_moment_leave_a_seal_that_fits(path: Path, seal: Path) -> None:
    program = Path(__file__).with_name("hammer.py")
    granted = 0
    for number in range(6):
        processes = [
            subprocess.Popen(
                [sys.executable, str(program), str(path), f"h{number}-{which}", "1", "10000"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={"PYTHONPATH": str(ROOT)},
            )
            for which in range(2)
        ]
        for process in processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            granted += int(process.stdout.readline())
        for process in processes:
            process.kill()
        for process in processes:
            said, _ = process.communicate()
            granted += sum(int(line) for line in said.splitlines() if line.isdigit())
            assert "error" not in said
        found = read_seal(seal)
        assert found is not None
        assert found.draws >= granted, "what was granted is sealed"
    auditor = Sidecar(path)
    assert auditor.ask(0).left <= 10_000 - granted
    auditor.close()


# The file itself.


def test_a_seal_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.seal"
    write_seal(path, Seal("x", 1))

    def fail(number: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="I/O"):
            write_seal(path, Seal("x", 2))
    assert read_seal(path) == Seal("x", 1)
    write_seal(path, Seal("x", 3))
    assert json.loads(path.read_bytes()) == {"database": "x", "draws": 3}


@pytest.mark.parametrize(
    ("database", "seal"), [("budget.db", "budget.seal"), ("budget", "budget.seal"), ("a.seal", "a.sealed")]
)
def test_the_seal_has_a_name_of_its_own(database: str, seal: str) -> None:
    assert seal_path(Path("/state") / database) == Path("/state") / seal
