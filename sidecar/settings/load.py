"""File and variables → settings, or every mistake in them at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from sidecar.settings import checks, overrides
from sidecar.settings.document import MAX_BYTES, Node, lookup, parse, plain
from sidecar.settings.errors import Path as KeyPath
from sidecar.settings.errors import SettingError, SettingsError
from sidecar.settings.expand import Expansion
from sidecar.settings.explain import at, explain
from sidecar.settings.keyfile import content_digest, read_bounded, read_key_file
from sidecar.settings.masking import masked
from sidecar.settings.model import Settings
from sidecar.settings.paths import resolved

__all__ = ["Loaded", "SettingError", "SettingsError", "load", "masked"]

_KEY_FILE: KeyPath = ("ollama_cloud", "api_key_file")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Good settings. `digest` is of all that they were made from; `files` are those that were read, each with
    the digest of the bytes that were seen, from which a `FileWatch` goes on without a gap."""

    settings: Settings
    warnings: tuple[str, ...]
    digest: str
    files: Mapping[Path, str] = field(default_factory=dict)


def load(path: Path | None, env: Mapping[str, str]) -> Loaded:
    """Read the file, put the variables over it, check everything. Raises SettingsError and nothing else."""
    content, root, errors = _read(path)
    unread = bool(errors) and not root.value
    expansion = Expansion(env)
    found = overrides.read(env)
    root = overrides.apply(expansion.tree(root), found.found)
    errors += found.errors
    broken = dict(_problems_of(root))
    errors += broken.values()

    settings, failed, mistakes = _validate(root, set(broken))
    errors += mistakes
    if unread:
        failed.add(())  # rules across keys would be held against what the file may well say otherwise
    settings, path_problems, warnings = resolved(settings, env)
    for problem in (*path_problems, *checks.problems(settings)):
        if not any(_related(involved, bad) for involved in (problem.path, *problem.others) for bad in failed):
            failed.add(problem.path)
            errors.append(_error(root, problem.path, problem.message, problem.fix))

    files = {path: content_digest(content)} if path is not None else {}
    key_content = b""
    cloud = settings.ollama_cloud
    if cloud.api_key_file is not None and not any(_related(_KEY_FILE, bad) for bad in failed):
        try:
            key_file = read_key_file(cloud.api_key_file)
        except PydanticCustomError as error:
            context = error.context or {}
            errors.append(_error(root, _KEY_FILE, str(context["message"]), str(context["fix"])))
        else:
            cloud.remember_key(key_file.key)
            key_content = key_file.content
            files[cloud.api_key_file] = content_digest(key_content)

    if errors:
        # In the order of the file; then what is about no line of it.
        raise SettingsError(sorted(errors, key=lambda error: error.line or MAX_BYTES))
    digest = _digest(content, env, expansion.names, key_content)
    return Loaded(settings, (*found.warnings, *warnings, *checks.warnings(settings)), digest, files)


def _read(path: Path | None) -> tuple[bytes, Node, list[SettingError]]:
    empty = Node({})
    if path is None:
        return b"", empty, []
    name = str(path) if str(path).isprintable() else ascii(str(path))

    def wrong(message: str, fix: str, line: int | None = None) -> tuple[bytes, Node, list[SettingError]]:
        return b"", empty, [SettingError(name, "", message, fix, line)]

    try:
        content = read_bounded(path)
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        why = os.strerror(number) if number else "it is not a path"
        return wrong(f"cannot be read: {why}", "Check the path, the mount and its permissions")
    if len(content) > MAX_BYTES:
        return wrong(f"is larger than {MAX_BYTES >> 20} MiB", "Check that it is the settings file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return wrong("is not UTF-8 text", "Save it as UTF-8, or check that it is the settings file", line)
    root, errors = parse(text, name)
    if root is None or root.value is None:
        return content, empty, errors
    if not isinstance(root.value, dict):
        what = f"holds {'a list' if isinstance(root.value, list) else 'text'} where a mapping is expected"
        fix = "Begin with 'ollama_cloud:' or another section"
        return content, empty, [*errors, SettingError(name, "", what, fix, root.line)]
    return content, root, errors


def _problems_of(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, SettingError]]:
    """What could not be expanded and is still there: a variable of ours may have taken its place."""
    if node.problem is not None:
        yield path, node.problem
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from _problems_of(child, (*path, key))
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from _problems_of(child, (*path, index))


def _validate(root: Node, broken: set[KeyPath]) -> tuple[Settings, set[KeyPath], list[SettingError]]:
    """The settings; where there are mistakes, those of what is left without them.

    The rules across keys can then be held against the rest, so that one run names every mistake.
    """
    data = plain(root)
    failed = set(broken)
    errors: list[SettingError] = []
    for attempt in range(3):
        try:
            return Settings.model_validate(data), failed, errors
        except ValidationError as error:
            found = list(explain(error, root))
            if attempt == 0:
                errors += [mistake for _, mistake in found]
            failed.update(at_path for at_path, _ in found)
            for bad in failed:
                _remove(data, bad)
    return Settings(), {()}, errors


def _remove(data: object, path: KeyPath) -> None:
    """Take out the key at the path; of a list's entry, the whole list."""
    for depth, part in enumerate(path, 1):
        if not isinstance(data, dict) or part not in data:
            return
        inner = data[part]
        if depth == len(path) or not isinstance(inner, dict):
            del data[part]
            return
        data = inner


def _related(one: KeyPath, other: KeyPath) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _error(root: Node, path: KeyPath, message: str, fix: str) -> SettingError:
    node, exact = lookup(root, path)
    # What is not in the file is a default: no line says it.
    return at(path, node if exact else Node(None), message, fix)


def _digest(content: bytes, env: Mapping[str, str], names: set[str], key: bytes) -> str:
    """Over everything that `load` looked at. Each part goes in with its length: no two can be confused."""
    seen = {*overrides.ours(env), *names, "HOME", "XDG_STATE_HOME", "TMPDIR"}
    parts = [content, *(f"{name}={env[name]}".encode("utf-8", "replace") for name in sorted(seen & env.keys())), key]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
