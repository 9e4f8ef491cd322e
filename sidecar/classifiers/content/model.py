"""What the engine and the rules share: hits, settings, candidates, the budget of one call.

A rule is data: cheap RE2 triggers for the prefilter, one RE2 pattern that finds candidates, and a check that
accepts or rejects each of them. Everything works on UTF-8 bytes, because RE2 does; `Candidate` gives a check
the text around a candidate as `str`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sidecar.core.classification import DataClass

# 0xFF never occurs in UTF-8, and no class of an RE2 pattern in UTF-8 mode matches it, negated ones included:
# no candidate can reach from one text into the next. The line feeds let `^` and `$` work at both ends.
SEPARATOR = b"\n\xff\n"
_FENCE = b"\xff"
_STAND_IN = "\x1e"

# RE2 for triggers: the edges of a line, also of one that is a JSON string of its own.
LINE_START = r'(?:^|")'
LINE_END = r'(?:$|")'


def joined(texts: Sequence[str]) -> bytes:
    """All texts in UTF-8 with `SEPARATOR` between them; lone surrogates, which JSON can carry, become `?`.

    One encoding for all of them, as a call can have hundreds; one each only where a text has the stand-in itself.
    """
    text = f"\n{_STAND_IN}\n".join(texts)
    if text.count(_STAND_IN) >= max(len(texts), 1):
        return SEPARATOR.join(map(encode, texts))
    return encode(text).replace(_STAND_IN.encode(), _FENCE)


def encode(text: str) -> bytes:
    """UTF-8; lone surrogates become `?`: one character each, as before."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Hit:
    """One finding in one text: where it is and what it means, never what it says.

    `index` counts `texts`, -1 is the raw body. `start` and `end` count characters of that text as given (bytes
    for the raw body); for a hit in a decoded form they span the encoded run where that is known, else the text.
    """

    rule: str
    data_class: DataClass
    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ContentConfig:
    """The settings of `classification.keywords` and `classification.allow`, as plain values.

    `keywords_confidential` and `keywords_internal` are words or phrases that count anywhere as whole words;
    `keyword_defaults=False` clears the built-in ones, `keywords_strict` lets all of those count everywhere.
    A hit inside an occurrence of an `allow` phrase (case-insensitive) is dropped. `ip_class` is the class of
    IP and MAC addresses; `PUBLIC` switches their rules off.
    """

    keywords_confidential: tuple[str, ...] = ()
    keywords_internal: tuple[str, ...] = ()
    keyword_defaults: bool = True
    keywords_strict: bool = False
    allow: tuple[str, ...] = ()
    ip_class: DataClass = DataClass.INTERNAL


class Found(NamedTuple):
    """An accepted span, in bytes of the scanned buffer; `data_class` only where it is not the rule's own."""

    start: int
    end: int
    data_class: DataClass | None = None


class OverBudgetError(Exception):
    """The call has used up its candidates, its decoding or its time."""


class Budget:
    """What one call may still spend: a number of candidates, and seconds on a monotonic clock."""

    __slots__ = ("_clock", "_deadline", "_left")

    def __init__(self, candidates: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._left = candidates
        self._clock = clock
        self._deadline = clock() + seconds

    def spend(self, candidates: int = 1) -> None:
        """Raises OverBudgetError when the candidates or the time have run out."""
        self._left -= candidates
        if self._left < 0 or self._clock() > self._deadline:
            raise OverBudgetError


class Candidate:
    """A span that a rule's pattern matched, with the text around it up to the ends of its own text."""

    __slots__ = ("budget", "data", "end", "start")

    def __init__(self, data: bytes, start: int, end: int, budget: Budget) -> None:
        self.data = data
        self.start = start
        self.end = end
        self.budget = budget

    @property
    def text(self) -> str:
        return self.data[self.start : self.end].decode("utf-8", "replace")

    def before(self, size: int) -> str:
        """Up to `size` bytes of the same text before the candidate, decoded."""
        window = self.data[max(0, self.start - size) : self.start]
        return window[window.rfind(_FENCE) + 1 :].decode("utf-8", "ignore")

    def after(self, size: int) -> str:
        """Up to `size` bytes of the same text after the candidate, decoded."""
        window = self.data[self.end : self.end + size]
        fence = window.find(_FENCE)
        return (window if fence < 0 else window[:fence]).decode("utf-8", "ignore")

    def line_before(self, size: int) -> str:
        """As `before`, but not beyond the start of the line."""
        window = self.before(size)
        return window[window.rfind("\n") + 1 :]

    def line_after(self, size: int) -> str:
        """As `after`, but not beyond the end of the line."""
        return self.after(size).partition("\n")[0]

    @property
    def previous(self) -> str:
        """The character before the candidate; empty at the start of a text."""
        return self.before(4)[-1:]

    @property
    def next(self) -> str:
        """The character after the candidate; empty at the end of a text."""
        return self.after(4)[:1]

    @property
    def stands_alone(self) -> bool:
        """Whether the candidate is no part of a longer word."""
        return not is_word(self.previous) and not is_word(self.next)

    def whole(self) -> tuple[Found, ...]:
        """The answer of a check that accepts the candidate as it is."""
        return (Found(self.start, self.end),)


Check = Callable[[Candidate], Sequence[Found]]
Predicate = Callable[[Candidate], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `pattern` finds candidates, `check` decides; all patterns are RE2 in UTF-8 mode.

    `data_class` is the strictest that `check` can give. `words` and `shapes` go into the prefilter, and the rule
    runs only where each of them matched somewhere in the call; with none of them `pattern` itself is a word. In
    them the edges of a line are `LINE_START` and `LINE_END`, as a body without escapes is prefiltered as it is.
    Words are rich in literals; shapes are made of classes and repeats, and should not have a counted repeat that
    few of its own characters can start, as the positions of all starts multiply.
    """

    id: str
    data_class: DataClass
    pattern: str
    check: Check
    words: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()


def when(predicate: Predicate) -> Check:
    """A check that accepts the whole candidate where `predicate` holds."""

    def check(candidate: Candidate) -> Sequence[Found]:
        return candidate.whole() if predicate(candidate) else ()

    return check


_FIRST_OTHER_SCRIPT = "\u0590"


def is_word(character: str) -> bool:
    """Whether a character (or the empty string) beside a candidate makes it a part of a longer word.

    That is so for letters of Latin, Greek, Cyrillic and Armenian, digits and `_`. Scripts from Hebrew on write
    prefixes, particles or whole sentences without a blank: in `番号4111...です` the number stands alone.
    """
    return character == "_" or (character < _FIRST_OTHER_SCRIPT and character.isalnum())
