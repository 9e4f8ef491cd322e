"""Marks that a document carries for its readers: label lines, the Traffic Light Protocol, limits of distribution."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sidecar.classifiers.content.model import Candidate, Found, Rule, is_word, when
from sidecar.classifiers.content.rules import vocabulary
from sidecar.core.classification import DataClass

_VALUES = {
    DataClass.PII: vocabulary.LABEL_PII,
    DataClass.CONFIDENTIAL: vocabulary.LABEL_CONFIDENTIAL,
    DataClass.INTERNAL: vocabulary.LABEL_INTERNAL,
    DataClass.PUBLIC: vocabulary.LABEL_PUBLIC,
}
_ANY_VALUE = "|".join(_VALUES.values())
_MARK = r"(?:\\?[\"'*_\x60\])>])"  # what closes a quoted or emphasised key
_OPEN = r"(?:\\?[\"'*_\x60\[(<])"
_LABEL = (
    rf"(?i)(?:{vocabulary.LABEL_KEYS}){_MARK}{{0,4}}[ \t]{{0,8}}(?:[:=|–—]|- ){_MARK}{{0,3}}"
    rf"[ \t]{{0,8}}{_OPEN}{{0,4}}(?:{_ANY_VALUE})"
)
_CLASSES = tuple((data_class, re.compile(rf"(?i)(?:{words})(?!\w)")) for data_class, words in _VALUES.items())
_ALTERNATIVE = re.compile(rf"(?i)[ \t]*(?:[/|,]|\bor\b|\boder\b)[ \t]*({_ANY_VALUE})(?!\w)")
_COLOUR = re.compile(r"(?i)(red|amber|green)(?:\+strict)?$")


def _label(candidate: Candidate) -> Sequence[Found]:
    if is_word(candidate.previous) or is_word(candidate.next):
        return ()
    written = candidate.text
    classes = [
        data_class
        for data_class, values in _CLASSES
        for match in values.finditer(written)
        if match.end() == len(written)
    ]
    # `public / internal / confidential` on one line: the strictest that it offers.
    rest = candidate.line_after(120)
    while alternative := _ALTERNATIVE.match(rest):
        classes += (data_class for data_class, values in _CLASSES if values.fullmatch(alternative.group(1)))
        rest = rest[alternative.end() :]
    strictest = max(classes, default=DataClass.PUBLIC)
    return (Found(candidate.start, candidate.end, strictest),) if strictest > DataClass.PUBLIC else ()


def _traffic_light(candidate: Candidate) -> Sequence[Found]:
    """FIRST TLP 2.0: RED and AMBER name their readers, GREEN stays in the community, CLEAR (WHITE in 1.0) is open."""
    colour = _COLOUR.search(candidate.text)
    if colour is None or not candidate.stands_alone:
        return ()
    green = colour.group(1).lower() == "green"
    return (Found(candidate.start, candidate.end, DataClass.INTERNAL if green else DataClass.CONFIDENTIAL),)


RULES = (
    Rule("label-line", DataClass.PII, _LABEL, _label),
    Rule(
        "label-line",
        DataClass.CONFIDENTIAL,
        r"(?i)TLP[ \t]?[:=-][ \t]?(?:RED|AMBER(?:\+STRICT)?|GREEN|CLEAR|WHITE)",
        _traffic_light,
    ),
    Rule(
        "distribution-limit",
        DataClass.INTERNAL,
        f"(?i)(?:{vocabulary.spaced(vocabulary.DISTRIBUTION_LIMITS)})",
        when(lambda candidate: candidate.stands_alone),
    ),
)
