"""Addresses of machines: IPv4, IPv6 (RFC 4291, RFC 5952) and MAC (IEEE 802)."""

from __future__ import annotations

import ipaddress
import re

from sidecar.classifiers.content.model import Candidate, Rule, is_word, when
from sidecar.core.classification import DataClass

_VERSION = re.compile(
    r"(?i)(?:(?:\b|_)(?:versions?_*|ver|v|releases?|rel|build|rev(?:ision)?|firmware|driver|sdk|sections?|"
    r"chapters?|clause|kapitel|abschnitt|upgrade[ds]? to|update[ds]? to)"
    r"[ \t]*[\"'(]?[:=]?[ \t]*[\"'(v]?|[=~^><!]=[ \t]*|[§^~][ \t]*|@)$"
)
_PAIR = "[0-9A-Fa-f]{2}"
_QUAD = r"[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}"  # as Cisco writes a MAC address
_PRODUCT = re.compile(r"[A-Za-z]/$")


def _is_ipv4(candidate: Candidate) -> bool:
    before, after = candidate.line_before(32), candidate.after(3)
    if is_word(before[-1:]) or before[-1:] in {".", "-"} or is_word(after[:1]):
        return False
    if after[:1] in {".", "-"} and is_word(after[1:2]):
        return False
    if _VERSION.search(before):
        return False
    try:
        address = ipaddress.IPv4Address(candidate.text)
    except ValueError:
        return False
    # `Chrome/120.0.0.0`
    if _PRODUCT.search(before) and candidate.text.endswith(".0.0"):
        return False
    first = address.packed[0]
    return first not in {0, 127, 255}


def _is_ipv6(candidate: Candidate) -> bool:
    before, after = candidate.before(4)[-1:], candidate.after(3)
    if is_word(before) or before in {":", "."} or is_word(after[:1]) or after[:1] == ":":
        return False
    written = candidate.text
    try:
        address = ipaddress.IPv6Address(written)
    except ValueError:
        return False
    groups = [group for group in written.split(":") if group]
    # `dead::beef` and `a::b` are paths of C++ and Rust at least as often.
    if len(groups) < 3 and not any(character.isdigit() for character in written):
        return False
    return not (address.is_loopback or address.is_unspecified) and len(groups) > 1


def _is_mac(candidate: Candidate) -> bool:
    before, after = candidate.before(4), candidate.after(3)
    glue = {":", "-", "."}
    if is_word(before[-1:]) or is_word(after[:1]) or before[-1:] == ".":
        return False
    if (before[-1:] in glue and is_word(before[-2:-1])) or (after[:1] in glue and is_word(after[1:2])):
        return False
    digits = re.sub(r"[:.-]", "", candidate.text).lower()
    return len(set(digits)) > 1


def rules(data_class: DataClass) -> tuple[Rule, ...]:
    """The rules for machine addresses, of the class that the settings give them; none for `PUBLIC`."""
    if data_class is DataClass.PUBLIC:
        return ()
    return (
        Rule(
            "ip-address",
            data_class,
            pattern=r"\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}",
            check=when(_is_ipv4),
            shapes=(r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",),
        ),
        Rule(
            "ip-address",
            data_class,
            pattern=r"(?:[0-9A-Fa-f]{1,4}:|::)(?:[0-9A-Fa-f]{0,4}:){0,7}(?:[0-9A-Fa-f]{1,4}|(?:[0-9]{1,3}\.){3}[0-9]{1,3})?",
            check=when(_is_ipv6),
            shapes=(
                r"[0-9][0-9A-Fa-f]{0,3}::|:[0-9A-Fa-f]{1,4}::|::[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]|(?:[0-9A-Fa-f]{1,4}:){7}",
            ),
        ),
        Rule(
            "mac-address",
            data_class,
            pattern=f"(?:{_PAIR}:){{5}}{_PAIR}|(?:{_PAIR}-){{5}}{_PAIR}|{_QUAD}",
            check=when(_is_mac),
            shapes=(f"(?:{_PAIR}:){{4}}|(?:{_PAIR}-){{4}}|{_QUAD}",),
        ),
    )
