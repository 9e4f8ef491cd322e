"""Telephone numbers: ITU-T E.164 with `+` or `00` anywhere, as dialled at home only beside a word that says so.

The numbering plans are those of Google's libphonenumber.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import re2

from sidecar.classifiers.content.model import Candidate, Found, Rule, is_word
from sidecar.core.classification import DataClass

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False

_BEFORE, _AFTER = 48, 24  # bytes from a word to the number after it, and to the one before it
_LONGEST = 40
_GAP = r"[ ()./-]"
_SHAPE = rf"[0-9](?:{_GAP}{{0,2}}[0-9]){{6}}"
_WRITTEN = rf"\(?\b[0-9](?:{_GAP}{{0,2}}[0-9]){{6,13}}"
_NUMBER = re2.compile(_WRITTEN, _OPTIONS)
_ZEROS = r"(?:^|[^0-9A-Za-z_.,:/-])00 ?[1-9]"

# Nouns that name a number by themselves, and verbs that do so only right before one.
_NOUNS = "|".join(
    (
        r"(?:tele|mobile |cell |work |home |smart)?phone|telephone|tel|mobile|cell(?:ular)?|fax|telefax|hotline",
        r"whatsapp|landline|voicemail|msisdn|gsm",
        r"telefon\w*|handy(?:nummer)?|mobil(?:nummer|telefon|funk)?|rufnummer|durchwahl|festnetz",
        r"t[ée]l[ée]phone|t[ée]l|portable",
        r"tel[ée]fono|m[óo]vil|celular",
        r"cellulare|telefoon\w*|mobiel\w*|telefone|telem[óo]vel|telefonu?|kom[óo]rk[ai]|faks",
        r"(?:my|your|his|her|our|their) number|(?:meine|deine|seine|ihre|unsere) nummer",
        r"(?:mon|votre|son|ton) num[ée]ro|mi n[úu]mero|(?:mio|suo) numero|mijn nummer|meu n[úu]mero|m[óo]j numer",
        r"電話|携帯|电话|手机|전화|휴대폰",
    )
)
_VERBS = "|".join(
    (
        r"call(?: me| us| him| her| them| back)?|ring|dial|reach(?:ed| me| us)?|text(?: me)?|sms|contact",
        r"anrufen|ruf\w*|erreich\w*|appele[zr]|joindre|ll[aá]m(?:ame|e|ar|ad|enos)|llama al",
        r"chiama\w*|bel(?: me)?|ligue|ligar|zadzwo\w*|dzwo\w*",
    )
)
_SUFFIX = r"(?:[ _-]?(?:numbers?|no|nr|num|nummer))?"
_NOUN = re.compile(rf"(?:(?<![a-z])|_)(?:{_NOUNS})(?![a-z]|[ _-]?id\b){_SUFFIX}(?![a-z])", re.IGNORECASE)
_CAMEL = re.compile(r"(?:[a-z]Phone|[pP]honeNumber|[a-z]Mobile|[mM]obileNumber|[a-z]Fax)(?![a-z])")
_COPULA = r"is|ist|at|under|unter|est|es|è|é|to|number"
_LABEL = re.compile(
    rf"(?:(?:{_NOUNS}){_SUFFIX}|[pP]honeNumber|[mM]obileNumber)"
    rf"(?:[^0-9A-Za-z\n]{{1,12}}|[^0-9A-Za-z\n]{{1,4}}(?:{_COPULA})[^0-9A-Za-z\n]{{1,6}})$",
    re.IGNORECASE,
)
_NO_NUMBER = re.compile(
    r"(?:19|20)\d\d[-./ ]\d{1,2}[-./ ]\d{1,2}.*|\d{1,2}[-./]\d{1,2}[-./](?:19|20)\d\d.*|\d+\.\d+"
    r"|\d{1,3}(?:\.\d{1,3}){3}|(?:19|20)\d\d ?- ?(?:19|20)\d\d"
)
# What may be glued to a number: an extension behind it, a word for it before its `+`. A sum has an operand there.
_EXTENSION = re.compile(r"[xX][0-9]{1,6}(?![0-9A-Za-z_])|(?i:ext)")
_GLUED_NOUN = re.compile(rf"(?:(?<![a-z])|_)(?:{_NOUNS}|fon){_SUFFIX}_?$", re.IGNORECASE)
_OPERAND = re.compile(r"[0-9)\]][ \t]*$")
_NORTH_AMERICAN = re.compile(r"\(?[2-9]\d{2}\)?[ .-]{1,2}\d{3}[ .-]\d{4}")
_REGIONS_WITH_ZERO = ("DE", "GB", "FR", "NL", "AT", "CH", "BE", "IT", "IE", "SE", "FI", "JP", "AU", "IN", "TR")
_REGIONS_WITHOUT_ZERO = ("US", "ES", "PL", "PT", "IT", "BR", "MX", "DK", "NO", "CZ", "GR", "LU", "SG", "IN")


def _parses(number: str, region: str | None, *, possible: bool = False) -> bool:
    # Imported here: its tables take some MiB and some hundredths of a second, and most calls need none.
    import phonenumbers

    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_possible_number(parsed) if possible else phonenumbers.is_valid_number(parsed)


def _international(candidate: Candidate) -> Sequence[Found]:
    written = candidate.text
    plus = written.startswith("+")
    if not plus:  # the pattern took one character more, to see that the zeros begin a number
        written = written[written.index("00") :]
    start = candidate.end - len(written)
    before, after = candidate.before(_BEFORE), candidate.after(8)
    ends = [match.end() for match in re.finditer(r"[0-9]+\)?", written)]
    labelled = _LABEL.search(before) is not None or _GLUED_NOUN.search(before) is not None
    if after[:1].isdigit():
        return ()
    doubtful = is_word(after[:1]) and not _EXTENSION.match(after)
    if plus and not labelled:
        if _OPERAND.search(before) and (written[1] == " " or is_word(before[-1:])):
            return ()
        doubtful = doubtful or written[1] == " " or is_word(before[-1:]) or before[-1:] == "+"
    if doubtful and len(ends) < 3:
        return ()
    # In groups or behind a word for it, it is a telephone number whatever the plan says of it; else `+1234567890`
    # can be a sum or a diff.
    sure = plus and not doubtful and (len(ends) >= 3 or labelled)
    for possible in (False, True) if sure else (False,):
        # What follows may be the next number in a row: leave off one group after the other.
        for end in reversed(ends[-2 if doubtful else -5 :]):
            candidate.budget.spend()
            number = "+" + written[:end].lstrip("+0 ")
            if written[end : end + 1] != "." and _parses(number, None, possible=possible):
                return (Found(start, start + end),)
    return ()


def _near_noun(candidate: Candidate) -> Iterator[Found]:
    """The numbers around a word that names one: words are rarer than numbers, so they lead."""
    first, last = max(0, candidate.start - _AFTER), candidate.end + _BEFORE
    for match in _NUMBER.finditer(candidate.data, first, last + _LONGEST):
        start, end = match.span()
        if start > last:
            return
        candidate.budget.spend()
        number = Candidate(candidate.data, start, end, candidate.budget)
        if _could_be_dialled(number):
            before, after = number.before(_BEFORE), number.line_after(_AFTER)
            label = _LABEL.search(before) is not None
            named = label or _NOUN.search(before) or _NOUN.search(after) or _CAMEL.search(before)
            if named and _is_dialled_at_home(number, label=label):
                yield Found(start, end)


def _after_verb(candidate: Candidate) -> Sequence[Found]:
    match = _NUMBER.search(candidate.data, candidate.start, candidate.end)
    if match is None or is_word(candidate.previous):
        return ()
    number = Candidate(candidate.data, match.start(), candidate.end, candidate.budget)
    written = number.text
    # `call 612345678` is a function with an argument as often as not.
    if written[0] not in "0(" and not re.search(r"\d[ ()./-]+\d", written):
        return ()
    if not _could_be_dialled(number) or not _is_dialled_at_home(number, label=False):
        return ()
    return (Found(number.start, number.end),)


def _could_be_dialled(number: Candidate) -> bool:
    previous, following = number.previous, number.after(8)
    if is_word(previous) or previous in {"#", "$", "€", "£", "+", "."}:
        return False
    if is_word(following[:1]) and not _EXTENSION.match(following):
        return False
    if following[:1] == "%" or (following[:1] in {".", ",", ":"} and following[1:2].isdigit()):
        return False
    return _NO_NUMBER.fullmatch(number.text) is None


def _is_dialled_at_home(number: Candidate, *, label: bool) -> bool:
    number.budget.spend(8)
    written = number.text
    digits = re.sub(r"\D", "", written)
    if label and len(digits) <= 12 and not digits.startswith("000"):
        # `Tel. 555-0123` needs no plan; the plans would only tell whether the number was given out.
        return True
    if _NORTH_AMERICAN.fullmatch(written):  # also where the area does not exist, as in films
        return True
    if _NORTH_AMERICAN.fullmatch(written):  # also where the area does not exist, as in films
        return True
    regions = _REGIONS_WITH_ZERO if digits.startswith("0") else _REGIONS_WITHOUT_ZERO
    return any(_parses(written, region) for region in regions)


# Looser than the above, and with as few words as will do.
_NOUN_WORDS = "(?i)" + "|".join(
    (
        r"phone|\btel\b|_tel|mobile|\bcell|\bfax|telefa|hotline|whatsapp|landline|voicemail|msisdn|\bgsm\b",
        r"telef|handy|mobil|rufnum|durchwahl|festnetz|t[ée]l[ée]|\bt[ée]l\b|portable|m[óo]vil|celular|cellulare",
        r"(?:my|your|his|her|our|their) number|e nummer|(?:mon|votre|son|ton) num|mi n[úu]m|[mu]o num",
        r"jn nummer|eu n[úu]m|j numer|kom[óo]rk|faks|電話|携帯|电话|手机|전화|휴대폰",
    )
)
_VERB_WORDS = rf"(?i)\b(?:{_VERBS})\b"

RULES = (
    Rule(
        "phone",
        DataClass.PII,
        pattern=rf"\+ ?\(?[1-9](?:{_GAP}{{0,3}}[0-9]){{6,16}}",
        check=_international,
        shapes=(rf"\+ ?\(?[1-9](?:{_GAP}{{0,3}}[0-9]){{6}}",),
    ),
    Rule(
        "phone",
        DataClass.PII,
        pattern=rf"{_ZEROS}(?:{_GAP}{{0,2}}[0-9]){{6,16}}",
        check=_international,
        shapes=(rf"{_ZEROS}(?:{_GAP}{{0,2}}[0-9]){{6}}",),
    ),
    Rule(
        "phone",
        DataClass.PII,
        pattern=_NOUN_WORDS,
        check=lambda candidate: tuple(_near_noun(candidate)),
        words=(_NOUN_WORDS,),
        shapes=(_SHAPE,),
    ),
    Rule(
        "phone",
        DataClass.PII,
        pattern=rf"(?i)\b(?:{_VERBS})\b[^0-9\n;{{}}=]{{1,24}}[0-9](?:{_GAP}{{0,2}}[0-9]){{6,13}}",
        check=_after_verb,
        words=(_VERB_WORDS,),
        shapes=(_SHAPE,),
    ),
)
