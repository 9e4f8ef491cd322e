"""Passwords, tokens and keys by the name they are assigned to, with a look at whether the value is one.

`password = os.environ["X"]`, `token: str`, `"secret": null`, `<password>` and `${TOKEN}` are code and
templates; `password: hunter2` and `"api_key": "9f8a..."` are not. The measure of a value is its shape: kinds of
characters, length and, for tokens, entropy per character (Shannon).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sidecar.classifiers.content.model import Candidate, Found, Rule
from sidecar.core.classification import DataClass

_PASSWORDS = (
    r"pass[ _-]?(?:word|wd|phrase|code)|passw(?:or|oo)[dt]|passwort|kennwort|pwd|contrase(?:ñ|n)a|mot[ _]de[ _]passe|"
    r"mdp|wachtwoord|senha|has[łl]o|parola d'ordine|[_-]pass|\bpw"
)
_TOKENS = (
    r"secret|token|api[ _-]?key|apikey|access[ _-]?key|secret[ _-]?key|private[ _-]?key|auth[ _-]?key|"
    r"encryption[ _-]?key|signing[ _-]?key|master[ _-]?key|account[ _-]?key|subscription[ _-]?key|credentials?"
)
_GLUE = (
    r"""[0-9]{0,3}(?:\\?["'\x60\]\)*]){0,3}"""
    r"""(?:["'][ \t\r\n]*:[ \t\r\n]*"""  # JSON
    r"|[ \t]{0,8}(?::=|=>|->|[:=>])|[ \t](?:is|was|are|to|ist|lautet|est|es|é|è|jest|=)(?:[ \t]?:)?[ \t]"
    r"""|\\?["']?[ \t]*,[ \t\n]*\\?["']?value\\?["']?[ \t]*[:=])"""
)
_OPTION = re.compile(r"(?<![\w-])--[\w-]*$")

_PASSWORD_NAME = re.compile(rf"(?i)(?:{_PASSWORDS})")
_ELEMENT = re.compile(r"[^=-]>$")  # of XML, and then its end has to follow
_URL_PARAMETER = re.compile(r"[?&][\w-]*$")

# Names that end in one of the words and hold something else: marks of a vocabulary, places in a list.
_OTHER_NAMES = re.compile(
    r"(?i:(?<![A-Za-z])(?:next|prev|previous|page|pagination|continuation|sync|resume|pad|eos|bos|unk|sep|cls|mask|"
    r"stop|start|end|special|image|first|last|max|min|num|per|public|csrf|xsrf|foreign|primary|sort|partition|no))"
    r"[_ -]?$|(?:Page|Pagination|Continuation|Sync|Resume|Public)$"
)
_STAND_IN = re.compile(
    r"<.*|\$\{.*|\$\(.*|\$[A-Za-z_]\w*|%\w+%|%[sd(].*|%\{.*|\{.*|\[.*|\(.*|\*+|[xX]{3,}|[.…_•-]+|#\{.*|@\{.*",
    re.DOTALL,
)
_STAND_IN_WORD = re.compile(
    r"(?<![a-z])(?:your|insert|replace)|(?<![a-z])(?:example|sample|dummy|todo)(?![a-z])|"
    r"placeholder|change.?me|change.?it|redacted|x{4}|\*{3}|\.{3}|environ|getenv|"
    r"process\.env|secrets?\.|vault:|ref\+|n/a|^test$|^test[-_]|<[a-z_ -]+>",
    re.IGNORECASE,
)
_KEY_WORD = re.compile(r"my|pass(?:word|wd|phrase|code)?|pwd|secret|token|api|key|access|auth|client|app|db|user")
_KEY_NAME = re.compile(r"pass(?:word|wd|phrase|code|wort)|kennwort|secret|token|credential", re.IGNORECASE)
_WORDS = re.compile(
    r"(?:true|false|null|none|nil|undefined|string|str|bytes|text|int|integer|number|boolean|bool|object|any|"
    r"optional|required|sha-?\d+|md5|base64|utf-?8|bcrypt|argon2\w*|scrypt|oauth2?|int\d+|uint\d+|float\d+|p12|"
    r"aes-?\d+|hs\d+|rs\d+|es\d+|type\d|v\d+|api\d|step\d+|ipv[46])s?",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"""[ \t]*(?:\r?\n[ \t]*)?(?:[rbuRBU]{0,2})(\\?["'`])(.{0,400}?)(?:\1|$)""")
_FORMATTED = re.compile(r"""[ \t]*[fF][rR]?["']""")
_BARE = re.compile(r"""[ \t]*\n?[ \t]*[*_]{0,2}[ \t]*((?:(?!\\[nrt"'])[^\s,"'`<>]){1,400})""")
_CODE = re.compile(
    r"[A-Za-z_$&*][\w$]*(?:(?:\.|::|->)[A-Za-z_]\w*)+;?"  # a path to a value
    r"|[&*]?[A-Za-z_$]+[;)]*"  # a name or a type
    r"|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+"  # a constant
)
_NAME_LIKE = re.compile(r"[A-Za-z]+[0-9]{0,2}(?:[-_./][A-Za-z]+[0-9]{0,2})+")


def is_template(value: str) -> bool:
    """Whether a value only says that one belongs there: `${...}`, a row of stars, `changeme`."""
    return bool(_STAND_IN.fullmatch(value) or _STAND_IN_WORD.search(value) or _WORDS.fullmatch(value))


def is_stand_in(value: str) -> bool:
    """As `is_template`, and also what is only made of the words for it, such as `my-password`."""
    if is_template(value):
        return True
    rest = _KEY_WORD.sub("", value.lower())
    return rest != value.lower() and re.fullmatch(r"[a-z_ -]{0,4}[0-9]{0,2}", rest) is not None


def _kinds(value: str) -> int:
    patterns = ("[a-z]", "[A-Z]", "[0-9]", r"[^A-Za-z0-9\s]")
    return sum(1 for pattern in patterns if re.search(pattern, value))


def entropy(value: str) -> float:
    """Shannon entropy in bits per character; 0 for an empty value."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


class _Value(NamedTuple):
    """What is assigned, whether it stands in quotes, and how many characters behind the candidate it ends."""

    text: str
    quoted: bool
    end: int


_NO_VALUE = _Value("", False, 0)


def _value(after: str, spaced: bool) -> _Value:
    if _FORMATTED.match(after):
        return _NO_VALUE
    quoted = _QUOTED.match(after)
    if quoted:
        return _Value(quoted.group(2), True, quoted.end(2))
    bare = _BARE.match(after)
    if bare is None or (spaced and "\n" in after[: bare.start(1)]):
        # `password is` at the end of a line is half a sentence.
        return _NO_VALUE
    text = bare.group(1).rstrip(".,;:)]}*_")
    return _Value(text, False, bare.start(1) + len(text))


def _is_password(value: str, quoted: bool) -> bool:
    if re.search(r"\s", value) or len(value) < 6:
        return False
    digits_or_marks = bool(re.search(r"[0-9]|[^\w.,;:/'-]", value))
    if not digits_or_marks:
        # Letters alone are a word of the language or of the interface, unless nobody would write a word so.
        letters = value.isalpha() and re.search("[a-z][A-Z]", value) and len(value) >= 8
        if _KEY_NAME.search(value):
            return False
        return quoted and (bool(letters) or (len(value) >= 14 and value.isalpha() and value.isascii()))
    if _NAME_LIKE.fullmatch(value):
        return False
    return value.isdigit() or _kinds(value) >= 2


def _is_opaque(value: str, quoted: bool) -> bool:
    if re.search(r"\s", value) or re.match(r"(?:\.{0,2}|~)/|https?://|arn:", value) or _NAME_LIKE.fullmatch(value):
        return False
    if not re.search("[A-Za-z]", value):
        return False
    if not re.search("[0-9]", value):  # then it has to change case as no name does
        return len(value) >= 20 and len(re.findall("[a-z][A-Z]", value)) * 8 > len(value)
    if quoted and len(value) >= 8 and _kinds(value) == 4:
        return True
    return len(value) >= 16 and entropy(value) >= 3.0


def _assigns(candidate: Candidate) -> Sequence[Found]:
    is_password = _PASSWORD_NAME.match(candidate.text) is not None
    before = candidate.line_before(40)
    if not is_password and _OTHER_NAMES.search(before):
        return ()
    after = candidate.after(440)
    skipped = 1 if after[:1] == "=" else 0  # a comparison
    value, quoted, end = _value(after[skipped:], spaced=candidate.text[-1:] in {" ", "\t"})
    if _URL_PARAMETER.search(before):
        end -= len(value)
        value = value.partition("&")[0]
        end += len(value)
    if _ELEMENT.search(candidate.text) and after[end : end + 2] != "</":
        return ()
    if not quoted and (_CODE.fullmatch(value) or re.search(r"[(\[{]", value)):
        return ()
    if not value or is_stand_in(value):
        return ()
    if not (_is_password(value, quoted) if is_password else _is_opaque(value, quoted)):
        return ()
    return _with_value(candidate, after[: skipped + end])


def _is_option(candidate: Candidate) -> Sequence[Found]:
    if not _OPTION.search(candidate.before(24)):
        return ()
    after = candidate.after(440)
    value, quoted, end = _value(after, spaced=True)
    if not value or value.startswith("-") or is_stand_in(value) or not _is_password(value, quoted):
        return ()
    return _with_value(candidate, after[:end])


def _is_user_option(candidate: Candidate) -> Sequence[Found]:
    """`curl -u user:password`; `docker run -u 1000:1000` is an option of the same name."""
    password = candidate.text.rpartition(":")[2]
    return () if is_stand_in(password) or not _is_password(password, quoted=True) else candidate.whole()


def _with_value(candidate: Candidate, behind: str) -> Sequence[Found]:
    """Up to the end of the value: a phrase that allows the name alone must not allow what is assigned to it."""
    return (Found(candidate.start, candidate.end + len(behind.encode())),)


RULES = (
    Rule(
        "credential-assignment",
        DataClass.CONFIDENTIAL,
        pattern=rf"(?i)(?:{_PASSWORDS}|{_TOKENS}){_GLUE}",
        check=_assigns,
    ),
    Rule(
        "credential-option",
        DataClass.CONFIDENTIAL,
        pattern=r"""(?:[ \t]-u|--user|--proxy-user)[ =]?["']?[A-Za-z][^\s:"'=]*:[^\s"']+""",
        check=_is_user_option,
        words=(r"[ \t]-u|--user|--proxy-user",),
    ),
    Rule(
        "credential-option",
        DataClass.CONFIDENTIAL,
        pattern=rf"(?i)(?:{_PASSWORDS}|{_TOKENS})[ \t]+",
        check=_is_option,
        words=(rf"(?i)--[\w-]*(?:{_PASSWORDS}|{_TOKENS})[ \t]",),
    ),
)
