"""What a wrong setting looks like to the person who wrote it: key, value, what is wrong, where, and the fix."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]

MASK = "***"
_SHOWN = 60
_PLAIN_PART = re.compile(r"[A-Za-z0-9_-]+")
_USERINFO = re.compile(r"//[^/\s]*@")


@dataclass(frozen=True, slots=True)
class SettingError:
    """One mistake. `line` counts from 1 in the file; `variable` names the one that a value came from."""

    key: str
    value: str
    message: str
    fix: str
    line: int | None = None
    variable: str = ""

    def __str__(self) -> str:
        where = f" ({self.variable})" if self.variable else f" (line {self.line})" if self.line else ""
        return f"{self.key}: {self.message}{where}. {self.fix}"


class SettingsError(Exception):
    """Every mistake of one settings file and its variables, in the order of the file."""

    def __init__(self, errors: Iterable[SettingError]) -> None:
        self.errors = tuple(errors)
        super().__init__(self.errors)

    def __str__(self) -> str:
        return "\n".join(f"{number}. {error}" for number, error in enumerate(self.errors, 1))


def written(value: object) -> str:
    """A value's text, bounded and without the password of a URL.

    Lists and mappings are named and not shown: a key may be anywhere inside them.
    """
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    text = _USERINFO.sub(f"//{MASK}@", str(value))
    if len(text) > _SHOWN:
        text = text[:_SHOWN] + "…"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def show(value: object) -> str:
    """A value as a message quotes it, on one line."""
    text = written(value)
    return text if value is None or isinstance(value, bool | dict | list | tuple | set | frozenset) else f"'{text}'"


def dotted(path: Path) -> str:
    """`listen.data[1]`, `ollama_cloud.pricing."gpt-oss:120b".input_per_1m`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not _PLAIN_PART.fullmatch(part):
            quoted = json.dumps(part if len(part) <= _SHOWN else part[:_SHOWN] + "…")
            text += f".{quoted}" if text else quoted
        else:
            text += f".{part}" if text else part
    return text


def listed(names: Iterable[str]) -> str:
    """Names one after another; an empty one is a value too and is shown as such."""
    return ", ".join(name or '""' for name in names)
