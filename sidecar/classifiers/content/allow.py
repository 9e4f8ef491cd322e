"""Phrases that the settings allow: a hit inside one of their occurrences is no hit."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence

import re2

from sidecar.classifiers.content.model import is_word


class Allowed:
    """Allowed phrases, compared without case; a blank between words stands for any white space."""

    def __init__(self, phrases: Sequence[str]) -> None:
        options = re2.Options()
        options.log_errors = False
        spellings = {spelling for phrase in phrases for spelling in _spellings(phrase)}
        self._patterns = [re2.compile(f"(?i){loosely(spelling)}", options) for spelling in sorted(spellings)]
        # An occurrence may be longer than its phrase: by case mapping, and by runs of white space.
        self._reach = max((2 * len(spelling.encode()) + 16 for spelling in spellings), default=0)

    def covers(self, data: bytes, start: int, end: int) -> bool:
        """Whether `data[start:end]` lies inside an occurrence of a phrase."""
        if not self._patterns:
            return False
        first = max(0, start - self._reach)
        window = data[first : end + self._reach]
        return any(
            first + match.start() <= start and end <= first + match.end()
            for pattern in self._patterns
            for match in pattern.finditer(window)
        )


def _spellings(phrase: str) -> Iterator[str]:
    phrase = " ".join(unicodedata.normalize("NFKC", phrase).split())
    if phrase:
        yield phrase
        yield json.dumps(phrase)[1:-1]  # as the raw body may have it


def loosely(phrase: str) -> str:
    r"""RE2 for a phrase in which each run of blanks is any white space, also one written as `\n` in JSON."""
    return r"(?:\s|\\n)+".join(re2.escape(word) for word in phrase.split())


def edges(phrase: str) -> tuple[bool, bool]:
    """Whether the phrase has to begin, and to end, at the edge of a word: not where it does so with a mark."""
    return is_word(phrase[:1]), is_word(phrase[-1:])
