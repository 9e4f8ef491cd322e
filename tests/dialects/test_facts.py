"""The facts of any body: wrong types count as absent, nothing that could be sent goes unseen."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_support import QUICK, VALUES, plain

from sidecar.core.call import Facts
from sidecar.dialects import ROUTES, match
from sidecar.dialects.base import Route, is_binary, is_image_data
from sidecar.routing.bodies import Body, read_body

NOISE = bytes(range(60)) + b"\xff\xfe"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + NOISE).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + NOISE).decode()
GIF = base64.b64encode(b"GIF89a" + NOISE).decode()
WEBP = base64.b64encode(b"RIFF\x24\x00\x00\x00WEBPVP8 " + NOISE).decode()
WAV = base64.b64encode(b"RIFF\x24\x00\x00\x00WAVEfmt " + NOISE).decode()
PDF = base64.b64encode(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + NOISE).decode()
LETTER = base64.b64encode(b"My number is 030 1234567, call me.").decode()


def read(path: str, value: Any) -> Body:
    route = match(b"POST", path.encode())
    assert route is not None
    return read_body(route, {}, b"", json.dumps(value, ensure_ascii=False).encode())


def facts(path: str, **members: Any) -> Facts:
    return read(path, {"model": "m"} | members).facts


def image_parts(data: Any) -> dict[str, dict[str, Any]]:
    """The places of every dialect where an image may stand."""
    return {
        "/api/chat": {"messages": [{"role": "user", "content": "x", "images": [data]}]},
        "/api/generate": {"prompt": "x", "images": [data]},
        "/v1/chat/completions": {
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data}}]}]
        },
        "/v1/responses": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": data}]}]},
        "/v1/messages": {
            "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": data}}]}]
        },
    }


IMAGE_ROUTES = list(image_parts(""))
SHORT_URL = "/v1/chat/completions"


@pytest.mark.parametrize("path", IMAGE_ROUTES)
@pytest.mark.parametrize(
    "data", [PNG, JPEG, GIF, WEBP, f"data:image/png;base64,{PNG}", f"DATA:Image/PNG;Base64,{PNG}"]
)
def test_image_data_is_no_text(path: str, data: str) -> None:
    body = read(path, {"model": "m"} | image_parts(data)[path])
    assert body.facts.image_data == (data,)
    assert (body.facts.images, body.facts.opaque, body.facts.cloud_blocker) == (1, "", "")
    assert data not in body.texts


@pytest.mark.parametrize("path", IMAGE_ROUTES)
def test_image_data_in_lines_is_image_data(path: str) -> None:
    data = "\r\n".join(PNG[at : at + 76] for at in range(0, len(PNG), 76))
    assert read(path, {"model": "m"} | image_parts(data)[path]).facts.image_data == (data,)


@pytest.mark.parametrize("path", IMAGE_ROUTES)
@pytest.mark.parametrize(
    "data",
    [
        "My number is 030 1234567",
        LETTER,
        PNG + " My number is 030 1234567",
        "My number is 030 1234567 " + PNG,
        "",
        "ümlaut",
        f"data:image/svg+xml;utf8,<svg>{LETTER}</svg>",
        f"data:image/png;base64,{LETTER}",
    ],
)
def test_a_text_in_an_images_place_is_a_text(path: str, data: str) -> None:
    body = read(path, {"model": "m"} | image_parts(data)[path])
    assert body.facts.image_data == ()
    assert body.facts.images == 1
    assert data in body.texts


@pytest.mark.parametrize("path", IMAGE_ROUTES)
@pytest.mark.parametrize(
    "data",
    [
        PDF,
        WAV,
        PDF.rstrip("="),
        "\n".join(PDF[at : at + 20] for at in range(0, len(PDF), 20)),
        PDF.replace("+", "-").replace("/", "_"),
        f"data:application/pdf;base64,{PDF}",
        f"data:image/png;base64,{PDF}",
        f"data:text/plain;base64,{LETTER}",
        f"data:;base64,{PNG}",
        f"data:image/png;name=My number is 030 1234567;base64,{PNG}",
        f"data:image/png;base64;x=y,{PNG}",
        f" data:image/png;base64,{PNG}",
        5,
        True,
        None,
        [PNG],
    ],
)
def test_what_nobody_can_scan_in_an_images_place_is_opaque(path: str, data: Any) -> None:
    body = read(path, {"model": "m"} | image_parts(data)[path])
    assert body.facts.opaque
    assert body.facts.images == 1
    assert body.facts.image_data == ()
    if isinstance(data, str):
        assert data in body.texts


@pytest.mark.parametrize("path", IMAGE_ROUTES)
@pytest.mark.parametrize(
    "url",
    [
        *("http://a/b.png", "https://a/b.png", "HTTPS://a/b.png", " https://a/b.png", "\nhttp://a", "ftp://a/b.png"),
        *("file:///etc/passwd", "s3://bucket/key", "gs://bucket/key", "blob:https://a/b", "http:a"),
    ],
)
def test_a_url_in_an_images_place_keeps_the_call_here(path: str, url: str) -> None:
    assert read(path, {"model": "m"} | image_parts(url)[path]).facts.cloud_blocker == "the cloud would fetch a URL"


@pytest.mark.parametrize(
    "source", [{"type": "url", "url": "https://a/b"}, {"type": "url"}, {"type": "url", "url": PNG}]
)
def test_an_anthropic_source_of_type_url_keeps_the_call_here(source: Any) -> None:
    content = [{"type": "image", "source": source}]
    blocker = facts("/v1/messages", messages=[{"role": "user", "content": content}]).cloud_blocker
    assert blocker == "the cloud would fetch a URL"


def test_an_image_deep_in_a_tools_result_is_seen() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": PNG}}
    content = [{"type": "tool_result", "content": [{"type": "tool_result", "content": [image]}]}]
    assert facts("/v1/messages", messages=[{"role": "user", "content": content}]).image_data == (PNG,)
    output = [{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}]
    found = facts("/v1/responses", input=[{"type": "function_call_output", "call_id": "c", "output": output}])
    assert found.images == 1


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/api/chat", {"messages": [{"images": PNG}]}),
        ("/api/chat", {"messages": {"images": [PNG]}}),
        ("/api/generate", {"prompt": "x", "images": PNG}),
        ("/v1/chat/completions", {"messages": [{"content": {"type": "image_url", "image_url": PNG}}]}),
        ("/v1/chat/completions", {"messages": {"content": [{"type": "image_url", "image_url": PNG}]}}),
        ("/v1/responses", {"input": {"content": [{"type": "input_image", "image_url": PNG}]}}),
        ("/v1/responses", {"input": [{"content": {"type": "input_image", "image_url": PNG}}]}),
        ("/v1/messages", {"messages": {"content": [{"type": "image", "source": {"type": "base64", "data": PNG}}]}}),
        ("/v1/messages", {"messages": [{"content": {"type": "image", "source": {"type": "base64", "data": PNG}}}]}),
        ("/v1/messages", {"messages": [], "system": {"type": "image", "source": {"type": "base64", "data": PNG}}}),
    ],
)
def test_an_image_is_seen_where_a_list_was_forgotten(path: str, members: dict[str, Any]) -> None:
    # The server will refuse it, but by then the cloud has it.
    assert facts(path, **members).image_data == (PNG,)


@pytest.mark.parametrize("images", [{"data": PNG}, 5, True])
def test_images_of_another_type_are_opaque(images: Any) -> None:
    assert facts("/api/generate", prompt="x", images=images).opaque
    assert facts("/api/chat", messages=[{"images": images}]).opaque


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_a_tool_alone_without_a_list_is_seen(path: str) -> None:
    assert facts(path, input="x", tools={"type": "web_search"}).web_tools


def test_an_image_twice_counts_twice_and_only_its_strings_are_left_out() -> None:
    body = read("/api/chat", {"model": "m", "messages": [{"content": PNG, "images": [PNG, PNG]}]})
    assert body.facts.images == 2
    assert body.texts.count(PNG) == 1


@pytest.mark.parametrize(
    ("text", "image", "binary"),
    [
        (PNG, True, True),
        (JPEG, True, True),
        (GIF, True, True),
        (WEBP, True, True),
        (PDF, False, True),
        (WAV, False, True),
        (LETTER, False, False),
        ("", False, False),
        ("hello world!", False, False),
        ("a,b", False, False),
        ("é", False, False),
        (PNG[:8], False, True),
        ("iVBO", False, True),
    ],
)
def test_what_base64_holds(text: str, image: bool, binary: bool) -> None:
    assert (is_image_data(text), is_binary(text)) == (image, binary)


# What decides over the way of a call.


@pytest.mark.parametrize(
    ("path", "default"),
    [
        ("/api/chat", True),
        ("/api/generate", True),
        ("/api/embed", False),
        ("/v1/chat/completions", False),
        ("/v1/completions", False),
        ("/v1/embeddings", False),
        ("/v1/responses", False),
        ("/v1/messages", False),
    ],
)
def test_whether_it_streams(path: str, default: bool) -> None:
    assert facts(path).stream is default
    assert facts(path, stream=None).stream is default
    assert facts(path, stream=True).stream is (path != "/api/embed")
    assert facts(path, stream=False).stream is False


@pytest.mark.parametrize("value", [1, 100, 2**31 - 1])
@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("/v1/chat/completions", "max_tokens"),
        ("/v1/chat/completions", "max_completion_tokens"),
        ("/v1/completions", "max_tokens"),
        ("/v1/responses", "max_output_tokens"),
        ("/v1/messages", "max_tokens"),
    ],
)
def test_a_cap_is_the_apps_own(path: str, member: str, value: int) -> None:
    assert facts(path, **{member: value}).output_cap == value


@pytest.mark.parametrize(("value", "cap"), [(1.0, 1), (5.7, 5), (2147483647.0, 2**31 - 1)])
def test_a_cap_may_be_written_as_a_float(value: float, cap: int) -> None:
    assert facts("/api/chat", options={"num_predict": value, "num_ctx": value}).output_cap == cap
    assert facts("/v1/messages", max_tokens=value).output_cap == cap


@pytest.mark.parametrize(
    "value", [0, -1, -2, 2**31, 2**63, 2**70, 0.9, -1.5, 2147483648.0, 1e300, True, "100", None, [100], {"a": 1}]
)
def test_what_is_no_bound_is_no_cap(value: Any) -> None:
    members = dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), value)
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions"):
        assert facts(path, **members).output_cap is None
    for path in ("/api/chat", "/api/generate"):
        found = facts(path, options={"num_predict": value, "num_ctx": value})
        assert (found.output_cap, found.context_tokens) == (None, None)


def test_of_two_caps_the_lower_one_counts() -> None:
    assert facts("/v1/chat/completions", max_tokens=7, max_completion_tokens=5).output_cap == 5
    assert facts("/v1/chat/completions", max_tokens=5, max_completion_tokens=7).output_cap == 5
    assert facts("/v1/chat/completions", max_tokens=-1, max_completion_tokens=7).output_cap == 7


@pytest.mark.parametrize(
    ("n", "choices", "blocked"),
    [
        (1, 1, False),
        (5, 5, False),
        (128, 128, False),
        (None, 1, False),
        (0, 1, True),
        (129, 1, True),
        (-1, 1, True),
        ("2", 1, True),
        (2.5, 1, True),
        ([2], 1, True),
    ],
)
def test_how_many_answers(n: Any, choices: int, blocked: bool) -> None:
    found = facts("/v1/chat/completions", messages=[{"role": "user", "content": "x"}], n=n)
    assert (found.choices, bool(found.cloud_blocker)) == (choices, blocked)


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/api/chat", {}),
        ("/api/chat", {"messages": []}),
        ("/api/chat", {"messages": None, "keep_alive": 0}),
        ("/api/generate", {}),
        ("/api/generate", {"prompt": ""}),
        ("/api/generate", {"prompt": None, "system": "x", "keep_alive": -1}),
    ],
)
def test_what_only_loads(path: str, members: dict[str, Any]) -> None:
    assert facts(path, **members).load_only


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/api/chat", {"messages": [{}]}),
        ("/api/generate", {"prompt": " "}),
        ("/api/generate", {"images": [PNG]}),
        ("/api/embed", {}),
        ("/v1/messages", {}),
        ("/v1/completions", {}),
    ],
)
def test_what_does_more_than_load(path: str, members: dict[str, Any]) -> None:
    assert not facts(path, **members).load_only


SAYS_X: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": [{"role": "user", "content": "x"}]},
    "/api/generate": {"prompt": "x"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}]},
}


@pytest.mark.parametrize("path", SAYS_X)
@pytest.mark.parametrize("context", [[1], [0], [1, 2, 3], "x", {"a": 1}, 1, [[]]])
def test_the_tokens_of_an_earlier_call_are_opaque(path: str, context: Any) -> None:
    assert facts(path, **SAYS_X[path], context=context).opaque


@pytest.mark.parametrize("path", SAYS_X)
@pytest.mark.parametrize("context", [[], None])
def test_no_tokens_of_an_earlier_call_are_not(path: str, context: Any) -> None:
    assert not facts(path, **SAYS_X[path], context=context).opaque


# What a model reads, and what a server would.


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
@pytest.mark.parametrize("content", [5, True, 1.5])
def test_a_content_of_no_known_type_is_opaque(path: str, content: Any) -> None:
    assert facts(path, messages=[{"role": "user", "content": content}]).opaque


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
@pytest.mark.parametrize("message", [5, True, [], ["text"]])
def test_a_message_that_is_none_is_opaque(path: str, message: Any) -> None:
    assert facts(path, messages=[message]).opaque


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_a_null_is_an_empty_message(path: str) -> None:
    found = facts(path, messages=[None, {"role": "user", "content": "x"}, None])
    assert (found.messages, found.opaque) == (3, "")


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "x"}],
        {"type": "text", "text": "x"},
        [{"type": "text", "text": "x"}, {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}],
        [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}],
        [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}],
        [],
        {},
    ],
)
def test_a_content_in_parts_is_opaque_where_ollama_takes_a_string(content: Any) -> None:
    assert facts("/api/chat", messages=[{"role": "user", "content": content}]).opaque


@pytest.mark.parametrize("name", ["prompt", "system"])
@pytest.mark.parametrize("value", [["x"], {"text": "x"}, 5])
def test_a_prompt_in_parts_is_opaque(name: str, value: Any) -> None:
    assert facts("/api/generate", **{"prompt": "x", name: value}).opaque


HALVES = ("mail jane.doe@exa", "mple.com now")
TWO_TEXTS = [{"type": "text", "text": half} for half in HALVES]
TWO_INPUTS = [{"type": "input_text", "text": half} for half in HALVES]
TWO_SUMMARIES = [{"type": "summary_text", "text": half} for half in HALVES]
SEARCH_RESULT = {"type": "search_result", "source": "a", "title": "b"}


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": TWO_TEXTS}]}),
        (
            "/v1/chat/completions",
            {"messages": [{"content": [TWO_TEXTS[0], {"type": "refusal", "refusal": HALVES[1]}]}]},
        ),
        ("/v1/responses", {"input": [{"type": "reasoning", "summary": TWO_SUMMARIES}]}),
        ("/v1/responses", {"input": [{"type": "reasoning", "summary": [], "content": TWO_SUMMARIES}]}),
        (
            "/v1/responses",
            {"input": [{"type": "reasoning", "summary": TWO_SUMMARIES[:1], "content": TWO_SUMMARIES[1:]}]},
        ),
        ("/v1/responses", {"input": "x", "instructions": [{"type": "message", "content": TWO_INPUTS}]}),
        ("/v1/responses", {"input": "x", "instructions": {"role": "developer", "content": TWO_INPUTS}}),
        ("/v1/messages", {"messages": [{"content": [SEARCH_RESULT | {"content": TWO_TEXTS}]}]}),
        ("/v1/messages", {"messages": [{"content": [{"type": "tool_result", "content": TWO_TEXTS}]}]}),
        ("/v1/messages", {"messages": [], "system": TWO_TEXTS}),
    ],
)
def test_texts_that_a_model_reads_as_one_are_scanned_as_one(path: str, members: dict[str, Any]) -> None:
    body = read(path, {"model": "m"} | members)
    assert "".join(HALVES) in body.texts
    assert not body.facts.opaque


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v1/chat/completions", {"messages": [{"content": [{"type": "text", "text": {"value": "x"}}]}]}),
        ("/v1/chat/completions", {"messages": [{"content": [{"type": "refusal", "refusal": ["x"]}]}]}),
        ("/v1/responses", {"input": 5}),
        ("/v1/responses", {"input": [{"type": "reasoning", "summary": 5}]}),
        ("/v1/responses", {"input": [{"type": "reasoning", "summary": [{"type": "sum", "text": "x"}]}]}),
        ("/v1/responses", {"input": [{"type": "function_call", "arguments": {"a": 1}}]}),
        ("/v1/responses", {"input": "x", "instructions": 5}),
        ("/v1/responses", {"input": "x", "instructions": ["x"]}),
        (
            "/v1/responses",
            {"input": "x", "instructions": [{"content": [{"type": "input_file", "file_data": WAV}]}]},
        ),
        ("/v1/messages", {"messages": [{"content": [{"type": "text", "text": ["x"]}]}]}),
        ("/v1/messages", {"messages": [{"content": [{"type": "tool_result", "content": 5}]}]}),
        ("/v1/messages", {"messages": [{"content": [SEARCH_RESULT | {"content": [{"type": "document"}]}]}]}),
    ],
)
def test_a_text_of_an_unexpected_type_is_opaque(path: str, members: dict[str, Any]) -> None:
    assert facts(path, **members).opaque


def test_images_in_instructions_and_search_results_are_seen() -> None:
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
    found = facts("/v1/responses", input="x", instructions=[{"role": "system", "content": [image]}])
    assert (found.images, found.image_data) == (1, (f"data:image/png;base64,{PNG}",))
    block = SEARCH_RESULT | {"content": [{"type": "image", "source": {"type": "base64", "data": PNG}}]}
    assert facts("/v1/messages", messages=[{"role": "user", "content": [block]}]).image_data == (PNG,)
    url = {"type": "input_image", "image_url": "https://a/b.png"}
    assert facts("/v1/responses", input="x", instructions=[{"content": [url]}]).cloud_blocker


def test_the_conversation_begins_with_instructions_in_items() -> None:
    found = facts("/v1/responses", input="x", instructions=[{"content": "Be brief."}])
    assert (found.system_text, found.first_user_text) == ("Be brief.", "x")


@pytest.mark.parametrize("path", SAYS_X)
@pytest.mark.parametrize(
    "data", [PNG, JPEG, GIF, WEBP, f"data:image/png;base64,{PNG}", f"Data:image/PNG;Base64,{PNG}"]
)
def test_an_image_where_none_belongs_counts_for_its_class(path: str, data: str) -> None:
    for members in ({"pictures": [data]}, {"metadata": {"a": data}}):
        found = facts(path, **SAYS_X[path] | members)
        assert (found.stray_image, found.images, found.image_data) == (True, 0, ())


def test_an_image_in_the_field_of_another_dialect_counts_for_its_class() -> None:
    assert facts("/v1/chat/completions", messages=[{"role": "user", "content": "x", "images": [PNG]}]).stray_image
    assert facts("/api/chat", messages=[{"role": "user", "content": "x"}], images=[PNG]).stray_image
    text = f"see ![here](data:image/png;base64,{PNG}) and tell; then stop"
    assert facts("/api/chat", messages=[{"role": "user", "content": text}]).stray_image


@pytest.mark.parametrize(
    "text",
    [
        WAV,
        PDF,
        LETTER * 3,
        "R is a language; it has its own " + "words " * 9,
        f"text;base64,{LETTER}",
        "i" * 60,
        PNG[:30],
    ],
)
def test_a_text_is_no_image(text: str) -> None:
    assert not facts("/api/chat", messages=[{"role": "user", "content": text}], x=text).stray_image


# What makes a prompt of it that its own bytes do not tell.


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
@pytest.mark.parametrize("template", ["{{ .Prompt }}", " ", {"a": 1}])
def test_a_template_of_the_apps_own_keeps_the_call_here(path: str, template: Any) -> None:
    assert "template" in facts(path, **SAYS_X[path], template=template).cloud_blocker


@pytest.mark.parametrize("template", ["", None])
def test_no_template_of_the_apps_own_does_not(template: Any) -> None:
    assert not facts("/api/generate", prompt="x", template=template).cloud_blocker


@pytest.mark.parametrize("path", IMAGE_ROUTES)
@pytest.mark.parametrize(
    "text",
    [
        *("[img-0]", "see [img-0][img-0] here", "[img-12", "\u005bimg-0]", '{"a": "\\u005bimg-0]"}'),
        *("[im/thinkg-0]", "[im/no_thinkg-0]", "[im<|channel>x<channel|>g-0]", "[im</thinkg-0]"),
    ],
)
def test_a_text_that_can_put_an_image_in_again_keeps_a_call_with_images_here(path: str, text: str) -> None:
    for data in (PNG, f"data:image/png;base64,{PNG}"):
        assert facts(path, **image_parts(data)[path], other=text).cloud_blocker


@pytest.mark.parametrize("path", IMAGE_ROUTES)
@pytest.mark.parametrize("text", ["[img]", "img-0.png", "[image-0]", "</think>", "\u00e4", "a[0] = 1"])
def test_other_texts_beside_an_image_do_not(path: str, text: str) -> None:
    assert not facts(path, **image_parts(PNG)[path], other=text).cloud_blocker


def test_without_an_image_there_is_none_to_put_in_again() -> None:
    assert not facts("/api/chat", messages=[{"role": "user", "content": "[img-0]"}]).cloud_blocker


@pytest.mark.parametrize(
    ("path", "members"),
    [
        *(("/api/chat", {"format": form}) for form in ("json", {"type": "object"}, None, "")),
        ("/api/chat", {"format": "json", "think": False}),
        *(("/v1/chat/completions", {"response_format": {"type": kind}}) for kind in ("json_object", "json_schema")),
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}, "reasoning_effort": "none"}),
        ("/v1/responses", {"text": {"format": {"type": "json_schema", "schema": {}}}}),
        ("/v1/messages", {"output_format": {"type": "json_schema", "schema": {}}}),
        ("/v1/messages", {"output_config": {"format": {"type": "json_schema", "schema": {}}}}),
    ],
)
def test_a_call_with_a_format_may_run_twice(path: str, members: dict[str, Any]) -> None:
    assert facts(path, **SAYS_X[path] | members).reruns


@pytest.mark.parametrize(
    ("path", "members"),
    [
        *((path, {}) for path in SAYS_X),
        ("/v1/chat/completions", {"response_format": None}),
        ("/v1/responses", {"text": {"verbosity": "low"}}),
        ("/v1/messages", {"output_config": {"effort": "low"}}),
    ],
)
def test_a_call_without_a_format_runs_once(path: str, members: dict[str, Any]) -> None:
    assert not facts(path, **SAYS_X[path] | members).reruns


TOOL_USE = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
WEB_RESULT = {"type": "web_search_tool_result", "content": {"a": "<"}}


@pytest.mark.parametrize(
    ("path", "members", "tools", "items"),
    [
        *((path, {"tools": [{}] * 20}, 20, 20) for path in SAYS_X if path != "/api/generate"),
        *((path, {"tools": [None, 5, "x", {"a": 1}]}, 4, 4) for path in SAYS_X if path != "/api/generate"),
        *((path, {"tools": {"a": 1}}, 1, 1) for path in SAYS_X if path != "/api/generate"),
        *((path, {"tools": []}, 0, 0) for path in SAYS_X),
        ("/api/chat", {"messages": [{"tool_calls": [{}, {}]}, {"tool_calls": {}}]}, 0, 3),
        ("/v1/chat/completions", {"messages": [{"content": None, "tool_calls": [{}, {}]}]}, 0, 2),
        ("/v1/responses", {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, 0, 1),
        ("/v1/messages", {"messages": [{"content": [TOOL_USE, TOOL_USE, WEB_RESULT]}]}, 0, 3),
    ],
)
def test_tools_and_tool_calls_are_counted(path: str, members: dict[str, Any], tools: int, items: int) -> None:
    found = facts(path, **SAYS_X[path] | members)
    assert (found.tools, found.shape.tools, found.tool_items) == (tools, tools, items)
    assert bool(found.tool_bytes) is bool(items)
    assert not found.opaque


def test_tools_that_cannot_be_measured_keep_the_call_here() -> None:
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"a": deep}
    assert facts("/api/chat", messages=[{}], tools=[deep]).cloud_blocker == "its tools cannot be measured"


@pytest.mark.parametrize("path", [path for path in SAYS_X if path != "/api/generate"])
@pytest.mark.parametrize(
    "tool",
    [
        {"type": "mcp", "server_label": "a", "server_url": "https://a"},
        {"type": " MCP "},
        {"type": "mcp_toolset", "mcp_server_name": "a"},
        {"type": "mcp", "connector_id": "connector_gmail"},
        {"server_url": "https://a"},
        {"connector_id": "connector_gmail"},
        {"type": "file_search", "vector_store_ids": ["vs_1"]},
        {"type": "code_interpreter", "container": {"type": "auto"}},
    ],
)
def test_a_tool_that_fetches_from_elsewhere_keeps_the_call_here(path: str, tool: dict[str, Any]) -> None:
    for tools in ([{"type": "function", "name": "f"}, tool], tool):
        assert facts(path, **SAYS_X[path], tools=tools).cloud_blocker


@pytest.mark.parametrize("path", [path for path in SAYS_X if path != "/api/generate"])
def test_a_function_does_not(path: str) -> None:
    tool = {"type": "function", "name": "mcp", "description": "has a server_url", "parameters": {"server_url": {}}}
    assert not facts(path, **SAYS_X[path], tools=[tool]).cloud_blocker


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
@pytest.mark.parametrize(
    "kind",
    ["web_search", "web_search_20250305", "web_search_preview", "WEB_SEARCH", " web_fetch", "web_fetch_20250910"],
)
def test_a_tool_that_searches_the_web(path: str, kind: str) -> None:
    assert facts(path, input="x", tools=[{"type": "function", "name": "f"}, {"type": kind}]).web_tools


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
@pytest.mark.parametrize(
    "tools", [[], None, "web_search", ["web_search"], [{"type": "function", "name": "web_search"}], [{}]]
)
def test_a_tool_that_does_not(path: str, tools: Any) -> None:
    assert not facts(path, input="x", tools=tools).web_tools


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
@pytest.mark.parametrize(
    "tools",
    [
        b'"Tools":[{"type":"web_search"}]',
        b'"tools":[{"Type":"web_search"}]',
        b'"tools":[{"type":"web_search","type":"function"}]',
        b'"tools":[{"type":"web_fetch"}],"tools":[{}]',
        b'"tool\xc5\xbf":[{"type":"web_\\u0073earch"}]',
    ],
)
def test_a_tool_that_only_another_reader_finds_counts(path: str, tools: bytes) -> None:
    # Such a call is confidential, and the local server would post a query of it to the cloud.
    route = match(b"POST", path.encode())
    assert route is not None
    body = read_body(route, {}, b"", b'{"model":"m","input":"x",' + tools + b"}")
    assert body.facts.ambiguous
    assert body.facts.web_tools


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_where_no_tool_searches_the_web_a_word_of_it_is_only_a_word(path: str) -> None:
    route = match(b"POST", path.encode())
    assert route is not None
    body = read_body(route, {}, b"", b'{"model":"m","model":"m","messages":[{"content":"web_search"}]}')
    assert body.facts.ambiguous
    assert not body.facts.web_tools


@pytest.mark.parametrize("path", [path.decode() for path, route in ROUTES.items() if route.web])
def test_the_local_servers_own_doors_to_a_search(path: str) -> None:
    body = read(path, {"query": "who?"})
    assert body.facts.web_tools
    assert body.facts.first_user_text == "who?"
    assert read(path, {"url": "https://a"}).facts.first_user_text == "https://a"


@pytest.mark.parametrize("path", [path.decode() for path, route in ROUTES.items() if not route.multipart])
def test_a_call_without_a_model_stays_here(path: str) -> None:
    for value in ({}, {"model": None}, {"model": ""}, {"model": ["m"]}, {"model": {"name": "m"}}, {"model": 5}):
        assert read(path, value).facts.cloud_blocker


@pytest.mark.parametrize("path", [path.decode() for path, route in ROUTES.items() if not route.multipart])
@pytest.mark.parametrize("value", [[], ["model"], "model", 5, None, True])
def test_a_body_that_is_no_object_stays_here(path: str, value: Any) -> None:
    body = read(path, value)
    assert body.facts.cloud_blocker
    assert (body.facts.model, body.facts.models) == ("", ())


@pytest.mark.parametrize(
    ("path", "value", "opaque"),
    [
        ("/v1/responses", ["text"], True),
        ("/v1/responses", [None], True),
        ("/v1/responses", [{"type": ["message"]}], True),
        ("/v1/responses", [{"type": "computer_call_output", "output": {}}], True),
        ("/v1/responses", [{"type": "file_search_call"}], True),
        ("/v1/responses", [{"role": "user", "content": [{"type": "input_audio"}]}], True),
        ("/v1/responses", [{"role": "user", "content": "x"}], False),
        ("/v1/responses", [{"type": None, "role": "user", "content": "x"}], False),
        ("/v1/responses", [{"type": "", "role": "user", "content": "x"}], False),
    ],
)
def test_items_of_responses(path: str, value: Any, opaque: bool) -> None:
    assert bool(facts(path, input=value).opaque) is opaque


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    "part",
    [{}, {"type": None}, {"type": []}, {"type": {}}, {"type": 5}, {"type": "video"}, None, 5, [], [{"type": "text"}]],
)
def test_a_part_of_an_unknown_type_is_opaque(path: str, part: Any) -> None:
    content = [{"type": "text", "text": "x"}, part]
    assert facts(path, messages=[{"role": "user", "content": content}]).opaque


@pytest.mark.parametrize("name", ["container", "mcp_servers"])
def test_what_stands_for_data_elsewhere_keeps_an_anthropic_call_here(name: str) -> None:
    assert facts("/v1/messages", messages=[], **{name: ["x"]}).cloud_blocker
    assert not facts("/v1/messages", messages=[], **{name: None}).cloud_blocker


# The conversation, by which a call sticks to its side of the canary.


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_the_conversation_is_known_by_system_and_first_user_text(path: str) -> None:
    talk: list[Any] = [
        {"role": "system", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "user", "content": "four"},
        {"role": "system", "content": "five"},
    ]
    found = facts(path, messages=talk)
    assert (found.system_text, found.first_user_text) == ("one\nfive", "three")
    assert (found.messages, found.shape.turns) == (5, 3)


def test_text_counts_in_bytes_of_utf_8() -> None:
    assert facts("/api/chat", messages=[{"content": "aü€"}]).shape.text_bytes == 6
    assert (
        facts("/v1/messages", system="ü", messages=[{"content": [{"type": "text", "text": "€"}]}]).shape.text_bytes
        == 5
    )


# Anything in any place.

ANY = VALUES.map(plain)
PART = st.one_of(
    ANY,
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(
                st.sampled_from(
                    ["text", "image_url", "input_image", "input_text", "image", "tool_result", "tool_use", "document"]
                ),
                ANY,
            ),
            "text": ANY,
            "content": ANY,
            "image_url": st.one_of(ANY, st.fixed_dictionaries({"url": ANY})),
            "source": st.one_of(
                ANY, st.fixed_dictionaries({"type": st.sampled_from(["base64", "url", "file"]), "data": ANY})
            ),
        },
    ),
)
MESSAGE = st.one_of(
    ANY,
    st.fixed_dictionaries(
        {},
        optional={
            "role": ANY,
            "type": st.one_of(
                st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]), ANY
            ),
            "content": st.one_of(ANY, st.lists(PART, max_size=3)),
            "output": st.one_of(ANY, st.lists(PART, max_size=2)),
            "arguments": ANY,
            "images": st.one_of(ANY, st.lists(st.one_of(ANY, st.sampled_from([PNG, PDF, "https://a"])), max_size=2)),
            "tool_calls": ANY,
        },
    ),
)
MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "model": st.one_of(st.just("m"), ANY),
    "messages": st.one_of(ANY, st.lists(MESSAGE, max_size=3)),
    "input": st.one_of(ANY, st.lists(MESSAGE, max_size=3)),
    "images": st.one_of(ANY, st.lists(st.one_of(ANY, st.just(PNG)), max_size=2)),
    "tools": st.one_of(ANY, st.lists(st.one_of(ANY, st.fixed_dictionaries({"type": ANY})), max_size=2)),
    "options": st.one_of(ANY, st.fixed_dictionaries({"num_predict": ANY, "num_ctx": ANY})),
    "system": st.one_of(ANY, st.lists(PART, max_size=2)),
} | dict.fromkeys(
    (
        *("prompt", "suffix", "template", "format", "context", "stream", "think", "n", "max_tokens", "query", "url"),
        *("max_completion_tokens", "max_output_tokens", "tool_choice", "response_format", "stream_options", "image"),
        *("reasoning", "reasoning_effort", "instructions", "text", "thinking", "output_format", "output_config"),
        *("previous_response_id", "conversation", "container", "mcp_servers"),
    ),
    ANY,
)
ROUTE = st.sampled_from([route for route in ROUTES.values() if not route.multipart])
BODY = st.fixed_dictionaries({}, optional=MEMBERS)


@QUICK
@given(ROUTE, BODY)
def test_no_type_in_any_place_raises(route: Route, value: dict[str, Any]) -> None:
    found = route.dialect.facts(route, value)
    assert found.output_cap is None or 0 < found.output_cap < 2**31
    assert found.context_tokens is None or 0 < found.context_tokens < 2**31
    assert 1 <= found.choices <= 128
    assert isinstance(found.stream, bool)
    assert isinstance(found.web_tools, bool)
    assert isinstance(found.system_text, str)
    assert isinstance(found.first_user_text, str)
    assert found.images >= len(found.image_data)
    assert all(map(is_image, found.image_data))
    for path in route.dialect.cap_path(value):
        assert 1 <= len(path) <= 2


def is_image(data: str) -> bool:
    """Base64 of a known format, bare or in the plainest of data URLs; by another way than the module's."""
    encoded = re.sub(r"\Adata:image/[\w.+-]+;base64,", "", data, flags=re.IGNORECASE)
    decoded = base64.b64decode(encoded, validate=True)
    return decoded.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF"))


MARKER = "Zq7marker"


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a string in a value: the container and the key, or the key to rename (as a tuple)."""
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        node = stack.pop()
        children = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in children:
            if isinstance(node, dict):
                found.append((node, (key,)))
            if isinstance(child, str):
                found.append((node, key))
            elif isinstance(child, dict | list):
                stack.append(child)
    return found


@QUICK
@given(ROUTE, BODY, st.data())
def test_a_marker_anywhere_is_among_the_texts(route: Route, value: dict[str, Any], data: st.DataObject) -> None:
    spots = places(value)
    if not spots:
        return
    node, key = data.draw(st.sampled_from(spots))
    if isinstance(key, tuple):
        node[key[0] + MARKER] = node.pop(key[0])
    else:
        before = data.draw(st.booleans())
        node[key] = MARKER + node[key] if before else node[key] + MARKER
    raw = orjson.dumps(value)
    body = read_body(route, {}, b"", raw)
    hidden = [text for text in body.facts.image_data if MARKER in text]
    assert hidden or any(MARKER in text for text in body.texts)
    assert all(map(is_image, hidden))


def test_a_number_is_no_text_but_in_the_bytes_as_sent() -> None:
    body = read("/api/chat", {"model": "m", "messages": [{"content": "x"}], "x": {"y": 4111111111111111}})
    assert body.decoded is body.raw
    assert b"4111111111111111" in body.decoded
    assert not any("4111" in text for text in body.texts)


@pytest.mark.parametrize(
    "number", ["4111111111111111.0", "4.111111111111111e15", "4111111111111111.5", "-4111111111111111.0"]
)
@pytest.mark.parametrize("place", ['{"y":%s}', '[[%s],"a"]', "%s"])
def test_a_number_that_is_written_as_a_float_is_a_text_too(number: str, place: str) -> None:
    route = match(b"POST", b"/api/chat")
    assert route is not None
    raw = '{"model":"m","messages":[{"content":"x"}],"x":' + place % number + "}"
    body = read_body(route, {}, b"", raw.encode())
    assert any(text.lstrip("-") == "4111111111111111" for text in body.texts)


@pytest.mark.parametrize("number", [0.7, 1e6, -0.5, 1e25, 1e300, 12345678])
def test_other_numbers_are_none(number: float) -> None:
    body = read("/api/chat", {"model": "m", "messages": [{"content": "x"}], "options": {"temperature": number}})
    assert set(body.texts) == {"model", "m", "messages", "content", "x", "options", "temperature"}
