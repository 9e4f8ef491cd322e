"""Ollama's own command line and the Python clients, through the sidecar to a real server."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from pydantic import BaseModel

from real import cli
from real.front import Relayed
from real.servers import ENDLESS, Server
from real.worlds import CHATS, SAID, Real, call
from support.raw import SECONDS, ask, connect, request
from tiny_model import model

pytestmark = pytest.mark.real

SHORT: dict[str, Any] = {"num_predict": 12, "temperature": 0, "seed": 1}


class Town(BaseModel):
    name: str
    inhabitants: int


# A random model says anything that the schema allows, so each text in it gets an end.
TOWN = {
    "type": "object",
    "properties": {"name": {"enum": ["Ulm", "Pisa"]}, "inhabitants": {"enum": [1, 20, 300]}},
    "required": ["name", "inhabitants"],
}


@pytest.fixture(autouse=True)
def environment(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an unmodified app finds its server by."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "unused")
    monkeypatch.setenv("OLLAMA_HOST", f"http://127.0.0.1:{real.port}")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{real.port}/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{real.port}")


async def local_record(real: Real) -> None:
    """The next call ended well at the local server, and nothing was at the cloud."""
    record = await real.record()
    assert (record.location, record.outcome) == ("local", "ok")
    assert not real.front.requests


# The command line.


async def test_list_and_show(real: Real, tmp_path: Path) -> None:
    straight, through = [await cli.ollama(port, tmp_path, "list") for port in (real.local.port, real.port)]
    assert (through.code, through.err) == (0, "")
    assert {line.split()[0] for line in through.out.splitlines()[1:]} >= {"tiny:latest", "llama3:latest"}
    columns = [sorted(line.split()[:4] for line in ran.out.splitlines()) for ran in (straight, through)]
    assert columns[0] == columns[1]
    for words in (("show", "tiny"), ("show", "tiny", "--modelfile"), ("show", "nothing"), ("show", "-v", "tiny")):
        straight, through = [await cli.ollama(port, tmp_path, *words) for port in (real.local.port, real.port)]
        assert through == straight
        assert through.code == ("nothing" in words)
    assert "0.24.0" in (await cli.ollama(real.port, tmp_path, "--version")).out


async def test_run(real: Real, tmp_path: Path) -> None:
    """A text that is the same each time, as the model's own parameters have it."""
    (tmp_path / "Modelfile").write_text(
        "FROM tiny\nSYSTEM Be short.\nPARAMETER num_predict 20\nPARAMETER temperature 0\nPARAMETER seed 1\n"
    )
    made = await cli.ollama(real.port, tmp_path, "create", "short", "-f", "Modelfile")
    assert made.code == 0
    assert "success" in made.err
    try:
        for words in (
            ("run", "short", "hi"),
            ("run", "short", "hi", "--verbose"),
            ("run", "short", "hi", "--keepalive", "5m"),
        ):
            straight, through = [await cli.ollama(port, tmp_path, *words) for port in (real.local.port, real.port)]
            assert (through.code, through.out) == (0, straight.out)
            assert len(through.out) > 5
            await local_record(real)
        listed = await cli.ollama(real.port, tmp_path, "ps")
        assert "short:latest" in listed.out
        assert (await cli.ollama(real.port, tmp_path, "stop", "short")).code == 0
        await real.unloaded("short:latest")
        assert (await cli.ollama(real.port, tmp_path, "run", "short", "hi", "--format", "json")).code == 0
    finally:
        assert (await cli.ollama(real.port, tmp_path, "rm", "short")).code == 0
    assert "short" not in (await cli.ollama(real.port, tmp_path, "list")).out
    assert (await cli.ollama(real.port, tmp_path, "run", "short:none", "hi")).code == 1


async def test_create_from_a_file_and_copy(real: Real, tmp_path: Path) -> None:
    (tmp_path / "weights.gguf").write_bytes(model().replace(b"tiny", b"tinz", 1))
    (tmp_path / "Modelfile").write_text('FROM ./weights.gguf\nTEMPLATE "{{ .Prompt }}"\nPARAMETER num_thread 1\n')
    made = await cli.ollama(real.port, tmp_path, "create", "of-a-file", "-f", "Modelfile")
    assert made.code == 0
    uploads = [request for request in real.tap.requests if request.path.startswith("/api/blobs/")]
    assert [request.method for request in uploads] in (["HEAD", "POST"], ["POST"])
    assert uploads[-1].body == (tmp_path / "weights.gguf").read_bytes()
    assert (await cli.ollama(real.port, tmp_path, "cp", "of-a-file", "copied")).code == 0
    for name in ("of-a-file", "copied"):
        embedded = await cli.ollama(real.port, tmp_path, "run", name, "hi", "--format", json.dumps({"enum": [1]}))
        assert (embedded.code, embedded.out.strip()) == (0, "1")
        assert (await cli.ollama(real.port, tmp_path, "rm", name)).code == 0
    assert (await cli.ollama(real.port, tmp_path, "rm", "copied")).code == 1


# The clients, streaming and not.


async def test_ollama(real: Real) -> None:
    async with ollama.AsyncClient() as client:
        said = [{"role": "user", "content": SAID}]
        whole = await client.chat("tiny", said, options=SHORT)
        await local_record(real)
        parts = [part async for part in await client.chat("tiny", said, options=SHORT, stream=True)]
        await local_record(real)
        assert "".join(part.message.content or "" for part in parts) == whole.message.content != ""
        assert parts[-1].eval_count == whole.eval_count == 12
        made = await client.generate("llama3", SAID, options=SHORT)
        streamed = [part async for part in await client.generate("llama3", SAID, options=SHORT, stream=True)]
        assert "".join(part.response for part in streamed) == made.response != ""
        formed = await client.chat("tiny", said, format=TOWN)
        assert Town.model_validate_json(formed.message.content or "").name in ("Ulm", "Pisa")
        vectors = await client.embed("tiny", ["a text", "another"])
        assert [len(vector) for vector in vectors.embeddings] == [64, 64]
        assert (await client.show("tiny")).capabilities == ["completion", "tools"]
        with pytest.raises(ollama.ResponseError, match=r"^model 'nothing' not found") as raised:
            await client.chat("nothing", said)
        assert raised.value.status_code == 404

    def app() -> str:
        with ollama.Client() as blocking:
            return "".join(part.response for part in blocking.generate("llama3", SAID, options=SHORT, stream=True))

    assert await asyncio.to_thread(app) == made.response


async def test_ollama_sends_tools(real: Real) -> None:
    """A random model calls none; but its template has room for them, so the server takes them and counts them."""

    def add(a: int, b: int) -> int:
        """Adds two numbers.

        Args:
          a: one
          b: the other
        """
        return a + b

    async with ollama.AsyncClient() as client:
        said = [{"role": "user", "content": SAID}]
        without = await client.chat("tiny", said, options=SHORT)
        with_tools = await client.chat("tiny", said, tools=[add], options=SHORT)
    assert (with_tools.prompt_eval_count or 0) > (without.prompt_eval_count or 0) + 20


async def test_openai(real: Real) -> None:
    async with openai.AsyncOpenAI(max_retries=0) as client:
        said: Any = [{"role": "user", "content": SAID}]
        fixed: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "seed": 1, "temperature": 0}
        whole = await client.chat.completions.create(messages=said, **fixed)
        await local_record(real)
        stream = await client.chat.completions.create(
            messages=said, stream=True, stream_options={"include_usage": True}, **fixed
        )
        chunks = [chunk async for chunk in stream]
        await local_record(real)
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text == whole.choices[0].message.content != ""
        assert chunks[-1].usage == whole.usage
        tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        called = await client.chat.completions.create(messages=said, tools=tools, **fixed)
        assert called.usage is not None
        assert whole.usage is not None
        assert called.usage.prompt_tokens > whole.usage.prompt_tokens
        schema: Any = {"type": "json_schema", "json_schema": {"name": "town", "schema": TOWN}}
        formed = await client.chat.completions.create(model="tiny", messages=said, response_format=schema)
        assert Town.model_validate_json(formed.choices[0].message.content or "").name in ("Ulm", "Pisa")
        vectors = await client.embeddings.create(model="tiny", input=["a text", "another"])
        assert [len(item.embedding) for item in vectors.data] == [64, 64]
        old = await client.completions.create(prompt=SAID, **fixed)
        assert old.choices[0].text
        async with client.responses.stream(model="tiny", input=SAID, max_output_tokens=12) as events:
            last = await events.get_final_response()
        assert last.usage is not None
        assert last.usage.output_tokens == 12
        assert {"tiny:latest", "llama3:latest"} <= {entry.id async for entry in client.models.list()}
        with pytest.raises(openai.NotFoundError, match="model 'nothing' not found"):
            await client.chat.completions.create(model="nothing", messages=said)


async def test_anthropic(real: Real) -> None:
    async with anthropic.AsyncAnthropic(max_retries=0) as client:
        said: Any = [{"role": "user", "content": SAID}]
        whole = await client.messages.create(model="tiny", max_tokens=12, messages=said)
        await local_record(real)
        assert (whole.usage.output_tokens, whole.stop_reason) == (12, "max_tokens")
        async with client.messages.stream(model="tiny", max_tokens=12, messages=said) as stream:
            text = "".join([part async for part in stream.text_stream])
            last = await stream.get_final_message()
        await local_record(real)
        assert text
        assert last.usage.output_tokens == 12
        tools: Any = [{"name": "f", "input_schema": {"type": "object"}}]
        called = await client.messages.create(model="tiny", max_tokens=12, messages=said, tools=tools)
        assert called.usage.input_tokens > whole.usage.input_tokens
        with pytest.raises(anthropic.NotFoundError, match="model 'nothing' not found"):
            await client.messages.create(model="nothing", max_tokens=5, messages=said)


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@asynccontextmanager
async def closing(made: Any) -> AsyncIterator[Any]:
    yield made
    made._client.close()
    await made._async_client.close()


async def test_langchain(real: Real) -> None:
    settings: dict[str, Any] = {"num_predict": 12, "temperature": 0, "seed": 1}
    async with closing(ChatOllama(model="tiny", **settings)) as chat:
        whole = await chat.ainvoke(SAID)
        await local_record(real)
        parts = [part async for part in chat.astream(SAID)]
        await local_record(real)
        assert "".join(part.content for part in parts) == whole.content != ""
        assert whole.usage_metadata["output_tokens"] == 12
        with_tools = await chat.bind_tools([add]).ainvoke(SAID)
        assert with_tools.usage_metadata["input_tokens"] > whole.usage_metadata["input_tokens"]
    async with closing(ChatOllama(model="tiny", format=TOWN)) as chat:
        assert Town.model_validate_json(str((await chat.ainvoke(SAID)).content)).name in ("Ulm", "Pisa")
    async with closing(OllamaLLM(model="llama3", **settings)) as llm:
        made = await asyncio.to_thread(llm.invoke, SAID)
        assert "".join([part async for part in llm.astream(SAID)]) == made != ""
    async with closing(OllamaEmbeddings(model="tiny")) as embeddings:
        assert [len(vector) for vector in await embeddings.aembed_documents(["a", "b"])] == [64, 64]


async def test_a_model_leaves_memory_when_it_is_told_to(real: Real) -> None:
    async with ollama.AsyncClient() as client:
        assert (await client.generate("tiny", "")).done_reason == "load"
        assert "tiny:latest" in [entry.model for entry in (await client.ps()).models]
        assert (await client.generate("tiny", "", keep_alive=0)).done_reason == "unload"
        await real.unloaded("tiny:latest")
        assert "tiny:latest" not in [entry.model for entry in (await client.ps()).models]
    assert not real.front.requests


# Clients that leave.
#
# Whether a server has stopped cannot be seen at its API: see `Real.unload`. So these tests ask the process that does
# its work, which generates one text at a time: a short one is made as soon as the endless one is over.


@asynccontextmanager
async def racing(other: Server) -> AsyncIterator[Callable[[], bool]]:
    """A generation of half the endless one's length in another server's process, begun before the block;
    tells whether it still runs.

    How long it takes is of no account: what waits behind the endless one, begun later, cannot be answered before this
    one has ended, unless the endless one was stopped.
    """
    async with connect(other.runner_port()) as client:
        options = {"num_predict": 10_000, "temperature": 1.0, "top_p": 1.0, "seed": 1}
        body = {"Prompt": SAID, "Options": options, "Shift": True, "Grammar": "root ::= [a-z] root"}
        await client.send(request("POST", "/completion", {}, json.dumps(body).encode()))
        answer = await client.head()
        await client.chunk(answer)
        reading = asyncio.create_task(client.rest(answer))
        try:
            yield lambda: not reading.done()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def stopped(real: Real, leave: Callable[[], Awaitable[object]]) -> Relayed:
    """Checks that the real server stops when the client of its endless generation leaves."""
    await real.load(ENDLESS)
    try:
        async with racing(real.cloud) as still_runs:
            await leave()
            async with asyncio.timeout(SECONDS):
                given_up = await real.tap.wait_for(endless)
                await given_up.closed_by_peer.wait()
                after = {"Prompt": "next", "Options": {"num_predict": 1}}
                answer = await ask(real.local.runner_port(), "POST", "/completion", {}, after)
            assert answer.lines()[-1]["eval_count"] == 1
            assert still_runs()
    finally:
        await real.unload(ENDLESS)
    assert given_up.outcome == "aborted"
    assert (await real.record()).outcome == "client_disconnect"
    return given_up


def endless(one: Relayed) -> bool:
    """Whether this is the call that a test gives up."""
    return ENDLESS.encode() in one.body and one.path in CHATS.values()


async def leave_ollama() -> None:
    async with ollama.AsyncClient() as client:
        stream = await client.chat(ENDLESS, [{"role": "user", "content": SAID}], stream=True)
        await anext(stream)
        await stream.aclose()


async def leave_openai() -> None:
    async with openai.AsyncOpenAI(max_retries=0) as client:
        said: Any = [{"role": "user", "content": SAID}]
        async with await client.chat.completions.create(model=ENDLESS, messages=said, stream=True) as stream:
            await anext(stream)


async def leave_responses() -> None:
    async with (
        openai.AsyncOpenAI(max_retries=0) as client,
        client.responses.stream(model=ENDLESS, input=SAID) as stream,
    ):
        await anext(stream)


async def leave_anthropic() -> None:
    async with anthropic.AsyncAnthropic(max_retries=0) as client:
        said: Any = [{"role": "user", "content": SAID}]
        async with client.messages.stream(model=ENDLESS, max_tokens=1_000_000, messages=said) as stream:
            await anext(stream)


async def leave_langchain() -> None:
    async with closing(ChatOllama(model=ENDLESS)) as chat, aclosing(chat._astream([HumanMessage(SAID)])) as stream:
        await anext(stream)


@pytest.mark.parametrize("leave", [leave_ollama, leave_openai, leave_responses, leave_anthropic, leave_langchain])
async def test_a_stream_that_is_given_up(real: Real, leave: Callable[[], Awaitable[None]]) -> None:
    given_up = await stopped(real, leave)
    assert given_up.content
    assert b'"done":true' not in given_up.content


@pytest.mark.parametrize("kind", CHATS)
async def test_a_whole_answer_that_is_not_waited_for(real: Real, kind: str) -> None:
    async def leave() -> None:
        idle = real.local.worked()
        async with connect(real.port) as client, asyncio.timeout(SECONDS):
            body = call(kind, model=ENDLESS, tokens=1_000_000)
            body.pop("options", None)
            await client.send(request("POST", CHATS[kind], {}, json.dumps(body).encode()))
            while real.local.worked() < idle + 0.02:  # noqa: ASYNC110 - what another process does is no event here
                await asyncio.sleep(0)
            client.leave()

    given_up = await stopped(real, leave)
    assert not given_up.answer


async def test_a_command_that_is_interrupted(real: Real, tmp_path: Path) -> None:
    async def leave() -> None:
        async with asyncio.timeout(SECONDS), cli.started(real.port, tmp_path, "run", ENDLESS, SAID) as process:
            assert process.stdout is not None
            assert await process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            await process.wait()

    await stopped(real, leave)
