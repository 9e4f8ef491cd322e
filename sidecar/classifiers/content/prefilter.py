"""The prefilter: which triggers match a buffer at all, by two RE2 sets.

Two, because the states of all patterns in a set multiply. Words have many patterns and few states that a text
visits; shapes of digits and runs have few patterns and many states. In one set, noise of 1 MB builds new states
for seconds; in two it takes some hundredths of one, at the price of a second pass (1.5 ns per byte).
"""

from __future__ import annotations

from typing import Any

import re2

# Short words with blanks, so that no trigger but its own matches it.
SENTINEL = b"+ so far so good +"
_SENTINEL_PATTERN = re2.escape(SENTINEL.decode())
_SENTINEL_ALONE = [0]  # the first pattern of each set
_SHAPE_OFFSET = 1 << 16
_NONE: frozenset[int] = frozenset()


# Bytes that the states of a set may take. Prose needs a tenth of a MiB; noise of digits and marks has more states
# than fit into RE2's default of 8 MiB, and would build them again and again.
_WORDS_MEMORY, _SHAPES_MEMORY = 8 << 20, 24 << 20


class Prefilter:
    """Triggers have a number; the same pattern has the same one. `compile` comes before the first `match`."""

    def __init__(self) -> None:
        self._words, self._shapes = _empty_set(_WORDS_MEMORY), _empty_set(_SHAPES_MEMORY)
        self._known: dict[tuple[bool, str], int] = {}
        self._sentinels = {self.word(_SENTINEL_PATTERN), self.shape(_SENTINEL_PATTERN)}

    def word(self, pattern: str) -> int:
        """Adds a pattern of words and literals and returns its number."""
        key = (False, pattern)
        if key not in self._known:
            self._known[key] = self._words.Add(pattern)
        return self._known[key]

    def shape(self, pattern: str) -> int:
        """Adds a pattern of character classes and repeats and returns its number."""
        key = (True, pattern)
        if key not in self._known:
            self._known[key] = self._shapes.Add(pattern) + _SHAPE_OFFSET
        return self._known[key]

    def compile(self) -> None:
        """Raises re2.error where the patterns do not fit into the memory of their set."""
        self._words.Compile()
        self._shapes.Compile()

    def match(self, data: bytes) -> frozenset[int] | None:
        """The numbers of the triggers that match `data`, which ends with `SEPARATOR` and `SENTINEL`.

        None where a set failed to find the sentinel there: it ran out of memory, or is broken.
        """
        words, shapes = self._words.Match(data), self._shapes.Match(data)
        if words == _SENTINEL_ALONE and shapes == _SENTINEL_ALONE:
            return _NONE
        found = {*(words or ()), *(place + _SHAPE_OFFSET for place in shapes or ())}
        if not self._sentinels <= found:
            return None
        return frozenset(found - self._sentinels)


def _empty_set(memory: int) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = memory
    return re2.Set.SearchSet(options)
