"""pydantic's errors in our words: key path, line or variable, value, fix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sidecar.settings.document import Node
from sidecar.settings.errors import MASK, Path, SettingError, dotted
from sidecar.settings.schema import known_paths, place_at, shown_value

_SUGGESTIONS = 100  # so that a file of nothing but unknown keys is answered at once, too


def explain(error: ValidationError, root: Node) -> Iterator[tuple[Path, SettingError]]:
    """Every error with the path that it is about, each once."""
    seen: set[tuple[Path, str]] = set()
    unknown = 0
    for detail in error.errors(include_url=False):
        path, node, spoiled = _located(detail, root)
        if spoiled:
            continue  # its variable could not be expanded, which is an error already
        if detail["type"] == "extra_forbidden":
            unknown += 1
            message, fix = "no such key", _did_you_mean(path, unknown <= _SUGGESTIONS)
        else:
            context = detail.get("ctx", {})
            message = str(context.get("message", detail["msg"]))
            fix = str(context.get("fix", "Write another value"))
        if (path, message) not in seen:
            seen.add((path, message))
            yield path, at(path, node, message, fix)


def at(path: Path, node: Node, message: str, fix: str) -> SettingError:
    """The error of one node, without what must not be seen."""
    value = shown_value(path, node.value)
    if node.hidden:
        value, message = MASK, f"what ${{{node.hidden}}} holds cannot stand here"
        fix = f"Check {node.hidden}; its value is not shown, as its name says that it is secret"
    line = None if node.variable else node.line or None
    return SettingError(dotted(path), value, message, fix, line, node.variable)


def _located(detail: ErrorDetails, root: Node) -> tuple[Path, Node, bool]:
    """The path that the file has for an error's place, its node, and whether something on the way is spoiled."""
    path: Path = ()
    node = root
    for part in detail["loc"]:
        value = node.value
        if isinstance(value, dict) and part in value:
            node = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            node = value[part]
        else:
            break  # "[key]" of a wrong key, or inside a value that stands for a whole mapping
        path = (*path, part)
        if node.problem is not None:
            return path, node, True
    return path, node, False


def _did_you_mean(path: Path, search: bool) -> str:
    *above, key = path
    place = place_at(tuple(above))
    names = list(place.section.model_fields) if place and place.section else []
    if search:
        near = _nearest(str(key), names)
        if near:
            return f"Did you mean {near}?"
        elsewhere = [dotted(known) for known in known_paths() if known[-1] == key]
        if elsewhere:
            return f"Did you mean {' or '.join(elsewhere[:3])}?"
    return f"Known here: {', '.join(names)}"


def _nearest(key: str, names: Iterable[str]) -> str | None:
    from difflib import get_close_matches

    by_letters = {name.replace("_", ""): name for name in names}
    near = get_close_matches(key.lower().replace("_", "").replace("-", "")[:100], by_letters, n=1, cutoff=0.7)
    return by_letters[near[0]] if near else None
