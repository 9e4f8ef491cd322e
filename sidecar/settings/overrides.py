"""Environment variables over the file: `OLLAMA_SIDECAR_CANARY__PERCENT=10` is `canary.percent`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sidecar.core.classification import BY_LABEL
from sidecar.settings.document import Node, Scalar, parse
from sidecar.settings.errors import SettingError, dotted
from sidecar.settings.schema import Place, known_paths, place_at

PREFIX = "OLLAMA_SIDECAR_"
CONFIG = PREFIX + "CONFIG"  # names the settings file itself; whoever calls `load` has read it

# What the kubelet sets in every pod of a namespace with a Service called ollama-sidecar.
_SERVICE = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")


@dataclass(frozen=True, slots=True)
class Override:
    path: tuple[str, ...]
    node: Node
    variable: str


@dataclass(slots=True)
class Overrides:
    found: list[Override] = field(default_factory=list)
    errors: list[SettingError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read(env: Mapping[str, str]) -> Overrides:
    """The variables of ours, those of whole sections first, so that one key beats its section."""
    result = Overrides()
    service: list[str] = []
    for variable in sorted(env, key=lambda name: (name.count("__"), name)):
        written = env[variable]
        if not variable.startswith(PREFIX) or variable == CONFIG or not written.strip():
            continue
        name = variable.removeprefix(PREFIX)
        path = tuple(part.lower() for part in name.split("__"))
        place = place_at(path) if all(path) and name == name.upper() else None
        if place is not None:
            _add(result, path, place, variable, written)
        elif _SERVICE.fullmatch(name):
            service.append(variable)
        else:
            result.warnings.append(f"{variable}: no such setting, ignored{_nearest(name)}")
    if service:
        more = f" and {len(service) - 1} more" if len(service) > 1 else ""
        result.warnings.append(f"{service[0]}{more}: no such setting, ignored; a Service of our name sets them")
    return result


def _add(result: Overrides, path: tuple[str, ...], place: Place, variable: str, written: str) -> None:
    def wrong(message: str, fix: str) -> None:
        result.errors.append(SettingError(dotted(path), "", message, fix, None, variable))

    if any("\ud800" <= char <= "\udfff" for char in written):
        wrong("the variable is not UTF-8 text", "Set it to text")
        return
    node, problems = parse(written, dotted(path), path, variable)
    if place.what in ("text", "class", "secret") and (problems or _better_raw(node, place, written.strip())):
        node, problems = Node(Scalar(written.strip()), 0, variable), []
    result.errors += problems
    if node is None or problems:
        return
    if "${" in written and place.what != "secret":
        result.warnings.append(f"{variable}: ${{…}} is expanded in the file only, here it is taken as it stands")
    if node.value is None and place.what not in ("section", "mapping"):
        wrong("the variable holds no value", "Set it to a value, or leave it empty or unset")
        return
    result.found.append(Override(path, node, variable))


def _better_raw(node: Node | None, place: Place, written: str) -> bool:
    """Whether text is meant as it stands, though YAML sees something else in it.

    `[::]:21434`, `{key}` and `#tag` are lists, mappings and comments to YAML, and nobody quotes twice in a
    variable. A key least of all: only what is wholly in quotes is unquoted.
    """
    if node is None or isinstance(node.value, list | dict):
        return True
    if place.what == "secret":
        return written[0] not in "\"'" or written[-1] != written[0]
    return not node.value and written not in ("~", "null", "Null", "NULL", "''", '""')


def apply(root: Node, overrides: list[Override]) -> Node:
    """The tree with the variables over it. Of two classes the stricter stays, wherever it came from."""
    for override in overrides:
        root = _put(root, override.path, override.node, ())
    return root


def _put(base: Node | None, rest: tuple[str, ...], new: Node, path: tuple[str, ...]) -> Node:
    if not rest:
        return new if base is None else _over(base, new, path)
    if base is None:
        base = Node({}, 0, new.variable)
    place = place_at(path)
    children = {} if base.value is None else base.value
    if isinstance(children, Scalar) and place is not None and place.section and place.section.one_text:
        children = dict.fromkeys(place.section.model_fields, base)
    if not isinstance(children, dict):
        # The file has a list or a single value here. Its own error says so; there is nothing to merge into.
        return base
    key = rest[0]
    if place is not None and place.what == "mapping":
        # A name of the user's own may have capitals in the file; a variable's path has lost them.
        key = next((name for name in children if name.lower() == key), key)
    child = _put(children.get(key), rest[1:], new, (*path, key))
    return replace(base, value={**children, key: child})


def _over(base: Node, new: Node, path: tuple[str, ...]) -> Node:
    place = place_at(path)
    if place is not None and place.section is not None:
        if new.value is None:
            return base
        if isinstance(new.value, dict) and isinstance(base.value, dict):
            merged = dict(base.value)
            for key, child in new.value.items():
                merged[key] = _over(merged[key], child, (*path, key)) if key in merged else child
            return replace(base, value=merged)
        keep = base.value is not None and not isinstance(base.value, dict) and not place.section.one_text
        return base if keep else new
    if place is not None and place.what == "class" and _rank(base) > _rank(new):
        return base
    return new


def _rank(node: Node) -> int:
    """How strict a class is. One that is none at all wins over every other, so that its error is heard."""
    label = node.value.strip().lower() if isinstance(node.value, Scalar) else ""
    return BY_LABEL.get(label, len(BY_LABEL))


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    names = {"_".join(path).upper(): "__".join(path).upper() for path in known_paths()}
    near = get_close_matches(re.sub("_+", "_", name), names, n=1, cutoff=0.75)
    return f"; did you mean {PREFIX}{names[near[0]]}?" if near else ""


def ours(env: Mapping[str, str]) -> list[str]:
    """The variables with our prefix, for the digest."""
    return [name for name in env if name.startswith(PREFIX) and name != CONFIG]
