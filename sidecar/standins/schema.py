"""The smallest JSON value that satisfies a JSON schema, for `format`, `response_format` and tool arguments.

Enough of JSON Schema for what structured-output clients send: type, properties and required, items, enum, const,
anyOf/oneOf/allOf, $ref into the same document, the usual limits and string formats. A `pattern` is not solved. What
is no schema gives an object; one that never ends (a type that requires itself) is cut off with null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "stand-in@example.com",
    "uri": "https://example.com/stand-in",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "hostname": "stand-in.example.com",
}
_MAX_DEPTH = 32
_MAX_VALUES = 2000
_MAX_LENGTH = 10_000


def minimal(schema: Any) -> Any:
    """A value for a schema; `"json"` (Ollama's free form) and anything that is no schema give an object."""
    if not isinstance(schema, Mapping):
        return {"stand_in": True}
    try:
        return _Solver(schema).value(schema, 0)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError):
        return {"stand_in": True}


class _Solver:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MAX_VALUES

    def value(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or self._left < 0:
            return None
        if "$ref" in schema:
            return self.value(self._resolve(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        for combined in ("anyOf", "oneOf"):
            if schema.get(combined):
                return self.value(schema[combined][0], depth + 1)
        if schema.get("allOf"):
            return self.value(self._merge(schema), depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        if kind is None:
            kind = "array" if "items" in schema else "object"
        return self._of_type(str(kind), schema, depth)

    def _of_type(self, kind: str, schema: Mapping[str, Any], depth: int) -> Any:
        if kind == "object":
            properties = schema.get("properties") or {}
            required = schema.get("required") or ()
            return {name: self.value(properties.get(name, {"type": "null"}), depth + 1) for name in required}
        if kind == "array":
            first = [self.value(item, depth + 1) for item in schema.get("prefixItems") or ()]
            missing = min(_MAX_VALUES, int(schema.get("minItems") or 0)) - len(first)
            return first + [self.value(schema.get("items") or {}, depth + 1) for _ in range(missing)]
        if kind == "string":
            shortest = min(_MAX_LENGTH, int(schema.get("minLength") or 0))
            text = _FORMATS.get(str(schema.get("format")), "stand-in").ljust(shortest, ".")
            limit = schema.get("maxLength")
            return text if limit is None else text[: int(limit)]
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        return False if kind == "boolean" else None

    def _resolve(self, reference: Any) -> Any:
        found: Any = self._root
        for part in str(reference).removeprefix("#").split("/"):
            if part:
                name = part.replace("~1", "/").replace("~0", "~")
                found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def _merge(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """One object schema out of an allOf: properties and required of all its parts."""
        merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
        merged["properties"] = dict(schema.get("properties") or {})
        merged["required"] = list(schema.get("required") or ())
        for part in schema["allOf"]:
            whole = self._resolve(part["$ref"]) if isinstance(part, Mapping) and "$ref" in part else part
            if isinstance(whole, Mapping):
                merged["properties"] |= dict(whole.get("properties") or {})
                merged["required"] += [name for name in whole.get("required") or () if name not in merged["required"]]
                merged |= {key: value for key, value in whole.items() if key not in merged}
        if merged["properties"]:
            merged["type"] = "object"
        return merged


def _number(schema: Mapping[str, Any], *, whole: bool) -> Any:
    step = schema.get("multipleOf") or 1
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    value = 0
    if low is not None:
        value = math.ceil(low / step) * step
    if isinstance(above, int | float) and not isinstance(above, bool):
        value = max(value, (math.floor(above / step) + 1) * step)
    if high is not None and value > high:
        value = math.floor(high / step) * step
    if isinstance(below, int | float) and not isinstance(below, bool) and value >= below:
        value = (math.ceil(below / step) - 1) * step
    return int(value) if whole else value
