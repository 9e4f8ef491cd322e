"""Credentials in the places that protocols have for them: URLs (RFC 3986, userinfo) and HTTP (RFC 9110, 11.6.2)."""

from __future__ import annotations

import re

from sidecar.classifiers.content.model import Candidate, Rule, when
from sidecar.classifiers.content.rules.passwords import is_stand_in, is_template
from sidecar.core.classification import DataClass

_EXAMPLE_USER = re.compile(r"(?i)(?:my|db|the|your)?[_-]?(?:user(?:name)?|login|name)?")
_EXAMPLE_PASSWORD = re.compile(r"(?i)(?:my|db|the|your)?[_-]?(?:pass(?:word|wd)?|pwd|secret|token)")
_EXAMPLE_HOST = re.compile(r"(?i)(?:my|db|the|your)?[_-]?host(?:name)?|localhost|127\.0\.0\.1|server")


def _has_url_password(candidate: Candidate) -> bool:
    authority = candidate.text.partition("://")[2]
    userinfo, _, host = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    if is_template(password) or re.fullmatch(r"%[a-z]|\{.*|\$.*|:.*", password):
        return False
    # `user:password@host`, the example of every manual.
    return not (_EXAMPLE_PASSWORD.fullmatch(password) and _EXAMPLE_USER.fullmatch(user) and _EXAMPLE_HOST.match(host))


def _is_authorization(candidate: Candidate) -> bool:
    scheme, value = candidate.text.split()[-2:]
    if is_stand_in(value):
        return False
    if scheme.lower().endswith("basic"):
        return True
    return len(value) >= 20 or bool(re.search("[0-9]", value)) or value.endswith("=")


def _is_bearer(candidate: Candidate) -> bool:
    value = candidate.text.split()[-1]
    return not is_stand_in(value) and bool(re.search("[0-9]", value) and re.search("[A-Za-z]", value))


RULES = (
    Rule(
        "connection-string",
        DataClass.CONFIDENTIAL,
        pattern=(
            r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s/@:"'<>\x60]*:[^\s/@"'<>\x60]+@"""
            r"[A-Za-z0-9\[\x{80}-\x{10FFFF}][A-Za-z0-9.-]*"
        ),
        check=when(_has_url_password),
        shapes=(r"""://[^\s/@:"'<>\x60]*:[^\s/@"'<>\x60]+@""",),
    ),
    Rule(
        "authorization",
        DataClass.CONFIDENTIAL,
        pattern=(
            r"""(?i)authorization(?:\\?["'])?[ \t]{0,4}[:=,][ \t]{0,4}(?:f?\\?["'])?"""
            r"(?:bearer|basic|token|apikey|digest)[ \t]+[A-Za-z0-9._~+/=-]{8,}"
        ),
        check=when(_is_authorization),
        words=(r"(?i)authorization",),
    ),
    Rule(
        "authorization",
        DataClass.CONFIDENTIAL,
        pattern=r"(?i)\bbearer[ \t]+[A-Za-z0-9._~+/=-]{20,}",
        check=when(_is_bearer),
        words=(r"(?i)\bbearer[ \t]",),
    ),
)
