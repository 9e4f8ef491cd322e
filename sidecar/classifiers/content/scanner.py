"""The engine: one RE2 set over everything, then only the rules that it names.

1. All texts and the raw body go into one buffer, with a sentinel at its end, and through the prefilter once. A body
   without escapes that holds all texts goes through it alone.
2. Where nothing but the sentinel matched and no text has a mark of an encoding, that was all.
3. Else the decoded forms of the texts go into a second buffer and through the same prefilter.
4. Each rule whose triggers all matched runs its own pattern over that buffer and checks every candidate.

Time is linear in the input, and bounded: too many candidates, too much time or any exception is `confidential`.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import re2

from sidecar.classifiers.content.allow import Allowed
from sidecar.classifiers.content.folding import FOLDABLE, MIXED
from sidecar.classifiers.content.forms import ENCODED_RUN, forms, has_runs, is_foldable, may_decode
from sidecar.classifiers.content.model import (
    SEPARATOR,
    Budget,
    Candidate,
    ContentConfig,
    Found,
    Hit,
    OverBudgetError,
    Rule,
    encode,
    joined,
)
from sidecar.classifiers.content.prefilter import SENTINEL, Prefilter
from sidecar.classifiers.content.rules import build
from sidecar.core.classification import DataClass

RAW = -1
_END = SEPARATOR + SENTINEL
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
# Of `secret|secreto` the one that fits the whole word, whatever their order.
_OPTIONS.longest_match = True
# A rule that has fired this often, and with its strictest class, says nothing new: reports show some places at most.
_HITS_PER_RULE = 50
_PREFIX = 48
_BACKSLASH, _PERCENT, _AMPERSAND = b"\\%&"  # as numbers, which are found faster in bytes than bytes are
_WORTH_COMPARING = 8192  # bytes; below, comparing texts with the body takes longer than scanning both
_KEY, _VALUE = 64, 512  # characters
# A key and its value with more between them than a colon and a blank, which is all that rules look across.
_SPREAD_TRIGGER = r'"[ \t\r\n]+:|":(?:[\t\r\n]| [ \t\r\n])'
_SPREAD = re.compile(rb'"(?:[ \t\r\n]++:|:(?=[\t\r\n]| [ \t\r\n]))[ \t\r\n]*+')
_TIGHT = b'": '
_SPREAD_PER_CANDIDATE = 8


class _Segment(NamedTuple):
    """A text, the raw body, or a decoded form (`direct` is false) of one, as it lies in a buffer.

    `number` counts texts, `span` is what was decoded in bytes of the text as given, where that is known.
    """

    number: int
    data: bytes
    direct: bool = True
    span: tuple[int, int] | None = None


class _Compiled(NamedTuple):
    rule: Rule
    triggers: frozenset[int]
    finditer: Callable[[bytes], Iterator[Any]]


class ContentScanner:
    """Finds personal data, credentials, key words and marks of internal documents in the texts of one call.

    `time_budget_s` is in seconds per call, `max_candidates` counts spans that a rule had to look at closer,
    `clock` is a monotonic clock in seconds. `errors` counts the calls that ended in an exception.
    """

    def __init__(
        self,
        config: ContentConfig = ContentConfig(),  # noqa: B008  frozen
        time_budget_s: float = 0.25,
        max_candidates: int = 50_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.errors = 0
        self._seconds = time_budget_s
        self._candidates = max_candidates
        self._clock = clock
        self._allowed = Allowed(config.allow)
        self._prefilter = Prefilter()
        self._runs = self._prefilter.shape(ENCODED_RUN)
        self._spread = self._prefilter.word(_SPREAD_TRIGGER)
        self._foldable = frozenset({self._prefilter.shape(FOLDABLE), self._prefilter.shape(MIXED)})
        self._rules = [self._compiled(rule) for rule in build(config)]
        self._prefilter.compile()
        # What each trigger alone sets going, and what needs others beside it.
        self._alone = self._foldable.union(
            {self._runs, self._spread}, *(rule.triggers for rule in self._rules if len(rule.triggers) == 1)
        )
        self._together = {rule.triggers for rule in self._rules if len(rule.triggers) > 1}

    def _compiled(self, rule: Rule) -> _Compiled:
        words = rule.words if rule.words or rule.shapes else (rule.pattern,)
        triggers = {*map(self._prefilter.word, words), *map(self._prefilter.shape, rule.shapes)}
        return _Compiled(rule, frozenset(triggers), re2.compile(rule.pattern, _OPTIONS).finditer)

    def scan(self, raw: bytes | None, texts: Sequence[str], *, contained: bool = False) -> list[Hit]:
        """Hits in `raw`, the body as sent (None where image data was cut out of it), and in its decoded `texts`.

        Texts are best given in the order of the document, a key before its value. `contained` promises that each
        of them is a string of `raw`'s own JSON, so that a body without escapes is scanned once, not twice. Never
        raises: what goes wrong is a hit of class `confidential` with the rule `scanner-error`, `scanner-sentinel`
        or `scanner-budget`.
        """
        try:
            return self._scan(raw, texts, contained=contained)
        except Exception:  # noqa: BLE001  whatever it was, the text must stay here
            self.errors += 1
            return [_trouble("scanner-error")]

    def _scan(self, raw: bytes | None, texts: Sequence[str], *, contained: bool) -> list[Hit]:
        once = raw is not None and _is_plain(raw) and (contained or _covers(raw, texts))
        if once and raw is not None and self._idle(self._prefilter.match(raw + _END)):
            return []
        text = joined(texts)
        # Where the body is not there, or hides behind escapes, only neighbours show `"password": "..."`.
        more = _pairs(texts) if raw is None or b"\\u" in raw else []
        more.append(_Segment(RAW, raw or b""))
        data = SEPARATOR.join((text, *(segment.data for segment in more), SENTINEL))
        matched = self._prefilter.match(data)
        if matched is None:
            return [_trouble("scanner-sentinel")]
        if texts and self._idle(matched) and not (_BACKSLASH in text or _PERCENT in text or _AMPERSAND in text):
            return []

        budget = Budget(self._candidates, self._seconds, self._clock)
        hits: list[Hit] = []
        try:
            if raw and self._spread in matched:
                more.append(_Segment(RAW, _tightened(raw, budget), direct=False))
                data = SEPARATOR.join((text, *(segment.data for segment in more), SENTINEL))
                matched = self._prefilter.match(data)
                if matched is None:
                    return [_trouble("scanner-sentinel")]
            if active := self._active(matched):
                segments = [_Segment(number, encode(part)) for number, part in enumerate(texts)]
                segments = [*(segments or [_Segment(RAW, b"")]), *more]
                _run(active, data, _Places(segments, texts), self._allowed, budget, hits)
            sources = list(enumerate(texts))
            if not sources and raw:  # nobody decoded it, so it counts as a text itself
                sources, text = [(RAW, raw.decode("utf-8", "replace"))], raw
            runs = self._runs in matched and has_runs(text)
            foldable = not self._foldable.isdisjoint(matched) and is_foldable(text)
            decoded = [
                _Segment(number, form.data, direct=False, span=form.span)
                for number, source in sources
                if runs or may_decode(source, foldable=foldable)
                for form in forms(source, budget, runs=runs, foldable=foldable)
            ]
            if decoded:
                data = SEPARATOR.join((*(segment.data for segment in decoded), SENTINEL))
                matched = self._prefilter.match(data)
                if matched is None:
                    hits.append(_trouble("scanner-sentinel"))
                elif active := self._active(matched):
                    _run(active, data, _Places(decoded, texts), self._allowed, budget, hits)
        except OverBudgetError:
            hits.append(_trouble("scanner-budget"))
        return _distinct(hits)

    def _idle(self, matched: frozenset[int] | None) -> bool:
        """Whether nothing of what matched gives a rule or a decoder anything to do."""
        return matched is not None and (
            not matched or (matched.isdisjoint(self._alone) and not any(group <= matched for group in self._together))
        )

    def _active(self, matched: frozenset[int]) -> list[_Compiled]:
        return [compiled for compiled in self._rules if compiled.triggers <= matched]


def _run(
    rules: Sequence[_Compiled], data: bytes, places: _Places, allowed: Allowed, budget: Budget, hits: list[Hit]
) -> None:
    """Appends what the rules find in `data` to `hits`, so that it is kept when the budget runs out."""
    seen = {(hit.rule, hit.data_class, hit.index) for hit in hits}
    for rule, _, finditer in rules:
        counts: dict[DataClass, int] = {}
        for match in finditer(data):
            budget.spend()
            start, end = match.span()
            for found in rule.check(Candidate(data, start, end, budget)):
                if allowed.covers(data, found.start, found.end):
                    continue
                data_class = rule.data_class if found.data_class is None else found.data_class
                counts[data_class] = counts.get(data_class, 0) + 1
                if counts[data_class] > _HITS_PER_RULE:
                    continue
                hit, direct = places.hit(rule.id, data_class, found)
                # As given before decoded: the same thing in both is one finding.
                key = (hit.rule, hit.data_class, hit.index)
                if direct or key not in seen:
                    hits.append(hit)
                    seen.add(key)
            if rule.data_class in counts and sum(counts.values()) >= _HITS_PER_RULE:
                break


class _Places:
    """Turns spans of a buffer into hits: which text, and which characters of it."""

    def __init__(self, segments: Sequence[_Segment], texts: Sequence[str]) -> None:
        self._segments = segments
        self._texts = texts
        self._starts: list[int] = []
        at = 0
        for segment in segments:
            self._starts.append(at)
            at += len(segment.data) + len(SEPARATOR)
        self._last = (0, 0, 0)

    def hit(self, rule: str, data_class: DataClass, found: Found) -> tuple[Hit, bool]:
        """The hit, and whether it was found in a text as given."""
        place = bisect_right(self._starts, found.start) - 1
        index, _, direct, span = self._segments[place]
        if direct:
            base = self._starts[place]
            start, end = (self._characters(place, at - base) for at in (found.start, found.end))
        elif span is not None and index != RAW:
            data = encode(self._texts[index])
            start, end = (len(data[:at].decode("utf-8", "ignore")) for at in span)
        else:
            start, end = 0, len(self._texts[index]) if index != RAW else 0
        return Hit(rule, data_class, index, start, end), direct

    def _characters(self, place: int, size: int) -> int:
        """How many characters the first `size` bytes of a segment are; bytes for the raw body."""
        number, data, _, _ = self._segments[place]
        if number == RAW or self._texts[number].isascii():
            return size
        # Hits of a rule come in order: going on from the last one keeps many hits in a long text linear.
        last_place, last_size, last_count = self._last
        if last_place != place or last_size > size:
            last_size = last_count = 0
        count = last_count + len(data[last_size:size].decode("utf-8", "ignore"))
        self._last = (place, size, count)
        return count


def _trouble(rule: str) -> Hit:
    return Hit(rule, DataClass.CONFIDENTIAL, RAW, 0, 0)


def _is_plain(raw: bytes) -> bool:
    """Whether each string in a body stands in it as it is: nothing is escaped or encoded."""
    return raw.isascii() and _BACKSLASH not in raw and _PERCENT not in raw and _AMPERSAND not in raw


def _covers(raw: bytes, texts: Sequence[str]) -> bool:
    """Whether scanning a plain `raw` alone is scanning all of `texts`: each of them stands in it.

    False is always safe. Parts of a message that the caller joined are in no body, and are found out here.
    """
    if len(raw) < _WORTH_COMPARING or not texts:
        return False
    at = 0
    for text in texts:
        if not text.isascii():
            return False
        data = text.encode()
        # The start of a text is searched, the rest compared: texts stand in the order of the document.
        at = raw.find(data[:_PREFIX], at)
        if at < 0 or not raw.startswith(data, at):
            return False
        at += len(data)
    return True


def _pairs(texts: Sequence[str]) -> list[_Segment]:
    """Each short text with the one after it, as a key and its value would stand in JSON."""
    return [
        _Segment(number, encode(f'"{key}": "{value}"'), direct=False)
        for number, (key, value) in enumerate(pairwise(texts), start=1)
        if 0 < len(key) <= _KEY and 0 < len(value) <= _VALUE
    ]


def _tightened(raw: bytes, budget: Budget) -> bytes:
    """A body with each key right before its value. Raises OverBudgetError."""
    tight = bytearray()
    at = 0
    for number, match in enumerate(_SPREAD.finditer(raw)):
        if number % _SPREAD_PER_CANDIDATE == 0:
            budget.spend()
        start, end = match.span()
        tight += raw[at:start]
        tight += _TIGHT
        at = end
    tight += raw[at:]
    return bytes(tight)


def _distinct(hits: Sequence[Hit]) -> list[Hit]:
    """Without what the raw body only repeats."""
    kept: dict[Hit, None] = {}
    texts = {(hit.rule, hit.data_class) for hit in hits if hit.index != RAW}
    for hit in hits:
        if hit.index != RAW or (hit.rule, hit.data_class) not in texts:
            kept.setdefault(hit)
    return list(kept)
