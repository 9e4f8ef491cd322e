"""Decoding: each encoding once, look-alike characters to what they look like, hostile input in bounds."""

from __future__ import annotations

import base64
import random
import re
import sys
import unicodedata
import urllib.parse

import pytest
import re2
from content_support import DISGUISES, SCANNER, rules, scan
from hypothesis import given
from hypothesis import strategies as st

from sidecar.classifiers.content import folding
from sidecar.classifiers.content.forms import forms, unescape
from sidecar.classifiers.content.model import Budget

MAIL = "jane.doe@example.com"


def every_form(text: str) -> set[str]:
    return {form.data.decode() for form in forms(text, Budget(10**6, 60), runs=True, foldable=True)}


def test_format_characters_of_the_table_are_those_of_unicode() -> None:
    codes = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf"]
    assert [hex(code) for code in [*codes, 0x34F] if folding.fold(chr(code)) != ""] == []


def test_digits_of_every_script_fold_to_ascii() -> None:
    wrong = [
        hex(code)
        for code in range(0x80, sys.maxunicode + 1)
        if (digit := unicodedata.digit(chr(code), None)) is not None
        and folding.fold(chr(code)).strip("(.),") != str(digit)
    ]
    # Kharosthi digits have no zero of their own and do not stand in for those of others.
    assert [code for code in wrong if not code.startswith("0x10a4")] == []


def test_whatever_folds_to_something_a_rule_looks_for_is_noticed() -> None:
    """The prefilter lets a text through unfolded; so it has to know every character that matters."""
    telling = re.compile(r"[0-9A-Za-z@.+_:/=%&\\#-]")
    foldable = re2.compile(folding.FOLDABLE)
    missed = [
        code
        for code in range(0x80, sys.maxunicode + 1)
        if not 0xD800 <= code < 0xE000
        and (not (folded := folding.fold(chr(code))) or telling.search(folded))
        and foldable.search(f"1{chr(code)}1") is None
    ]
    stops = {*map(ord, "…。｡"), 0xFE12}  # `。` counts between letters, as in a domain
    assert set(missed) == stops


def test_letters_that_fold_to_look_alikes_are_noticed() -> None:
    foldable = re2.compile(folding.FOLDABLE)
    missed = [
        code
        for code in range(0x80, sys.maxunicode + 1)
        if not 0xD800 <= code < 0xE000
        and (folded := folding.fold(chr(code))) != chr(code)
        and not folding.LOOKALIKES.keys().isdisjoint(folded)
        and foldable.search(f"1{chr(code)}1") is None
    ]
    assert missed == []


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("１２３", "123"),
        ("١٢٣", "123"),
        ("𝟏𝟚𝟛", "123"),
        ("①②③", "123"),
        ("1\ufe0f\u20e32\ufe0f\u20e3", "12"),
        ("a\u200bb\u2060c\ufeffd", "abcd"),
        ("1\u20132\u22123", "1-2-3"),
        ("ﬁn", "fin"),
        ("e\u0301", "é"),
        ("a\u3000b\u00a0c", "a b c"),
        ("a\x00b\x7fc", "abc"),
        ("Grüße", "Grüße"),
    ],
)
def test_fold(text: str, plain: str) -> None:
    assert folding.fold(text) == plain


def test_only_words_of_two_scripts_are_latinised() -> None:
    assert folding.latinise("привет, мир") == "привет, мир"
    assert folding.latinise("sесrеt") == "secret"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"a\nb\tc\"d\/e", 'a\nb\tc"d/e'),
        (r"\u0041\u00e9\ud83d\ude00", "Aé😀"),
        (r"\x41", "A"),
        (r"\\n", r"\n"),
        (r"\\\\u0041", r"\\u0041"),
        (r"\\\u0041", r"\A"),
        (r"\u00", r"\u00"),
        (r"C:\Users\new", "C:\\Users\new"),
        ("\\ud83d", "\ufffd"),
    ],
)
def test_unescape_resolves_each_escape_once(text: str, plain: str) -> None:
    assert unescape(text) == plain


@given(st.text())
def test_unescape_undoes_json(text: str) -> None:
    import json

    if not any(0xD800 <= ord(character) < 0xE000 for character in text):
        assert unescape(json.dumps(text)[1:-1].replace("\ue000", "")) == text.replace("\ue000", "")


def test_encodings_may_be_stacked() -> None:
    hidden = DISGUISES["base64"](DISGUISES["percent"](MAIL))
    assert "email" in rules(f"x: {hidden}")
    assert "email" in rules(DISGUISES["JSON in a string"](DISGUISES["HTML entities"](MAIL)))
    assert "email" in rules(DISGUISES["percent"](DISGUISES["full-width"](MAIL)))
    assert "email" in rules(urllib.parse.quote(base64.b64encode(b"+/?" * 20 + MAIL.encode()).decode(), safe=""))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("jane.doe&#\u200b64;example.com", "email"),
        ("jane.doe＆＃６４；example.com", "email"),
        ("jane.doe％40example.com", "email"),
        ("jane.doe%\u00ad40example.com", "email"),
        ("jane.doe%&#8203;40example.com", "email"),
        ("jane.doe＼u0040example.com", "email"),
        ("jane.doe\\\u200bu0040example.com", "email"),
        ("\u200b".join(base64.b64encode(f"mail {MAIL} now".encode()).decode()), "email"),
        (DISGUISES["full-width"](base64.b64encode(f"mail {MAIL} now".encode()).decode()), "email"),
        ("\u2060".join(f"mail {MAIL} now".encode().hex()), "email"),
        ("%E2%80%8B".join(base64.b64encode(f"mail {MAIL} now".encode()).decode()), "email"),
        ("㏚oprietary plan", "keyword-confidential"),
        ("4111\u001e1111\u001e1111\u001e1111", "payment-card"),
    ],
)
def test_characters_fold_before_each_decoding(text: str, rule: str) -> None:
    assert rule in rules(text)
    assert rule in {hit.rule for hit in SCANNER.scan(None, ["before", text, "behind"])}


def test_a_run_is_decoded_in_each_alphabet_and_once() -> None:
    text = b"jane".hex() + " \u200b " + DISGUISES["hex"](MAIL) + " " + DISGUISES["hex"](MAIL)
    assert [data.decode() for data, _ in forms(text, Budget(10**6, 60), runs=True, foldable=True)].count(MAIL) == 1


def test_each_encoding_is_decoded_once() -> None:
    twice = base64.b64encode(base64.b64encode(f"write to {MAIL} today".encode()))
    assert rules(twice.decode()) == set()


def test_what_a_decoding_destroys_is_found_before_it() -> None:
    assert "email" in rules("&lt;" + MAIL + "&gt; and jane&amp;co@example.com")
    assert "payment-card" in rules("4111111111111111①")
    assert "keyword-confidential" in rules("confidential\u200bdata")
    assert "connection-string" in rules("redis://:p%40ss%2Fw0rd@cache:6379")


def test_binary_data_is_not_taken_for_text() -> None:
    noise = random.Random(5).randbytes(60_000)
    assert rules(base64.b64encode(noise).decode()) == set()
    assert rules(base64.encodebytes(noise).decode()) == set()
    assert rules(noise.hex()) == set()


def test_a_path_glued_to_base64_does_not_hide_it() -> None:
    hidden = base64.b64encode(MAIL.encode()).decode().rstrip("=")
    for glue in ("/", "a/", "ab/", "abc/", "unsubscribe/", "x-", "x_"):
        assert "email" in rules(glue + hidden), glue


def test_the_span_of_a_decoded_run_is_the_run() -> None:
    hidden = base64.b64encode(MAIL.encode()).decode()
    text = f"Größe: {hidden} ok"
    (hit,) = [hit for hit in scan(text) if hit.rule == "email"]
    assert text[hit.start : hit.end] == hidden


def test_the_span_in_a_decoded_text_is_the_text() -> None:
    text = "x jane&#64;example.com"
    assert [(hit.start, hit.end) for hit in scan(text)] == [(0, len(text))]


def test_a_form_is_given_only_where_it_differs() -> None:
    assert every_form("plain text, 50% of it & more \\ done") == set()
    assert every_form("a &amp; b") == {"a & b"}


def test_runs_of_combining_marks_are_cut_before_they_are_sorted() -> None:
    # Canonical ordering takes quadratic time; what matters is that the text behind the marks is still read.
    text = "a" + "\u0300\u0327" * 20_000 + " \uff11 " + DISGUISES["full-width"](MAIL)
    assert "email" in {hit.rule for hit in SCANNER.scan(None, [text])}
