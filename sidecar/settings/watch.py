"""Whether a watched file has another content than when it was last seen.

Kubernetes updates a mounted ConfigMap by swapping the symlink `..data`: the path keeps its name, and no event
fires on it. So each poll asks for the file behind the path, and the content alone decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar.settings.keyfile import content_digest, read_bounded

# A file rewritten within one tick of the clock keeps its stat; every so many polls the content is read anyway.
REHASH_EVERY = 10

_Stat = tuple[int, ...]


@dataclass(slots=True)
class _Seen:
    digest: str
    stat: _Stat | None = None


class FileWatch:
    """Poll `changed()`. Given `Loaded.files` it goes on from what `load` read, else from what is there now.

    A file that is missing or unreadable is a content of its own: going and coming back are changes.
    """

    def __init__(self, files: Mapping[Path, str] | Iterable[Path]) -> None:
        if isinstance(files, Mapping):
            self._seen = {path: _Seen(digest) for path, digest in files.items()}
        else:
            self._seen = {path: _look(path) for path in files}
        self._polls = 0

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self._seen)

    def changed(self) -> bool:
        """Whether any file differs from the poll before. Each change is told once."""
        self._polls += 1
        rehash = self._polls % REHASH_EVERY == 0
        different = False
        for path, seen in self._seen.items():
            if not rehash and seen.stat is not None and _stat(path) == seen.stat:
                continue
            now = _look(path)
            different = different or now.digest != seen.digest
            self._seen[path] = now
        return different


def _stat(path: Path) -> _Stat | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _look(path: Path) -> _Seen:
    # The stat comes first: a write between the two makes the next stat differ, and the file is read again.
    stat = _stat(path)
    try:
        return _Seen(content_digest(read_bounded(path)), stat)
    except (OSError, ValueError) as error:
        return _Seen(f"unreadable: {getattr(error, 'errno', None)}", stat)
