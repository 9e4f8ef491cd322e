"""The decoded forms of one text: what a reader, a browser or a model would make of it.

Each decoding is applied once, in the order in which a sender would have to have stacked them: JSON escapes, HTML
entities, percent; base64 and hex runs of what is left. NFKC and format characters go before each of them as well as
at the end, look-alikes last. Every stage that changes the text is scanned as well as the last one, because a
decoding can also destroy what the stage before it showed.
"""

from __future__ import annotations

import binascii
import html
import re
import urllib.parse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import re2

from sidecar.classifiers.content.folding import FOLDABLE, MIXED, fold, latinise
from sidecar.classifiers.content.model import Budget, encode

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False

ENCODED_RUN = r"[A-Za-z0-9+/_-]{15}[A-Za-z0-9+/_=-]"
"""RE2: a run that is long enough for base64 or hex of something worth finding. Loose, so as to be cheap in the
prefilter; what follows here is strict."""

# Four characters of base64 that stand for three ASCII bytes: the top bit of each byte is 0, which leaves a
# quarter to a half of the alphabet at three of the four places. Three such groups in a row are one in 512.
_QUAD = "[A-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghkloptswx014589][A-Za-z0-9+/_-]"
_BASE64 = re2.compile(
    rf"[A-Za-z0-9+/_-]*(?:{_QUAD}){{3}}[A-Za-z0-9+/_-]*={{0,2}}(?:\r?\n[A-Za-z0-9+/_-]+={{0,2}})*", _OPTIONS
)
_HEX = re2.compile(r"[0-9A-Fa-f]*(?:[2-7][0-9A-Fa-f]){8}[0-9A-Fa-f]*", _OPTIONS)
_PRINTABLE = re2.compile(r"[\t\n\r\x20-\x7e\x{a0}-\x{d7ff}\x{e000}-\x{10fffd}]{8,}", _OPTIONS)
_FOLDABLE = re2.compile(f"{FOLDABLE}|{MIXED}", _OPTIONS)
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_URL_SAFE = bytes.maketrans(b"-_=", b"+/A")  # padding inside a run keeps its place, as zeros

_HELD = "\ue000"  # stands for an escaped backslash while the other escapes are resolved
_SIMPLE = (("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r"), ('\\"', '"'), ("\\/", "/"), ("\\b", "\b"), ("\\f", "\f"))
_CODE_UNIT = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2}))")

# Lines of a run are decoded one by one as well up to this many; beyond, one line more or less decides nothing.
_LINES_ALONE = 64
_SHORT = 128  # bytes
# One decoded escape costs 0.2 to 0.7 µs, a candidate some µs: this many escapes count as one candidate.
_ESCAPES_PER_CANDIDATE = 8


def has_runs(data: bytes) -> bool:
    """Whether anything in `data` could be base64 or hex of a text; stricter than `ENCODED_RUN`."""
    return _BASE64.search(data) is not None or _HEX.search(data) is not None


def is_foldable(data: bytes) -> bool:
    """Whether `FOLDABLE` or `MIXED` matches anywhere in `data`."""
    return _FOLDABLE.search(data) is not None


def may_decode(text: str, *, foldable: bool) -> bool:
    """Whether `forms` could have anything to do without `runs`; cheap, as most texts are short and plain."""
    if "\\" in text or "%" in text or "&" in text:
        return True
    return foldable and not (text.isascii() and text.isprintable())


class Form(NamedTuple):
    """One decoded form; `span` is what was decoded, in bytes of the UTF-8 text as given, where it is known."""

    data: bytes
    span: tuple[int, int] | None


def forms(text: str, budget: Budget, *, runs: bool, foldable: bool) -> Iterator[Form]:
    """Every form of `text` that differs from it.

    `runs` and `foldable` say whether `has_runs` and `is_foldable` hold anywhere in the call. Raises
    OverBudgetError.
    """
    plain, folded, stages = _read(text, budget, foldable=foldable)
    yield from (Form(encode(stage), None) for stage in stages)
    changed = plain is not text
    sources = [plain] if changed or runs else []
    if folded is not plain:
        sources.append(folded)
    tried: set[tuple[int, bytes]] = set()
    for source in sources:
        for decoded, start, end in _encoded_runs(encode(source), tried, budget):
            span = (start, end) if source is text else None
            yield Form(encode(decoded), span)
            yield from (Form(encode(stage), span) for stage in _read(decoded, budget, foldable=True).stages)


class _Reading(NamedTuple):
    """A text after all decodings, the same folded before and after each of them, and what came up on the way.

    Each of the two is the text itself where that makes no difference.
    """

    plain: str
    folded: str
    stages: list[str]


def _read(text: str, budget: Budget, *, foldable: bool) -> _Reading:
    plain = text
    folded = _folded(text) if foldable else text
    stages = [] if folded is text else [folded]
    for decoder in _DECODERS:
        decoded = _decoded(plain, decoder, budget)
        again = decoded if folded is plain else _decoded(folded, decoder, budget)
        if decoded is not plain:
            stages.append(decoded)
        if again is not folded:
            if again is not decoded and again != decoded:
                stages.append(again)
            folded = _folded(again)
            if folded is not again:
                stages.append(folded)
        plain = decoded
    if plain is not text and plain is not folded and (last := _folded(plain)) is not plain and last != folded:
        stages.append(last)
    if foldable or plain is not text:
        latin = latinise(folded)
        if latin is not folded:
            stages.append(latin)
    return _Reading(plain, folded, stages)


def _decoded(text: str, decoder: _Decoder, budget: Budget) -> str:
    mark, costly, decode = decoder
    if mark not in text:
        return text
    budget.spend(text.count(costly) // _ESCAPES_PER_CANDIDATE)
    decoded = decode(text)
    return text if decoded == text else decoded


def _folded(text: str) -> str:
    if text.isascii() and _CONTROLS.search(text) is None:
        return text
    folded = fold(text)
    return text if folded == text else folded


def unescape(text: str) -> str:
    r"""Backslash escapes of JSON, and `\xHH`, resolved once wherever they stand."""
    text = text.replace("\\\\", _HELD)
    if "\\u" in text or "\\x" in text:
        # re.split with groups, as a callback per escape takes three times as long.
        pieces = _CODE_UNIT.split(text)
        text = "".join(
            piece if place % 3 == 0 else chr(int(piece, 16)) for place, piece in enumerate(pieces) if piece
        )
        text = _join_surrogates(text)
    for escape, character in _SIMPLE:
        text = text.replace(escape, character)
    return text.replace(_HELD, "\\")


def _join_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _unquote(text: str) -> str:
    return urllib.parse.unquote(text, errors="replace")


# The mark of an encoding, the mark of those escapes that are resolved one by one, and the decoder.
_Decoder = tuple[str, str, Callable[[str], str]]
_DECODERS: tuple[_Decoder, ...] = (("\\", "\\u", unescape), ("&", "&", html.unescape), ("%", "%", _unquote))


def _encoded_runs(data: bytes, tried: set[tuple[int, bytes]], budget: Budget) -> Iterator[tuple[str, int, int]]:
    """What the runs in `data` decode to, but for those that are in `tried`, with their base; adds them to it."""
    for match in _BASE64.finditer(data):
        start, end = match.span()
        run = match.group()
        if (64, run) in tried:
            continue
        tried.add((64, run))
        lines = run.split()
        # Lines one by one as well: whether a line follows must not change what is read from the one before.
        chunks = [b"".join(lines)] + (lines if 1 < len(lines) <= _LINES_ALONE else [])
        for chunk in chunks:
            budget.spend()
            digits = chunk.rstrip(b"=").translate(_URL_SAFE)
            # A path or a word may be glued to the front, so the groups of four can start at any of four places.
            for shift in range(4):
                yield from ((text, start, end) for text in _readable(_base64(digits[shift:])))
    for match in _HEX.finditer(data):
        start, end = match.span()
        run = match.group()
        if (16, run) in tried:
            continue
        tried.add((16, run))
        budget.spend()
        for shift in range(2):
            part = run[shift : shift + (len(run) - shift) // 2 * 2]
            yield from ((text, start, end) for text in _readable(binascii.unhexlify(part)))


def _base64(chunk: bytes) -> bytes:
    if len(chunk) % 4 == 1:  # six bits alone are no byte
        chunk = chunk[:-1]
    return binascii.a2b_base64(chunk + b"=" * (-len(chunk) % 4))


def _readable(decoded: bytes) -> Iterator[str]:
    if decoded.count(0) * 3 > len(decoded):  # UTF-16 of a Latin text, as PowerShell sends it
        decoded = decoded.replace(b"\0", b"")
    stretches = [match.group() for match in _PRINTABLE.finditer(decoded)]
    # In a megabyte of noise there are hundreds of readable stretches, and by and by a mailbox among them. In a
    # short run a quarter may be the path or word that was glued to the front.
    if len(decoded) <= _SHORT or sum(map(len, stretches)) * 4 > len(decoded):
        yield from (stretch.decode() for stretch in stretches)
