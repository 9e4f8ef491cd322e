"""`anthropic`, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from clients.places import (
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

SAID: list[MessageParam] = [{"role": "user", "content": "Which towns are here: Ulm, Pisa."}]
TOOL: ToolParam = {
    "name": "add",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}


@pytest.fixture
async def client(place: Place) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(default_headers=place.headers, max_retries=0) as running:
        yield running


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


async def test_messages_whole_and_streamed(place: Place, client: anthropic.AsyncAnthropic) -> None:
    raw = await client.messages.with_raw_response.create(model=MODEL, max_tokens=60, messages=SAID, system="Shortly")
    whole = await raw.parse()
    record = await place.ended()
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (record.tokens_in, record.tokens_out)
    assert raw.headers["x-sidecar-location"] == place.way.location
    assert raw.headers["x-sidecar-reason"] == place.way.reason
    async with client.messages.stream(model=MODEL, max_tokens=60, messages=SAID, system="Shortly") as stream:
        text = "".join([part async for part in stream.text_stream])
        last = await stream.get_final_message()
    await place.ended()
    assert text == text_of(whole) == text_of(last) != ""
    assert last.usage.output_tokens == whole.usage.output_tokens
    assert last.stop_reason == whole.stop_reason


async def test_in_a_thread(place: Place) -> None:
    def app() -> tuple[str, str]:
        with anthropic.Anthropic(default_headers=place.headers, max_retries=0) as client:
            whole = client.messages.create(model=MODEL, max_tokens=9, messages=SAID)
            with client.messages.stream(model=MODEL, max_tokens=9, messages=SAID) as stream:
                return text_of(whole), "".join(stream.text_stream)

    whole, streamed = await run(app)
    assert whole == streamed != ""
    assert [(await place.ended()).tokens_out for _ in range(2)] == [9, 9]


async def test_tools(place: Place, client: anthropic.AsyncAnthropic) -> None:
    asked: list[MessageParam] = [{"role": "user", "content": "use the tool add"}]
    whole = await client.messages.create(model=MODEL, max_tokens=60, messages=asked, tools=[TOOL])
    await place.ended()
    async with client.messages.stream(model=MODEL, max_tokens=60, messages=asked, tools=[TOOL]) as stream:
        last = await stream.get_final_message()
    await place.ended()
    for message in (whole, last):
        assert message.stop_reason == "tool_use"
        calls = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
        assert calls == [("add", {"a": 0})]


@only_local
async def test_a_forced_tool_is_an_extraction(place: Place, client: anthropic.AsyncAnthropic) -> None:
    await client.messages.create(
        model=MODEL, max_tokens=60, messages=SAID, tools=[TOOL], tool_choice={"type": "tool", "name": "add"}
    )
    record = await place.ended()
    assert record.task is not None
    assert record.task.task_type == "extraction"


@ways(LOCAL, SEES)
async def test_images(place: Place, client: anthropic.AsyncAnthropic) -> None:
    asked: list[MessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG_BASE64}},
                {"type": "text", "text": "What is this?"},
            ],
        }
    ]
    message = await client.messages.create(model=EYES, max_tokens=60, messages=asked)
    record = await place.ended()
    assert text_of(message)
    assert record.task is not None
    assert record.task.task_type == "vlm"
    assert record.model == (VISION_MODEL if place.is_cloud else EYES)


@ways(NAMED)
async def test_a_cloud_model_by_name(place: Place, client: anthropic.AsyncAnthropic) -> None:
    await client.messages.create(model=f"{TEXT_MODEL}-cloud", max_tokens=60, messages=SAID)
    await place.ended()
    assert place.world.cloud.requests[-1].json()["model"] == TEXT_MODEL


# Errors.


@only_local
async def test_an_unknown_model(place: Place, client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found"):
        await client.messages.create(model="nope", max_tokens=5, messages=SAID)
    with pytest.raises(anthropic.NotFoundError):
        async with client.messages.stream(model="nope", max_tokens=5, messages=SAID):
            pass
    for _ in range(2):
        assert (await place.record()).outcome == "client_error"


ERRORS = {
    403: (anthropic.PermissionDeniedError, "permission_error"),
    429: (anthropic.RateLimitError, "rate_limit_error"),
    503: (anthropic.ServiceUnavailableError, "overloaded_error"),
}


@pytest.mark.parametrize(("place", "status"), REFUSALS, indirect=["place"], ids=[way.name for way, _ in REFUSALS])
async def test_refusals(place: Place, client: anthropic.AsyncAnthropic, status: int) -> None:
    model, text = place.prepare_refusal()
    kind, name = ERRORS[status]
    with pytest.raises(kind) as raised:
        await client.messages.create(model=model, max_tokens=60, messages=[{"role": "user", "content": text}])
    assert isinstance(raised.value, anthropic.APIStatusError)
    assert raised.value.status_code == status
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["error"]["type"] == name
    assert raised.value.response.headers["x-sidecar-reason"] == place.way.reason
    await place.refused(status)


@only_cloud
async def test_a_stream_that_breaks_at_the_cloud(place: Place, client: anthropic.AsyncAnthropic) -> None:
    place.world.cloud.misbehave = [faults.Cut("between_records", after_writes=4), faults.NoFinalRecord()]
    for _ in range(2):
        with pytest.raises(anthropic.APIStatusError, match="Ollama Cloud: "):
            await collect([], client.messages.create(model=MODEL, max_tokens=60, messages=SAID, stream=True))
        assert (await place.record()).outcome == "broken"
    place.check()


@only_cloud
async def test_a_stream_that_breaks_within_a_record(place: Place, client: anthropic.AsyncAnthropic) -> None:
    place.world.cloud.misbehave = [faults.Cut("mid_record", after_writes=4)]
    with pytest.raises(anthropic.APIStatusError, match="Ollama Cloud: "):
        await collect([], client.messages.create(model=MODEL, max_tokens=60, messages=SAID, stream=True))
    assert (await place.record()).outcome == "broken"
    place.check()


# Clients that leave.


async def test_a_stream_that_is_given_up(place: Place, client: anthropic.AsyncAnthropic) -> None:
    gate = place.answering.gate = StepGate(open_through=3)
    async with client.messages.stream(model=MODEL, max_tokens=60, messages=SAID) as stream:
        await anext(stream)
        request = await gate.reached(4)
    await place.left(request)


async def test_a_whole_answer_that_is_not_waited_for(place: Place, client: anthropic.AsyncAnthropic) -> None:
    gate = place.answering.gate = StepGate(open_through=2)
    call = asyncio.create_task(client.messages.create(model=MODEL, max_tokens=60, messages=SAID))
    request = await gate.reached(3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await place.left(request)
