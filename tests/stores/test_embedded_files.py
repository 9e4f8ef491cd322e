"""The embedded store on files and disks that do not do as they should: a clear text, never a crash, never a grant."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hammer import NOON

from sidecar.core.budget import Caps, Reply, Step
from sidecar.stores import embedded
from sidecar.stores.embedded import MEMORY, EmbeddedStore
from sidecar.stores.keeper import StoreError

ROOT = Path(__file__).parents[2]
CAPS = Caps(10_000, 10_000)


class Sidecar:
    """One holder on one store."""

    def __init__(self, path: Path | str, holder: str = "a") -> None:
        self.store = EmbeddedStore(str(path), ZoneInfo("UTC"), lambda: NOON)
        self._holder = holder
        self._seq = 0

    def ask(self, need: int = 100) -> Reply:
        self._seq += 1
        return self.store.step_now(Step(self._holder, self._seq, "", 0, 0, 0, need, need, CAPS))

    def fails(self, *texts: str) -> str:
        """Asks, and expects an error that names the file and all these texts."""
        with pytest.raises(StoreError) as caught:
            self.ask()
        message = str(caught.value)
        for text in (self.store._path, *texts):
            assert text in message
        return message

    def close(self) -> None:
        self.store._close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "budget.db"


@pytest.fixture
def sidecar(path: Path) -> Iterator[Sidecar]:
    one = Sidecar(path)
    yield one
    one.close()


# A good file.


def test_a_new_file_and_its_folder_are_made_for_us_alone(sidecar: Sidecar, path: Path) -> None:
    assert sidecar.ask().granted == 100
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_step_is_on_disk_when_it_is_answered(sidecar: Sidecar) -> None:
    sidecar.ask()
    assert sidecar.store._database is not None
    assert sidecar.store._database.execute("PRAGMA journal_mode").fetchone() == ("truncate",)
    assert sidecar.store._database.execute("PRAGMA synchronous").fetchone() == (2,)


# Files that are something else.


def test_a_file_that_is_no_database_is_left_as_it_is(sidecar: Sidecar, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"these are my notes\n" * 100)
    sidecar.fails("not a database", "move it away")
    assert path.read_bytes() == b"these are my notes\n" * 100
    # The fix works without a restart.
    path.rename(path.with_name("notes"))
    sidecar._seq = 0
    assert sidecar.ask().granted == 100


def test_a_damaged_file_is_said(sidecar: Sidecar, path: Path) -> None:
    for _ in range(30):
        sidecar.ask(1)
    sidecar.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    other = Sidecar(path, "b")
    other.fails("malformed", "move it away")
    other.close()


def test_a_file_of_a_newer_version_is_not_touched(sidecar: Sidecar, path: Path) -> None:
    sidecar.ask()
    sidecar.close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    other = Sidecar(path, "b")
    other.fails("newer version", "schema 99", "budget.embedded.path")
    other.close()


def test_a_folder_in_the_files_place_is_said(sidecar: Sidecar, path: Path) -> None:
    path.mkdir(parents=True)
    sidecar.fails("budget.embedded.path")


def test_a_file_in_the_folders_place_is_said(sidecar: Sidecar, path: Path) -> None:
    path.parent.write_text("no folder")
    sidecar.fails("budget.embedded.path")


def test_a_file_that_another_program_holds_is_said_and_tried_again(
    sidecar: Sidecar, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "BUSY_SECONDS", 0.01)
    sidecar.ask()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    sidecar.fails("locked", "tried again")
    holder.execute("ROLLBACK")
    holder.close()
    sidecar._seq = 1
    assert sidecar.ask().left == 9800


# Files that change under us.


def test_a_file_that_is_deleted_while_in_use_grants_nothing(sidecar: Sidecar, path: Path) -> None:
    sidecar.ask()
    path.unlink()
    for _ in range(3):
        sidecar.fails("deleted or replaced", "restart")
    assert not path.exists()  # and none is made in its place


def test_a_deleted_file_stays_so_for_a_store_that_had_closed_it_after_an_error(sidecar: Sidecar, path: Path) -> None:
    sidecar.ask()
    sidecar.close()
    shutil.rmtree(path.parent)
    sidecar.fails("deleted or replaced", "restart")
    assert not path.parent.exists()


def test_a_file_that_is_replaced_while_in_use_grants_nothing(sidecar: Sidecar, path: Path) -> None:
    sidecar.ask()
    path.rename(path.with_name("away"))
    path.with_suffix(".seal").unlink()
    newcomer = Sidecar(path, "b")
    newcomer.ask()
    sidecar.fails("deleted or replaced", "restart")
    newcomer.close()


def test_a_file_that_is_put_back_is_good_again(sidecar: Sidecar, path: Path) -> None:
    sidecar.ask()
    path.rename(path.with_name("away"))
    sidecar.fails("deleted or replaced")
    path.with_name("away").rename(path)
    assert sidecar.ask().left == 9800


def test_what_was_booked_while_the_file_went_away_is_not_granted(
    sidecar: Sidecar, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar.ask()
    carry_out = sidecar.store._carry_out

    def carry_out_and_lose(*arguments: Any) -> Reply:
        reply = carry_out(*arguments)
        path.unlink()
        return reply

    monkeypatch.setattr(sidecar.store, "_carry_out", carry_out_and_lose)
    sidecar.fails("deleted or replaced")


@pytest.mark.parametrize("steps_since", [1, 3])
@pytest.mark.parametrize("draws", [False, True])
def test_an_older_copy_in_the_files_place_is_recognised(
    sidecar: Sidecar, path: Path, steps_since: int, draws: bool
) -> None:
    """Restored in place it is the same file to the file system; but it lacks steps that it had answered.

    Those that drew money are in its seal too; the others each sidecar knows for itself.
    """
    sidecar.ask()
    database = sqlite3.connect(path)
    copy = sqlite3.connect(path.with_name("copy"))
    database.backup(copy)
    for _ in range(steps_since):
        sidecar.ask(100 if draws else 0)
    copy.backup(database)
    copy.close()
    database.close()
    for _ in range(2):
        sidecar.fails("older", "newest database" if draws else "restart")


@pytest.mark.parametrize("killed", [False, True])
def test_files_beside_the_database_can_be_removed_at_any_time(path: Path, killed: bool) -> None:
    """All that was answered is in the main file: what lies beside it is never more than a step that runs."""
    one, other = Sidecar(path), Sidecar(path, "b")
    if killed:
        child(path, "print(json.dumps([Asked(path).ask(), os.kill(os.getpid(), 9)]))", code=-signal.SIGKILL)
    else:
        one.ask(10)
    for beside in path.parent.iterdir():
        if beside != path:
            beside.unlink()
    assert other.ask(9_000).granted == 9_000
    assert one.ask(990).granted == 990
    assert one.ask(1).granted == other.ask(1).granted == 0
    one.close()
    other.close()


def test_an_emptied_file_is_recognised_too(sidecar: Sidecar, path: Path) -> None:
    sidecar.ask()
    database = sqlite3.connect(path)
    for table in ("period", "lease", "holder"):
        database.execute(f"DELETE FROM {table}")
    database.commit()
    database.close()
    sidecar.fails("older or an empty one", "restart")


def test_books_in_memory_outlive_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no file to be read from again: to open them anew would grant the day's money a second time."""
    sidecar = Sidecar(MEMORY)
    sidecar.ask(9000)
    carry_out = sidecar.store._carry_out

    def fail_late(*arguments: Any) -> Reply:
        carry_out(*arguments)
        raise sqlite3.OperationalError("out of memory")

    monkeypatch.setattr(sidecar.store, "_carry_out", fail_late)
    sidecar.fails("out of memory")
    monkeypatch.setattr(sidecar.store, "_carry_out", carry_out)
    sidecar._seq = 1
    assert sidecar.ask(100).left == 900
    sidecar.close()


# Disks.

CHILD = """
import json, os, resource, sys
from zoneinfo import ZoneInfo
from sidecar.core.budget import Caps, Step
from sidecar.stores.embedded import EmbeddedStore
from sidecar.stores.keeper import StoreError

zone, caps = ZoneInfo("UTC"), Caps(10_000, 10_000)
path = sys.argv[1]

class Asked:
    def __init__(self, path):
        self.store, self.seq = EmbeddedStore(path, zone, lambda: 1_795_435_200.0), 0
    def ask(self):
        self.seq += 1
        try:
            return self.store.step_now(Step("child", self.seq, "", 0, 0, 0, 10, 10, caps)).granted
        except StoreError as error:
            self.seq -= 1
            return str(error)

def give_up_root():
    # Root may write what is read-only: everything is imported by now, so nobody can do the rest.
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
"""


def child(path: Path, story: str, code: int = 0) -> Any:
    """Runs a story in a process of its own, and answers what it prints as JSON, or None where it ends otherwise."""
    script = CHILD + textwrap.dedent(story)
    result = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (code, "")
    return json.loads(result.stdout) if code == 0 else None


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="budget-"))
    folder.chmod(0o755)
    yield folder
    for one in (folder, *folder.iterdir()):
        if one.is_dir():
            one.chmod(0o755)
    shutil.rmtree(folder)


def test_what_may_only_be_read_grants_nothing_and_says_how_to_change_that(open_folder: Path) -> None:
    for name, folder_mode, file_mode in (("file", 0o777, 0o444), ("folder", 0o555, 0o666), ("both", 0o555, 0o444)):
        folder = open_folder / name
        one = Sidecar(folder / "budget.db", "before")
        one.ask()
        one.close()
        (folder / "budget.db").chmod(file_mode)
        folder.chmod(folder_mode)
    (open_folder / "empty").mkdir()
    (open_folder / "empty").chmod(0o555)
    answers = child(
        open_folder,
        """
        give_up_root()
        names = ("file", "folder", "both", "empty", "not/there")
        print(json.dumps({f"{path}/{name}/budget.db": Asked(f"{path}/{name}/budget.db").ask() for name in names}))
        """,
    )
    assert len(answers) == 5
    for file, answer in answers.items():
        assert isinstance(answer, str), f"{file} was granted {answer}"
        assert answer.startswith(file)
        assert "Make it and its folder writable, or set budget.embedded.path" in answer


def test_a_file_that_may_not_grow_grants_nothing_until_it_may(path: Path) -> None:
    granted, error, after, total = child(
        path,
        """
        asked = Asked(path)
        granted = [asked.ask()]
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, resource.RLIM_INFINITY))
        while not isinstance(granted[-1], str) and len(granted) < 10:
            granted.append(asked.ask())
        error = granted.pop()
        again = [asked.ask() for _ in range(3)]
        assert all(isinstance(one, str) for one in again), again
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        after = asked.ask()
        rows = asked.store._database.execute("SELECT drawn FROM period WHERE kind = 'day'").fetchall()
        print(json.dumps([sum(granted), error, after, rows[0][0]]))
        """,
    )
    assert str(path) in error
    assert "space" in error or "writable" in error
    assert after == 10
    assert total == granted + after


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, where we may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.getuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("no right to mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_grants_nothing_until_there_is_space(small_disk: Path) -> None:
    sidecar = Sidecar(small_disk / "budget.db")
    granted = sidecar.ask(10).granted
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    for _ in range(100):
        try:
            granted += sidecar.ask(10).granted
        except StoreError as error:
            message = str(error)
            break
    else:
        pytest.fail("the disk was never full")
    assert message.startswith(str(small_disk / "budget.db"))
    assert "Make some free space" in message
    sidecar.fails("space")
    ballast.unlink()
    reply = sidecar.ask(10)
    assert reply.left == 10_000 - granted - 10
    sidecar.close()


def test_a_disk_that_is_full_from_the_start_grants_nothing(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(256 * 1024))
    sidecar = Sidecar(small_disk / "budget.db")
    sidecar.fails("space")
    (small_disk / "ballast").unlink()
    assert sidecar.ask().granted == 100
    sidecar.close()
