"""What stands at a path of the settings, read off the models: for variables, suggestions and masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr

from sidecar.settings.errors import MASK, Path, written
from sidecar.settings.kinds import ClassName, Section
from sidecar.settings.model import Settings

What = Literal["section", "mapping", "list", "class", "secret", "text", "other"]


@dataclass(frozen=True, slots=True)
class Place:
    what: What
    section: type[Section] | None = None  # of a section
    inner: Any = None  # of a mapping or list: what its entries are


def place_at(path: Path) -> Place | None:
    """The place at a path, or None where there is no such key."""
    place = Place("section", Settings)
    for part in path:
        if place.section is not None:
            field = place.section.model_fields.get(str(part))
            if field is None:
                return None
            place = _place(field.annotation)
        elif place.inner is not None and (place.what == "list") == isinstance(part, int):
            place = _place(place.inner)
        else:
            return None
    return place


def known_paths(section: type[Section] = Settings, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every path with a fixed name, sections included."""
    for name, field in section.model_fields.items():
        path = (*prefix, name)
        yield path
        inner = _place(field.annotation).section
        if inner is not None:
            yield from known_paths(inner, path)


def shown_value(path: Path, value: object) -> str:
    """What an error may show of the value at a path.

    Under an unknown name, and where a mapping or a list is expected, the value may be a key that slipped:
    nobody can tell, so nothing is shown.
    """
    place = place_at(path)
    if place is not None and place.what == "secret":
        return MASK
    open_to_all = place is not None and place.what not in ("section", "mapping", "list")
    return written(value) if open_to_all and isinstance(value, str) else ""


def _place(annotation: Any) -> Place:
    while get_origin(annotation) in (Annotated, Union, UnionType):
        wrapped = get_args(annotation)
        annotation = next(item for item in wrapped if item is not NoneType)
    origin = get_origin(annotation)
    if origin is dict:
        return Place("mapping", inner=get_args(annotation)[1])
    if origin is tuple:
        return Place("list", inner=get_args(annotation)[0])
    if annotation == ClassName:
        return Place("class")
    if origin is Literal:
        return Place("text")
    if issubclass(annotation, Section):
        return Place("section", annotation)
    if annotation is SecretStr:
        return Place("secret")
    return Place("text" if issubclass(annotation, str | FilePath) else "other")
