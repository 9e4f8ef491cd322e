"""A call's class from header, pod default, images, content and body: the most restrictive wins; no text is shown."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from decisions import body, classified, policy
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.classifiers.headers import read_task_headers
from sidecar.core.classification import BY_LABEL, Classification, DataClass
from sidecar.dialects import ROUTES
from sidecar.http1 import RequestHead, parse_request_head
from sidecar.routing.assess import assess, classify
from sidecar.routing.bodies import Body, read_body
from sidecar.routing.policy import Hit, Policy

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(range(200))).decode()
CHAT, OPENAI = ROUTES[b"/api/chat"], ROUTES[b"/v1/chat/completions"]


@dataclass(frozen=True)
class Mark:
    rule: str
    data_class: DataClass
    index: int
    start: int
    end: int


class MarkScanner:
    """Finds the words of a table in each text and in the body as sent; keeps what it was shown."""

    def __init__(self, marks: dict[str, DataClass]) -> None:
        self._marks = marks
        self.raw: bytes | None = None
        self.texts: list[str] = []

    def scan(self, raw: bytes | None, texts: Sequence[str], *, contained: bool = False) -> Sequence[Hit]:
        self.raw, self.texts = raw, list(texts)
        hits: list[Hit] = []
        for word, data_class in self._marks.items():
            if raw is not None and word.encode() in raw:
                hits.append(Mark(f"has-{data_class.label}", data_class, -1, raw.index(word.encode()), 0))
            for index, text in enumerate(texts):
                if word in text:
                    start = text.index(word)
                    hits.append(Mark(f"has-{data_class.label}", data_class, index, start, start + len(word)))
        return hits


MARKS = {"markpii": DataClass.PII, "markconf": DataClass.CONFIDENTIAL, "markint": DataClass.INTERNAL}


def head(*classes: str) -> RequestHead:
    lines = "".join(f"X-Data-Classification: {one}\r\n" for one in classes)
    return parse_request_head(f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())


def chat(*contents: str, images: Sequence[str] = (), raw: str | None = None, **more: Any) -> Body:
    messages = [{"role": "user", "content": content, "images": list(images)} for content in contents]
    text = raw if raw is not None else json.dumps({"model": "llama3", "messages": messages, **more})
    return read_body(CHAT, {}, b"", text.encode())


def with_scanner(**change: Any) -> tuple[Policy, MarkScanner]:
    scanner = MarkScanner(MARKS)
    return policy(scanner=scanner, **change), scanner


def class_of(settings: Policy, one: Body, *header: str) -> Classification:
    return classify(settings, head(*header), one)


# Combining.


def test_every_combination_is_its_most_restrictive_part() -> None:
    labels = [None, "public", "internal", "confidential", "pii", "not-a-class"]
    classes = list(DataClass)
    for header, default, image, content, doubt in product(
        labels, classes, (None, *classes), (None, *MARKS), ("", "ambiguous", "opaque")
    ):
        settings = policy(
            scanner=MarkScanner(MARKS),
            default_class=classified(default, "default"),
            image_class=image if image is not None else DataClass.PII,
        )
        one = body(b"{}", **({doubt: "why"} if doubt else {}))
        one.texts = [f"hello {content}"]
        if image is not None:
            one.facts.shape = one.facts.shape._replace(images=1)
        parts = [default]
        if header is not None:
            parts.append(BY_LABEL.get(header, DataClass.CONFIDENTIAL))
        if image is not None:
            parts.append(image)
        if content is not None:
            parts.append(MARKS[content])
        if doubt:
            parts.append(DataClass.CONFIDENTIAL)
        found = class_of(settings, one, *([header] if header is not None else []))
        assert found.data_class == max(parts)
        assert found.sensitive == (max(parts) >= DataClass.CONFIDENTIAL)
        assert found.data_class == max(finding.data_class for finding in found.findings)


@given(
    default=st.sampled_from(DataClass),
    header=st.sampled_from(["public", "internal", "confidential", "pii", "x"]),
    words=st.lists(st.sampled_from(["hello", *MARKS]), max_size=4),
)
@settings(deadline=None)
def test_content_can_only_raise(default: DataClass, header: str, words: list[str]) -> None:
    floor = policy(default_class=classified(default, "default"))
    scanning = policy(default_class=classified(default, "default"), scanner=MarkScanner(MARKS))
    one = chat(" ".join(words))
    assert class_of(scanning, one, header).data_class >= class_of(floor, one, header).data_class
    assert class_of(scanning, one).data_class >= default


def test_the_source_is_the_part_that_decided() -> None:
    settings, _ = with_scanner(default_class=classified(DataClass.INTERNAL, "default"))
    assert class_of(settings, chat("hello")).source == "default"
    assert class_of(settings, chat("hello"), "confidential").source == "header"
    assert class_of(settings, chat("markpii"), "confidential").source == "content"
    assert class_of(settings, chat(raw='{"model": "a", "Model": "b"}')).source == "body"
    assert class_of(settings, chat("markint"), "internal").source == "header"  # the first of equals


def test_an_ordinary_call_costs_nothing_more_than_the_pods_default() -> None:
    settings, _ = with_scanner()
    assert class_of(settings, chat("hello")) is settings.default_class


@pytest.mark.parametrize(
    "raw",
    [
        '{"model": "a", "messages": [], "model": "b"}',
        '{"model": "a", "messages": [], "MODEL": "a"}',
        '{"model": "a"} {"model": "b"}',
        '\ufeff{"model": "a"}',
        '{"model": "a", "messages": [{"role": "user", "content": "\u0001"}]}'.replace("\\u0001", "\u0001"),
    ],
)
def test_a_body_that_readers_could_differ_on_is_confidential(raw: str) -> None:
    found = class_of(policy(), chat(raw=raw), "public")
    assert found.data_class is DataClass.CONFIDENTIAL
    assert "ambiguous-body" in [finding.rule for finding in found.findings]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/api/generate", {"model": "a", "prompt": "hi", "context": [1, 2, 3]}),
        (
            "/v1/chat/completions",
            {"model": "a", "messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        ),
        ("/api/chat", {"model": "a", "messages": [{"role": "user", "content": "", "images": ["JVBERi0xLjQK"]}]}),
    ],
)
def test_what_cannot_be_scanned_is_confidential(path: str, value: dict[str, Any]) -> None:
    one = read_body(ROUTES[path.encode()], {}, b"", json.dumps(value).encode())
    found = class_of(policy(), one, "public")
    if one.facts.opaque:
        assert found.data_class is DataClass.CONFIDENTIAL
    else:  # a text in an image's place is scanned as the text that it is
        settings, scanner = with_scanner()
        class_of(settings, one)
        assert "JVBERi0xLjQK" in scanner.texts


@pytest.mark.parametrize("image_class", list(DataClass))
def test_images_have_the_class_that_the_settings_give_them(image_class: DataClass) -> None:
    settings, _ = with_scanner(image_class=image_class)
    assert class_of(settings, chat("hello", images=[PNG])).data_class is image_class
    assert class_of(settings, chat("hello")).data_class is DataClass.PUBLIC


def test_without_a_scanner_the_rest_still_counts() -> None:
    settings = policy(scanner=None)
    assert class_of(settings, chat("markpii")).data_class is DataClass.PUBLIC
    assert class_of(settings, chat("markpii"), "pii").data_class is DataClass.PII
    assert class_of(settings, chat(raw='{"model": "a", "model": "b"}')).data_class is DataClass.CONFIDENTIAL


# What is scanned.


def test_the_whole_body_is_scanned_as_sent_and_every_string_in_it() -> None:
    settings, scanner = with_scanner()
    one = chat("hello", options={"stop": ["markint"]}, unknown={"markconf": {"deep": [["markpii"]]}})
    found = class_of(settings, one)
    assert scanner.raw == one.decoded
    assert {"hello", "markint", "markconf", "markpii", "deep", "stop"} <= set(scanner.texts)
    assert {finding.data_class for finding in found.findings} == set(DataClass)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_image_data_is_no_text_and_all_around_it_is(count: int) -> None:
    settings, scanner = with_scanner()
    images = [PNG, JPEG, PNG, JPEG, PNG][:count]
    one = chat("see markint", images=images)
    found = class_of(settings, one)
    assert scanner.raw is not None
    assert not any(data in scanner.raw.decode() for data in images)
    assert not any(data in text for data in images for text in scanner.texts)
    assert b"see markint" in scanner.raw
    assert len(scanner.raw) == len(one.decoded) - sum(map(len, images))
    assert found.data_class is DataClass.INTERNAL


@pytest.mark.parametrize(
    "written",
    [
        json.dumps({"model": "a", "messages": [{"role": "user", "content": "x", "images": [JPEG]}]}).replace(
            "/", "\\/"
        ),
        json.dumps(
            {"model": "a", "messages": [{"role": "user", "content": "x", "images": [f"{JPEG[:76]}\r\n{JPEG[76:]}"]}]}
        ),
    ],
)
def test_image_data_is_found_however_json_writes_it(written: str) -> None:
    settings, scanner = with_scanner()
    one = read_body(CHAT, {}, b"", written.encode())
    assert one.facts.image_data
    class_of(settings, one)
    assert scanner.raw is not None
    assert len(scanner.raw) < len(JPEG)


def test_the_head_of_a_data_url_is_text() -> None:
    settings, scanner = with_scanner()
    url = f"data:image/markpii;base64,{PNG}"
    part = {"type": "image_url", "image_url": {"url": url}}
    value = {"model": "a", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}]}
    one = read_body(OPENAI, {}, b"", json.dumps(value).encode())
    found = class_of(settings, one)
    assert found.data_class is DataClass.PII
    assert not any(PNG in text for text in scanner.texts)


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("parameter", ["name=markpii", "name=\u00e9markpii", "markpii"])
def test_text_in_a_data_url_is_found_however_it_is_written(parameter: str, escaped: bool) -> None:
    settings, _ = with_scanner()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;{parameter};base64,{PNG}"}}
    value = {"model": "a", "messages": [{"role": "user", "content": [part]}]}
    raw = json.dumps(value, ensure_ascii=False)
    if escaped:
        raw = raw.replace("markpii", "\\u006darkpii")
    one = read_body(OPENAI, {}, b"", raw.encode())
    assert class_of(settings, one).data_class is DataClass.PII


def test_many_images_are_taken_out_in_one_pass() -> None:
    """Once each would take time by the square: seconds of the loop for a body of a megabyte."""
    images = [base64.b64encode(b"\x89PNG\r\n\x1a\n" + number.to_bytes(4, "big")).decode() for number in range(40_000)]
    settings, scanner = with_scanner()
    one = chat("markint", images=images)
    assert len(one.facts.image_data) == 40_000
    found = class_of(settings, one)
    assert scanner.raw is not None
    assert b"iVBOR" not in scanner.raw
    assert found.data_class is DataClass.INTERNAL


@pytest.mark.parametrize("image_class", list(DataClass))
def test_an_image_where_none_belongs_has_the_class_of_images(image_class: DataClass) -> None:
    settings = policy(image_class=image_class)
    assert class_of(settings, chat("hello", pictures=[PNG])).data_class is image_class
    assert class_of(settings, chat("hello", pictures=[PNG[:20]])).data_class is DataClass.PUBLIC


def test_a_number_that_is_written_as_a_float_is_scanned_written_out() -> None:
    scanner = MarkScanner({"4111111111111111": DataClass.PII})
    one = chat("hello", card=4.111111111111111e15)
    found = class_of(policy(scanner=scanner), one)
    assert found.data_class is DataClass.PII


# What findings show.

secrets = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=3, max_size=10).map(
    lambda text: f"zq{text}qz"
)


@given(secret=secrets, where=st.integers(0, 6), header=st.sampled_from(["pii", "zq-header-qz"]))
@settings(deadline=None)
def test_no_finding_shows_any_text_of_the_body(secret: str, where: int, header: str) -> None:
    """Markers in values, keys, role, model, tool arguments and paths: nothing of them is in what we keep."""
    value: dict[str, Any] = {
        "model": f"m{secret}" if where == 0 else "llama3",
        "messages": [
            {"role": secret if where == 1 else "user", "content": f"markpii {secret}" if where == 2 else "markpii"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "markconf"}],
                "images": [PNG, secret] if where == 3 else [PNG],
            },
        ],
        secret if where == 4 else "other": {secret if where == 5 else "key": ["markint", {"x": "markpii"}]},
        "tools": [{"function": {"arguments": json.dumps({secret: "markpii"})}}] if where == 6 else [],
    }
    scanner = MarkScanner(MARKS)
    one = read_body(CHAT, {}, b"", json.dumps(value).encode())
    request = head(header)
    assessment = assess(policy(scanner=scanner), request, read_task_headers(request), one, "new-id")
    assert assessment.classification.data_class is DataClass.PII
    for told in (assessment.classification, assessment.task, *assessment.classification.findings):
        assert secret not in repr(told)
        assert "zq-header-qz" not in repr(told)
        assert "markpii" not in repr(told)


def test_a_finding_carries_the_path_of_its_field() -> None:
    settings, _ = with_scanner()
    one = chat("hello", "well markpii", app_field={"app_key": "markconf"}, options={"stop": ["markint"]})
    found = {finding.rule: finding for finding in class_of(settings, one).findings if finding.where != "body"}
    assert (found["has-pii"].where, found["has-pii"].start, found["has-pii"].end) == ("messages[1].content", 5, 12)
    assert found["has-confidential"].where == "*.*"
    assert found["has-internal"].where == "options.*[0]"


def test_a_path_stays_right_behind_images_and_joined_texts() -> None:
    settings, _ = with_scanner()
    parts = [{"type": "text", "text": "mark"}, {"type": "text", "text": "pii"}]
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    value = {
        "model": "a",
        "messages": [
            {"role": "user", "content": [image, *parts]},
            {"role": "user", "content": "markconf"},
        ],
    }
    one = read_body(OPENAI, {}, b"", json.dumps(value).encode())
    places = {finding.rule: finding.where for finding in class_of(settings, one).findings if finding.where != "body"}
    assert places["has-confidential"] == "messages[1].content"
    assert places["has-pii"] == "a joined text or a number written out"


# The task.


def test_the_task_comes_from_headers_defaults_and_body_together() -> None:
    request = parse_request_head(
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-Quality-Requirement: HIGH\r\nX-Task-Type: nonsense\r\n\r\n"
    )
    one = chat("hello", images=[PNG])
    task = assess(policy(), request, read_task_headers(request), one, "new-id").task
    assert (task.task_id, task.task_type, task.quality, task.latency_ms) == ("new-id", "vlm", "high", 1000)
    assert (task.origins["quality"], task.origins["task_type"]) == ("header", "inferred")
