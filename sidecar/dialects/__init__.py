"""The three languages that clients speak, and the routes by which each is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from sidecar.dialects import anthropic, ollama, openai
from sidecar.dialects.base import Dialect, Route

ROUTES: Mapping[bytes, Route] = {
    route.path.encode(): route for route in (*ollama.ROUTES, *openai.ROUTES, *anthropic.ROUTES)
}


# Ollama's busiest paths that are no inference, so that they need no second look.
_OTHER = frozenset((b"/", b"/api/tags", b"/api/show", b"/api/ps", b"/api/version", b"/v1/models"))
# Where some server ends a path, or a segment of it; encoded ones too, once they are decoded.
_DELIMITER = re.compile(rb"[#?;\0]")
_MOST_DECODINGS = 4


def match(method: bytes, path: bytes) -> Route | None:
    """The inference route of a request; None for everything that goes to the local Ollama untouched.

    A path that some server could take for a route is that route: percent-encoded, with double slashes, dots, a
    trailing slash or in another case. `is_canonical` tells those apart.
    """
    if method != b"POST":
        return None
    route = ROUTES.get(path)
    if route is None and path not in _OTHER:
        decoded = _decoded(path)
        route = ROUTES.get(_resolved(_DELIMITER.split(decoded, 1)[0])) or ROUTES.get(_resolved(decoded))
    return route


def normal(path: bytes) -> bytes:
    """A path as the most lenient server would read it."""
    return _resolved(_DELIMITER.split(_decoded(path), 1)[0])


def _decoded(path: bytes) -> bytes:
    for _ in range(_MOST_DECODINGS):
        if b"%" not in path:
            break
        path = unquote_to_bytes(path)
    return path.replace(b"\\", b"/").lower()


def _resolved(path: bytes) -> bytes:
    parts: list[bytes] = []
    for segment in path.split(b"/"):
        part = _DELIMITER.split(segment, 1)[0].strip()
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/" + b"/".join(parts)


def is_canonical(path: bytes) -> bool:
    """Whether a path is a route's own spelling."""
    return path in ROUTES


def dialect_of(path: bytes) -> Dialect:
    """In which language to answer a request for any path."""
    lenient = normal(path)
    if lenient.startswith(b"/v1/messages"):
        return anthropic.ANTHROPIC
    if lenient.startswith(b"/v1/"):
        return openai.OPENAI
    return ollama.OLLAMA
