"""E-mail addresses: RFC 5322 as people write it, with the international mailboxes and domains of RFC 6531."""

from __future__ import annotations

import re

from sidecar.classifiers.content.model import Candidate, Rule, when
from sidecar.core.classification import DataClass

_LOCAL = r"[\pL\pN._%+'&~-]*[\pL\pN_+&~-]"
_DOMAIN = r"[\pL\pN.-]+\.(?:\pL|xn--)[\pL\pN\pM-]+"

# Names of files and of units, not of top-level domains. Endings that are both (`py`, `rs`, `md`) stay out.
_NOT_TOP_LEVEL = re.compile(
    "png|jpe?g|gif|svg|webp|avif|bmp|ico|tiff?|s?css|less|[mc]?js|jsx|tsx?|vue|jsonl?|html?|xml|ya?ml|toml|ini|txt|"
    "log|pdf|exe|dll|java|cpp|hpp|sql|csv|tsv|tar|gz|bz2|xz|whl|jar|mp[34]|woff2?|ttf|service|socket|timer|target|"
    "mount|slice|scope|device"
)
# `git@host:path` and Kotlin's `this@Outer.method` are written like mailboxes and are none.
_NOT_LOCAL = frozenset({"git", "hg", "svn", "this", "super", "return", "break", "continue"})
_URL_PASSWORD = re.compile(r"://[^\s/?#@]*:[^\s/?#@]*$")
_URL_USER = re.compile(r"://$")
_OPAQUE_USER = re.compile(r"[0-9a-fA-F]{16,}|user|username|token|oauth2|x-access-token|x-token-auth")


def _is_mailbox(candidate: Candidate) -> bool:
    local, _, domain = candidate.text.rpartition("@")
    if domain.startswith("["):
        return True
    labels = domain.rstrip("-").split(".")
    top = labels[-1].lower()
    if len(local) > 64 or len(domain) > 253 or "" in labels or ".." in local:
        return False
    if len(top) < 2 or _NOT_TOP_LEVEL.fullmatch(top) or local.lower() in _NOT_LOCAL:
        return False
    if candidate.next == "(":  # a method call on a matrix product, an annotation with arguments
        return False
    if local == '"' and '"' not in candidate.line_before(66):
        return False
    before = candidate.line_before(200)
    if _URL_USER.search(before) and _OPAQUE_USER.fullmatch(local):
        return False
    # In `scheme://user:password@host` the part before `@` is a password, which another rule finds.
    return not _URL_PASSWORD.search(before)


RULES = (
    Rule(
        "email",
        DataClass.PII,
        pattern=rf'(?:{_LOCAL}|")@(?:{_DOMAIN}|\[(?:IPv6:)?[0-9A-Fa-f.:]+\])',
        check=when(_is_mailbox),
        shapes=(r'[0-9A-Za-z_+&~"\-\x{80}-\x{10FFFF}]@[0-9A-Za-z.\-\[\x{80}-\x{10FFFF}]+[.\]]',),
    ),
)
