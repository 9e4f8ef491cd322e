"""Reading small files: the settings and the key. Bounded, and told apart by content."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_core import PydanticCustomError

from sidecar.settings.document import MAX_BYTES
from sidecar.settings.kinds import key_problem, reject


@dataclass(frozen=True, slots=True)
class KeyFile:
    key: str = field(repr=False)
    content: bytes = field(repr=False)


def read_bounded(path: Path) -> bytes:
    """The file's bytes, at most one more than the limit, so that "too large" needs no second look."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def content_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_key_file(path: Path) -> KeyFile:
    """The key of a key file. Raises the error of a validator, which names the path and never the content."""
    try:
        content = read_bounded(path)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        raise reject(f"cannot read '{path}': {why}", "Check the path, the mount and its permissions") from None
    try:
        key = content.decode("ascii").strip()
    except UnicodeDecodeError:
        raise _wrong(path, "is not ASCII text") from None
    if not key:
        raise _wrong(path, "is empty")
    if len(key.splitlines()) > 1:
        raise _wrong(path, "has more than one line")
    try:
        key_problem(key)
    except PydanticCustomError as error:
        raise _wrong(path, str((error.context or {}).get("message"))) from None
    return KeyFile(key, content)


def _wrong(path: Path, what: str) -> PydanticCustomError:
    return reject(f"'{path}': {what}", "Write the key alone, on one line")
