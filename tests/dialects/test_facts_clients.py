"""What the real clients send, and the facts of it."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import ollama
import openai
import pytest
from pydantic import BaseModel

from sidecar.core.call import Facts
from sidecar.dialects import match
from sidecar.routing.bodies import Body, read_body

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(40))
PNG_64 = base64.b64encode(PNG).decode()
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "tells it",
        "parameters": {"type": "object", "properties": {"City": {"type": "string"}}, "required": ["City"]},
    },
}
STRICT_TOOLS: list[Any] = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {}}}]
TALK: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How are you?"},
    {"role": "assistant", "content": "Fine."},
    {"role": "user", "content": "Why?"},
]


class City(BaseModel):
    Name: str
    inhabitants: int


class Wire:
    """A server that keeps each request and says no."""

    def __init__(self) -> None:
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower().encode(): value.encode("latin-1") for name, value in self.headers.items()}
                wire.requests.append((self.path.encode(), headers, content))
                self.send_response(400)
                self.send_header("Content-Length", str(len(REFUSAL)))
                self.end_headers()
                self.wfile.write(REFUSAL)

            def log_message(self, *args: object) -> None:
                pass

        self.requests: list[tuple[bytes, dict[bytes, bytes], bytes]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def body(self) -> Body:
        """The last request, read as the sidecar would."""
        target, headers, content = self.requests[-1]
        path, _, query = target.partition(b"?")
        route = match(b"POST", path)
        assert route is not None
        assert route.path == path.decode()
        return read_body(route, headers, query, content)


REFUSAL = b'{"error":{"message":"no","type":"none"}}'


@pytest.fixture(scope="module")
def running() -> Iterator[Wire]:
    wire = Wire()
    thread = threading.Thread(target=wire.server.serve_forever, args=(0.05,))
    thread.start()
    yield wire
    wire.server.shutdown()
    thread.join()
    wire.server.server_close()


@pytest.fixture
def wire(running: Wire) -> Wire:
    running.requests.clear()
    return running


@pytest.fixture
def native(wire: Wire) -> Iterator[ollama.Client]:
    client = ollama.Client(host=wire.url, trust_env=False)
    yield client
    client._client.close()


@pytest.fixture
def compatible(wire: Wire) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{wire.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(wire: Wire) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=wire.url, api_key="none", max_retries=0) as client:
        yield client


def sent(wire: Wire, call: Callable[[], Any]) -> tuple[Body, Facts]:
    with contextlib.suppress(ollama.ResponseError, openai.APIStatusError, anthropic.APIStatusError):
        answer = call()
        for _ in answer if isinstance(answer, Iterator) else ():
            pass
    body = wire.body()
    assert body.facts.ambiguous == ""
    return body, body.facts


def assert_facts(facts: Facts, **expected: Any) -> None:
    """What is not named is as it stands for a plain call."""
    wanted: dict[str, Any] = {
        "model": "tiny",
        "models": ("tiny",),
        "stream": False,
        "messages": 1,
        "choices": 1,
        "output_cap": None,
        "context_tokens": None,
        "tools": 0,
        "images": 0,
        "thinks": False,
        "load_only": False,
        "web_tools": False,
        "image_data": (),
        "texts": (),
        "system_text": "",
        "opaque": "",
        "cloud_blocker": "",
        **expected,
    }
    assert {name: getattr(facts, name) for name in wanted} == wanted


def test_ollama_chat(wire: Wire, native: ollama.Client) -> None:
    body, facts = sent(wire, lambda: native.chat("tiny", TALK, options={"num_predict": 7, "num_ctx": 99}, think=True))
    assert_facts(
        facts, messages=4, output_cap=7, context_tokens=99, thinks=True, system_text="Be brief.", usage_asked=False
    )
    assert facts.first_user_text == "How are you?"
    assert facts.shape.turns == 3
    assert facts.shape.text_bytes == sum(len(message["content"]) for message in TALK)
    assert {"How are you?", "Be brief.", "Fine.", "Why?", "tiny"} <= set(body.texts)


def test_ollama_chat_streamed_with_tools_schema_and_image(wire: Wire, native: ollama.Client) -> None:
    def call() -> Any:
        message = {"role": "user", "content": "what is it?", "images": [PNG]}
        return native.chat("tiny", [message], tools=[TOOL], stream=True, format=City.model_json_schema())

    body, facts = sent(wire, call)
    assert_facts(facts, stream=True, tools=1, images=1, image_data=(PNG_64,))
    assert facts.shape.structured
    assert PNG_64 not in body.texts
    assert {"City", "weather", "Name", "inhabitants"} <= set(body.texts)


def test_ollama_generate(wire: Wire, native: ollama.Client) -> None:
    _, facts = sent(
        wire, lambda: native.generate("tiny", "a", suffix="b", system="c", images=[PNG_64], format="json")
    )
    assert_facts(facts, messages=2, system_text="c", images=1, image_data=(PNG_64,))
    assert facts.first_user_text == "a"
    assert not facts.shape.structured


def test_ollama_generate_with_the_tokens_of_an_earlier_call(wire: Wire, native: ollama.Client) -> None:
    _, facts = sent(wire, lambda: native.generate("tiny", "a", context=[1, 2, 3]))
    assert_facts(facts, opaque="context holds the tokens of an earlier call")


@pytest.mark.parametrize("keep_alive", [None, 0, "5m"])
def test_ollama_loads_and_unloads(wire: Wire, native: ollama.Client, keep_alive: str | int | None) -> None:
    assert_facts(sent(wire, lambda: native.generate("tiny", keep_alive=keep_alive))[1], load_only=True)
    assert_facts(sent(wire, lambda: native.chat("tiny", keep_alive=keep_alive))[1], load_only=True, messages=0)


def test_ollama_embeds(wire: Wire, native: ollama.Client) -> None:
    body, facts = sent(wire, lambda: native.embed("tiny", ["one", "two"]))
    assert_facts(facts, messages=2)
    assert facts.shape.embeds
    assert {"one", "two"} <= set(body.texts)
    _, facts = sent(wire, lambda: native.embeddings("tiny", "one"))
    assert_facts(facts)
    assert facts.shape.embeds


def test_openai_chat(wire: Wire, compatible: openai.OpenAI) -> None:
    _, facts = sent(wire, lambda: compatible.chat.completions.create(model="tiny", messages=TALK, max_tokens=9))
    assert_facts(facts, messages=4, output_cap=9, system_text="Be brief.", usage_asked=False)
    assert (facts.first_user_text, facts.shape.turns) == ("How are you?", 3)


def test_openai_chat_streamed(wire: Wire, compatible: openai.OpenAI) -> None:
    def call() -> Any:
        return compatible.chat.completions.create(
            model="tiny",
            messages=TALK,
            stream=True,
            stream_options={"include_usage": True},
            max_completion_tokens=9,
            max_tokens=8,
            n=3,
            reasoning_effort="low",
        )

    _, facts = sent(wire, call)
    assert_facts(
        facts,
        stream=True,
        messages=4,
        output_cap=8,
        choices=3,
        thinks=True,
        system_text="Be brief.",
        usage_asked=True,
    )


def test_openai_chat_with_parts_tools_and_schema(wire: Wire, compatible: openai.OpenAI) -> None:
    content: list[Any] = [
        {"type": "text", "text": "John D"},
        {"type": "text", "text": "oe lives here"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG_64}", "detail": "low"}},
    ]

    def call() -> Any:
        return compatible.chat.completions.parse(
            model="tiny",
            messages=[{"role": "user", "content": content}],
            response_format=City,
            tools=STRICT_TOOLS,
        )

    body, facts = sent(wire, call)
    assert_facts(
        facts, images=1, tools=1, image_data=(f"data:image/png;base64,{PNG_64}",), texts=("John Doe lives here",)
    )
    assert facts.shape.structured
    assert "John Doe lives here" in body.texts
    assert not any(PNG_64 in text for text in body.texts)


def test_openai_chat_forced_to_one_function(wire: Wire, compatible: openai.OpenAI) -> None:
    def call(choice: Any) -> Any:
        return compatible.chat.completions.create(model="tiny", messages=TALK, tools=[TOOL], tool_choice=choice)

    forced: Any = {"type": "function", "function": {"name": "weather"}}
    assert sent(wire, lambda: call(forced))[1].shape.structured
    assert not sent(wire, lambda: call("auto"))[1].shape.structured
    assert not sent(wire, lambda: call("required"))[1].shape.structured


def test_openai_chat_with_a_picture_elsewhere(wire: Wire, compatible: openai.OpenAI) -> None:
    part: Any = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    talk: Any = [{"role": "user", "content": [part]}]
    _, facts = sent(wire, lambda: compatible.chat.completions.create(model="tiny", messages=talk))
    assert_facts(facts, images=1, cloud_blocker="the cloud would fetch a URL")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ],
)
def test_openai_chat_with_what_cannot_be_scanned(wire: Wire, compatible: openai.OpenAI, part: Any) -> None:
    talk: Any = [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]
    _, facts = sent(wire, lambda: compatible.chat.completions.create(model="tiny", messages=talk))
    assert facts.opaque


def test_openai_completes_embeds_and_draws(wire: Wire, compatible: openai.OpenAI) -> None:
    _, facts = sent(wire, lambda: compatible.completions.create(model="tiny", prompt="x", max_tokens=3, stream=True))
    assert_facts(facts, stream=True, output_cap=3)
    body, facts = sent(wire, lambda: compatible.embeddings.create(model="tiny", input=["one", "two"]))
    assert_facts(facts, messages=2)
    assert facts.shape.embeds
    assert {"one", "two"} <= set(body.texts)
    _, facts = sent(wire, lambda: compatible.images.generate(model="tiny", prompt="a cat", n=1))
    assert_facts(facts)
    assert facts.first_user_text == "a cat"


def test_openai_responses(wire: Wire, compatible: openai.OpenAI) -> None:
    def call() -> Any:
        return compatible.responses.create(
            model="tiny", input="Hello", instructions="Be brief.", max_output_tokens=5, reasoning={"effort": "low"}
        )

    _, facts = sent(wire, call)
    assert_facts(facts, messages=2, output_cap=5, thinks=True, system_text="Be brief.", usage_asked=True)
    assert facts.first_user_text == "Hello"


def test_openai_responses_with_items(wire: Wire, compatible: openai.OpenAI) -> None:
    items: Any = [
        {"role": "developer", "content": "Be brief."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What "},
                {"type": "input_text", "text": "is it?"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PNG_64}", "detail": "auto"},
            ],
        },
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"City": "Bonn"}'},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
    ]

    def call() -> Any:
        return compatible.responses.create(model="tiny", input=items, stream=True, tools=[{"type": "web_search"}])

    body, facts = sent(wire, call)
    assert_facts(
        facts,
        stream=True,
        messages=5,
        images=1,
        image_data=(f"data:image/png;base64,{PNG_64}",),
        texts=("What is it?",),
        system_text="Be brief.",
        tools=1,
        web_tools=True,
        usage_asked=True,
    )
    assert facts.first_user_text == "What is it?"
    assert {"hm", '{"City": "Bonn"}', "rain"} <= set(body.texts)


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
        {"input": [{"type": "item_reference", "id": "i"}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f", "detail": "auto"}]}]},
    ],
)
def test_openai_responses_with_what_is_not_in_the_call(wire: Wire, compatible: openai.OpenAI, more: Any) -> None:
    assert sent(wire, lambda: compatible.responses.create(**{"model": "tiny", "input": "x"} | more))[1].opaque


def test_openai_responses_with_a_schema(wire: Wire, compatible: openai.OpenAI) -> None:
    body, facts = sent(wire, lambda: compatible.responses.parse(model="tiny", input="x", text_format=City))
    assert facts.shape.structured
    assert "Name" in body.texts


def test_openai_transcribes(wire: Wire, compatible: openai.OpenAI) -> None:
    def call() -> Any:
        sound = ("täst.wav", b"RIFF\r\n--\x00\xff", "audio/wav")
        return compatible.audio.transcriptions.create(model="tiny", file=sound, prompt="Müller", language="de")

    body, facts = sent(wire, call)
    assert_facts(facts, opaque="a file in a form cannot be scanned", cloud_blocker="a form is no JSON")
    assert set(body.texts) == {"tiny", "Müller", "de"}


def test_anthropic_messages(wire: Wire, claude: anthropic.Anthropic) -> None:
    blocks: Any = [
        {"type": "text", "text": "What "},
        {"type": "text", "text": "is it?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG_64}},
    ]
    talk: Any = [
        {"role": "user", "content": blocks},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"City": "Bonn"}}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "rain"}]}],
        },
    ]

    def call() -> Any:
        return claude.messages.create(
            model="tiny",
            max_tokens=9,
            system=[{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
            messages=talk,
            tools=[{"name": "f", "input_schema": {"type": "object", "properties": {"City": {"type": "string"}}}}],
            tool_choice={"type": "tool", "name": "f"},
            thinking={"type": "enabled", "budget_tokens": 1024},
        )

    body, facts = sent(wire, call)
    assert_facts(
        facts,
        messages=4,
        output_cap=9,
        tools=1,
        images=1,
        image_data=(PNG_64,),
        texts=("Be brief.", "What is it?"),
        system_text="Be brief.",
        thinks=True,
        usage_asked=True,
    )
    assert facts.shape.structured
    assert facts.first_user_text == "What is it?"
    assert {"Bonn", "rain", "What is it?"} <= set(body.texts)
    assert PNG_64 not in body.texts


def test_anthropic_streamed_with_a_search(wire: Wire, claude: anthropic.Anthropic) -> None:
    def call() -> Any:
        with claude.messages.stream(
            model="tiny",
            max_tokens=9,
            messages=[{"role": "user", "content": "news?"}],
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        ) as stream:
            return stream.get_final_message()

    _, facts = sent(wire, call)
    assert_facts(facts, stream=True, output_cap=9, tools=1, web_tools=True, usage_asked=True)
    assert facts.first_user_text == "news?"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "redacted_thinking", "data": "abc"},
        {"type": "container_upload", "file_id": "file_1"},
    ],
)
def test_anthropic_with_what_cannot_be_scanned(wire: Wire, claude: anthropic.Anthropic, block: Any) -> None:
    talk: Any = [{"role": "user", "content": [block]}]
    assert sent(wire, lambda: claude.messages.create(model="tiny", max_tokens=9, messages=talk))[1].opaque


def test_anthropic_with_a_picture_elsewhere(wire: Wire, claude: anthropic.Anthropic) -> None:
    talk: Any = [
        {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}]}
    ]
    _, facts = sent(wire, lambda: claude.messages.create(model="tiny", max_tokens=9, messages=talk))
    assert_facts(facts, images=1, output_cap=9, cloud_blocker="the cloud would fetch a URL", usage_asked=True)


def test_anthropic_counts_no_tokens_through_the_inference_route(wire: Wire, claude: anthropic.Anthropic) -> None:
    with contextlib.suppress(anthropic.APIStatusError):
        claude.messages.count_tokens(model="tiny", messages=[{"role": "user", "content": "x"}])
    path = wire.requests[-1][0].partition(b"?")[0]
    assert match(b"POST", path) is None
