"""The real Python clients of Ollama, OpenAI and Anthropic get along with the stand-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import ollama
import openai
import pytest
from pydantic import BaseModel

from sidecar.standins import StandInCloud, StandInModel, StandInOllama

MODELS = [
    StandInModel("tiny", capabilities=("completion", "tools", "thinking")),
    StandInModel("embedder", capabilities=("embedding",)),
]
SAID: list[dict[str, Any]] = [{"role": "user", "content": "hello there"}]


@pytest.fixture
async def server() -> AsyncIterator[StandInOllama]:
    async with StandInOllama(MODELS) as running:
        yield running
    assert running.errors == []


@pytest.fixture
async def native(server: StandInOllama) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=server.base_url, trust_env=False)
    yield client
    await client._client.aclose()


@pytest.fixture
async def openai_client(server: StandInOllama) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic_client(server: StandInOllama) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


class City(BaseModel):
    name: str
    inhabitants: int


async def test_ollama_chats(native: ollama.AsyncClient) -> None:
    whole = await native.chat("tiny", SAID)
    assert whole.message.content is not None
    assert whole.message.content.startswith("This is a stand-in")
    assert whole.message.thinking
    assert whole.done_reason == "stop"
    parts = [part async for part in await native.chat("tiny", SAID, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].eval_count == whole.eval_count == len(parts) - 1


async def test_ollama_generates_structures_and_embeds(native: ollama.AsyncClient) -> None:
    made = await native.generate("tiny", "a city", format=City.model_json_schema(), think=False)
    assert City.model_validate_json(made.response or "") == City(name="stand-in", inhabitants=0)
    vectors = await native.embed("embedder", ["a", "b"])
    assert len(vectors.embeddings) == 2


async def test_ollama_calls_tools(native: ollama.AsyncClient) -> None:
    def add(a: int, b: int) -> int:
        """Adds two numbers.

        Args:
          a: one
          b: the other
        """
        return a + b

    asked = [{"role": "user", "content": "use the tool add"}]
    answer = await native.chat("tiny", asked, tools=[add])
    assert answer.message.tool_calls is not None
    assert answer.message.tool_calls[0].function.name == "add"
    assert answer.message.tool_calls[0].function.arguments == {"a": 0, "b": 0}


async def test_ollama_manages_models(native: ollama.AsyncClient) -> None:
    await native.copy("tiny", "other")
    assert {model.model for model in (await native.list()).models} == {
        "tiny:latest",
        "embedder:latest",
        "other:latest",
    }
    await native.delete("other")
    shown = await native.show("tiny")
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert [part.status async for part in await native.pull("new", stream=True)][-1] == "success"
    assert (await native.create("mine", from_="tiny")).status == "success"
    await native.generate("tiny")
    assert [model.model for model in (await native.ps()).models] == ["tiny:latest"]
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as raised:
        await native.chat("nope", SAID)
    assert raised.value.status_code == 404


async def test_openai_chats(openai_client: openai.AsyncOpenAI) -> None:
    whole = await openai_client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=20, reasoning_effort="none"
    )
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage is not None
    text = ""
    usage = None
    stream = await openai_client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=20,
        reasoning_effort="none",
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    assert text == whole.choices[0].message.content
    assert usage == whole.usage


async def test_openai_parses_calls_and_embeds(openai_client: openai.AsyncOpenAI) -> None:
    parsed = await openai_client.chat.completions.parse(
        model="tiny", messages=[{"role": "user", "content": "hi"}], response_format=City
    )
    assert parsed.choices[0].message.parsed == City(name="stand-in", inhabitants=0)
    called = await openai_client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "use the tool f"}],
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    )
    assert called.choices[0].finish_reason == "tool_calls"
    vectors = await openai_client.embeddings.create(model="embedder", input=["a", "b"])
    assert [len(item.embedding) for item in vectors.data] == [64, 64]
    assert [model.id async for model in openai_client.models.list()] == ["embedder:latest", "tiny:latest"]
    assert (await openai_client.completions.create(model="tiny", prompt="x")).choices[0].text.startswith("This")
    with pytest.raises(openai.NotFoundError):
        await openai_client.models.retrieve("nope")


async def test_openai_responses(openai_client: openai.AsyncOpenAI) -> None:
    whole = await openai_client.responses.create(model="tiny", input="hello", reasoning={"effort": "none"})
    assert whole.output_text.startswith("This is a stand-in")
    text, last = "", None
    async with openai_client.responses.stream(model="tiny", input="hello", reasoning={"effort": "none"}) as stream:
        async for event in stream:
            last = event
            if event.type == "response.output_text.delta":
                text += event.delta
        final = await stream.get_final_response()
    assert text == whole.output_text == final.output_text
    assert last is not None
    assert last.type == "response.completed"


async def test_anthropic_messages(anthropic_client: anthropic.AsyncAnthropic) -> None:
    asked: list[anthropic.types.MessageParam] = [{"role": "user", "content": "hello"}]
    whole = await anthropic_client.messages.create(
        model="tiny", max_tokens=60, messages=asked, thinking={"type": "disabled"}
    )
    assert whole.content[0].type == "text"
    assert whole.content[0].text.startswith("This is a stand-in")
    async with anthropic_client.messages.stream(
        model="tiny", max_tokens=60, messages=asked, thinking={"type": "disabled"}
    ) as stream:
        text = "".join([part async for part in stream.text_stream])
        final = await stream.get_final_message()
    assert text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.stop_reason == whole.stop_reason == "end_turn"
    with pytest.raises(anthropic.NotFoundError):
        await anthropic_client.messages.create(model="nope", max_tokens=5, messages=asked)


async def test_the_cloud_takes_the_same_clients_with_its_key() -> None:
    async with StandInCloud(key="k-1") as cloud:
        wrong = ollama.AsyncClient(host=cloud.base_url, headers={"Authorization": "Bearer k-2"}, trust_env=False)
        with pytest.raises(ollama.ResponseError, match="unauthorized"):
            await wrong.chat("gpt-oss:120b", SAID)
        right = ollama.AsyncClient(host=cloud.base_url, headers={"Authorization": "Bearer k-1"}, trust_env=False)
        answer = await right.chat("gpt-oss:120b", SAID)
        assert (answer.prompt_eval_count, answer.eval_count) == (cloud.bills[0].tokens_in, cloud.bills[0].tokens_out)
        for client in (wrong, right):
            await client._client.aclose()
        assert len(cloud.bills) == 1
