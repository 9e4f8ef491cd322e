"""`${NAME}` and `${NAME:-default}` inside scalars, after the YAML was read: a value can add no keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from sidecar.settings.document import MAX_BYTES, Node, Scalar
from sidecar.settings.errors import Path, SettingError, dotted, show, written
from sidecar.settings.schema import shown_value

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
_INSIDE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)


class Expansion:
    """One pass over a tree. `names` are the variables that it asked for."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.names: set[str] = set()
        self.length = 0

    def tree(self, node: Node, path: Path = ()) -> Node:
        """The tree with every reference replaced. One that cannot be is left as `problem` on its node: a
        variable of ours may yet take that node's place."""
        value = node.value
        if isinstance(value, dict):
            children = {key: self.tree(child, (*path, key)) for key, child in value.items()}
            for key in value:
                if "${" in key:
                    what = "a variable cannot stand in a key"
                    problem = SettingError(dotted((*path, key)), "", what, "Write the key out", children[key].line)
                    children[key] = replace(children[key], problem=problem)
            return replace(node, value=children)
        if isinstance(value, list):
            return replace(node, value=[self.tree(child, (*path, at)) for at, child in enumerate(value)])
        if value is None or "${" not in value:
            return node
        return self._scalar(node, value, path)

    def _scalar(self, node: Node, value: Scalar, path: Path) -> Node:
        used: list[str] = []
        try:
            text = _REFERENCE.sub(lambda match: self._reference(match, used), value)
        except _Unresolved as problem:
            # The commonest of these is the key itself, in a place where no cloud is wanted yet.
            if path == ("ollama_cloud", "api_key") and problem.fix.startswith("Set it"):
                problem.fix = problem.fix.replace(":-default}", ":-} to run without the cloud")
            shown = shown_value(path, value)
            message = problem.what if shown == written(value) else problem.without_value
            return replace(node, problem=SettingError(dotted(path), shown, message, problem.fix, node.line))
        secret = next((name for name in used if _SECRET_NAME.search(name)), "")
        return replace(node, value=Scalar(text), hidden=secret)

    def _reference(self, match: re.Match[str], used: list[str]) -> str:
        inside = match[1]
        if match[0] == "$${":
            return "${"
        if inside is None:
            raise _Unresolved("'${' is not closed", "Write ${NAME}, or $${ for the text '${'")
        parts = _INSIDE.fullmatch(inside)
        if parts is None:
            raise _Unresolved(
                f"{show('${' + inside + '}')} is not a variable",
                "Write ${NAME} or ${NAME:-default}, or $${ for the text '${'",
                "what stands in '${…}' is not a variable",
            )
        name, default = parts.groups()
        if default is not None and "${" in default:
            what = f"the default of ${{{name}}} holds a variable"
            raise _Unresolved(what, "Write a default without '${'")
        self.names.add(name)
        used.append(name)
        found = self.env.get(name) or default
        if found is None:
            raise _Unresolved(f"the variable {name} is not set", f"Set it, or write ${{{name}:-default}}")
        if any("\ud800" <= char <= "\udfff" for char in found):
            raise _Unresolved(f"the variable {name} is not UTF-8 text", "Set it to text")
        self.length += len(found)
        if self.length > MAX_BYTES:
            raise _Unresolved("the variables of the file add up to too much text", "Refer to shorter ones")
        return found


class _Unresolved(Exception):  # noqa: N818  carried to the node, where it becomes an error
    def __init__(self, what: str, fix: str, without_value: str = "") -> None:
        self.what = what
        self.fix = fix
        self.without_value = without_value or what
