"""The task headers of a request, read once: trimmed, case-insensitive, and wrong values told apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from sidecar.core.classification import BY_LABEL, DataClass, Finding
from sidecar.core.task import LEVELS, NOTHING_ASKED, TASK_TYPES, Asked

CLASSIFICATION = b"x-data-classification"
_IDS = (b"x-task-id", b"x-user-id", b"x-request-id")
TASK_HEADERS = frozenset(
    (
        *_IDS,
        CLASSIFICATION,
        b"x-task-type",
        b"x-complexity",
        b"x-quality-requirement",
        b"x-latency-requirement-ms",
        b"x-cloud-model",
    )
)
_VISIBLE = re.compile(rb"[!-~]{1,128}\Z")
_NUMBER = re.compile(rb"0*[1-9][0-9]{0,17}\Z")
_NAMES = {name: name.title().decode() for name in TASK_HEADERS}


class HeaderSource(Protocol):
    """A request's header fields, names in lower case."""

    @property
    def first(self) -> Mapping[bytes, bytes]: ...
    def all(self, name: bytes) -> list[bytes]: ...


def read_task_headers(headers: HeaderSource) -> Asked:
    """What the headers ask for. A wrong value counts as absent and is named in `invalid`.

    The same value twice is one value; two different ones are a wrong one.
    """
    present = TASK_HEADERS.intersection(headers.first)
    if not present:
        return NOTHING_ASKED
    invalid: list[str] = []

    def one(name: bytes) -> bytes | None:
        if name not in present:
            return None
        values = [value.strip() for value in headers.all(name)]
        # Ids are the app's own text, so `a` and `A` are two of them; all other values are one in any case.
        if len(set(values) if name in _IDS else {value.lower() for value in values}) > 1:
            invalid.append(_NAMES[name])
            return None
        return values[0]

    def visible(name: bytes) -> str | None:
        value = one(name)
        if value is None:
            return None
        if _VISIBLE.match(value):
            return value.decode("ascii")
        invalid.append(_NAMES[name])
        return None

    def chosen(name: bytes, allowed: tuple[str, ...]) -> str | None:
        if name not in present:
            return None
        values = {value.strip().lower() for value in headers.all(name)}
        value = values.pop().decode("latin-1")
        if not values and value in allowed:
            return value
        invalid.append(_NAMES[name])
        return None

    def positive(name: bytes) -> int | None:
        value = one(name)
        if value is None:
            return None
        if _NUMBER.match(value):
            return int(value)
        invalid.append(_NAMES[name])
        return None

    return Asked(
        task_id=visible(b"x-task-id"),
        task_type=chosen(b"x-task-type", TASK_TYPES),
        complexity=chosen(b"x-complexity", LEVELS),
        quality=chosen(b"x-quality-requirement", LEVELS),
        latency_ms=positive(b"x-latency-requirement-ms"),
        cloud_model=visible(b"x-cloud-model"),
        user_id=visible(b"x-user-id"),
        request_id=visible(b"x-request-id"),
        invalid=tuple(invalid),
    )


def header_finding(headers: HeaderSource) -> Finding | None:
    """The class that X-Data-Classification states; None without that header.

    An unknown, an empty and two different values count as confidential: whoever sends the header means to restrict.
    """
    if CLASSIFICATION not in headers.first:
        return None
    values = {value.strip().lower() for value in headers.all(CLASSIFICATION)}
    stated = BY_LABEL.get(values.pop().decode("latin-1"))
    if stated is None or values:
        return Finding("header-not-valid", DataClass.CONFIDENTIAL, "header", "X-Data-Classification")
    return Finding("header", stated, "header", "X-Data-Classification")
