"""Key words: `confidential`, `internal`, `proprietary`, `secret` and their translations, and those of the settings.

Words for confidential count anywhere in prose. Words for internal and secret are ordinary words in code and logs,
so they count in capitals, in headings, alone on a line, in a tag at its start and in set phrases; strict settings
let them count anywhere too. Words of the settings count anywhere. All of them count as whole words only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from sidecar.classifiers.content.allow import edges, loosely
from sidecar.classifiers.content.model import (
    LINE_END,
    LINE_START,
    Candidate,
    Check,
    ContentConfig,
    Found,
    Predicate,
    Rule,
    is_word,
    when,
)
from sidecar.classifiers.content.rules import vocabulary
from sidecar.core.classification import DataClass

_MEMBER = re.compile(r"[\w)\]]\.$")
_NEGATED = re.compile(r"(?i)\bnon[- ]?$")
_LICENCE = re.compile(
    r"(?i)(?:licen[sc]e(?:[ _-]?(?:name|type|id))?\\?[\"']?[ \t]*[:=][ \t]*\\?[\"']?|licenseref-|other/)$"
)
# Exceptions of `_in_prose`. Each is bounded well below the window that it is matched in, so that `$` is the end of
# the line and not of the window.
_WINDOW = 160  # bytes
_BLANK = r"[ \t]{0,16}"
_NUMBER = r"[+-]?(?:0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,9}(?:\.[0-9]{1,17})?)"
_LITERAL = rf"(?:(?i:true|false|null|none|number|string)|{_NUMBER})"
# A value ends where code goes on: at a bracket, an operator, a comment, or a comma before the next name.
_MORE = rf"(?:\r?$|\\|[\"'#(\[{{*]|//|[\w.]{{1,32}}\??{_BLANK}[:=])"
_END = rf"{_BLANK}(?:\r?$|\\|[\"'\x60)}}\]#=|&<]|//|/\*|[,;]{_BLANK}{_MORE})"
_TYPE = r"(?i:bool(?:ean)?|str|int(?:eger)?|optional\[[A-Za-z0-9_. |]{1,24}\])(?![\w-]|[ \t]{1,16}[A-Za-z]{2})"
_TYPED = re.compile(rf"\??{_BLANK}:{_BLANK}(?:{_TYPE}|{_LITERAL}{_END})")
_TYPED_KEY = re.compile(rf"\\?[\"']{_BLANK}:{_BLANK}(?:{_TYPE}|{_LITERAL}{_END})")
_CONSTANT = re.compile(rf"{_BLANK}={_BLANK}(?:{_NUMBER}|True|False|auto\(\)){_END}")
# Two words side by side that are no part of a language are prose, behind `=` and in brackets too.
_OPERATOR = (
    r"(?i:and|as|asc|async|await|case|class|const|delete|desc|else|end|false|for|from|function|group|having|if|in|"
    r"instanceof|is|lambda|limit|match|new|nil|none|not in|null|of|or|order|range|returning|select|static|switch|"
    r"then|true|typeof|undefined|union|unless|void|when|where|yield)\b"
)
_PROSE = rf"(?!{_OPERATOR}|not\b)[A-Za-z'’-]{{1,24}}[ \t]{{1,16}}(?!{_OPERATOR})[A-Za-z]{{2}}"
_ASSIGNED = re.compile(rf"[ \t]*(?:[:!+|&]?=|==)[ \t]*(?!{_PROSE})[\w\"'\[({{]")
_CALLED = re.compile(rf"\((?!{_PROSE})(?![^()\n]{{0,64}}\)[ \t]{{1,16}}(?!{_OPERATOR})[A-Za-z]{{2}})")

# What surrounds a secret of Kubernetes, of OAuth or of Santa Claus, and what is internal to a machine.
_TECHNICAL_BEFORE = re.compile(
    r"(?i)\b(?:client|api|app|application|shared|aws|webhook|jwt|kubernetes|k8s|docker|github|vault|open|a|an|your|"
    r"signing|hmac|consumer|create|delete|get|apply|drop|kind:)[ \t]$"
)
_TECHNICAL_AFTER = re.compile(
    r"(?i)[ \t]?(?:key|access|token|manag|name|ref|stor|rotat|santa|sauce|scann|sharing|engine|operator|provider|"
    r"handling|detection|volume|resource|object|server error|error|medicine|links?|ip|api|state|node|combustion|"
    r"affairs|audit|iterator)"
)
_CODE_BEFORE = re.compile(r"[\w)\]]\.$|[$@{<%\\/=_`]$|--$")
_CODE_AFTER = re.compile(r"[ \t]*(?:[:!+]?=[ \t]*[\w\"'$\[({]|==)|[(}>%_`\\]|::|\.\w|-[A-Z]*[a-z]")
_CODE_LINE = re.compile(r"[=;{}][ \t]*\w|\w\(|\);")

_MAX_HEADING = 120  # characters


def _in_prose(candidate: Candidate) -> bool:
    """Whole word, and not a name, a key or an argument in code; where that is unclear it counts."""
    if not candidate.stands_alone:
        return False
    before, after = candidate.line_before(32), candidate.line_after(_WINDOW)
    if before[-1:] in {"$", "@"} or _NEGATED.search(before) or _LICENCE.search(before):
        return False
    if _MEMBER.search(before) and not candidate.text.istitle():
        return False
    if before[-1:] in {'"', "'"} and _TYPED_KEY.match(after):
        return False
    if candidate.text.islower():  # else it is a title, or a constant with its number
        return not (_ASSIGNED.match(after) or _CALLED.match(after) or _TYPED.match(after))
    return _CONSTANT.match(after) is None


def _in_capitals(candidate: Candidate) -> bool:
    if not candidate.stands_alone:
        return False
    before, after = candidate.line_before(32), candidate.line_after(32)
    if _CODE_BEFORE.search(before) or _CODE_AFTER.match(after):
        return False
    return not _TECHNICAL_AFTER.match(after) and not _TECHNICAL_BEFORE.search(before)


def _in_heading(words: str) -> Check:
    word = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)

    def check(candidate: Candidate) -> Sequence[Found]:
        heading = candidate.text
        if len(heading) > _MAX_HEADING or _CODE_LINE.search(heading.partition("\n")[0]):
            return ()
        # One `#` begins a comment in many languages, and there a capital is the mark of a title.
        comment = re.match(r"[ \t]*#[ \t]", heading) is not None
        for match in word.finditer(heading):
            if comment and not match.group()[:1].isupper():
                continue
            before, after = heading[: match.start()], heading[match.end() :]
            if not _TECHNICAL_AFTER.match(after) and not _TECHNICAL_BEFORE.search(before):
                start = candidate.start + len(before.encode())
                return (Found(start, start + len(match.group().encode())),)
        return ()

    return check


def _alone(candidate: Candidate) -> bool:
    """A label line without a key: the word begins with a capital, or stands in a tag."""
    written = candidate.text.strip()
    first = re.search(r"[^\W\d_]", written)
    return re.match(r"[>*_ ]*[\[(]", written) is not None or (first is not None and first.group().isupper())


def _whole(words: Sequence[str]) -> Predicate:
    """Whole words and phrases of the settings; their own edges say where a word has to end."""
    bounds = {_key(word): edges(word) for word in words}

    def predicate(candidate: Candidate) -> bool:
        first, last = bounds.get(_key(candidate.text), (True, True))
        return not (first and is_word(candidate.previous)) and not (last and is_word(candidate.next))

    return predicate


def _key(phrase: str) -> str:
    return " ".join(phrase.replace("\\n", " ").split()).casefold()


def _configured(name: str, data_class: DataClass, words: Sequence[str]) -> Iterator[Rule]:
    cleaned = {" ".join(unicodedata.normalize("NFKC", word).split()) for word in words} - {""}
    if cleaned:
        longest_first = sorted(cleaned, key=lambda word: (-len(word), word))
        pattern = f"(?i)(?:{'|'.join(map(loosely, longest_first))})"
        yield Rule(name, data_class, pattern, when(_whole(longest_first)))


def _restricted(name: str, data_class: DataClass, words: str, phrases: str) -> Iterator[Rule]:
    """The places where words that are ordinary elsewhere are a mark of the whole document."""
    # Case-sensitive: the words have no escapes or flags that capitals would change.
    yield Rule(name, data_class, words.upper(), when(_in_capitals))
    folded = f"(?i:{words})"
    markdown = rf"^[ \t]{{0,3}}#{{1,6}}[ \t]+[^\n]*{folded}[^\n]*$"
    underlined = rf"^[^\n]*{folded}[^\n]*\r?\n(?:={{3,}}|-{{3,}})[ \t]*\r?$"
    html = rf"<[hH][1-6][^<>]*>[^<]*{folded}[^<]*"
    head = (
        rf"(?m){LINE_START}[ \t]*#+[ \t]+[^\n]*{folded}|{folded}[^\n]*\n(?:={{3}}|-{{3}})"
        rf"|<[hH][1-6][^<>]*>[^<]*{folded}"
    )
    yield Rule(name, data_class, f"(?m)(?:{markdown}|{underlined}|{html})", _in_heading(words), words=(head,))
    degree = r"(?i:(?:strictly|streng|company|top)[ \t])?"
    line = rf"[ \t>*_=#~]*[\[(]?[ \t]*{degree}{folded}[ \t]*[\])]?[ \t*_=~.!]*\r?"
    tag = rf"[ \t>*_]*[\[(][ \t]*{folded}[ \t]*[\])]"
    alone = rf"(?m){LINE_START}(?:{line}{LINE_END}|{tag})"
    yield Rule(name, data_class, f"(?m)^(?:{line}$|{tag})", when(_alone), words=(alone,))
    yield Rule(name, data_class, f"(?i)(?:{vocabulary.spaced(phrases)})", when(_stands_alone))


def _stands_alone(candidate: Candidate) -> bool:
    return candidate.stands_alone


def rules(config: ContentConfig) -> tuple[Rule, ...]:
    """The rules for the built-in and the configured words."""
    confidential, internal = "keyword-confidential", "keyword-internal"
    built: list[Rule] = []
    if config.keyword_defaults:
        built.append(
            Rule(confidential, DataClass.CONFIDENTIAL, f"(?i)(?:{vocabulary.CONFIDENTIAL})", when(_in_prose))
        )
        built += _restricted(confidential, DataClass.CONFIDENTIAL, vocabulary.SECRETS, vocabulary.SECRET_PHRASES)
        built += _restricted(internal, DataClass.INTERNAL, vocabulary.INTERNAL, vocabulary.INTERNAL_PHRASES)
        if config.keywords_strict:
            grave = vocabulary.either(vocabulary.CONFIDENTIAL, vocabulary.SECRETS)
            built.append(Rule(confidential, DataClass.CONFIDENTIAL, f"(?i)(?:{grave})", when(_stands_alone)))
            built.append(Rule(internal, DataClass.INTERNAL, f"(?i)(?:{vocabulary.INTERNAL})", when(_stands_alone)))
    built += _configured(confidential, DataClass.CONFIDENTIAL, config.keywords_confidential)
    built += _configured(internal, DataClass.INTERNAL, config.keywords_internal)
    return tuple(built)
