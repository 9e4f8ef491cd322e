"""The body of a cloud call: the classified bytes with the model, the output cap and the wish for usage put in."""

from __future__ import annotations

from typing import Any

import orjson

from sidecar.core.call import Facts
from sidecar.dialects.base import Route, bound
from sidecar.dialects.splice import Edit, NotEditableError, Span, apply, members, set_member


def asks_for_usage(route: Route, facts: Facts) -> bool:
    """Whether we have to ask for the usage ourselves, so that its record is ours to drop."""
    return route.path == "/v1/chat/completions" and facts.stream and not facts.usage_asked


def cloud_body(route: Route, raw: bytes, value: dict[str, Any], facts: Facts, model: str, cap: int) -> bytes:
    """The edited body. All other bytes stay, and what it says otherwise is compared to what `raw` says.

    The cap is lowered or put in, never raised; one with a fraction becomes the integer below. Raises NotEditableError
    where the body does not allow it.
    """
    there = members(raw)
    expected = dict(value)
    edits = [_set(raw, there, expected, ("model",), model)]
    for path in route.dialect.cap_path(value):
        asked = _at(value, path)
        allowed = min(bound(asked) or cap, cap)
        if type(asked) is not int or asked != allowed:
            edits.append(_set(raw, there, expected, path, allowed))
    if asks_for_usage(route, facts):
        edits.append(_set(raw, there, expected, ("stream_options", "include_usage"), True))
    edited = apply(raw, edits)
    try:
        says_so = orjson.loads(edited) == expected
    except (orjson.JSONDecodeError, RecursionError):
        says_so = False
    if not says_so:
        raise NotEditableError("the edited body does not say what it should")
    return edited


def with_model(raw: bytes, model: str) -> bytes:
    """The body with another model's name. Raises NotEditableError."""
    return apply(raw, [set_member(raw, ("model",), orjson.dumps(model))])


def _set(raw: bytes, there: dict[str, Span], expected: dict[str, Any], path: tuple[str, ...], value: Any) -> Edit:
    edit = set_member(raw, path, orjson.dumps(value), there=there)
    target = expected
    for name in path[:-1]:
        target[name] = dict(target.get(name) or {})  # a copy: the objects below belong to the body's own value
        target = target[name]
    target[path[-1]] = value
    return edit


def _at(value: dict[str, Any], path: tuple[str, ...]) -> Any:
    current: Any = value
    for name in path:
        current = current.get(name) if type(current) is dict else None
    return current
