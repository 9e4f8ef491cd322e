"""YAML text → a tree that remembers lines.

The loader's own constructors are left out on purpose. They keep the last of two equal keys, read `no` as False,
`010` as 8 and `12:30` as 750, and lose the line; each of those is a mistake that a person makes and should hear
of. So the tree is built from the parser's events: scalars stay text with the kind that YAML sees in them, and the
one who knows what a key wants (`kinds`) reads the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import yaml

from sidecar.settings.errors import Path, SettingError, dotted, show

MAX_BYTES = 1 << 20
MAX_DEPTH = 32  # the deepest key of ours is at 6
MAX_NODES = 20_000  # counted after aliases are expanded: a few lines of them can mean billions

_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Kind = Literal["text", "number", "bool"]

_TAG = "tag:yaml.org,2002:"
_KIND_OF_TAG: dict[str, Kind] = {
    "!": "text",
    _TAG + "str": "text",
    _TAG + "int": "number",
    _TAG + "float": "number",
    _TAG + "bool": "bool",
}
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {
    word for lower in ("true", "false", "yes", "no", "on", "off") for word in (lower, lower.title(), lower.upper())
}
_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")


class Scalar(str):
    """A scalar's text as written, with the kind that a YAML 1.1 reader sees in it."""

    __slots__ = ("kind",)
    kind: Kind

    def __new__(cls, text: str, kind: Kind = "text") -> Scalar:
        self = super().__new__(cls, text)
        self.kind = kind
        return self


@dataclass(slots=True)
class Node:
    """One value: `value` is None for YAML's null. `line` is its key's, where a person looks for it.

    `variable` is the environment variable that it came from; `hidden` the one that was expanded into it and
    whose name says that it is a secret; `problem` tells why its text could not be made out.
    """

    value: Scalar | list[Node] | dict[str, Node] | None
    line: int = 0
    variable: str = ""
    hidden: str = ""
    problem: SettingError | None = None
    size: int = 1


class _Stop(Exception):  # noqa: N818  it ends the reading; the mistake is the SettingError inside
    def __init__(self, error: SettingError) -> None:
        self.error = error


def parse(text: str, name: str, base: Path = (), variable: str = "") -> tuple[Node | None, list[SettingError]]:
    """The tree, or None where the text is no YAML, and every mistake on the way.

    `name` stands for the whole document in errors; `base` is the path that the document is put at.
    """
    builder = _Builder(text, name, base, variable)
    try:
        return builder.document(), builder.problems
    except _Stop as stop:
        return None, [*builder.problems, stop.error]
    except yaml.YAMLError as error:
        return None, [*builder.problems, builder.syntax_error(error)]


def plain(node: Node) -> object:
    """The tree as dicts, lists, `Scalar`s and None: what the models read."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def lookup(root: Node, path: Path) -> tuple[Node, bool]:
    """The node at the path and True, or the deepest one on the way to it and False."""
    node = root
    for part in path:
        value = node.value
        if isinstance(value, dict) and part in value:
            node = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            node = value[part]
        else:
            return node, False
    return node, True


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


class _Builder:
    def __init__(self, text: str, name: str, base: Path, variable: str) -> None:
        self.text = text
        self.name = name
        self.base = base
        self.variable = variable
        self.problems: list[SettingError] = []
        self.events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=_LOADER))
        self.anchors: dict[str, Node | None] = {}
        self.count = 0

    def document(self) -> Node:
        root = Node(None, 1, self.variable)
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    line = _line(event)
                    raise self.stop((), "a second document begins here", "Keep one, without '---' inside", line)
            elif isinstance(event, yaml.NodeEvent):
                root = self.node(event, self.base, _line(event))
        return root

    def node(self, event: yaml.NodeEvent, path: Path, line: int, depth: int = 0) -> Node:
        self.count += 1
        if isinstance(event, yaml.AliasEvent):
            return self.alias(str(event.anchor), path, line)
        if self.count > MAX_NODES:
            raise self.too_large(path, line)
        if depth > MAX_DEPTH:
            what = f"is nested deeper than {MAX_DEPTH} levels"
            raise self.stop(path[:4], what, "No key of ours is that deep: remove it", line)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self.scalar(event, path, line), line, self.variable)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.check_tag(event.tag, "seq", path, line)
            node = self.sequence(path, line, depth)
        else:
            self.check_tag(getattr(event, "tag", None), "map", path, line)
            node = self.mapping(path, line, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def alias(self, anchor: str, path: Path, line: int) -> Node:
        if anchor not in self.anchors:
            raise self.stop(path, f"*{anchor} stands for nothing", f"Define &{anchor} before it is used", line)
        found = self.anchors[anchor]
        if found is None:
            raise self.stop(path, f"*{anchor} contains itself", "Write the value out", line)
        self.count += found.size
        if self.count > MAX_NODES:
            raise self.too_large(path, line)
        return replace(found, line=line)

    def sequence(self, path: Path, line: int, depth: int) -> Node:
        items: list[Node] = []
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            assert isinstance(event, yaml.NodeEvent)  # noqa: S101  the parser's grammar
            items.append(self.node(event, (*path, len(items)), _line(event), depth + 1))
        return Node(items, line, self.variable, size=1 + sum(item.size for item in items))

    def mapping(self, path: Path, line: int, depth: int) -> Node:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        merged: list[Node] = []
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            assert isinstance(event, yaml.NodeEvent)  # noqa: S101  the parser's grammar
            at = _line(event)
            key, is_merge = self.key(event, path, at, depth)
            child = self.node(self.value_event(), (*path, key), at, depth + 1)
            if key in lines:
                self.problem((*path, key), f"is given twice, first on line {lines[key]}", "Keep one", at)
            lines[key] = at
            if is_merge:
                merged += self.mergeable(child, (*path, key))
            else:
                entries[key] = child
        for source in merged:
            if isinstance(source.value, dict):
                entries = {**source.value, **entries}
        return Node(entries, line, self.variable, size=1 + sum(1 + child.size for child in entries.values()))

    def value_event(self) -> yaml.NodeEvent:
        event = next(self.events)
        assert isinstance(event, yaml.NodeEvent)  # noqa: S101  the parser's grammar
        return event

    def key(self, event: yaml.NodeEvent, path: Path, line: int, depth: int) -> tuple[str, bool]:
        """A key's text and whether it is a merge key. `no: 1` is the key `no`, as whoever wrote it meant."""
        node = self.node(event, (*path, "?"), line, depth + 1)
        if isinstance(node.value, Scalar) and node.value:
            return str(node.value), node.value == "<<" and not getattr(event, "style", None)
        what = "a key is missing before ':'" if node.value is None or not node.value else "a key is not text"
        raise self.stop(path, what, "Write 'key: value'", line)

    def mergeable(self, node: Node, path: Path) -> list[Node]:
        sources = node.value if isinstance(node.value, list) else [node]
        if all(isinstance(source.value, dict) for source in sources):
            return sources
        self.problem(path, "merges something that is not a mapping", "Write '<<: *name' of a mapping", node.line)
        return []

    def scalar(self, event: yaml.ScalarEvent, path: Path, line: int) -> Scalar | None:
        text, tag = event.value, event.tag
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise self.stop(path, "holds half of a surrogate pair", "Write the character itself", line)
        if tag is not None:
            if tag == _TAG + "null":
                return None
            if tag not in _KIND_OF_TAG:
                self.problem(path, f"has the tag {show(tag)}", "Remove the tag", line)
            return Scalar(text, _KIND_OF_TAG.get(tag, "text"))
        if event.style:  # quoted, or a block
            return Scalar(text)
        if text in _NULL:
            return None
        if text in _BOOL:
            return Scalar(text, "bool")
        return Scalar(text, "number" if _NUMBER.fullmatch(text) else "text")

    def check_tag(self, tag: str | None, plain_tag: str, path: Path, line: int) -> None:
        if tag not in (None, "!", _TAG + plain_tag):
            self.problem(path, f"has the tag {show(tag)}", "Remove the tag", line)

    def error(self, path: Path, message: str, fix: str, line: int | None) -> SettingError:
        key = dotted(path) or self.name
        return SettingError(key, "", message, fix, None if self.variable else line, self.variable)

    def problem(self, path: Path, message: str, fix: str, line: int | None) -> None:
        self.problems.append(self.error(path, message, fix, line))

    def stop(self, path: Path, message: str, fix: str, line: int) -> _Stop:
        return _Stop(self.error(path, message, fix, line))

    def too_large(self, path: Path, line: int) -> _Stop:
        what = f"has more than {MAX_NODES} values once aliases are expanded"
        return self.stop(path[:4], what, "Write it with fewer or smaller aliases", line)

    def syntax_error(self, error: yaml.YAMLError) -> SettingError:
        """The parser's complaint with the line, never with the text: a key may stand on that line."""
        mark = getattr(error, "problem_mark", None)
        if mark is None:
            at = self.text.count("\n", 0, getattr(error, "position", None) or 0) + 1
            what = "holds a control character"
            return self.error(self.base, what, "Save it as plain UTF-8 text, without NUL and the like", at)
        lines = self.text.splitlines() or [""]
        written = lines[min(mark.line, len(lines) - 1)]
        what = f"is not valid YAML: {getattr(error, 'problem', None) or 'it cannot be read'}"
        fix = "Check indentation, quotes and brackets there"
        if "\t" in written[: len(written) - len(written.lstrip())]:
            what, fix = "is indented with a tab, which YAML does not allow", "Indent with spaces"
        elif "${" in written:
            fix = 'Inside {…} and […] put the variable in quotes: "${NAME}"'
        elif "[:" in written or ": @" in written or ": `" in written or ": %" in written:
            fix = "Put the value in quotes"
        elif what.endswith("not allowed in this context"):
            fix = "Check the indentation there; put a value that holds ': ' in quotes"
        return self.error(self.base, what, fix, mark.line + 1)
