"""Bank accounts (IBAN, ISO 13616) and payment cards (ISO/IEC 7812)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from sidecar.classifiers.content.model import Candidate, Found, Rule, is_word
from sidecar.core.classification import DataClass

# Countries of the SWIFT registry, release 101.
_IBAN_COUNTRIES = (
    "A[DELTZ]|B[AEGHIRY]|C[HRYZ]|D[EJKO]|E[EGS]|F[IKOR]|G[BEILRT]|H[NRU]|I[ELQST]|JO|K[WZ]|L[BCITUVY]|M[CDEKNRTU]|"
    "N[ILO]|OM|P[KLST]|QA|R[OSU]|S[ACDEIKMOTV]|T[LNR]|UA|V[AG]|XK|YE"
)
# In capitals with any grouping, else without a blank after the country: `in 20 mins` is no head.
_IBAN_HEAD = (
    rf"(?:{_IBAN_COUNTRIES})[ .-]?[0-9]{{2}}[ .-]?[A-Z0-9]{{4}}"
    rf"|(?i:{_IBAN_COUNTRIES})[0-9]{{2}}[ .-]?(?i:[A-Z0-9]{{4}})"
)
_MIN_CARD, _MAX_CARD = 13, 19

# First digits as a half-open range of their first six, and the lengths that the scheme issues.
_ISSUERS: tuple[tuple[int, int, frozenset[int]], ...] = tuple(
    (low, high, frozenset(lengths))
    for low, high, lengths in (
        (220000, 220500, range(16, 20)),  # Mir
        (222100, 272100, (16,)),  # Mastercard
        (300000, 306000, (14, 16, 17, 18, 19)),  # Diners Club
        (309500, 309600, (14, 16, 17, 18, 19)),  # Diners Club
        (340000, 350000, (15,)),  # American Express
        (352800, 359000, range(16, 20)),  # JCB
        (360000, 370000, (14, 16, 17, 18, 19)),  # Diners Club
        (370000, 380000, (15,)),  # American Express
        (380000, 400000, (14, 16, 17, 18, 19)),  # Diners Club
        (400000, 500000, (13, 16, 19)),  # Visa
        (500000, 510000, range(13, 20)),  # Maestro, Dankort, Verve, RuPay
        (510000, 560000, (16,)),  # Mastercard
        (560000, 590000, range(13, 20)),  # Maestro
        (601100, 601200, range(16, 20)),  # Discover
        (604000, 610000, (16,)),  # RuPay, Hipercard
        (620000, 630000, range(16, 20)),  # UnionPay, Discover
        (630400, 630500, range(13, 20)),  # Maestro
        (636000, 640000, range(13, 20)),  # Elo, InterPayment, Maestro
        (644000, 660000, range(16, 20)),  # Discover, RuPay
        (670000, 680000, range(13, 20)),  # Maestro
        (810000, 830000, range(16, 20)),  # UnionPay, RuPay
        (979200, 979300, (16,)),  # Troy
    )
)

_DIGITS = re.compile(rb"[0-9]+")
_REACH = 28  # bytes
_WORD_BEFORE = re.compile(r"([^\W\d_]{3,})_?$")
_WORD_AFTER = re.compile(r"_?([^\W\d_]{3,})")
_NOT_HEX = re.compile("[^A-Fa-f]")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_IBAN_START = re.compile(r"[A-Za-z]{2}[ .-]?[0-9]{2}$")
_IBAN_REACH = 60  # 34 characters, with a blank after each group of four, and some more for odd grouping
_IBAN_BODY = re.compile(r"[0-9A-Za-z](?:[ .\xa0-]{0,2}[0-9A-Za-z])*")
_LENGTH = re.compile(r"(\d+)!")


def _ends_at(word: re.Match[str] | None) -> bool:
    """Whether a number may begin or end at a word that is glued to it, as in `4111…CVV123`.

    One or two letters, and those of hexadecimal digits, are a part of a longer identifier.
    """
    return word is not None and _NOT_HEX.search(word[1]) is not None


def _is_card_number(number: str) -> bool:
    """Issuer range, length and the check digit of ISO/IEC 7812-1 annex B (Luhn)."""
    prefix = int(number[:6])
    if not any(low <= prefix < high and len(number) in lengths for low, high, lengths in _ISSUERS):
        return False
    from stdnum import luhn  # at first need: most calls have no number, and the library costs some MiB

    return bool(luhn.is_valid(number))


def _well_grouped(sizes: Sequence[int], whole_run: bool) -> bool:
    """Whether digits in groups of these sizes are written as one number: 4-4-4-4, 4-6-5, 6-13, or one by one."""
    if len(sizes) == 1 or min(sizes[:-1]) >= 4:
        return True
    return whole_run and max(sizes) == 1


def _cards(candidate: Candidate) -> Iterator[Found]:
    # The pattern took what comes before: a word, or what is no letter and no point of a fraction such as `0.4111`.
    after = candidate.after(_REACH)
    last_goes_on = after[:1] == "." and after[1:2].isdigit()
    last_goes_on = last_goes_on or (is_word(after[:1]) and not _ends_at(_WORD_AFTER.match(after)))
    groups = [match.span() for match in _DIGITS.finditer(candidate.data, candidate.start, candidate.end)]
    before = Candidate(candidate.data, *groups[0], candidate.budget).before(_REACH)
    taken = 1 if is_word(before[-1:]) and not _ends_at(_WORD_BEFORE.search(before)) else 0
    for first, (start, _) in enumerate(groups):
        if first < taken:
            continue
        number, sizes = b"", []
        for last in range(first, len(groups)):
            candidate.budget.spend()
            group_start, end = groups[last]
            number += candidate.data[group_start:end]
            sizes.append(end - group_start)
            if len(number) > _MAX_CARD:
                break
            if len(number) < _MIN_CARD or (last == len(groups) - 1 and last_goes_on):
                continue
            whole_run = len(sizes) == len(groups)
            if _well_grouped(sizes, whole_run) and _is_card_number(number.decode()):
                if _inside_uuid(Candidate(candidate.data, start, end, candidate.budget)):
                    continue
                taken = last + 1
                yield Found(start, end)
                break


def _inside_uuid(candidate: Candidate) -> bool:
    before, after = candidate.line_before(36), candidate.line_after(36)
    start, end = len(before), len(before) + candidate.end - candidate.start
    window = before + candidate.text + after
    return any(match.start() < end and start < match.end() for match in _UUID.finditer(window))


@cache
def _iban_length(country: str) -> int:
    """Characters of an IBAN of that country by the SWIFT registry; 0 for a country without one."""
    from stdnum import numdb

    properties = numdb.get("iban").info(country)[0][1]
    return 4 + sum(int(size) for size in _LENGTH.findall(properties.get("bban", ""))) if properties else 0


def _iban(candidate: Candidate) -> tuple[Found, ...]:
    # The pattern took a word that is glued to the front.
    head = _IBAN_START.search(candidate.text)
    if head is None:
        return ()
    start = candidate.start + head.start()
    before = Candidate(candidate.data, start, start, candidate.budget).before(_REACH)
    if is_word(before[-1:]) and not _ends_at(_WORD_BEFORE.search(before)):
        return ()
    window = Candidate(candidate.data, start, start, candidate.budget).line_after(_IBAN_REACH)
    length = _iban_length(window[:2].upper())
    body = _IBAN_BODY.match(window)
    if not length or body is None:
        return ()
    places = [place for place, character in enumerate(body.group()) if character.isalnum()]
    if len(places) < length:
        return ()
    end = places[length - 1] + 1
    number = "".join(window[place] for place in places[:length])
    if is_word(window[end : end + 1]) and not _ends_at(_WORD_AFTER.match(window, end)):
        return ()
    from stdnum import iban

    if not iban.is_valid(number):
        return ()
    return (Found(start, start + len(window[:end].encode())),)


RULES = (
    Rule(
        "iban",
        DataClass.PII,
        # The head alone, so that a false one cannot swallow the start of a true one; the check reads on.
        pattern=rf"(?i)(?:\b|[a-z]{{3}}_?)(?:{_IBAN_COUNTRIES})[ .-]?[0-9]{{2}}",
        check=_iban,
        shapes=(_IBAN_HEAD,),
    ),
    Rule(
        "payment-card",
        DataClass.PII,
        pattern=r"(?:^|[^0-9A-Za-z_.]|[^0-9]\.|[A-Za-z]{3}_?)[0-9](?:[ -]?[0-9]){12,}",
        check=lambda candidate: tuple(_cards(candidate)),
        # Without what comes before: each blank would start one more count of digits beside the others.
        shapes=(r"[0-9](?:[ -]?[0-9]){12}",),
    ),
)
