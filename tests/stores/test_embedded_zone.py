"""The zone of a budget file: which one counts, what is said of it, and files from before it was kept."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from faulty_store import Clock

from sidecar.core.budget import Caps, Reply, Step
from sidecar.stores.embedded import EmbeddedStore
from sidecar.stores.keeper import StoreError

CAPS = Caps(1000, 1000)
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
HALF_A_DAY = 12 * 3600.0


class Sidecar:
    """One holder on one store."""

    def __init__(self, path: Path, zone: str, clock: Clock) -> None:
        self.store = EmbeddedStore(str(path), ZoneInfo(zone), clock)
        self._seq = 0

    def ask(self, need: int = 0) -> Reply:
        self._seq += 1
        return self.store.step_now(Step(str(id(self)), self._seq, "", 0, 0, 0, need, need, CAPS))

    def close(self) -> None:
        self.store._close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budget.db"


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


def test_a_changed_zone_is_said_once_with_both_names_and_the_time(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    old = Sidecar(path, "UTC", clock)
    old.ask()
    new = Sidecar(path, "Pacific/Kiritimati", clock)
    for _ in range(3):
        new.ask()
    (message,) = caplog.messages
    assert message == (
        "budget.timezone changed from UTC to Pacific/Kiritimati: the budget's day 2026-11-30 goes on as it began, "
        "and the change takes effect at 2026-12-01T00:00+00:00"
    )
    caplog.clear()
    clock.now += HALF_A_DAY
    for _ in range(3):
        assert new.ask().day == "2026-12-01"
    assert caplog.messages == []
    for one in (old, new):
        one.close()


def test_a_sidecar_whose_zone_does_not_count_says_so_once(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    old = Sidecar(path, "UTC", clock)
    old.ask()
    new = Sidecar(path, "Asia/Kolkata", clock)
    new.ask()
    clock.now += HALF_A_DAY
    new.ask()
    assert len(caplog.messages) == 1
    caplog.clear()
    for _ in range(50):
        old.ask()
        new.ask()
        clock.now += HALF_A_DAY
    (message,) = caplog.messages
    for part in ("UTC here", "Asia/Kolkata in another sidecar", str(path), "restart"):
        assert part in message
    for one in (old, new):
        one.close()


def test_a_zone_counts_although_the_first_step_with_it_failed(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Sidecar(path, "UTC", clock)
    old.ask()
    old.close()
    new = Sidecar(path, "Asia/Kolkata", clock)
    periods = new.store._periods

    def fail_late(*arguments: object) -> None:
        periods(*arguments)  # type: ignore[arg-type]
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(new.store, "_periods", fail_late)
        with pytest.raises(StoreError):
            new.ask()
    new.ask()
    clock.now += HALF_A_DAY
    assert new.ask().day_end == datetime(2026, 12, 2, tzinfo=ZoneInfo("Asia/Kolkata")).timestamp()
    new.close()


def test_a_zone_that_is_not_known_here_grants_nothing(path: Path, clock: Clock) -> None:
    sidecar = Sidecar(path, "UTC", clock)
    sidecar.ask()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE root SET next_zone = 'Mars/Olympus_Mons'")
    database.close()
    with pytest.raises(StoreError, match=r"'Mars/Olympus_Mons'.*tzdata"):
        sidecar.ask(1)
    restarted = Sidecar(path, "UTC", clock)
    assert restarted.ask(1).granted == 1
    for one in (sidecar, restarted):
        one.close()


def test_a_file_of_the_first_schema_keeps_what_was_spent(path: Path, clock: Clock) -> None:
    sidecar = Sidecar(path, "UTC", clock)
    sidecar.ask(600)
    sidecar.close()
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE root")
        database.execute("PRAGMA user_version=1")
        database.execute("PRAGMA journal_mode=WAL")
    database.close()
    path.with_suffix(".seal").unlink()
    for zone in ("UTC", "Pacific/Kiritimati"):
        after = Sidecar(path, zone, clock)
        reply = after.ask(500)
        assert (reply.day, reply.granted, reply.left) == ("2026-11-30", 0, 400)
        after.close()
