"""What becomes of connections: clients that leave, servers that close, a drain, and readers that are slow."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.proxy import connection as connections
from sidecar.proxy.connection import ClientConnection
from sidecar.standins import StandInModel, StandInOllama, StepGate, faults
from sidecar.upstream.local import LocalUpstream
from support.raw import Answer, Client, ask, connect, request
from support.wire import (
    EndError,
    Heard,
    RawPeer,
    before_peer,
    clients,
    idle,
    nothing_left_behind,
    probed,
    transport_of,
    until,
)
from support.world import World, world

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
MESSAGES = {"messages": [{"role": "user", "content": "Name a town."}], "max_tokens": 50}
CHAT = {"model": "llama3", **MESSAGES}
INFERENCE = {"ollama": "/api/chat", "openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


def post(path: str, body: Any, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    return request("POST", path, headers, json.dumps(body).encode())


def only_local(**settings: Any) -> StandInOllama:
    return StandInOllama([StandInModel(name) for name in ("llama3:latest",)], **settings)


NO_CLOUD = {"ollama_cloud": {"enabled": False}}


def leave_by_close(client: Client) -> None:
    client.writer.close()


def leave_by_reset(client: Client) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.leave()


def leave_by_half_close(client: Client) -> None:
    """It goes on to listen, but a server that aborts for those who left cannot tell."""
    client.writer.write_eof()


LEAVE = [leave_by_close, leave_by_reset, leave_by_half_close]


# The client leaves.


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", [*INFERENCE.values(), "/api/pull"])
async def test_a_client_that_leaves_before_the_answer_closes_the_upstream(
    tmp_path: Path, path: str, stream: bool, leave: Callable[[Client], None]
) -> None:
    gate = StepGate()
    async with world(tmp_path, NO_CLOUD, local=only_local(gate=gate)) as here:
        await probed(here)
        async with connect(here.port) as client:
            await client.send(post(path, CHAT | {"stream": stream}))
            got = await gate.reached(1 if path == "/api/pull" else 0)
            leave(client)
            async with asyncio.timeout(10):
                await got.closed_by_peer.wait()
                await got.finished.wait()
        assert got.aborted
        await until(lambda: not clients(here), "the end of the connection")
        assert len([one for one in here.local.requests if one.target == path]) == 1
        assert here.sidecar.services.local.calls == 0


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("path", [*INFERENCE.values(), "/api/pull"])
async def test_a_client_that_leaves_in_a_stream_closes_the_upstream(
    tmp_path: Path, path: str, leave: Callable[[Client], None]
) -> None:
    gate = StepGate(open_through=2)
    async with world(tmp_path, NO_CLOUD, local=only_local(gate=gate)) as here:
        await probed(here)
        async with connect(here.port) as client:
            await client.send(post(path, CHAT | {"stream": True}))
            answer = await client.head()
            assert await client.chunk(answer)
            got = await gate.reached(3)
            leave(client)
            async with asyncio.timeout(10):
                await got.closed_by_peer.wait()
                await got.finished.wait()
        assert got.aborted
        await until(lambda: not clients(here), "the end of the connection")
        assert here.sidecar.services.local.calls == 0


async def test_a_client_that_leaves_while_others_of_its_requests_wait_starts_none_of_them(tmp_path: Path) -> None:
    gate = StepGate()
    async with world(tmp_path, NO_CLOUD, local=only_local(gate=gate)) as here:
        await probed(here)
        async with connect(here.port) as client:
            waiting = post("/api/pull", {"model": "x"}) + post("/api/generate", {"model": "llama3", "prompt": "x"})
            await client.send(post("/api/chat", CHAT) + waiting)
            got = await gate.reached(0)
            client.leave()
            await got.closed_by_peer.wait()
        await until(lambda: not clients(here), "the end of the connection")
        gate.open_all()
        assert not [one for one in here.local.requests if one.target in ("/api/pull", "/api/generate")]


def _equal(upstream: LocalUpstream, calls: int) -> bool:
    return upstream.calls == calls


async def test_a_client_that_leaves_the_queue_gives_its_place_to_the_next(tmp_path: Path) -> None:
    gate = StepGate()
    settings = {**NO_CLOUD, "local": {"max_concurrent": 1}}
    local = only_local(gate=gate)
    async with local:
        over = {**settings, "local": {"max_concurrent": 1, "base_url": local.base_url}}
        async with world(tmp_path, over, local=local) as here:
            upstream = here.sidecar.services.local
            async with connect(here.port) as first, connect(here.port) as second, connect(here.port) as third:
                for number, client in enumerate((first, second, third), 1):
                    await client.send(post("/api/chat", CHAT | {"stream": False, "keep_alive": number}))
                    await until(partial(_equal, upstream, number), "the call in the queue")
                second.leave()
                await until(lambda: upstream.calls == 2, "the place to be free")
                gate.open_all()
                assert (await first.read("POST")).status == 200
                assert (await third.read("POST")).status == 200
            chats = [one.json()["keep_alive"] for one in here.local.requests if one.target == "/api/chat"]
            assert chats == [1, 3]
            assert upstream.calls == 0


async def test_clients_that_leave_at_any_moment_of_a_fast_stream_leave_nothing_behind(tmp_path: Path) -> None:
    """The upstream's next bytes may come between the end of the client's connection and its task's."""

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while True:
            writer.write(b"5\r\nhello\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(0)

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running:
        for number in range(60):
            async with connect(running.port) as client:
                await client.send(request("GET", "/stream"))
                await client.head()
                await client.reader.readexactly(10 * (number * 7 % 50))
                leave_by_reset(client) if number % 2 else client.leave()
        await until(lambda: not clients(running), "the end of the connections")
        await until(lambda: peer.ended >= 60, "the end of the connections to the upstream")
        assert not idle(running)


async def test_bytes_for_a_client_that_is_gone_are_dropped(here: World) -> None:
    async with connect(here.port) as client:
        await client.send(request("GET", "/"))
        await client.read()
        one = clients(here)[0]
        client.leave()
        await until(lambda: not clients(here), "the end of the connection")
        one.write(b"too late")
        one.cut(framed=False)
        one.cut(framed=True)


# A client that ends its sending, but reads on.


@pytest.mark.parametrize("path", ["/api/tags", "/api/show", "/api/chat", "/api/pull"])
async def test_a_client_that_ends_its_sending_gets_a_fast_answer(here: World, path: str) -> None:
    await here.chat()  # what is known of the model is known: the answer is fast
    async with connect(here.port) as client:
        data = request("GET", path) if path == "/api/tags" else post(path, CHAT | {"stream": False})
        client.writer.write(data)
        client.writer.write_eof()
        answer = await client.read("POST")
        assert (answer.status, answer.complete) == (200, True)
        assert await client.closed()


async def test_a_client_that_ends_its_sending_behind_several_requests_gets_all_answers(here: World) -> None:
    async with connect(here.port) as client:
        client.writer.write(request("GET", "/") + request("GET", "/api/version") + request("HEAD", "/"))
        client.writer.write_eof()
        assert (await client.read()).body == b"Ollama is running"
        assert (await client.read()).json()["version"]
        assert (await client.read("HEAD")).status == 200
        assert await client.closed()


async def test_a_client_that_ends_its_sending_in_the_middle_of_a_request_is_let_go(here: World) -> None:
    await probed(here)
    for data in (
        b"GET / HT",
        request("GET", "/") + b"GET / HT",
        request("POST", "/api/show", [("Content-Length", "9")]) + b"{",
    ):
        async with connect(here.port) as client:
            client.writer.write(data)
            client.writer.write_eof()
            if data.startswith(b"GET / HTTP"):
                assert (await client.read()).status == 200
            assert await client.closed()
    await until(lambda: not clients(here), "the end of the connections")


async def test_what_only_reads_is_answered_after_the_sending_has_ended_however_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `nc -N` and socat ask. A call that makes the server work has no such time."""
    monkeypatch.setattr(connections, "LEAVE_GRACE_SECONDS", 0.0)
    gate = asyncio.Event()

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(OK + b"Content-Length: 2\r\n\r\nok")

    async with (
        RawPeer(play) as peer,
        before_peer(tmp_path, peer) as running,
        connect(running.port) as reads,
        connect(running.port) as works,
    ):
        for client, data in ((reads, request("GET", "/x")), (works, request("POST", "/x", [], b"{}"))):
            client.writer.write(data)
            client.writer.write_eof()
        assert await works.closed()
        gate.set()
        assert (await reads.read()).body == b"ok"


@pytest.mark.parametrize("kind", ["upload", "pipelined"])
async def test_a_client_that_leaves_while_it_is_not_read_is_noticed(tmp_path: Path, kind: str) -> None:
    """With reading paused, no event tells of its end."""

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport_of(writer).pause_reading()
        await asyncio.Event().wait()

    data = request("POST", "/api/blobs/sha256:1", [("Content-Length", "100000000")]) + b"x" * 30_000_000
    if kind == "pipelined":
        data = post("/x", {}) + request("GET", "/y") * 3000
    async with (
        RawPeer(play, reads_body=False) as peer,
        before_peer(tmp_path, peer) as running,
        connect(running.port) as client,
    ):
        client.writer.write(data)
        await until(lambda: peer.heard, "the request at the server")
        await until(lambda: any(one._reading_paused for one in clients(running)), "the pause")
        one = next(one for one in clients(running) if one._reading_paused)
        timer = one._look_timer
        one._reading_paused = False
        one._pause_reading()
        assert one._look_timer is timer, "each pause began to look of its own"
        leave_by_reset(client)
        await until(lambda: not clients(running), "the end of the connection")
        await until(lambda: not idle(running), "the end of that call's connection to the server")


# The local server closes.


def closes_second(answers: list[Heard]) -> Callable[..., Any]:
    """Answers one request to a connection; the next one there finds it closed, without a byte of an answer."""

    async def play(one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers.append(one)
        if sum(other.connection == one.connection for other in answers) > 1:
            raise EndError
        writer.write(OK + b"Content-Length: 2\r\n\r\n" + (b"" if one.line.startswith(b"HEAD") else b"ok"))

    return play


@pytest.mark.parametrize(
    "data",
    [
        request("GET", "/x"),
        request("POST", "/x", [], b"{}"),
        request("POST", "/x", [], b"{}", chunked=True),
        request("POST", "/x", [], b"", chunked=True),
        request("DELETE", "/x", [], b"d" * 20_000),
        request("HEAD", "/x"),
    ],
    ids=["GET", "POST", "chunked", "empty", "large", "HEAD"],
)
async def test_a_pooled_connection_that_was_closed_is_replaced_once(tmp_path: Path, data: bytes) -> None:
    answers: list[Heard] = []
    method = data.split(b" ")[0].decode()
    async with RawPeer(closes_second(answers)) as peer, before_peer(tmp_path, peer) as running:
        async with connect(running.port) as client:
            for _ in range(3):
                await client.send(data)
                answer = await client.read(method)
                assert (answer.status, answer.body) == (200, b"" if method == "HEAD" else b"ok")
        assert [one.connection for one in answers] == [0, 0, 1, 1, 2]
        assert len({one.body for one in answers}) == 1


async def test_a_pooled_connection_that_was_closed_is_replaced_for_a_call_too(tmp_path: Path) -> None:
    seen: list[Heard] = []

    async def play(one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(one)
        if one.target == b"/api/chat" and sum(other.target == b"/api/chat" for other in seen) == 1:
            raise EndError
        body = b'{"models":[]}' if one.target == b"/api/tags" else b'{"done":true}'
        writer.write(OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running:
        answer = await ask(running.port, "POST", "/api/chat", [], CHAT)
        assert (answer.status, answer.body) == (200, b'{"done":true}')
        chats = [one for one in seen if one.target == b"/api/chat"]
        assert len(chats) == 2
        assert chats[0].body == chats[1].body


async def test_a_connection_is_replaced_no_more_than_once(tmp_path: Path) -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        raise EndError

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running:
        for path, shape in (("/x", str), ("/v1/x", dict)):
            before = len(peer.heard)
            answer = await ask(running.port, "POST", path, [], b"{}")
            assert answer.status == 502
            assert isinstance(answer.json()["error"], shape)
            # The first found the probe's connection; the second one none, so nothing speaks for another try.
            assert len(peer.heard) - before == (2 if path == "/x" else 1)


async def test_a_part_of_an_answer_is_never_followed_by_another_try(tmp_path: Path) -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 2")
        raise EndError

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running:
        answer = await ask(running.port, "GET", "/x")
        assert answer.status == 502
        assert len(peer.heard) == 1


async def test_an_upload_that_was_partly_sent_is_never_sent_again(tmp_path: Path) -> None:
    async def play(_one: Heard, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        raise EndError

    async with RawPeer(play, reads_body=False) as peer, before_peer(tmp_path, peer) as running:
        async with connect(running.port) as client:
            await client.send(request("POST", "/x", [("Content-Length", "10")]) + b"hello")
            answer = await client.read("POST")
            assert answer.status == 502
        assert len(peer.heard) == 1


async def test_a_server_that_accepts_and_closes_at_once_is_a_bad_gateway(tmp_path: Path) -> None:
    closing = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n") if not closing.is_set() else b""
        if b"X-Sidecar-Probe" in head or b"x-sidecar-probe" in head:
            writer.write(OK + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
            await writer.drain()
            closing.set()
        writer.transport.abort()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with world(tmp_path, {**NO_CLOUD, "local": {"base_url": url}}) as here:
        await closing.wait()
        for _ in range(20):
            answer = await ask(here.port, "GET", "/x")
            assert answer.status == 502
    server.close()


async def test_a_server_that_is_not_there_is_unavailable_and_found_again(tmp_path: Path) -> None:
    local = only_local()
    async with world(tmp_path, NO_CLOUD, local=local) as here:
        await probed(here)
        port = local.port
        await local.close()
        for path, body in (("/api/tags", b""), ("/api/chat", json.dumps(CHAT).encode())):
            answer = await ask(here.port, "POST" if body else "GET", path, [], body)
            assert answer.status == 503
            assert isinstance(answer.json()["error"], str)
        await local.start(port=port)
        assert (await ask(here.port, "GET", "/api/tags")).status == 200


async def test_bytes_that_nobody_asked_for_end_a_pooled_connection(tmp_path: Path) -> None:
    poison = OK + b"Content-Length: 6\r\n\r\npoison"
    async with RawPeer(OK + b"Content-Length: 2\r\n\r\nok") as peer, before_peer(tmp_path, peer) as running:
        for number in range(3):
            await until(lambda: idle(running), "a pooled connection")
            peer.writers[-1].write(poison)
            await peer.writers[-1].drain()
            await until(lambda: not idle(running), "its end")
            answer = await ask(running.port, "GET", "/x")
            assert answer.body == b"ok"
            assert peer.accepted == number + 2


async def test_a_pooled_connection_that_the_server_closes_is_forgotten(tmp_path: Path) -> None:
    async with RawPeer(OK + b"Content-Length: 2\r\n\r\nok") as peer, before_peer(tmp_path, peer) as running:
        peer.writers[-1].close()
        await until(lambda: not idle(running), "its end")
        assert (await ask(running.port, "GET", "/x")).body == b"ok"
        assert peer.accepted == 2


# Drain.


@asynccontextmanager
async def opened(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def error_of(dialect: str, answer: Answer) -> Any:
    """The error record at the end of a streamed answer, as a client of that dialect looks for it."""
    if dialect == "ollama":
        return answer.lines()[-1]["error"]
    name, data = answer.events()[-1]
    value = json.loads(data)
    if dialect == "anthropic":
        assert (name, value["type"]) == ("error", "error")
    return value["error"]["message"]


async def test_a_drain_lets_streams_end_that_end_in_time(tmp_path: Path) -> None:
    gate = StepGate(open_through=2)
    over = {**NO_CLOUD, "listen": {"drain_seconds": 30}}
    async with world(tmp_path, over, local=only_local(gate=gate, answer_tokens=8)) as here:
        port = here.port
        async with opened(port) as chat, opened(port) as pull, opened(port) as quiet:
            await quiet.send(request("GET", "/"))
            await quiet.read()
            await chat.send(post("/api/chat", CHAT))
            await pull.send(post("/api/pull", {"model": "x"}))
            heads = [await client.head() for client in (chat, pull)]
            assert [head.status for head in heads] == [200, 200]
            stopping = asyncio.create_task(here.sidecar.data.drain(30))
            assert await quiet.closed()  # it was idle
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            gate.open_all()
            for client, head in ((chat, heads[0]), (pull, heads[1])):
                await client.rest(head, "POST")
                assert head.complete
                assert await client.closed()
            assert heads[0].lines()[-1]["done"] is True
            assert heads[1].lines()[-1] == {"status": "success"}
            assert await stopping is True


@pytest.mark.parametrize("dialect", ["ollama", "openai", "anthropic"])
async def test_a_drain_ends_streams_that_go_on_with_an_error_record(tmp_path: Path, dialect: str) -> None:
    gate = StepGate(open_through=2)
    async with world(tmp_path, NO_CLOUD, local=only_local(gate=gate)) as here, opened(here.port) as client:
        await client.send(post(INFERENCE[dialect], CHAT | {"stream": True}))
        head = await client.head()
        await client.chunk(head)
        got = await gate.reached(3)
        assert await here.sidecar.data.drain(0.05) is False
        await client.rest(head, "POST")
        assert head.complete, "the framing has no end"
        assert "shutting down" in error_of(dialect, head)
        assert await client.closed()
        await got.closed_by_peer.wait()


async def test_a_client_that_leaves_during_the_drain_is_told_of_in_the_log(tmp_path: Path) -> None:
    """It is the last one: nothing else keeps the drain waiting."""
    local = only_local(misbehave=lambda one: faults.Hang("before_work") if one.target == "/api/chat" else None)
    async with world(tmp_path, NO_CLOUD, local=local) as here:
        async with connect(here.port) as client:
            await client.send(post("/api/chat", CHAT))
            await local.wait_for_request(1, lambda one: one.target == "/api/chat")
            asyncio.get_running_loop().call_later(0.01, leave_by_reset, client)
            assert await here.sidecar.data.drain(20) is True
            assert here.sidecar._batch._records, "the drain ended before the call did"
        here.sidecar._batch.flush()
        assert not here.sidecar._batch._records
        page = here.sidecar.services.metrics.expose().decode()
        assert 'ollama_sidecar_call_outcomes_total{outcome="client_disconnect"} 1.0' in page


async def test_a_drain_ends_what_is_passed_through_with_an_error_record(tmp_path: Path) -> None:
    gate = StepGate(open_through=2)
    async with world(tmp_path, NO_CLOUD, local=only_local(gate=gate)) as here, opened(here.port) as client:
        await client.send(post("/api/pull", {"model": "x"}))
        head = await client.head()
        await client.chunk(head)
        got = await gate.reached(3)
        assert await here.sidecar.data.drain(0.05) is False
        await client.rest(head, "POST")
        assert head.complete, "the framing has no end"
        assert "shutting down" in error_of("ollama", head)
        assert await client.closed()
        await got.closed_by_peer.wait()


@pytest.mark.parametrize("path", [*INFERENCE.values(), "/api/pull", "/v1/future", "/v1/messages/future"])
async def test_a_drain_answers_what_has_no_answer_yet(tmp_path: Path, path: str) -> None:
    local = only_local(misbehave=lambda one: faults.Hang("before_work") if one.target == path else None)
    if path.startswith("/v1/") and path.endswith("future"):
        original = local.answer

        async def answer(exchange: Any) -> Any:
            if exchange.request.target == path:
                await exchange.hang()
            return await original(exchange)

        local.answer = answer  # type: ignore[method-assign]
    async with world(tmp_path, NO_CLOUD, local=local) as here, opened(here.port) as client:
        await client.send(post(path, CHAT))
        got = await here.local.wait_for_request(1, lambda one: one.target == path)
        assert await here.sidecar.data.drain(0.05) is False
        answer_ = await client.read("POST")
        assert (answer_.status, answer_.get("connection")) == (503, "close")
        error = answer_.json()["error"]
        assert "shutting down" in (error if isinstance(error, str) else error["message"])
        assert isinstance(error, dict if path.startswith("/v1/") else str)
        assert ("type" in answer_.json()) == path.startswith("/v1/messages")
        assert answer_.get("x-request-id")
        assert await client.closed()
        await got.closed_by_peer.wait()


async def test_a_drain_cuts_a_client_that_does_not_read(tmp_path: Path) -> None:
    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while True:
            writer.write(b"%x\r\n%b\r\n" % (60_000, b"r" * 60_000))
            await writer.drain()

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running, opened(running.port) as client:
        transport_of(client.writer).pause_reading()
        await client.send(request("GET", "/stream"))
        await until(lambda: clients(running) and clients(running)[0].write_paused, "the client to be slow")
        assert await running.sidecar.data.drain(0.05) is False
        await until(lambda: not clients(running), "the end of the connection")


async def test_stop_ends_all_of_it_and_a_request_in_time_is_answered(tmp_path: Path) -> None:
    gate = StepGate(open_through=2)
    over = {**NO_CLOUD, "listen": {"drain_seconds": 0.05}}
    async with world(tmp_path, over, local=only_local(gate=gate)) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        client = Client(reader, writer)
        await client.send(post("/api/chat", CHAT))
        head = await client.head()
    # The world has ended, and the sidecar with it.
    await client.rest(head, "POST")
    assert head.complete
    assert "error" in head.lines()[-1]
    assert await client.closed()
    writer.transport.abort()


# Slow readers.


def small_client(port: int) -> socket.socket:
    """A client whose kernel takes little, so that what is not read stands inside us."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def inside(one: ClientConnection) -> int:
    """The bytes of an answer that stand inside us for one client."""
    exchange = one.exchange
    early = getattr(exchange.source, "_early_bytes", 0) if exchange is not None else 0
    return int(one._transport.get_write_buffer_size() + early)


LIMIT = 40 * 1024


@pytest.mark.parametrize("kind", ["passed through", "counted", "inference"])
async def test_fifty_clients_that_do_not_read_hold_little_each(tmp_path: Path, kind: str) -> None:
    record = b'{"message":{"content":"' + b"word " * 20 + b'"},"done":false}\n'
    chunks = b"%x\r\n%b\r\n" % (len(record), record) * 100

    async def play(one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if one.target in (b"/api/tags", b"/api/show"):
            writer.write(OK + b"Content-Length: 2\r\n\r\n{}")
            return
        writer.write(OK + b"Content-Length: 100000000\r\n\r\n" if kind == "counted" else CHUNKED)
        while True:
            writer.write(chunks)
            await writer.drain()

    data = post("/api/chat", CHAT) if kind == "inference" else request("GET", "/stream")
    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running:
        socks = [small_client(running.port) for _ in range(50)]
        try:
            await until(lambda: len(clients(running)) == 50, "all clients")
            for one in clients(running):  # little in the kernel on our side, too
                one._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
            for sock in socks:
                sock.send(data)
            await until(lambda: all(one.write_paused for one in clients(running)), "all to be slow")
            for _ in range(20):
                await asyncio.sleep(0)
                assert max(map(inside, clients(running))) <= LIMIT
            for one in clients(running):
                assert one.exchange is not None
                source: Any = one.exchange.source
                assert not source._transport.is_reading(), "the upstream of a slow client is read on"
                assert inside(one) > 0
        finally:
            for sock in socks:
                sock.close()
        await until(lambda: not clients(running), "the end of the connections")
        await until(lambda: peer.ended >= 50, "the end of the connections to the upstream")


async def test_a_client_that_asks_on_and_on_but_does_not_read_gets_no_more_than_it_takes(tmp_path: Path) -> None:
    """Answers to pipelined requests must not gather here, each small as it is."""
    body = b"a" * 8000
    async with RawPeer(OK + b"Content-Length: 8000\r\n\r\n" + body) as peer, before_peer(tmp_path, peer) as running:
        sock = small_client(running.port)
        loop = asyncio.get_running_loop()
        data = request("GET", "/x")
        count = 20_000
        sending = asyncio.create_task(loop.sock_sendall(sock, data * count))
        await until(lambda: clients(running) and clients(running)[0].write_paused, "the client to be slow")
        one = clients(running)[0]
        seen = []
        for _ in range(100):
            await asyncio.sleep(0.001)
            seen.append(inside(one))
            assert len(one._pending) < 200_000
        assert max(seen) <= LIMIT
        asked = len(peer.heard)
        assert asked < count / 2
        # It reads after all: every answer comes, in order and whole.
        got = 0
        while got < 200:
            got += (await loop.sock_recv(sock, 1 << 20)).count(b"HTTP/1.1 200 OK")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        sock.close()
        await until(lambda: not clients(running), "the end of the connection")


async def test_all_answers_come_to_a_client_that_pipelines_much_and_reads_late(tmp_path: Path) -> None:
    async def play(one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = one.target * 5000
        writer.write(OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running:
        for ended in (False, True):
            sock = small_client(running.port)
            loop = asyncio.get_running_loop()
            targets = [f"/{number:05}" for number in range(300)]
            data = b"".join(request("GET", target) for target in targets)
            sending = asyncio.create_task(loop.sock_sendall(sock, data))
            await until(lambda: clients(running) and clients(running)[0].write_paused, "the client to be slow")
            reader, writer = await asyncio.open_connection(sock=sock, limit=2**24)
            client = Client(reader, writer)
            for target in targets:
                answer = await client.read()
                assert answer.body == target.encode() * 5000
            await sending
            if ended:
                writer.write_eof()
                assert await client.closed()
            writer.transport.abort()
            await until(lambda: not clients(running), "the end of the connection")


async def test_a_pause_at_an_answers_end_does_not_stick_to_the_pooled_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bytes of an answer may be those that fill the client's buffer, when its connection to the upstream is
    in the pool again: who takes it from there must get an answer."""
    write = ClientConnection.write

    def pausing(self: ClientConnection, data: bytes) -> None:
        write(self, data)
        if data.endswith(b"0\r\n\r\n"):
            self.pause_writing()  # as the transport does, when this went over its mark

    async def play(_one: Heard, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        await asyncio.sleep(0.01)  # so that the last chunk is read by itself
        writer.write(b"0\r\n\r\n")

    async with RawPeer(play) as peer, before_peer(tmp_path, peer) as running:
        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(ClientConnection, "write", pausing)
                answer = await ask(running.port, "GET", "/x")
            assert (answer.body, answer.complete) == (b"hello", True)
            await until(lambda: idle(running), "the connection back in the pool")
            pooled: Any = idle(running)[0]
            assert pooled._transport.is_reading()
        assert peer.accepted == 1
