"""Short ways to load settings from a text."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sidecar.settings import Loaded, SettingsError, load

HOME = {"HOME": "/home/app"}


@contextmanager
def settings_file(content: str | bytes) -> Iterator[Path]:
    """A file of that content; its directory has a name that never changes the messages' shape."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "settings.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        yield path


def loaded(content: str | bytes = "", env: Mapping[str, str] | None = None) -> Loaded:
    with settings_file(content) as path:
        return load(path, {**HOME, **(env or {})})


def errors(content: str | bytes = "", env: Mapping[str, str] | None = None) -> list[str]:
    """Every error as text, with FILE for the file's own path."""
    with settings_file(content) as path:
        try:
            load(path, {**HOME, **(env or {})})
        except SettingsError as error:
            return [str(item).replace(str(path), "FILE") for item in error.errors]
    return []
