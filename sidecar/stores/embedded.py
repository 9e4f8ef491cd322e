"""The embedded store: one SQLite file that all sidecars of one machine share, durable with every step.

A rollback journal with synchronous=FULL: a step that was answered survives a kill and a power cut, and it is in the
main file itself. With a write-ahead log the newest steps may be in a second file alone for hours, and whoever removes
that one (it looks like something left over) removes spent money with it. A rollback journal holds what was before the
step that is being written, so no answered step goes with it, and only the main file has to be watched. Of its modes
TRUNCATE is durable without a sync of the folder; over the log it costs about half a millisecond with each step. A
thread of its own does the waiting for the disk; BEGIN IMMEDIATE makes the steps of several processes one after the
other.

Against a file that is lost or replaced between two runs there is its seal: see `seal`.

The zone of the days is the file's. Another one in the settings of a sidecar that starts is noted once, and counts
from the end of the running day on. A sidecar that runs does not repeat its own, so two settings do not take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sidecar.core.budget import Caps, Reply, Step
from sidecar.core.periods import Periods, periods_after, periods_of
from sidecar.stores.keeper import StoreError
from sidecar.stores.seal import Seal, read_seal, seal_path, write_seal

_log = logging.getLogger("sidecar.budget")

BUSY_SECONDS = 2.0
# How long not to ask again for money that is not there. The file is near: it may be asked often.
RETRY_SECONDS = 2.0
# Holders heard within this time have a say in the caps and a share of what is left; see the keeper's heartbeat.
ACTIVE_SECONDS = 150
SCHEMA_VERSION = 2
MEMORY = ":memory:"

_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS root (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        id TEXT NOT NULL,                          -- random, this database's own
        draws INTEGER NOT NULL,                    -- how often money was granted: only rises
        zone TEXT NOT NULL,                        -- of the running day
        next_zone TEXT NOT NULL,                   -- of the days after it
        day TEXT NOT NULL, day_end REAL NOT NULL,  -- the newest day, '' before the first, and the month that it is in
        month TEXT NOT NULL, month_end REAL NOT NULL
    ) STRICT""",
    """
    CREATE TABLE IF NOT EXISTS period (
        kind TEXT NOT NULL, id TEXT NOT NULL,      -- 'day' 2026-11-23 or 'month' 2026-11
        drawn INTEGER NOT NULL DEFAULT 0,          -- what its leases hold and have settled, micro-USD: see _charge
        settled INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (kind, id)
    ) STRICT""",
    """
    CREATE TABLE IF NOT EXISTS lease (
        holder TEXT NOT NULL, day TEXT NOT NULL, month TEXT NOT NULL,
        granted INTEGER NOT NULL DEFAULT 0, returned INTEGER NOT NULL DEFAULT 0, settled INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (holder, day)
    ) STRICT""",
    """
    CREATE TABLE IF NOT EXISTS holder (
        id TEXT PRIMARY KEY, seq INTEGER NOT NULL, heard REAL NOT NULL,
        daily_cap INTEGER NOT NULL, monthly_cap INTEGER NOT NULL, reply TEXT NOT NULL
    ) STRICT""",
)


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
        self._seal = None if path == MEMORY else seal_path(Path(path))
        # Whether the file knows our zone, and what was said of zones.
        self._zone_told = False
        self._zones_said: set[tuple[str, ...]] = set()

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
            self._zone_told = True
            self._keep_sealed(database)
            self._check_in_place()  # what was booked in a file that is gone is not granted
        except sqlite3.Error as error:
            if self._path != MEMORY:  # which would forget what was spent
                self._close()
            raise StoreError(f"{self._path}: {error}. {_fix(str(error))}") from error
        except OSError as error:
            text = error.strerror or str(error)
            raise StoreError(f"{self._path}: {text}. {_fix(text)}") from error
        except _SealError as error:
            self._close()
            if not self._answered:
                self._inode = None  # nothing was granted from this file: another one may take its place
            raise StoreError(str(error)) from error
        self._answered[step.holder] = step.seq
        return reply

    def _open(self) -> sqlite3.Connection:
        if self._inode is not None:
            self._check_in_place()  # before a new file is made in its place
        elif self._path != MEMORY:
            path = Path(self._path)
            if not path.exists():
                self._check_seal(None)  # before an empty one is made
            path.parent.mkdir(parents=True, exist_ok=True)
            # The sums in it are nobody else's business, and nobody else's to change. One that exists is not opened
            # here: to close it again would drop the locks that SQLite has on it (POSIX).
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        database = sqlite3.connect(self._path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            inode = self._inode_now()
            database.execute("PRAGMA journal_mode=TRUNCATE")
            database.execute("PRAGMA synchronous=FULL")
            _migrate(database, self._zone)
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

    def _check_seal(self, root: _Root | None) -> None:
        """Refuses a database, or None where there is none, that is not all that its seal speaks of."""
        if self._seal is None:
            return
        try:
            seal = read_seal(self._seal)
        except OSError as error:
            raise self._seal_failed(error) from error
        except ValueError as error:
            raise _SealError(
                f"{self._path}: {self._seal} cannot be read: {error}. If this database is the newest one, delete "
                "that file; if it is missing or old, put the newest one back first"
            ) from error
        if seal is None:
            return
        if root is None:
            what = "is missing, and its seal says that money was drawn from it"
        elif seal.database != root.id:
            what = "is another database than the one that its seal was made for"
        elif root.draws < seal.draws:
            what = f"is older than its seal: it has {root.draws} of {seal.draws} draws of money"
        else:
            return
        raise _SealError(
            f"{self._path} {what} ({self._seal}). No paid call is made: put the newest database back. To begin a new "
            "budget instead, which forgets what was spent, stop all sidecars on it and delete both files"
        )

    def _keep_sealed(self, database: sqlite3.Connection) -> None:
        """Brings the seal up to the database. Money whose draw is not sealed is not used."""
        if self._seal is None:
            return
        try:
            if self._is_sealed(_root(database)):
                return
            # Under the lock, so that of two processes none puts back the older of two seals.
            database.execute("BEGIN IMMEDIATE")
            try:
                root = _root(database)
                if not self._is_sealed(root):
                    write_seal(self._seal, Seal(root.id, root.draws))
            finally:
                database.execute("ROLLBACK")
        except OSError as error:
            raise self._seal_failed(error) from error

    def _is_sealed(self, root: _Root) -> bool:
        if self._seal is None or not root.draws:
            return True
        try:
            seal = read_seal(self._seal)
        except ValueError:
            return False
        return seal is not None and seal.database == root.id and seal.draws >= root.draws

    def _seal_failed(self, error: OSError) -> StoreError:
        text = error.strerror or str(error)
        return StoreError(f"{self._path}: {self._seal}: {text}. {_fix(text)}")

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _carry_out(self, database: sqlite3.Connection, step: Step) -> Reply:
        now = self._clock()
        root = _root(database)
        self._check_seal(root)
        if not self._zone_told and root.next_zone != str(self._zone):
            root = replace(root, next_zone=str(self._zone))
            database.execute("UPDATE root SET next_zone = ?", (root.next_zone,))
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
        periods = self._periods(database, root, now)
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

    def _periods(self, database: sqlite3.Connection, root: _Root, now: float) -> Periods:
        own = root.next_zone == str(self._zone)
        periods = periods_after(root.periods, now, self._zone if own else self._zone_named(root.next_zone))
        if periods != root.periods:
            root = replace(root, zone=root.next_zone, periods=periods)
            database.execute(
                "UPDATE root SET zone = ?, day = ?, month = ?, day_end = ?, month_end = ?",
                (root.zone, *astuple(periods)),
            )
        if not root.zone == root.next_zone == str(self._zone):
            self._say_zones(root.zone, root.next_zone, periods)
        return periods

    def _zone_named(self, name: str) -> ZoneInfo:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise StoreError(
                f"{self._path} has the days of {name!r}, a time zone that is not known here. Restart this sidecar, "
                "so that its own budget.timezone counts, or bring its tzdata up to date"
            ) from error

    def _say_zones(self, zone: str, next_zone: str, periods: Periods) -> None:
        changing, other = (zone, next_zone, periods.day), (next_zone,)
        if zone != next_zone and changing not in self._zones_said:
            self._zones_said.add(changing)
            end = datetime.fromtimestamp(periods.day_end, UTC).isoformat(timespec="minutes")
            _log.warning(
                "budget.timezone changed from %s to %s: the budget's day %s goes on as it began, "
                "and the change takes effect at %s",
                *(zone, next_zone, periods.day, end),
            )
        if next_zone != str(self._zone) and other not in self._zones_said:
            self._zones_said.add(other)
            _log.warning(
                "budget.timezone is %s here, but %s in another sidecar on %s, which started later: that one counts. "
                "Give both the same, and restart the one that changes",
                *(self._zone, next_zone, self._path),
            )

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
        database.execute("UPDATE root SET draws = draws + 1")
        return int(granted)


def _migrate(database: sqlite3.Connection, zone: ZoneInfo) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"it was written by a newer version of the sidecar (schema {version})")
    if version == SCHEMA_VERSION:
        return
    # One transaction, so that a fresh file costs one wait for the disk. Another process may be through with it.
    database.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA:
            database.execute(statement)
        day = database.execute("SELECT max(id) FROM period WHERE kind = 'day'").fetchone()[0]
        periods = Periods("", "", 0.0, 0.0) if day is None else periods_of(date.fromisoformat(day), zone)
        database.execute(
            "INSERT OR IGNORE INTO root (one, id, draws, zone, next_zone, day, day_end, month, month_end) "
            "VALUES (1, ?, 0, ?, ?, ?, ?, ?, ?)",
            (
                *(secrets.token_hex(16), str(zone), str(zone)),
                *(periods.day, periods.day_end, periods.month, periods.month_end),
            ),
        )
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


class _SealError(Exception):
    """A database that is not all that its seal speaks of."""


@dataclass(frozen=True, slots=True)
class _Root:
    """The database's own row."""

    id: str
    draws: int
    zone: str
    next_zone: str
    periods: Periods | None


def _root(database: sqlite3.Connection) -> _Root:
    row = database.execute("SELECT id, draws, zone, next_zone, day, month, day_end, month_end FROM root").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("the database is malformed: its root is missing")
    name, draws, zone, next_zone, *periods = row
    return _Root(name, draws, zone, next_zone, Periods(*periods) if periods[0] else None)


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
        "Make some free space on its disk; no paid call is made until then",
    ),
    (
        ("malformed", "not a database"),
        "It is no budget file, or broken: move it away, and its .seal too (what was spent in it is then forgotten)",
    ),
    (("disk i/o",), "Its disk does not take it: see that it is whole and has free space"),
    (("newer version",), "Run that version again, or set budget.embedded.path to another file"),
    (("locked", "busy"), "Another process holds it: it is tried again"),
)
