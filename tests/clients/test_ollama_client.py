"""`ollama`, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest
from pydantic import BaseModel

from clients.places import (
    BY_DEFAULTS,
    BY_HEADERS,
    EMBEDDER,
    EMBEDS,
    EYES,
    LOCAL,
    MODEL,
    NAMED,
    PNG,
    REFUSALS,
    SEES,
    Place,
    Way,
    collect,
    only_cloud,
    only_local,
    run,
    ways,
)
from sidecar.standins import StepGate, faults
from support.world import TEXT_MODEL, VISION_MODEL

SAID: list[dict[str, Any]] = [{"role": "user", "content": "Which towns are in this sentence: Ulm, Pisa."}]


class Town(BaseModel):
    name: str
    inhabitants: int


def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
      a: one
      b: the other
    """
    return a + b


async def test_chat_whole_and_streamed(place: Place) -> None:
    async with ollama.AsyncClient(headers=place.headers) as client:
        whole = await client.chat(MODEL, SAID)
        record = await place.ended()
        assert (whole.prompt_eval_count, whole.eval_count) == (record.tokens_in, record.tokens_out)
        parts = [part async for part in await client.chat(MODEL, SAID, stream=True)]
        await place.ended()
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].eval_count, parts[-1].done_reason) == (whole.eval_count, whole.done_reason)
    assert len(place.answering.requests[-1].body) > 0


async def test_generate_whole_and_streamed_in_a_thread(place: Place) -> None:
    def app() -> tuple[str, str]:
        with ollama.Client(headers=place.headers) as client:
            whole = client.generate(MODEL, "Towns: Ulm, Pisa", system="Answer shortly", options={"num_predict": 9})
            parts = client.generate(
                MODEL, "Towns: Ulm, Pisa", system="Answer shortly", options={"num_predict": 9}, stream=True
            )
            return whole.response, "".join(part.response for part in parts)

    whole, streamed = await run(app)
    assert whole == streamed != ""
    assert (await place.ended()).tokens_out == (await place.ended()).tokens_out == 9


async def test_tools(place: Place) -> None:
    asked = [{"role": "user", "content": "use the tool add"}]
    async with ollama.AsyncClient(headers=place.headers) as client:
        for stream in (False, True):
            if stream:
                parts = [part async for part in await client.chat(MODEL, asked, tools=[add], stream=True)]
                calls = [call for part in parts for call in part.message.tool_calls or ()]
            else:
                calls = list((await client.chat(MODEL, asked, tools=[add])).message.tool_calls or ())
            await place.ended()
            assert [(call.function.name, call.function.arguments) for call in calls] == [("add", {"a": 0, "b": 0})]


@ways(Way("local-by-default"), BY_DEFAULTS)
async def test_a_json_schema(place: Place) -> None:
    async with ollama.AsyncClient() as client:
        whole = await client.chat(MODEL, SAID, format=Town.model_json_schema())
        record = await place.ended()
        made = await client.generate(MODEL, "a town", format="json")
        await place.ended()
    assert Town.model_validate_json(whole.message.content or "") == Town(name="stand-in", inhabitants=0)
    assert made.response.startswith("{")
    assert record.task is not None
    assert record.task.task_type == "extraction"


@ways(LOCAL, SEES)
async def test_images(place: Place, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    asked = [{"role": "user", "content": "What is this?", "images": [picture]}]
    async with ollama.AsyncClient(headers=place.headers) as client:
        seen = await client.chat(EYES, asked)
        record = await place.ended()
        again = await client.generate(EYES, "What is this?", images=[PNG])
        await place.ended()
    assert seen.message.content
    assert again.response
    assert record.task is not None
    assert record.task.task_type == "vlm"
    assert record.model == (VISION_MODEL if place.is_cloud else EYES)


@ways(LOCAL, EMBEDS)
async def test_embeddings_never_leave(place: Place) -> None:
    async with ollama.AsyncClient(headers=place.headers) as client:
        one = await client.embed(EMBEDDER, "a text")
        await place.ended()
        two = await client.embed(EMBEDDER, ["a text", "another"])
        await place.ended()
        old = await client.embeddings(EMBEDDER, "a text")
        await place.ended()
    assert list(one.embeddings[0]) == list(two.embeddings[0]) != list(two.embeddings[1])
    assert len(old.embedding) == len(one.embeddings[0])


# Errors.


@only_local
async def test_an_unknown_model(place: Place) -> None:
    async with ollama.AsyncClient() as client:
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError, match=r"^model 'nope' not found") as raised:
                await (collect([], client.chat("nope", SAID, stream=True)) if stream else client.chat("nope", SAID))
            assert raised.value.status_code == 404
            assert (await place.record()).outcome == "client_error"


@pytest.mark.parametrize(("place", "status"), REFUSALS, indirect=["place"], ids=[way.name for way, _ in REFUSALS])
async def test_refusals(place: Place, status: int) -> None:
    model, text = place.prepare_refusal()

    def app() -> ollama.ResponseError:
        with ollama.Client(headers=place.headers) as client, pytest.raises(ollama.ResponseError) as raised:
            client.chat(model, [{"role": "user", "content": text}])
        return raised.value

    error = await run(app)
    assert error.status_code == status
    assert error.error
    assert not error.error.startswith("{")
    await place.refused(status)


@only_cloud
@pytest.mark.parametrize("reset", [False, True])
async def test_a_stream_that_breaks_at_the_cloud(place: Place, reset: bool) -> None:
    place.world.cloud.misbehave = [faults.Cut("between_records", after_writes=3, reset=reset)]
    got: list[ollama.ChatResponse] = []
    async with ollama.AsyncClient(headers=place.headers) as client:
        with pytest.raises(ollama.ResponseError, match=r"^Ollama Cloud: "):
            await collect(got, client.chat(MODEL, SAID, stream=True))
    assert len(got) == 3
    assert (await place.record()).outcome == "broken"
    place.check()


@only_cloud
async def test_a_stream_that_breaks_within_a_record(place: Place) -> None:
    place.world.cloud.misbehave = [faults.Cut("mid_record", after_writes=3)]
    async with ollama.AsyncClient(headers=place.headers) as client:
        with pytest.raises(ollama.ResponseError, match=r"^Ollama Cloud: "):
            await collect([], client.chat(MODEL, SAID, stream=True))
    assert (await place.record()).outcome == "broken"
    place.check()


@only_cloud
async def test_an_answer_that_breaks_whole_comes_from_here(place: Place) -> None:
    place.world.cloud.misbehave = [faults.Cut("mid_record")]
    async with ollama.AsyncClient(headers=place.headers) as client:
        answer = await client.chat(MODEL, SAID)
    record = await place.record()
    assert answer.message.content
    assert (record.location, record.reason, record.fallback) == ("local", "cloud_unavailable", True)
    place.check()


# Clients that leave.


async def test_a_stream_that_is_given_up(place: Place) -> None:
    gate = place.answering.gate = StepGate(open_through=3)
    async with ollama.AsyncClient(headers=place.headers) as client:
        stream = await client.chat(MODEL, SAID, stream=True)
        for _ in range(3):
            await anext(stream)
        request = await gate.reached(4)
        await stream.aclose()
        record = await place.left(request)
    assert record.stream


async def test_a_stream_that_is_given_up_in_a_thread(place: Place) -> None:
    place.answering.gate = StepGate(open_through=2)

    @contextmanager
    def streaming() -> Iterator[Iterator[Any]]:
        with ollama.Client(headers=place.headers) as client:
            yield client.generate(MODEL, "Towns: Ulm, Pisa", stream=True)

    def app() -> None:
        with streaming() as parts:
            next(parts)

    await run(app)
    await place.left(place.answering.requests[-1])


async def test_a_whole_answer_that_is_not_waited_for(place: Place) -> None:
    gate = place.answering.gate = StepGate(open_through=2)
    async with ollama.AsyncClient(headers=place.headers) as client:
        call = asyncio.create_task(client.chat(MODEL, SAID))
        request = await gate.reached(3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        record = await place.left(request)
    assert not record.stream
    if place.is_cloud:
        assert place.world.booked == record.attempts[0].reserved > place.world.cloud.billed_micro_usd > 0


# What is no inference.


@ways(LOCAL, BY_HEADERS)
async def test_models_are_managed(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"GGUF" + bytes(300_000))
    async with ollama.AsyncClient(headers=place.headers) as client:
        await client.copy(MODEL, "other")
        names = {model.model for model in (await client.list()).models}
        assert names == {f"{name}:latest" for name in (MODEL, EYES, EMBEDDER, "other")}
        await client.delete("other")
        assert (await client.show(MODEL)).capabilities == ["completion", "tools"]
        progress = [part.status async for part in await client.pull("new", stream=True)]
        assert (progress[0], progress[-1]) == ("pulling manifest", "success")
        assert (await client.pull("newer")).status == "success"
        digest = await client.create_blob(file)
        assert digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
        assert (await client.create("mine", files={"weights.gguf": digest})).status == "success"
        assert [part.status async for part in await client.create("mine2", from_=MODEL, stream=True)][-1] == "success"
        await client.generate(MODEL)
        assert (await place.record()).location == "local"
        assert [model.model for model in (await client.ps()).models] == [f"{MODEL}:latest"]
        with pytest.raises(ollama.ResponseError, match="not found") as raised:
            await client.show("nope")
        assert raised.value.status_code == 404
    assert place.world.local.blobs == {digest: 300_004}
    assert not place.world.cloud.requests


@ways(NAMED)
async def test_a_cloud_model_by_name(place: Place) -> None:
    async with ollama.AsyncClient() as client:
        for name in (f"{TEXT_MODEL}-cloud", f"{TEXT_MODEL}:cloud"):
            assert (await client.chat(name, SAID)).message.content
            await place.ended()
            assert place.world.cloud.requests[-1].json()["model"] == TEXT_MODEL
        assert (await client.pull(f"{TEXT_MODEL}-cloud")).status == "success"
        assert (await client.create("mine", from_=f"{TEXT_MODEL}-cloud")).status == "success"
        parts = [part async for part in await client.chat("mine", SAID, stream=True)]
        assert parts[-1].done
        await place.ended()
