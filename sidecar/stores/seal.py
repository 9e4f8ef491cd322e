"""The seal of a budget file: a second small file beside it that says how often money was drawn from which database.

A database that is missing, another one, or older than its seal lacks spent money, and would grant it again. The seal
follows the database (first the draw is on disk, then its seal, and only then is the money used), so that a crash
between the two leaves a seal that is behind, which refuses no database that is whole. A database without a seal is
taken as it is. What no file can tell is that both are gone, or that both were put back from an earlier day.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".seal"


@dataclass(frozen=True, slots=True)
class Seal:
    """The database's own random id, and how many draws it had at least."""

    database: str
    draws: int


def seal_path(database: Path) -> Path:
    """`budget.seal` beside `budget.db`: a name that what removes `budget.db*` leaves alone."""
    return database.with_suffix(SUFFIX if database.suffix != SUFFIX else SUFFIX + "ed")


def read_seal(path: Path) -> Seal | None:
    """None where there is none. Raises OSError, and ValueError where it is something else."""
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fields = json.loads(text)
        database, draws = fields["database"], fields["draws"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("it is no seal of a budget") from error
    if not isinstance(database, str) or type(draws) is not int:
        raise ValueError("it is no seal of a budget")
    return Seal(database, draws)


def write_seal(path: Path, seal: Seal) -> None:
    """Puts a seal in the place of the one before, whole or not at all, and on disk when this returns."""
    new = path.with_name(path.name + ".new")
    number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as file:
        file.write(json.dumps({"database": seal.database, "draws": seal.draws}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
