"""What holds for every text: nothing raises, a planted secret is found, and more text never lowers the class."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

import pytest
from content_support import DISGUISES, SCANNER, card, data_class, iban, mailbox, scan, ssn, strictest
from hypothesis import given, settings
from hypothesis import strategies as st

PLANTS: dict[str, Callable[[random.Random], str]] = {
    "email": mailbox,
    "payment-card": card,
    "iban": iban,
    "us-ssn": ssn,
    "phone": lambda chosen: f"+49 170 {chosen.randint(2, 9)}{chosen.randint(0, 999999):06d}",
    "github-token": lambda chosen: "gh" + "p_" + f"{chosen.getrandbits(190):x}"[:40].zfill(40),
    "credential-assignment": lambda chosen: f'password = "aB{chosen.randint(10**6, 10**9)}!"',
    "keyword-confidential": lambda _: "strictly confidential",
    "label-line": lambda _: "Classification: Restricted",
}

WORDS = tuple(
    re.split(
        " ",
        "The quick brown fox jumps over lazy dogs while 12 people watch in 2024 and nobody says a word about it. "
        "Die Prüfung war größer als gedacht. これはテストです。 C’est l’été… (see page 7) [1] {x} <b> 3,14 — done!\n",
    )
)


@st.composite
def prose(draw: st.DrawFn) -> str:
    """Some words in an order of no meaning, apart from each other and from what is put between them."""
    return " ".join(draw(st.lists(st.sampled_from(WORDS), max_size=40)))


@given(prose(), prose(), st.sampled_from(sorted(PLANTS)), st.sampled_from(sorted(DISGUISES)), st.integers(0, 10**9))
@settings(max_examples=400, deadline=None)
def test_a_planted_secret_is_found_anywhere(before: str, after: str, rule: str, disguise: str, seed: int) -> None:
    planted = DISGUISES[disguise](PLANTS[rule](random.Random(seed)))
    text = f"{before}\n{planted}\n{after}"
    assert rule in {hit.rule for hit in scan(text)}
    assert rule in {hit.rule for hit in SCANNER.scan(text.encode(), ["content", text])}


@given(st.binary(max_size=300) | st.none(), st.lists(st.text(max_size=200), max_size=5))
@settings(max_examples=400, deadline=None)
def test_nothing_raises_and_spans_lie_in_their_text(raw: bytes | None, texts: list[str]) -> None:
    for hit in SCANNER.scan(raw, texts):
        length = len(raw or b"") if hit.index == -1 else len(texts[hit.index])
        assert 0 <= hit.start <= hit.end <= length
    assert SCANNER.errors == 0


PIECES = (
    *("\\", "\\u", "\\ud83d", "\\u0041", "%", "%4", "%40", "&", "&#", "&#64;", "&amp", "=", "=="),
    *("\x00", "\x1e", "\xff", "\ud800", "\u200b", "\u0301", "\u00a0", "é", "電話", "１", "а", "QUJD", "YWJj", "4142"),
    *("@", ".", "+", "00", "4111", "1111 ", "-", ":", "::", "/", "#", "\n", "\r\n", "===", " ", "\t", "eyJ", "DE89"),
    *("password", "secret", "token", "tel", "TLP", "confidential", "Classification", "internal"),
    *("<", ">", "(", ")", "'", '"'),
)
TROUBLE = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


@given(TROUBLE, TROUBLE)
@settings(max_examples=600, deadline=None)
def test_nothing_raises_on_pieces_of_what_rules_look_for(one: str, other: str) -> None:
    raw = one.encode("utf-8", "surrogatepass")
    for hit in SCANNER.scan(raw, [one, other]):
        length = len(raw) if hit.index == -1 else len([one, other][hit.index])
        assert 0 <= hit.start <= hit.end <= length
    assert SCANNER.errors == 0


@given(prose() | TROUBLE, prose() | TROUBLE, st.sampled_from(sorted(PLANTS)), st.integers(0, 10**9))
@settings(max_examples=400, deadline=None)
def test_more_lines_never_lower_the_class(first: str, second: str, rule: str, seed: int) -> None:
    planted = PLANTS[rule](random.Random(seed))
    for text in (first, f"{first}\n{planted}"):
        assert data_class(f"{text}\n{second}") >= data_class(text)
        assert data_class(f"{second}\n{text}") >= data_class(text)


PLAIN = st.lists(
    st.sampled_from([piece for piece in (*PIECES, *WORDS, "# Secret", "Internal", "[Secret]") if piece.isascii()]),
    max_size=20,
).map(lambda pieces: re.sub(r'[\x00-\x1f"%&\\]', "", "".join(pieces)))


@given(st.lists(PLAIN, min_size=1, max_size=5), st.sampled_from([(",", ":"), (", ", ": "), (" , ", "\n:\n")]))
@settings(max_examples=600, deadline=None)
def test_a_body_scanned_alone_is_as_good_as_with_its_texts(texts: list[str], separators: tuple[str, str]) -> None:
    document = {f"{place} {text}": text for place, text in enumerate(texts)}
    raw = json.dumps([document, texts], separators=separators).encode()
    each = [*(part for pair in document.items() for part in pair), *texts]
    alone, together = SCANNER.scan(raw, each, contained=True), SCANNER.scan(raw, each)
    assert {(hit.rule, hit.data_class) for hit in alone} == {(hit.rule, hit.data_class) for hit in together}


@given(st.lists(prose() | TROUBLE, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_more_texts_never_lower_the_class(texts: list[str]) -> None:
    together = strictest(SCANNER.scan(None, texts))
    assert together >= max(data_class(text) for text in texts)


@pytest.mark.parametrize(
    "text",
    [
        "1" * 200_000,
        "a@" * 100_000,
        "a@a." * 50_000,
        "4111 " * 40_000,
        "%41" * 60_000,
        "\\u0041" * 30_000,
        "\\" * 200_000,
        "&#52;" * 20_000,
        "a\u200b" * 50_000,
        "\ufdfa" * 20_000,
        "QUJD" * 50_000,
        "4142" * 50_000,
        "password: " * 20_000,
        "eyJhbGci." * 20_000,
        "# secret\n" * 20_000,
        '{"a":' * 40_000,
        '"a" :\n' * 40_000,
        '"password"' + " " * 200_000,
        '"password"  :  ' * 20_000,
        "TLP:CLEAR\n" * 20_000,
        "..a@b.png.." * 20_000,
        "confidential: int\n" * 20_000,
        "IBANDE89" * 20_000,
        "VISA4111111111111112" * 10_000,
        "+ 1 " * 60_000,
        "\uff054141" * 20_000,
        "\u200b4142" * 40_000,
        "㏚" * 60_000,
    ],
)
def test_long_repeats_are_answered(text: str) -> None:
    hits = SCANNER.scan(text.encode(), [text])
    assert {hit.rule for hit in hits} <= {"scanner-budget"}
