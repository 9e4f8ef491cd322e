"""The embedded store: one SQLite file that all sidecars of one machine share, durable with every step.

WAL with synchronous=FULL: a step that was answered survives a power cut. A thread of its own does the waiting for
the disk; BEGIN IMMEDIATE makes the steps of several processes one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

from sidecar.core.budget import Caps, Reply, Step
from sidecar.core.periods import Periods, periods_at, periods_of
from sidecar.stores.keeper import StoreError

BUSY_SECONDS = 2.0
# How long not to ask again for money that is not there. The file is near: it may be asked often.
RETRY_SECONDS = 2.0
# Holders heard within this time have a say in the caps and a share of what is left; see the keeper's heartbeat.
ACTIVE_SECONDS = 150
SCHEMA_VERSION = 1
MEMORY = ":memory:"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS period (
    kind TEXT NOT NULL, id TEXT NOT NULL,      -- 'day' 2026-11-23 or 'month' 2026-11
    drawn INTEGER NOT NULL DEFAULT 0,          -- what its leases hold and have settled, micro-USD: see _charge
    settled INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, id)
) STRICT;
CREATE TABLE IF NOT EXISTS lease (
    holder TEXT NOT NULL, day TEXT NOT NULL, month TEXT NOT NULL,
    granted INTEGER NOT NULL DEFAULT 0, returned INTEGER NOT NULL DEFAULT 0, settled INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (holder, day)
) STRICT;
CREATE TABLE IF NOT EXISTS holder (
    id TEXT PRIMARY KEY, seq INTEGER NOT NULL, heard REAL NOT NULL,
    daily_cap INTEGER NOT NULL, monthly_cap INTEGER NOT NULL, reply TEXT NOT NULL
) STRICT;
"""


class EmbeddedStore:
    """The budget in one file. `clock` gives epoch seconds; `path` may be `:memory:` for demonstrations."""

    def __init__(self, path: str, zone: ZoneInfo, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._zone = zone
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "budget")
        self._database: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._answered: dict[str, int] = {}

    async def step(self, step: Step) -> Reply:
        """See `Store.step`. Raises StoreError where the file cannot be opened, read or written."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self.step_now, step)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def step_now(self, step: Step) -> Reply:
        """`step`, on the calling thread."""
        try:
            database = self._database or self._open()
            self._check_in_place()
            database.execute("BEGIN IMMEDIATE")
            try:
                reply = self._carry_out(database, step)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            self._check_in_place()  # what was booked in a file that is gone is not granted
        except sqlite3.Error as error:
            if self._path != MEMORY:  # which would forget what was spent
                self._close()
            raise StoreError(f"{self._path}: {error}. {_fix(str(error))}") from error
        except OSError as error:
            text = error.strerror or str(error)
            raise StoreError(f"{self._path}: {text}. {_fix(text)}") from error
        self._answered[step.holder] = step.seq
        return reply

    def _open(self) -> sqlite3.Connection:
        if self._inode is not None:
            self._check_in_place()  # before a new file is made in its place
        elif self._path != MEMORY:
            path = Path(self._path)
            path.parent.mkdir(parents=True, exist_ok=True)
            # The sums in it are nobody else's business, and nobody else's to change. One that exists is not opened
            # here: to close it again would drop the locks that SQLite has on it (POSIX).
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        database = sqlite3.connect(self._path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            inode = self._inode_now()
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            _migrate(database)
        except BaseException:
            database.close()
            raise
        self._inode = self._inode or inode
        self._database = database
        return database

    def _inode_now(self) -> tuple[int, int]:
        if self._path == MEMORY:
            return 0, 0
        stat = Path(self._path).stat()
        return stat.st_dev, stat.st_ino

    def _check_in_place(self) -> None:
        """A budget file that is deleted or replaced under us would let a second budget be spent beside this one."""
        try:
            in_place = self._inode_now() == self._inode
        except FileNotFoundError:
            in_place = False
        if not in_place:
            raise StoreError(
                f"{self._path} was deleted or replaced while in use; no paid call is made until a restart"
            )

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _carry_out(self, database: sqlite3.Connection, step: Step) -> Reply:
        now = self._clock()
        before = database.execute("SELECT seq, reply FROM holder WHERE id = ?", (step.holder,)).fetchone()
        if (before[0] if before is not None else 0) < self._answered.get(step.holder, 0):
            # Each sidecar is a witness of its own steps: a copy that lacks one of them lacks spent money too.
            raise StoreError(
                f"{self._path} was replaced by an older or an empty one while in use: it lacks steps that it had "
                "answered. Put the newer file back, or restart the sidecar, which forgets what was spent since"
            )
        if before is not None and step.seq <= before[0]:
            if step.seq == before[0]:
                return _reply_from(before[1])
            raise StoreError(
                f"{self._path}: step {step.seq} of a sidecar came after its step {before[0]}. Restart that sidecar"
            )
        if step.day and not _report(database, step):
            raise StoreError(
                f"{self._path} has never granted the lease that a sidecar reports for {step.day}. It is another file "
                "than before: put that one back, or restart the sidecar"
            )
        periods = self._periods(database, now)
        caps = _caps(database, step, now - ACTIVE_SECONDS)
        for kind, name in (("day", periods.day), ("month", periods.month)):
            database.execute("INSERT OR IGNORE INTO period (kind, id) VALUES (?, ?)", (kind, name))
        drawn_day, settled_day = _period(database, "day", periods.day)
        drawn_month, settled_month = _period(database, "month", periods.month)
        left_day, left_month = max(caps.daily - drawn_day, 0), max(caps.monthly - drawn_month, 0)
        granted = self._grant(database, step, periods, min(left_day, left_month), now)
        reply = Reply(
            day=periods.day,
            month=periods.month,
            day_end=periods.day_end,
            granted=granted,
            left_daily=left_day - granted,
            left_monthly=left_month - granted,
            settled_daily=settled_day,
            settled_monthly=settled_month,
            caps=caps,
            retry_seconds=RETRY_SECONDS,
        )
        database.execute(
            "INSERT OR REPLACE INTO holder (id, seq, heard, daily_cap, monthly_cap, reply) VALUES (?, ?, ?, ?, ?, ?)",
            (
                step.holder,
                step.seq,
                0.0 if step.leaving else now,  # who leaves has no say and no share any more
                step.caps.daily,
                step.caps.monthly,
                json.dumps(asdict(reply)),
            ),
        )
        return reply

    def _periods(self, database: sqlite3.Connection, now: float) -> Periods:
        # Period ids only rise: a clock that went back does not open yesterday's budget again, nor end today's early.
        periods = periods_at(now, self._zone)
        newest = database.execute("SELECT max(id) FROM period WHERE kind = 'day'").fetchone()[0]
        if newest is None or newest <= periods.day:
            return periods
        return periods_of(date.fromisoformat(newest), self._zone)

    @staticmethod
    def _grant(database: sqlite3.Connection, step: Step, periods: Periods, left: int, now: float) -> int:
        if max(step.want, step.need) <= 0 or left < max(step.least, 1):
            return 0
        active = database.execute(
            "SELECT count(*) FROM holder WHERE heard >= ? AND id <> ?", (now - ACTIVE_SECONDS, step.holder)
        ).fetchone()[0]
        granted = min(left, max(step.need, min(step.want, left // (2 * (active + 1)))))
        if granted <= 0:
            return 0
        database.execute(
            "INSERT OR IGNORE INTO lease (holder, day, month) VALUES (?, ?, ?)",
            (step.holder, periods.day, periods.month),
        )
        lease = _lease(database, step.holder, periods.day) or _Lease(periods.day, periods.month, 0, 0, 0)
        _book(database, step.holder, lease, replace(lease, granted=lease.granted + granted))
        return int(granted)


def _migrate(database: sqlite3.Connection) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"it was written by a newer version of the sidecar (schema {version})")
    if version < SCHEMA_VERSION:
        # One transaction, so that a fresh file costs one wait for the disk.
        database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")


@dataclass(frozen=True, slots=True)
class _Lease:
    """A row of the table of leases: one holder's totals of one day."""

    day: str
    month: str
    granted: int
    returned: int
    settled: int

    @property
    def charge(self) -> int:
        """What it takes of its day and month: all that was not returned, and what was settled beyond that."""
        return max(self.granted - self.returned, self.settled)


def _lease(database: sqlite3.Connection, holder: str, day: str) -> _Lease | None:
    row = database.execute(
        "SELECT day, month, granted, returned, settled FROM lease WHERE holder = ? AND day = ?", (holder, day)
    ).fetchone()
    return None if row is None else _Lease(*row)


def _book(database: sqlite3.Connection, holder: str, before: _Lease, after: _Lease) -> None:
    """Changes a lease, and its day and month with it."""
    database.execute(
        "UPDATE lease SET granted = ?, returned = ?, settled = ? WHERE holder = ? AND day = ?",
        (after.granted, after.returned, after.settled, holder, after.day),
    )
    for kind, name in (("day", after.day), ("month", after.month)):
        database.execute(
            "UPDATE period SET drawn = drawn + ?, settled = settled + ? WHERE kind = ? AND id = ?",
            (after.charge - before.charge, after.settled - before.settled, kind, name),
        )


def _report(database: sqlite3.Connection, step: Step) -> bool:
    """Books what the holder's lease settled and returned since its last step; False where there is no such lease.

    Totals never fall, and what was settled cannot be returned.
    """
    lease = _lease(database, step.holder, step.day)
    if lease is None:
        return False
    settled = max(step.settled, lease.settled)
    returned = max(min(step.returned, lease.granted - settled), lease.returned)
    if (settled, returned) != (lease.settled, lease.returned):
        _book(database, step.holder, lease, replace(lease, settled=settled, returned=returned))
    return True


def _caps(database: sqlite3.Connection, step: Step, since: float) -> Caps:
    """While settings differ between sidecars, as in a rollout, the lowest cap counts."""
    daily, monthly = database.execute(
        "SELECT min(daily_cap), min(monthly_cap) FROM holder WHERE heard >= ? AND id <> ?", (since, step.holder)
    ).fetchone()
    return Caps(
        step.caps.daily if daily is None else min(daily, step.caps.daily),
        step.caps.monthly if monthly is None else min(monthly, step.caps.monthly),
    )


def _period(database: sqlite3.Connection, kind: str, name: str) -> tuple[int, int]:
    row = database.execute("SELECT drawn, settled FROM period WHERE kind = ? AND id = ?", (kind, name)).fetchone()
    return int(row[0]), int(row[1])


def _reply_from(text: str) -> Reply:
    fields = json.loads(text)
    fields["caps"] = Caps(**fields["caps"])
    return Reply(**fields)


def _fix(text: str) -> str:
    lower = text.lower()
    for marks, fix in _FIXES:
        if any(mark in lower for mark in marks):
            return fix
    return "No paid call is made until it can be written; budget.embedded.path sets another file"


# What SQLite and the operating system say of a file → what to do.
_FIXES = (
    (
        ("readonly", "read-only", "unable to open", "permission", "not permitted", "directory", "no such file"),
        "Make it and its folder writable, or set budget.embedded.path",
    ),
    (
        ("full", "no space", "quota", "too large"),
        "Free some space on its disk; no paid call is made until then",
    ),
    (
        ("malformed", "not a database"),
        "It is no budget file, or broken: move it away (what was spent in it is then forgotten)",
    ),
    (("disk i/o",), "Its disk does not take it: see that it is whole and has free space"),
    (("newer version",), "Run that version again, or set budget.embedded.path to another file"),
    (("locked", "busy"), "Another process holds it: it is tried again"),
)
