"""Numbers that a state gives its people. So far: US social security numbers (SSA, POMS RM 10201)."""

from __future__ import annotations

import re

from sidecar.classifiers.content.model import Candidate, Rule, is_word, when
from sidecar.core.classification import DataClass

_CONTEXT = r"(?i)ssn|social[ _-]?security|soc\.? ?sec"
_CONTEXT_NEAR = re.compile(r"(?<![a-z])ssn|social[ _-]?security|soc\.? ?sec\b", re.IGNORECASE)
_NEAR = 60


def _is_assigned(number: str) -> bool:
    from stdnum.us import ssn  # at first need, as it costs memory and start-up time

    return bool(ssn.is_valid(number))


def _stands_apart(candidate: Candidate) -> bool:
    """Not a piece of a longer number or of an identifier."""
    before, after = candidate.before(2), candidate.after(2)
    if is_word(before[-1:]) or is_word(after[:1]):
        return False
    return re.fullmatch(r"[0-9][.-]", before) is None and re.match(r"[.-][0-9]", after) is None


def _is_ssn(candidate: Candidate) -> bool:
    return _stands_apart(candidate) and _is_assigned(candidate.text)


def _is_ssn_by_context(candidate: Candidate) -> bool:
    if not _stands_apart(candidate):
        return False
    if not _CONTEXT_NEAR.search(candidate.before(_NEAR)) and not _CONTEXT_NEAR.search(candidate.after(_NEAR // 2)):
        return False
    return _is_assigned(re.sub(r"[ .]", "", candidate.text))


RULES = (
    Rule(
        "us-ssn",
        DataClass.PII,
        pattern=r"[0-9]{3}-[0-9]{2}-[0-9]{4}",
        check=when(_is_ssn),
        shapes=(r"[0-9]{3}-[0-9]{2}-[0-9]{4}",),
    ),
    Rule(
        "us-ssn",
        DataClass.PII,
        pattern=r"[0-9]{3}[ .]?[0-9]{2}[ .]?[0-9]{4}",
        check=when(_is_ssn_by_context),
        words=(_CONTEXT,),
        shapes=(r"[0-9]{3}[ .]?[0-9]{2}[ .]?[0-9]{4}",),
    ),
)
