"""The scanner as its caller sees it: body and texts, spans, settings, budgets, and what happens when it breaks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from content_support import SCANNER, configured, strictest

from sidecar.classifiers.content import ContentConfig, ContentScanner, Hit
from sidecar.classifiers.content.model import LINE_END, LINE_START
from sidecar.classifiers.content.rules import build
from sidecar.core.classification import DataClass

MAIL = "jane.doe@example.com"


def texts_of(value: Any) -> list[str]:
    """All strings of a document in its order, as the caller gives them."""
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *texts_of(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    return [value if isinstance(value, str) else json.dumps(value)]


def scan_body(document: Any, *, ascii_only: bool = False, scanner: ContentScanner = SCANNER) -> list[Hit]:
    return scanner.scan(json.dumps(document, ensure_ascii=ascii_only).encode(), texts_of(document))


CHAT = {"model": "llama3.1:8b", "messages": [{"role": "user", "content": "How high is the Eiffel tower in 2024?"}]}


@pytest.mark.parametrize("padding", ["", "The sun shines. " * 1000])
def test_a_clean_call_has_no_hits(padding: str) -> None:
    assert scan_body({**CHAT, "padding": padding}) == []
    assert scan_body({**CHAT, "padding": padding + "\n\t\u00e9"}) == []
    assert SCANNER.scan(None, [padding]) == []
    assert SCANNER.scan(b"", []) == SCANNER.scan(None, []) == []


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("padding", ["", "Größe ", "line\n", "The sun shines. " * 1000])
def test_a_hit_says_which_text_and_which_characters(padding: str, ascii_only: bool) -> None:
    document = {"messages": [{"role": "user", "content": "hello"}, {"role": "user", "content": f"{padding}{MAIL}."}]}
    texts = texts_of(document)
    (hit,) = scan_body(document, ascii_only=ascii_only)
    assert (hit.rule, hit.data_class) == ("email", DataClass.PII)
    assert texts[hit.index][hit.start : hit.end] == MAIL


def test_hits_of_one_rule_in_a_long_text_each_have_their_place() -> None:
    text = "".join(f"é{number} <jane{number}@example.com>\n" for number in range(40))
    hits = SCANNER.scan(None, ["é", text])
    assert [text[hit.start : hit.end] for hit in hits] == [f"jane{number}@example.com" for number in range(40)]


def test_what_stands_in_the_body_alone_is_found_there() -> None:
    raw = f'{{"a":"x","a":"{MAIL}"}}'.encode()
    (hit,) = SCANNER.scan(raw, ["a", "x"])
    assert (hit.rule, hit.index, raw[hit.start : hit.end]) == ("email", -1, MAIL.encode())


def test_a_body_that_nobody_decoded_is_decoded_here() -> None:
    assert {hit.rule for hit in SCANNER.scan(b"email=jane.doe%40example.com", [])} == {"email"}
    assert {hit.rule for hit in SCANNER.scan(b'{"a": "\\u006aane\\u0040example.com"}', [])} == {"email"}
    assert [hit.index for hit in SCANNER.scan(b"\xff\xfe jane@example.com \x80", [])] == [-1]


def test_parts_that_the_caller_joined_are_scanned_though_the_body_is_clean() -> None:
    raw = b'["4111 1111 ","1111 1111"]' + b" " * 10_000
    assert SCANNER.scan(raw, ["4111 1111 ", "1111 1111"]) == []
    hits = SCANNER.scan(raw, ["4111 1111 ", "1111 1111", "4111 1111 1111 1111"])
    assert [(hit.rule, hit.index) for hit in hits] == [("payment-card", 2)]


def test_nothing_is_found_across_two_texts() -> None:
    assert SCANNER.scan(None, ["4111 1111 ", "1111 1111"]) == []
    assert SCANNER.scan(None, ["strictly ", "internal"]) == []
    assert SCANNER.scan(None, ["\n\x1e\n", "x\x1ey", "jane@example.com"])[0].index == 2
    assert SCANNER.scan(None, ["4111 1111\x1e\n", "\n1111 1111"]) == []


@pytest.mark.parametrize("raw", [True, False])
def test_a_record_separator_does_not_part_a_text(raw: bool) -> None:
    for document in (
        ["4111\x1e1111\x1e1111\x1e1111"],
        ["a", "pass\x1eword: Xk9#mm2p", "b"],
        ["jane\x1e@example.com"],
    ):
        body = json.dumps(document).encode() if raw else None
        assert len({hit.rule for hit in SCANNER.scan(body, document)}) == 1


ALONE = ("# Secret plan", "[Secret] the board met", "Secret", "**Internal**", "=== Geheim ===", "TOP SECRET")


@pytest.mark.parametrize("text", ALONE)
@pytest.mark.parametrize("padding", ["", "The sun shines. " * 1000])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", " :\n")])
def test_a_text_ends_at_its_quotes_in_a_body_that_is_scanned_alone(
    text: str, padding: str, separators: tuple[str, str]
) -> None:
    document = {"model": "llama3", "stream": False, "system": text, "prompt": padding}
    raw = json.dumps(document, separators=separators).encode()
    texts = texts_of(document)
    assert SCANNER.scan(raw, texts, contained=True) == SCANNER.scan(raw, texts) != []


def test_triggers_know_the_edges_of_a_text_in_a_body() -> None:
    for rule in build(ContentConfig()):
        for trigger in (*rule.words, *rule.shapes) or (rule.pattern,):
            rest = trigger.replace(LINE_START, "").replace(LINE_END, "")
            rest = rest.replace("(?:^|[^0-9", "").replace("[^", "")  # a class that has the quote, and classes
            assert not {"^", "$"}.intersection(rest.replace("\\$", "")), rule.id


@pytest.mark.parametrize(
    "names", [("password", "S3cret!pw"), ("classification", "restricted"), ("phone", 2025550143)]
)
@pytest.mark.parametrize("between", [" :", ":\n", ": \n  ", " " * 300 + ":" + "\t" * 300])
@pytest.mark.parametrize("padding", ["", "Größe", "The sun shines. " * 1000])
def test_white_space_between_a_key_and_its_value_does_not_part_them(
    names: tuple[str, Any], between: str, padding: str
) -> None:
    name, value = names
    raw = f'{{"padding":"{padding}","{name}"{between}{json.dumps(value)}}}'.encode()
    texts = ["padding", padding, name, *([value] if isinstance(value, str) else [])]
    tight = SCANNER.scan(raw.replace(between.encode(), b":"), texts, contained=True)
    for contained in (True, False):
        hits = SCANNER.scan(raw, texts, contained=contained)
        assert {(hit.rule, hit.data_class) for hit in hits} == {(hit.rule, hit.data_class) for hit in tight} != set()


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", ["password", "p\u00e4ssword".replace("ä", "a"), "passwort_f\u00fcr_x password"])
def test_a_key_and_its_value_belong_together(raw: bool, name: str) -> None:
    document = {"a": 1, name: "S3cret!pw", "phone": "030 901820"}
    body = json.dumps(document).encode() if raw else None
    assert {hit.rule for hit in SCANNER.scan(body, texts_of(document))} == {"credential-assignment", "phone"}


def test_numbers_count_as_texts() -> None:
    assert {hit.rule for hit in scan_body({"card": 4111111111111111})} == {"payment-card"}


def test_an_allowed_phrase_drops_the_hits_inside_it_alone() -> None:
    scanner = configured(allow=("support@example.com", "Confidential Computing", "größe confidential"))
    assert scan_body({"a": "Support@Example.com"}, scanner=scanner) == []
    assert scan_body({"a": "confidential\ncomputing"}, scanner=scanner) == []
    for ascii_only in (False, True):
        assert scan_body({"a": "GRÖSSE Größe confidential"}, ascii_only=ascii_only, scanner=scanner) == []
    found = scan_body({"a": "my.support@example.com"}, scanner=scanner)
    assert [hit.rule for hit in found] == ["email"]
    found = scan_body({"a": "confidential computing is not confidential"}, scanner=scanner)
    assert [(hit.rule, hit.start) for hit in found] == [("keyword-confidential", 30)]


def test_an_allowed_phrase_holds_in_decoded_forms() -> None:
    scanner = configured(allow=("support@example.com", ""))
    assert scan_body({"a": "support&#64;example.com"}, scanner=scanner) == []
    assert len(scan_body({"a": "jane&#64;example.com"}, scanner=scanner)) == 1


def test_a_hit_carries_no_text() -> None:
    (hit,) = SCANNER.scan(None, [MAIL])
    assert "jane" not in repr(hit)


def test_too_many_candidates_are_confidential() -> None:
    scanner = ContentScanner(time_budget_s=60, max_candidates=100)
    text = "password: none " * 99
    assert scanner.scan(None, [text]) == []
    assert scanner.scan(None, [text * 2]) == [Hit("scanner-budget", DataClass.CONFIDENTIAL, -1, 0, 0)]


def test_too_many_escapes_are_confidential() -> None:
    scanner = ContentScanner(time_budget_s=60, max_candidates=100)
    for escape in ("%41", "&#65;", "\\u0041"):
        assert scanner.scan(None, [escape * 500]) == []
        assert [hit.rule for hit in scanner.scan(None, [escape * 1000])] == ["scanner-budget"]


def test_too_many_keys_apart_from_their_values_are_confidential() -> None:
    scanner = ContentScanner(time_budget_s=60, max_candidates=100)
    assert scanner.scan(b"{" + b'"a" :1,' * 500, ["a"]) == []
    assert [hit.rule for hit in scanner.scan(b"{" + b'"a" :1,' * 1000, ["a"])] == ["scanner-budget"]


def test_too_much_time_is_confidential_and_keeps_what_was_found() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    scanner = ContentScanner(time_budget_s=0.25, clock=clock)
    assert scanner.scan(None, ["password: none " * 5]) == []
    hits = scanner.scan(None, [MAIL + " password: none" * 50])
    assert [hit.rule for hit in hits] == ["email", "scanner-budget"]


class _Broken:
    def __init__(self, answer: list[int] | None) -> None:
        self.answer = answer

    def Match(self, _: bytes) -> list[int] | None:  # noqa: N802  as the library calls it
        return self.answer


@pytest.mark.parametrize("part", ["_words", "_shapes"])
@pytest.mark.parametrize("answer", [None, [], [3]])
def test_a_set_that_misses_the_sentinel_is_confidential(part: str, answer: list[int] | None) -> None:
    scanner = ContentScanner()
    setattr(scanner._prefilter, part, _Broken(answer))
    for raw in (b"hello", b"hello" * 3000, None):
        assert scanner.scan(raw, ["hello"]) == [Hit("scanner-sentinel", DataClass.CONFIDENTIAL, -1, 0, 0)]
    assert scanner.errors == 0


def test_a_sentinel_in_the_text_does_not_stand_in_for_ours() -> None:
    scanner = ContentScanner()
    scanner._prefilter._words = _Broken(None)
    assert [hit.rule for hit in scanner.scan(b"+ so far so good +", ["+ so far so good +"])] == ["scanner-sentinel"]


def test_an_exception_is_confidential_and_counted() -> None:
    scanner = ContentScanner()
    assert scanner.scan(None, [3]) == [Hit("scanner-error", DataClass.CONFIDENTIAL, -1, 0, 0)]  # type: ignore[list-item]
    assert scanner.errors == 1
    assert scanner.scan(None, ["hello"]) == []
    assert scanner.errors == 1


@pytest.mark.parametrize(
    ("many", "one", "expected"),
    [
        ("TLP:GREEN\n", "TLP:RED", DataClass.CONFIDENTIAL),
        ("Classification: internal\n", "Classification: restricted", DataClass.CONFIDENTIAL),
        ("Classification: restricted\n", "Classification: PII", DataClass.PII),
    ],
)
@pytest.mark.parametrize("count", [50, 500])
def test_many_hits_of_a_rule_do_not_hide_a_stricter_one(many: str, one: str, expected: DataClass, count: int) -> None:
    hits = SCANNER.scan(None, [many * count + one])
    assert strictest(hits) is expected
    assert len(hits) <= 100


def test_a_rule_reports_some_places_of_many() -> None:
    hits = SCANNER.scan(None, [f"{MAIL}\n" * 5000])
    assert 10 <= len(hits) <= 100
    assert strictest(hits) is DataClass.PII
