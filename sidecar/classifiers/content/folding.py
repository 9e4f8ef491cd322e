"""Characters that look like others: the fold of a text to what its reader sees.

NFKC, then format characters removed (Unicode category Cf, U+034F and the other default-ignorable ones), digits
of every script to ASCII digits, dashes to `-`, and on demand Cyrillic and Greek letters that look Latin.

The tables are written out because computing them from `unicodedata` costs 0.4 s at import; a test compares them.
What NFKC changes is looked up in the blocks that have such characters, which takes a millisecond.
"""

from __future__ import annotations

import string
import unicodedata

import re2

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False

_FORMAT_RANGES = (
    (0xAD, 0xAD), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x891),
    (0x8E2, 0x8E2), (0x180E, 0x180E), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x2064), (0x2066, 0x206F),
    (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB), (0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0001, 0xE0001), (0xE0020, 0xE007F),
    # Not Cf, and invisible all the same: joiners, fillers, variation selectors, the keycap, control characters.
    (0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180D), (0x180F, 0x180F), (0x2065, 0x2065),
    (0x20E3, 0x20E3), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF),
    (0x00, 0x08), (0x0E, 0x1A), (0x1C, 0x1F), (0x7F, 0x7F),
)  # fmt: skip
_ZEROS = (
    0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0,
    0xF20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50,
    0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10, 0x104A0, 0x10D30, 0x11066, 0x110F0,
    0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650, 0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50,
    0x11D50, 0x11DA0, 0x11F50, 0x16A60, 0x16AC0, 0x16B50, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6,
    0x1E140, 0x1E2F0, 0x1E4F0, 0x1E950, 0x1FBF0,
)  # fmt: skip
_ONES = (0x1369, 0x24F5, 0x2776, 0x2780, 0x278A, 0x10E60, 0x11052)  # circled and other digits without a zero
_DASHES = (
    0x58A, 0x5BE, 0x1400, 0x1806, *range(0x2010, 0x2016), 0x2043, 0x2212, 0x2E17, 0x2E1A, 0x2E3A, 0x2E3B,
    0x2E40, 0x2E5D, 0x301C, 0x3030, 0x30A0, 0x10EAD,
)  # fmt: skip

FOLDED: dict[str, str] = {
    **{chr(code): "" for first, last in _FORMAT_RANGES for code in range(first, last + 1)},
    **{chr(zero + digit): str(digit) for zero in _ZEROS for digit in range(10)},
    **{chr(one + digit - 1): str(digit) for one in _ONES for digit in range(1, 10)},
    **{chr(code): "-" for code in _DASHES},
    "\u19da": "1",
    "\u24ff": "0",
    "\u3002": ".",
}

LOOKALIKES: dict[str, str] = dict(
    zip(
        "АВЕЅІЈКМНОРСТУХҮԌԚԜаеѕіјорсухԛԝһӏԁɡɩѵѡ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαικνορτυχϲϳ",
        "ABESIJKMHOPCTYXYGQWaesijopcyxqwhldgivw" + "ABEZHIKMNOPTYXaikvoptuxcj",
        strict=True,
    )
)

_LATIN = "[A-Za-z]"
_OTHER = r"[\x{251}-\x{269}\x{370}-\x{3FF}\x{400}-\x{52F}]"

MIXED = f"{_LATIN}{_OTHER}|{_OTHER}{_LATIN}"
"""RE2: a Latin letter beside a Cyrillic or Greek one, which no ordinary word has."""

# The blocks with all the characters that NFKC makes into something of `_TELLING`; a test compares.
_BLOCKS = (
    (0xAA, 0xBE), (0x132, 0x1F3), (0x2B0, 0x2E3), (0x3D2, 0x3F1), (0x1D2C, 0x1DBB), (0x1E9A, 0x1E9A),
    (0x1FBE, 0x1FBE), (0x2010, 0x2189), (0x2460, 0x24EA), (0x2A74, 0x2A76), (0x2C7C, 0x2C7D), (0x3164, 0x3164),
    (0x3250, 0x33FF), (0xA7F2, 0xA7F4), (0xFB00, 0xFB29), (0xFE13, 0xFE6B), (0xFF03, 0xFFA0), (0x107A5, 0x107A5),
    (0x1D400, 0x1D7FF), (0x1F100, 0x1F190), (0x1FBF0, 0x1FBF9),
)  # fmt: skip
# What a rule could look for, or what is folded on to it.
_TELLING = frozenset(string.ascii_letters + string.digits + "@.+_:/=%&\\#-[*").union(
    LOOKALIKES, FOLDED.keys() - {"\u3002"}
)
# `…` is in every second text, and the hyphen that does not break counts between letters and digits.
_COMMON = frozenset("\u2026\u2011")


def _compatible() -> str:
    """What NFKC makes into something of `_TELLING`, as the inside of an RE2 class."""
    ranges: list[list[int]] = []
    for first, last in _BLOCKS:
        for code in range(first, last + 1):
            character = chr(code)
            plain = unicodedata.normalize("NFKC", character)
            if plain == character or _TELLING.isdisjoint(plain) or character in _COMMON:
                continue
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in ranges)


# What has no other form to NFKC: format characters, fillers, controls, digits of other kinds.
_ANYWHERE = (
    r"\p{Cf}\x{34F}\x{115F}\x{1160}\x{17B4}\x{17B5}\x{180B}-\x{180F}\x{2065}\x{20E3}"
    r"\x{E0100}-\x{E01EF}\x{00}-\x{08}\x{0E}-\x{1A}\x{1C}-\x{1F}\x{7F}"
    r"\x{1369}-\x{1371}\x{19DA}\x{24F5}-\x{24FF}\x{2776}-\x{2792}\x{10E60}-\x{10E68}\x{11052}-\x{1105A}"
) + _compatible()
_BLANKS = r"\x{A0}\x{1680}\x{2000}-\x{200A}\x{202F}\x{205F}\x{3000}"
_STROKES = (
    r"\x{58A}\x{5BE}\x{1400}\x{1806}\x{2012}-\x{2015}\x{2043}\x{2212}\x{2E17}\x{2E1A}"
    r"\x{2E3A}\x{2E3B}\x{2E40}\x{2E5D}\x{301C}\x{3030}\x{30A0}\x{10EAD}"
)
FOLDABLE = "|".join(
    (
        f"[{_ANYWHERE}]",
        r"[^\P{Nd}0-9]",
        # A variation selector only where it splits ASCII: behind an emoji it is part of every second chat.
        r"[\x{21}-\x{7E}][\x{FE00}-\x{FE0F}]",
        r"[A-Za-z][\x{300}-\x{36F}]",
        # Blanks and dashes of other kinds, where they could stand inside a number, a set phrase or an assignment.
        rf"[0-9A-Za-z):=][{_BLANKS}][0-9A-Za-z(+]",
        r"[0-9A-Za-z)][\x{2010}\x{2011}][0-9A-Za-z(]",
        r"[0-9A-Za-z][\x{3002}\x{FE12}\x{FF61}][A-Za-z]",
        rf"[0-9)][{_STROKES}][0-9(]",
    )
)
"""RE2: a character that `fold` changes into something that a rule could look for."""

_FOLDED_KEYS = frozenset(FOLDED)
_LOOKALIKE_KEYS = frozenset(LOOKALIKES)
_MARKS = re2.compile(r"\p{M}{31,}", _OPTIONS)
_MIXED = re2.compile(MIXED, _OPTIONS)
_MANY = 48


def fold(text: str) -> str:
    """`text` in NFKC without format characters, with ASCII digits and plain dashes."""
    if _has_long_mark_run(text):
        text = _MARKS.sub(b"", text.encode("utf-8", "replace")).decode("utf-8", "replace")
    return _replace(unicodedata.normalize("NFKC", text), FOLDED, _FOLDED_KEYS)


def latinise(text: str) -> str:
    """`text` with look-alike letters as Latin ones, if any of its words mixes the scripts; else `text`."""
    if text.isascii() or _MIXED.search(text.encode("utf-8", "replace")) is None:
        return text
    return _replace(text, LOOKALIKES, _LOOKALIKE_KEYS)


def _has_long_mark_run(text: str) -> bool:
    # Canonical ordering is quadratic in the length of a run of combining marks (16 000 pairs: 0.8 s), and
    # Unicode's own stream-safe format allows no more than 30.
    return _MARKS.search(text.encode("utf-8", "replace")) is not None


def _replace(text: str, table: dict[str, str], keys: frozenset[str]) -> str:
    # str.translate pays a failed dictionary look-up for each character that stays; a text has few kinds of them.
    present = keys.intersection(text)
    if len(present) > _MANY:
        return text.translate({ord(character): fold for character, fold in table.items()})
    for character in present:
        text = text.replace(character, table[character])
    return text
