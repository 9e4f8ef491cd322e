"""Which requests are inference: every spelling of a route that some server could take for it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_support import QUICK

from sidecar.dialects import ROUTES, dialect_of, is_canonical, match, normal

# Ollama 0.24, server/routes.go: what runs a model, or searches in the cloud.
INFERENCE = [
    *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings"),
    *("/api/experimental/web_search", "/api/experimental/web_fetch"),
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"),
    *("/v1/images/generations", "/v1/images/edits", "/v1/audio/transcriptions"),
]
OTHERS = [
    ("HEAD", "/"),
    ("GET", "/"),
    ("HEAD", "/api/version"),
    ("GET", "/api/version"),
    ("GET", "/api/status"),
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("HEAD", "/api/tags"),
    ("GET", "/api/tags"),
    ("POST", "/api/show"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/me"),
    ("POST", "/api/signout"),
    ("DELETE", "/api/user/keys/abc"),
    ("POST", "/api/create"),
    ("POST", "/api/blobs/sha256:0123"),
    ("HEAD", "/api/blobs/sha256:0123"),
    ("POST", "/api/copy"),
    ("GET", "/api/experimental/model-recommendations"),
    ("GET", "/api/ps"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/llama3"),
]


@pytest.mark.parametrize("path", INFERENCE)
def test_every_inference_route_of_ollama_is_matched(path: str) -> None:
    route = match(b"POST", path.encode())
    assert route is not None
    assert route.path == path
    assert is_canonical(path.encode())


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_no_other_route_of_ollama_is(method: str, path: str) -> None:
    assert match(method.encode(), path.encode()) is None
    assert match(b"POST", path.encode()) is None
    assert not is_canonical(path.encode())


def test_nothing_else_is_matched_but_the_clouds_own_searches() -> None:
    assert {path.decode() for path in ROUTES} == {*INFERENCE, "/api/web_search", "/api/web_fetch"}
    assert {path.decode() for path, route in ROUTES.items() if route.web} == {
        *("/api/experimental/web_search", "/api/experimental/web_fetch", "/api/web_search", "/api/web_fetch")
    }
    assert {path.decode() for path, route in ROUTES.items() if route.web_tools} == {"/v1/responses", "/v1/messages"}


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"post", b"Post", b""])
def test_another_method_is_no_inference(method: bytes) -> None:
    assert match(method, b"/api/chat") is None


SPELLINGS = [
    *(b"/API/CHAT", b"/Api/chaT", b"//api/chat", b"/api//chat", b"/api/chat/", b"/api/chat//", b"///api///chat///"),
    *(b"/./api/chat", b"/api/./chat", b"/api/chat/.", b"/x/../api/chat", b"/api/x/../chat", b"/../api/chat"),
    *(b"/api/chat/x/..", b"/api/../api/chat", b"/api/chat/../chat", b"/../../../api/chat"),
    *(b"/%61pi/chat", b"/api/%63%68%61%74", b"/api%2fchat", b"/api%2Fchat", b"%2fapi/chat", b"/api/%43hat"),
    *(b"/api/%2e/chat", b"/x/%2e%2e/api/chat", b"/x%2f..%2fapi/chat", b"/api/%2563hat", b"/api/%252563hat"),
    *(b"/api\\chat", b"\\api\\chat", b"/api%5cchat", b"/x\\..\\api\\chat"),
    *(b"/api/chat;", b"/api/chat;a=b", b"/api;a/chat", b"/api/x;/..;/chat", b"/api/chat%3b", b"/api/chat%3Ba=b"),
    *(b"/api/chat#", b"/api/chat#x", b"/api/chat%23x", b"/api/chat#/../tags", b"/%23/../api/chat", b"/api/chat%3fx"),
    *(b"/api/chat%20", b"/api/chat%09", b"/api/%20chat", b"/api/chat%00", b"/api/chat%00.png", b"/api/chat%0d%0a"),
    *(b"api/chat", b"/api/chat%3Fx=%2F..", b"/%2e%2e/api/chat", b"/api/x/%252e%252e/chat"),
]


@pytest.mark.parametrize("path", SPELLINGS)
def test_what_some_server_could_take_for_a_route_is_that_route(path: bytes) -> None:
    route = match(b"POST", path)
    assert route is not None
    assert route.path == "/api/chat"
    assert not is_canonical(path)


@pytest.mark.parametrize(
    "path",
    [
        *(
            b"",
            b"/",
            b"*",
            b"/api",
            b"/api/",
            b"/api/chats",
            b"/api/cha",
            b"/api/chat/x",
            b"/x/api/chat",
            b"/apichat",
        ),
        *(b"/api/chat/../tags", b"/v1/chat", b"/v1/chat/completionsx", b"/v1", b"/api/chat%", b"/api/chat%zz"),
        *(
            b"/api/cha%74s",
            b"/v2/messages",
            b"/v1/messages/count_tokens",
            b"/v1/messages/batches",
            b"/api/ch\xc3\xa4t",
        ),
        *(b"/api/chat.json", b"/api/chat&x", b"/api/chat+", b"/api/chat,", b"/api/chat:x", b"/api-chat"),
    ],
)
def test_what_no_server_could_is_not(path: bytes) -> None:
    assert match(b"POST", path) is None


CHANGES: list[Callable[[bytes, int], bytes]] = [
    lambda path, at: path[:at] + path[at : at + 1].swapcase() + path[at + 1 :],
    lambda path, at: path[:at] + b"%%%02x" % path[at] + path[at + 1 :],
    lambda path, at: path[:at] + b"%%25%02X" % path[at] + path[at + 1 :],
    lambda path, at: path.replace(b"/", b"//", 1 + at % 3),
    lambda path, at: path.replace(b"/", b"/./", 1),
    lambda path, at: b"/x/.." + path,
    lambda path, at: path + b"/",
    lambda path, at: path + b"/x/..",
    lambda path, at: path.replace(b"/", b"\\"),
    lambda path, at: path + b";x=y",
    lambda path, at: path + b"#x",
]


@QUICK
@given(
    st.sampled_from([*INFERENCE, "/api/create", "/api/show", "/api/pull", "/v1/models", "/api/blobs/sha256:0"]),
    st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 100)), max_size=3),
)
def test_any_spelling_of_a_path(path: str, changes: list[tuple[Callable[[bytes, int], bytes], int]]) -> None:
    spelled = path.encode()
    fragment = False
    for change, at in changes:
        if fragment or b"%" in spelled or (change in CHANGES[1:3] and spelled.endswith((b";x=y", b"#x"))):
            break  # a change of what another one made may make another path of it
        spelled = change(spelled, at % len(spelled))
        fragment = spelled.endswith((b"#x", b";x=y"))
    route = match(b"POST", spelled)
    assert (route.path if route is not None else None) == (path if path in INFERENCE else None)


@QUICK
@given(st.one_of(st.binary(max_size=30), st.text("/.%25;#?\\aApPiIchat2eE", max_size=30).map(str.encode)))
def test_any_bytes_have_a_normal_form(path: bytes) -> None:
    found = normal(path)
    assert found.startswith(b"/")
    assert b"//" not in found
    assert b"/../" not in found + b"/"
    assert found == found.lower()
    route = match(b"POST", path)
    assert route is None or route is ROUTES[route.path.encode()]
    assert dialect_of(path).name in ("ollama", "openai", "anthropic")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/", "ollama"),
        (b"/api/chat", "ollama"),
        (b"/api/unknown", "ollama"),
        (b"/v1/models", "openai"),
        (b"/V1//chat", "openai"),
        (b"/v1/messages", "anthropic"),
        (b"/v1/messages/count_tokens", "anthropic"),
        (b"/%76%31/Messages", "anthropic"),
        (b"*", "ollama"),
    ],
)
def test_in_which_language_to_answer(path: bytes, name: str) -> None:
    assert dialect_of(path).name == name
