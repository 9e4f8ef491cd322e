"""Data classes, their order, and how findings combine: the most restrictive wins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class DataClass(IntEnum):
    """How restricted a text is, in rising order. `PUBLIC` and `INTERNAL` may go to the cloud."""

    PUBLIC = 0
    INTERNAL = 1
    CONFIDENTIAL = 2
    PII = 3

    @property
    def label(self) -> str:
        """The value users write: `public`, `internal`, `confidential` or `pii`."""
        return _LABELS[self]

    @property
    def sensitive(self) -> bool:
        """Whether the cloud is closed to it."""
        return self >= DataClass.CONFIDENTIAL


_LABELS = tuple(member.name.lower() for member in DataClass)
BY_LABEL = {label: DataClass(order) for order, label in enumerate(_LABELS)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for a class. It says where, never what: the text itself is nowhere in it.

    `source` is `header`, `default`, `content` or `body`; `where` is a field path such as
    `messages[2].content` (empty where there is none); `start` and `end` count characters in that field.
    """

    rule: str
    data_class: DataClass
    source: str
    where: str = ""
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Classification:
    """The combined class of one call and what it came from."""

    data_class: DataClass
    source: str
    findings: tuple[Finding, ...] = ()

    @property
    def sensitive(self) -> bool:
        return self.data_class >= DataClass.CONFIDENTIAL


def combine(findings: Iterable[Finding]) -> Classification:
    """The most restrictive finding decides; among equals the first one names the source.

    Raises ValueError on no finding at all: the pod's default is always one.
    """
    kept = tuple(findings)
    if not kept:
        raise ValueError("a classification needs at least the pod's default")
    top = max(kept, key=lambda finding: finding.data_class)
    return Classification(top.data_class, top.source, kept)
