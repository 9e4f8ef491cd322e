"""E-mail addresses: RFC 5322 as people write it, with the international mailboxes and domains of RFC 6531."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sidecar.classifiers.content.model import Candidate, Found, Rule
from sidecar.core.classification import DataClass

_LOCAL = r"[\pL\pN._%+'&~-]*[\pL\pN_+&~-]"
_DOMAIN = r"[\pL\pN.-]+\.(?:\pL|xn--)[\pL\pN\pM-]+"

# Names of files and of units, not of top-level domains. Endings that are both (`py`, `rs`, `md`) stay out.
_NOT_TOP_LEVEL = re.compile(
    "png|jpe?g|gif|svg|webp|avif|bmp|ico|tiff?|s?css|less|[mc]?js|jsx|tsx?|vue|jsonl?|html?|xml|ya?ml|toml|ini|txt|"
    "log|pdf|exe|dll|java|cpp|hpp|sql|csv|tsv|tar|gz|bz2|xz|whl|jar|mp[34]|woff2?|ttf|service|socket|timer|target|"
    "mount|slice|scope|device"
)
# What stands before `@` in code: Kotlin's `this@Outer.method`, and `git@host:path`.
_LABELLED = frozenset({"this", "super", "return", "break", "continue"})
_REPOSITORY_USER = frozenset({"git", "hg", "svn"})
_REPOSITORY_HOST = re.compile(r"(?:.*[.-])?(?:git|ssh|bitbucket|codeberg)", re.IGNORECASE)
# Top-level domains that decide whether a mailbox is one where code could stand as well: those of two letters are
# countries, and these are the others in wide use that are no names of methods.
_GENERIC = re.compile(
    "com|org|net|edu|gov|mil|int|info|biz|name|pro|aero|asia|coop|jobs|mobi|museum|tel|travel|arpa|local|internal|lan|"
    "corp|app|dev|xyz|online|site|store|shop|tech|cloud|club|blog|email|digital|agency|company|group|global|world|live|"
    "life|media|news|network|systems|solutions|services|software|space|studio|team|today|tools|top|vip|wiki|works?|"
    "zone|berlin|hamburg|koeln|cologne|bayern|saarland|nrw|ruhr|wien|tirol|swiss|london|paris|nyc|tokyo|africa|eus|gal|"
    "scot|wales|cymru|bzh|corsica|quebec|legal|law|bank|health|care|clinic|university|school|academy|church|"
    "consulting|engineering|energy|finance|money|capital|ventures|gmbh|ltd|llc|inc|ngo|ong|foundation"
)
_METHODS = frozenset({"to", "mm", "mv", "eq"})  # of tensors: `a@b.to(device)`
_LONGEST_LOCAL, _LONGEST_DOMAIN = 64, 253  # RFC 5321, 4.5.3.1, and RFC 1035, 2.3.4
_LEADERS = re.compile(r"\.{2,}")
_MARKS = ".~&%+'-"
_ASCII_LABEL = "abcdefghijklmnopqrstuvwxyz0123456789-"
_WIDE = frozenset({"com", "org", "net", "edu", "gov"})
_URL_PASSWORD = re.compile(r"://[^\s/?#@]*:[^\s/?#@]*$")
_URL_USER = re.compile(r"://$")
_OPAQUE_USER = re.compile(r"[0-9a-fA-F]{16,}|user|username|token|oauth2|x-access-token|x-token-auth")


def _mailbox(candidate: Candidate) -> Sequence[Found]:
    """The mailbox in a candidate, without the dots, dashes and words that stand right before and behind it."""
    written = candidate.text
    local, _, domain = written.rpartition("@")
    if domain.startswith("["):
        return candidate.whole()
    name, host = _name(local), _host(domain)
    top = host.rpartition(".")[2].lower()
    if not name or "." not in host or len(top) < 2 or _NOT_TOP_LEVEL.fullmatch(top):
        return ()
    if local == '"' and '"' not in candidate.line_before(66):
        return ()
    before = candidate.line_before(200)
    following = candidate.after(2) if domain.endswith(host) else ""
    if _is_code(name.lower(), host, top, before, following):
        return ()
    if _URL_USER.search(before) and _OPAQUE_USER.fullmatch(local):
        return ()
    # In `scheme://user:password@host` the part before `@` is a password, which another rule finds.
    if _URL_PASSWORD.search(before):
        return ()
    start = candidate.start + len(local[: len(local) - len(name)].encode())
    end = candidate.end - len(domain[domain.index(host) + len(host) :].encode())
    return (Found(start, end),)


def _name(local: str) -> str:
    """The part of `local` that can be one; empty where it is too long for that."""
    name = _LEADERS.split(local)[-1].lstrip(_MARKS) or local
    if len(name) <= _LONGEST_LOCAL:
        return name
    name = name[-_LONGEST_LOCAL:]
    first = next((place for place, character in enumerate(name) if not character.isalnum()), len(name))
    return name[first:].lstrip(_MARKS + "_")


def _host(domain: str) -> str:
    host = _LEADERS.split(domain.lstrip("."))[0][:_LONGEST_DOMAIN].rstrip(".-")
    rest, _, top = host.rpartition(".")
    if _NOT_TOP_LEVEL.fullmatch(top.lower()) and "." in rest and rest.rpartition(".")[2].lower() in _WIDE:
        return rest  # a file by the name of a mailbox
    return host


def _is_code(name: str, host: str, top: str, before: str, following: str) -> bool:
    real = _is_top_level(top)
    if name in _REPOSITORY_USER:
        if not real or following[:1] in {":", "/"} or _URL_USER.search(before):
            return True
        return name == "git" and _REPOSITORY_HOST.match(host) is not None
    if name in _LABELLED:
        return not real or host[:1].isupper()
    # A method call on a matrix product, an annotation with arguments.
    return following[:1] == "(" and (not real or following == "()" or top in _METHODS)


def _is_top_level(label: str) -> bool:
    """Whether mail goes to names below it, as far as that can be told; `まで` behind `jp` is no part of it."""
    written = label[: len(label) - len(label.lstrip(_ASCII_LABEL))]
    if not written or written.startswith("xn--"):
        return True
    return len(written) == 2 or _GENERIC.fullmatch(written) is not None


RULES = (
    Rule(
        "email",
        DataClass.PII,
        pattern=rf'(?:{_LOCAL}|")@(?:{_DOMAIN}|\[(?:IPv6:)?[0-9A-Fa-f.:]+\])',
        check=_mailbox,
        shapes=(r'[0-9A-Za-z_+&~"\-\x{80}-\x{10FFFF}]@[0-9A-Za-z.\-\[\x{80}-\x{10FFFF}]+[.\]]',),
    ),
)
