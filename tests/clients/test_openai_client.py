"""`openai`, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from clients.places import (
    BY_DEFAULTS,
    EMBEDDER,
    EMBEDS,
    EYES,
    LOCAL,
    MODEL,
    NAMED,
    PNG_BASE64,
    REFUSALS,
    SEES,
    Place,
    collect,
    only_cloud,
    only_local,
    run,
    ways,
)
from sidecar.standins import StepGate, faults
from support.world import TEXT_MODEL, VISION_MODEL

SAID: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Which towns are here: Ulm, Pisa."}]
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}


class Town(BaseModel):
    name: str
    inhabitants: int


@pytest.fixture
async def client(place: Place) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(default_headers=place.headers, max_retries=0) as running:
        yield running


async def test_chat_whole_and_streamed(place: Place, client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=SAID)
    whole = raw.parse()
    record = await place.ended()
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (record.tokens_in, record.tokens_out)
    assert raw.headers["x-sidecar-location"] == place.way.location
    assert raw.headers["x-sidecar-model"] == (TEXT_MODEL if place.is_cloud else MODEL)
    assert raw.headers["x-sidecar-reason"] == place.way.reason
    for usage in (False, True):
        stream = await client.chat.completions.create(
            model=MODEL, messages=SAID, stream=True, stream_options={"include_usage": usage}
        )
        chunks = [chunk async for chunk in stream]
        await place.ended()
        assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == (
            whole.choices[0].message.content
        )
        # What we ask the cloud for on our own account is not for the app.
        assert [chunk.usage for chunk in chunks if chunk.usage] == ([whole.usage] if usage else [])


async def test_a_stream_that_says_nothing_of_usage(place: Place, client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=SAID, stream=True)
    chunks = [chunk async for chunk in stream]
    record = await place.ended()
    assert all(chunk.choices and not chunk.usage for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    if place.is_cloud:
        assert record.tokens_out


async def test_in_a_thread(place: Place) -> None:
    def app() -> tuple[str | None, str, str]:
        with openai.OpenAI(default_headers=place.headers, max_retries=0) as client:
            whole = client.chat.completions.create(model=MODEL, messages=SAID, max_tokens=9)
            with client.chat.completions.stream(model=MODEL, messages=SAID, max_tokens=9) as stream:
                text = "".join(event.delta for event in stream if event.type == "content.delta")
            responses = client.responses.create(model=MODEL, input="Towns: Ulm, Pisa", max_output_tokens=9)
            return whole.choices[0].message.content, text, responses.output_text

    whole, streamed, response = await run(app)
    assert whole == streamed
    assert response
    counts = [(await place.ended()).tokens_out for _ in range(3)]
    # Nobody asked the local server to tell the usage of its stream.
    assert counts == [9, 9 if place.is_cloud else None, 9]


async def test_tools(place: Place, client: openai.AsyncOpenAI) -> None:
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": "use the tool add"}]
    whole = await client.chat.completions.create(model=MODEL, messages=asked, tools=[TOOL])
    await place.ended()
    assert whole.choices[0].finish_reason == "tool_calls"
    call = (whole.choices[0].message.tool_calls or [])[0]
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("add", '{"a":0}')
    async with client.chat.completions.stream(model=MODEL, messages=asked, tools=[TOOL]) as stream:
        last = await stream.get_final_completion()
    await place.ended()
    made = (last.choices[0].message.tool_calls or [])[0]
    assert (made.function.name, made.function.arguments) == (call.function.name, call.function.arguments)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "add"}}], ids=["any", "this-one"]
)
@ways(LOCAL)
async def test_a_forced_tool_is_an_extraction(place: Place, client: openai.AsyncOpenAI, choice: Any) -> None:
    await client.chat.completions.create(model=MODEL, messages=SAID, tools=[TOOL], tool_choice=choice)
    record = await place.ended()
    assert record.task is not None
    assert record.task.task_type == ("generation" if choice == "required" else "extraction")


@ways(LOCAL, BY_DEFAULTS)
async def test_parse(place: Place, client: openai.AsyncOpenAI) -> None:
    parsed = await client.chat.completions.parse(model=MODEL, messages=SAID, response_format=Town)
    record = await place.ended()
    assert parsed.choices[0].message.parsed == Town(name="stand-in", inhabitants=0)
    assert record.task is not None
    assert record.task.task_type == "extraction"
    async with client.chat.completions.stream(model=MODEL, messages=SAID, response_format=Town) as stream:
        last = await stream.get_final_completion()
    await place.ended()
    assert last.choices[0].message.parsed == Town(name="stand-in", inhabitants=0)
    response = await client.responses.parse(model=MODEL, input="a town", text_format=Town)
    await place.ended()
    assert response.output_parsed == Town(name="stand-in", inhabitants=0)


async def test_responses(place: Place, client: openai.AsyncOpenAI) -> None:
    whole = await client.responses.create(model=MODEL, input="Towns: Ulm, Pisa", instructions="Answer shortly")
    record = await place.ended()
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (record.tokens_in, record.tokens_out)
    async with client.responses.stream(
        model=MODEL, input="Towns: Ulm, Pisa", instructions="Answer shortly"
    ) as stream:
        text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        last = await stream.get_final_response()
    await place.ended()
    assert text == whole.output_text == last.output_text != ""
    assert last.status == whole.status == "completed"


@ways(LOCAL, SEES)
async def test_images(place: Place, client: openai.AsyncOpenAI) -> None:
    url = f"data:image/png;base64,{PNG_BASE64}"
    asked: list[ChatCompletionMessageParam] = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}],
        }
    ]
    whole = await client.chat.completions.create(model=EYES, messages=asked)
    record = await place.ended()
    assert whole.choices[0].message.content
    assert record.task is not None
    assert record.task.task_type == "vlm"
    assert record.model == (VISION_MODEL if place.is_cloud else EYES)


@ways(SEES)
async def test_an_image_that_the_cloud_would_fetch_stays(place: Place, client: openai.AsyncOpenAI) -> None:
    asked: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/private.png"}}]}
    ]
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model=EYES, messages=asked)
    record = await place.record()
    assert (record.location, record.reason) == ("local", "local_only_operation")
    assert not place.world.cloud.requests


@ways(LOCAL, EMBEDS)
async def test_embeddings_and_completions_never_leave(place: Place, client: openai.AsyncOpenAI) -> None:
    texts = await client.embeddings.create(model=EMBEDDER, input=["a", "b"])
    assert len(texts.data) == 2
    assert texts.data[0].embedding != texts.data[1].embedding
    await place.ended()
    old = await client.completions.create(model=MODEL, prompt="Towns: Ulm", max_tokens=5)
    assert old.choices[0].text
    await place.ended()
    stream = await client.completions.create(model=MODEL, prompt="Towns: Ulm", max_tokens=5, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream if chunk.choices]) == old.choices[0].text
    await place.ended()
    assert not place.world.cloud.requests


@only_local
async def test_models(place: Place, client: openai.AsyncOpenAI) -> None:
    assert {model.id async for model in client.models.list()} == {
        f"{name}:latest" for name in (MODEL, EYES, EMBEDDER)
    }
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nope")


@ways(NAMED)
async def test_a_cloud_model_by_name(place: Place, client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(model=f"{TEXT_MODEL}-cloud", messages=SAID)
    await place.ended()
    await client.responses.create(model=f"{TEXT_MODEL}:cloud", input="Towns: Ulm, Pisa")
    await place.ended()
    assert {request.json()["model"] for request in place.world.cloud.requests} == {TEXT_MODEL}


# Errors.


@only_local
async def test_an_unknown_model(place: Place, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        await client.chat.completions.create(model="nope", messages=SAID)
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        await client.chat.completions.create(model="nope", messages=SAID, stream=True)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="nope", input="a")
    for _ in range(3):
        assert (await place.record()).outcome == "client_error"


ERRORS = {403: openai.PermissionDeniedError, 429: openai.RateLimitError, 503: openai.InternalServerError}


@pytest.mark.parametrize(("place", "status"), REFUSALS, indirect=["place"], ids=[way.name for way, _ in REFUSALS])
async def test_refusals(place: Place, client: openai.AsyncOpenAI, status: int) -> None:
    model, text = place.prepare_refusal()
    with pytest.raises(ERRORS[status]) as raised:
        await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], stream=True)
    assert raised.value.code == place.way.reason
    assert raised.value.response.headers["x-sidecar-reason"] == place.way.reason
    await place.refused(status)


@only_cloud
async def test_a_stream_that_breaks_at_the_cloud(place: Place, client: openai.AsyncOpenAI) -> None:
    place.world.cloud.misbehave = [faults.Cut("between_records", after_writes=3), faults.NoFinalRecord()]
    for _ in range(2):
        with pytest.raises(openai.APIError, match=r"^Ollama Cloud: "):
            await collect([], client.chat.completions.create(model=MODEL, messages=SAID, stream=True))
        assert (await place.record()).outcome == "broken"
    place.check()


@only_cloud
async def test_a_stream_of_a_response_that_breaks_at_the_cloud(place: Place, client: openai.AsyncOpenAI) -> None:
    """On this route an error is an event of its own, which this client hands to the app as one."""
    place.world.cloud.misbehave = [faults.Cut("between_records", after_writes=5)] * 2
    stream = await client.responses.create(model=MODEL, input="Towns: Ulm, Pisa", stream=True)
    *_, last = [event async for event in stream]
    assert last.type == "error"
    assert last.message.startswith("Ollama Cloud: ")
    assert (await place.record()).outcome == "broken"
    async with client.responses.stream(model=MODEL, input="Towns: Ulm, Pisa") as helper:
        with pytest.raises(RuntimeError):
            await helper.get_final_response()
    assert (await place.record()).outcome == "broken"
    place.check()


@only_cloud
async def test_a_stream_that_breaks_within_a_record(place: Place, client: openai.AsyncOpenAI) -> None:
    place.world.cloud.misbehave = [faults.Cut("mid_record", after_writes=3)]
    with pytest.raises(openai.APIError, match=r"^Ollama Cloud: "):
        await collect([], client.chat.completions.create(model=MODEL, messages=SAID, stream=True))
    assert (await place.record()).outcome == "broken"
    place.check()


# Clients that leave.


@pytest.mark.parametrize("kind", ["chat", "responses"])
async def test_a_stream_that_is_given_up(place: Place, client: openai.AsyncOpenAI, kind: str) -> None:
    gate = place.answering.gate = StepGate(open_through=3)
    stream: openai.AsyncStream[Any]
    if kind == "chat":
        stream = await client.chat.completions.create(model=MODEL, messages=SAID, stream=True)
    else:
        stream = await client.responses.create(model=MODEL, input="Towns: Ulm, Pisa", stream=True)
    await anext(stream)
    request = await gate.reached(4)
    await stream.close()
    await place.left(request)


async def test_a_whole_answer_that_is_not_waited_for(place: Place, client: openai.AsyncOpenAI) -> None:
    gate = place.answering.gate = StepGate(open_through=2)
    call = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=SAID))
    request = await gate.reached(3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await place.left(request)


async def test_a_client_that_has_no_patience(place: Place) -> None:
    gate = place.answering.gate = StepGate(open_through=2)

    def app() -> None:
        with openai.OpenAI(default_headers=place.headers, max_retries=0, timeout=0.3) as client:
            client.chat.completions.create(model=MODEL, messages=SAID)

    with pytest.raises(openai.APITimeoutError):
        await run(app)
    await place.left(await gate.reached(3))
