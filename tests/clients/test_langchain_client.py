"""`langchain-ollama`: ChatOllama, OllamaLLM, OllamaEmbeddings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import ollama
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
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

SAID = "Which towns are here: Ulm, Pisa."
Make = Callable[..., Any]


class Town(BaseModel):
    """A town."""

    name: str
    inhabitants: int


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@pytest.fixture
async def make(place: Place) -> AsyncIterator[Make]:
    """Makes one of the library's classes with the headers of the place, and closes its connections in the end."""
    made: list[Any] = []

    def new(kind: type[Any], model: str, **settings: Any) -> Any:
        made.append(kind(model=model, client_kwargs={"headers": place.headers}, **settings))
        return made[-1]

    yield new
    for one in made:
        one._client.close()
        await one._async_client.close()


async def test_chat_whole_and_streamed(place: Place, make: Make) -> None:
    chat = make(ChatOllama, MODEL, num_predict=9)
    whole = await chat.ainvoke(SAID)
    record = await place.ended()
    assert whole.usage_metadata["input_tokens"] == record.tokens_in
    assert whole.usage_metadata["output_tokens"] == record.tokens_out == 9
    parts = [part async for part in chat.astream(SAID)]
    await place.ended()
    assert "".join(part.content for part in parts) == whole.content != ""
    assert len(parts) > 5


async def test_in_a_thread(place: Place, make: Make) -> None:
    chat, llm = make(ChatOllama, MODEL, num_predict=9), make(OllamaLLM, MODEL, num_predict=9)

    def app() -> tuple[str, str, str, str]:
        streamed = "".join(str(part.content) for part in chat.stream([HumanMessage(SAID)]))
        return str(chat.invoke(SAID).content), streamed, llm.invoke(SAID), "".join(llm.stream(SAID))

    chatted, chat_streamed, generated, generate_streamed = await run(app)
    assert chatted == chat_streamed != ""
    assert generated == generate_streamed != ""
    assert [(await place.ended()).tokens_out for _ in range(4)] == [9] * 4


async def test_tools(place: Place, make: Make) -> None:
    answer: AIMessage = await make(ChatOllama, MODEL).bind_tools([add]).ainvoke("use the tool add")
    await place.ended()
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("add", {"a": 0, "b": 0})]


@ways(LOCAL, BY_DEFAULTS)
@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
async def test_structured_output(place: Place, make: Make, method: str) -> None:
    chain = make(ChatOllama, MODEL).with_structured_output(Town, method=method, include_raw=True)
    answer = await chain.ainvoke("a town, as JSON")
    record = await place.ended()
    assert record.task is not None
    if method == "json_schema":
        assert answer["parsed"] == Town(name="stand-in", inhabitants=0)
        assert record.task.task_type == "extraction"
    else:
        assert answer["raw"].content.startswith("{")


@ways(LOCAL, SEES)
async def test_images(place: Place, make: Make) -> None:
    asked = HumanMessage(
        [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": f"data:image/png;base64,{PNG_BASE64}"},
        ]
    )
    answer = await make(ChatOllama, EYES).ainvoke([asked])
    record = await place.ended()
    assert answer.content
    assert record.task is not None
    assert record.task.task_type == "vlm"
    assert record.model == (VISION_MODEL if place.is_cloud else EYES)


@ways(LOCAL, EMBEDS)
async def test_embeddings_never_leave(place: Place, make: Make) -> None:
    embeddings = make(OllamaEmbeddings, EMBEDDER)
    texts = await embeddings.aembed_documents(["a text", "another"])
    await place.ended()
    query = await run(lambda: embeddings.embed_query("a text"))
    await place.ended()
    assert query == texts[0] != texts[1]


@ways(NAMED)
async def test_a_cloud_model_by_name(place: Place, make: Make) -> None:
    assert (await make(ChatOllama, f"{TEXT_MODEL}-cloud").ainvoke(SAID)).content
    await place.ended()


@only_local
async def test_an_unknown_model(place: Place, make: Make) -> None:
    for call in (make(ChatOllama, "nope").ainvoke, make(OllamaLLM, "nope").ainvoke):
        with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as raised:
            await call(SAID)
        assert raised.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="not found"):
        await make(OllamaEmbeddings, "nope").aembed_query(SAID)
    for _ in range(3):
        assert (await place.record()).outcome == "client_error"


@only_local
async def test_a_model_that_is_looked_for_at_the_start(place: Place) -> None:
    def app() -> None:
        # The library never closes its connections, and what raises while it is made cannot be closed from here.
        settings: dict[str, Any] = {
            "validate_model_on_init": True,
            "client_kwargs": {"headers": {"Connection": "close"}},
        }
        ChatOllama(model=MODEL, **settings)
        with pytest.raises(ValueError, match="not found in Ollama"):
            ChatOllama(model="nope", **settings)

    await run(app)
    assert [request.target for request in place.world.local.requests].count("/api/tags") == 2


@pytest.mark.parametrize(("place", "status"), REFUSALS, indirect=["place"], ids=[way.name for way, _ in REFUSALS])
async def test_refusals(place: Place, make: Make, status: int) -> None:
    model, text = place.prepare_refusal()
    with pytest.raises(ollama.ResponseError) as raised:
        await make(ChatOllama, model).ainvoke(text)
    assert raised.value.status_code == status
    await place.refused(status)


@only_cloud
@pytest.mark.parametrize("kind", [ChatOllama, OllamaLLM])
async def test_a_stream_that_breaks_at_the_cloud(place: Place, make: Make, kind: type[Any]) -> None:
    place.world.cloud.misbehave = [faults.Cut("between_records", after_writes=3)]
    got: list[Any] = []

    async def stream() -> AsyncIterator[Any]:
        return make(kind, MODEL).astream(SAID)  # type: ignore[no-any-return]

    with pytest.raises(ollama.ResponseError, match=r"^Ollama Cloud: "):
        await collect(got, stream())
    assert len(got) == 3
    assert (await place.record()).outcome == "broken"
    place.check()


async def test_a_stream_that_is_given_up(place: Place, make: Make) -> None:
    gate = place.answering.gate = StepGate(open_through=3)
    stream = make(ChatOllama, MODEL)._astream([HumanMessage(SAID)])
    await anext(stream)
    request = await gate.reached(4)
    await stream.aclose()
    await place.left(request)
