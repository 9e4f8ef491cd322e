"""What the local server says of its models, and how long that counts."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar.standins import Answer, Exchange, StandInModel, StandInOllama
from sidecar.upstream.connection import UpstreamError
from sidecar.upstream.models import ASK_SECONDS, MAX_NAME, MAX_NAMES, MOST_SECONDS, REFRESH_SECONDS, LocalModels
from sidecar.upstream.pool import Origin, Pool

ALIAS = StandInModel("m", size=300, remote_host="https://ollama.com:443", remote_model="gpt-oss:120b")


class Clock:
    """The loop, with a time of the test's own."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class Server(StandInOllama):
    """Counts what it is asked, may be held, and may say something else."""

    def __init__(self, *models: StandInModel | str) -> None:
        super().__init__(models or ["m"])
        self.asked: Counter[str] = Counter()
        self.says: dict[str, tuple[int, bytes]] = {}
        self.gate = None
        self.holds: Callable[[str], Any] | None = None

    async def _answer(self, exchange: Exchange, path: str, query: str) -> Answer:
        self.asked[path] += 1
        said = None
        if path in self.says:
            await exchange.read_body()
            said = Answer(self.says[path][0], [], self.says[path][1])
        else:
            said = await super()._answer(exchange, path, query)
        if self.holds is not None:
            await self.holds(path)  # what it says was true when it was asked
        return said


@asynccontextmanager
async def knowing(server: Server) -> AsyncIterator[tuple[LocalModels, Clock]]:
    async with server:
        pool = Pool(Origin.of(server.base_url), 5.0)
        models, clock = LocalModels(pool), Clock()
        models._loop = clock  # type: ignore[assignment]
        try:
            yield models, clock
        finally:
            pool.close()


async def idle(models: LocalModels) -> None:
    """Until no question is under way."""
    while models._asking:
        await asyncio.wait(models._asking.values())
        await asyncio.sleep(0)


async def test_one_question_serves_all_calls_for_seconds() -> None:
    server = Server()
    async with knowing(server) as (models, clock):
        assert models.cached("m") is None
        found = await asyncio.gather(*(models.ask("m") for _ in range(20)))
        assert len({id(one) for one in found}) == 1
        assert server.asked == {"/api/show": 1, "/api/tags": 1}
        assert models.cached("m") is found[0]
        assert (found[0].exists, found[0].remote_model, found[0].size) == (True, "", 2_000_000_000)
        assert found[0].gigabytes == 2.0
        clock.now += REFRESH_SECONDS - 0.1
        assert models.cached("m")
        assert not models._asking
        clock.now += 0.1
        assert models.cached("m"), "it counts while it is asked anew beside the calls"
        assert list(models._asking) == ["m"]
        assert models.cached("m")
        await idle(models)
        assert server.asked["/api/show"] == 2
        clock.now += MOST_SECONDS - 0.1
        assert models.cached("m")
        await idle(models)
        clock.now += MOST_SECONDS
        assert models.cached("m") is None


async def test_nothing_that_is_told_is_ever_older_than_five_seconds() -> None:
    """Whichever of the two answers is the older one counts, at every pattern of questions about two names."""
    server = Server("m", "n")
    async with knowing(server) as (models, clock):
        tags_at = shown_at = clock.now

        async def note(path: str) -> None:
            nonlocal tags_at, shown_at
            if path == "/api/tags":
                tags_at = clock.now
            else:
                shown_at = clock.now

        server.holds = note
        for step in range(200):
            clock.now += (0.3, 1.1, 0.7, 2.9, 0.1)[step % 5]
            name = "mn"[step // 3 % 2]
            if name == "n":
                await models.ask("n")
                continue
            known = models.cached("m")
            if known is not None:
                assert clock.now - tags_at < MOST_SECONDS
            await idle(models)
            await models.ask("m")
            assert models._known["m"][0] <= min(tags_at, shown_at)


async def test_the_two_answers_are_one_reading() -> None:
    for path in ("/api/show", "/api/tags"):
        server = Server(ALIAS)
        server.says[path] = (200, b'{"models":[]}')
        async with knowing(server) as (models, _):
            known = await models.ask("m")
            assert known.remote_model == "gpt-oss:120b"
    server = Server()
    server.says["/api/show"] = (200, b'{"remote_host":"https://ollama.com"}')
    async with knowing(server) as (models, _):
        assert (await models.ask("m")).remote_model == "https://ollama.com"
    for odd in (b'{"remote_model":true}', b'{"remote_host":["x"]}', b'{"remote_model":{"a":1}}'):
        server.says["/api/show"] = (200, odd)
        async with knowing(server) as (models, _):
            assert (await models.ask("m")).remote_model == "other"


@pytest.mark.parametrize("name", ["m", "m:latest", "M", "library/m", "registry.ollama.ai/library/m:latest", " m "])
async def test_names_are_found_among_the_tags_as_ollama_reads_them(name: str) -> None:
    server = Server(ALIAS)
    server.says["/api/show"] = (404, b"{}")
    async with knowing(server) as (models, _):
        assert (await models.ask(name)).remote_model == "gpt-oss:120b"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (503, b""),
        (401, b"{}"),
        (403, b"{}"),
        (429, b"{}"),
        (302, b""),
        (200, b"[]"),
        (200, b"<"),
        (200, b""),
    ],
)
async def test_an_answer_that_does_not_tell_is_an_error_and_is_not_kept(status: int, body: bytes) -> None:
    server = Server()
    server.says["/api/show"] = (status, body)
    async with knowing(server) as (models, _):
        with pytest.raises(UpstreamError, match="does not tell"):
            await models.ask("m")
        assert models.cached("m") is None
        server.says.clear()
        assert (await models.ask("m")).exists


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_name_that_is_not_there_is_known_not_to_be(status: int) -> None:
    server = Server()
    server.says["/api/show"] = (status, b"")
    async with knowing(server) as (models, _):
        known = await models.ask("nobody")
        assert (known.exists, known.remote_model, known.gigabytes) == (False, "", None)
        assert models.cached("nobody") is known


async def test_tags_that_fail_are_an_error_and_tags_of_no_shape_are_empty() -> None:
    server = Server()
    server.says["/api/tags"] = (500, b"")
    async with knowing(server) as (models, _):
        with pytest.raises(UpstreamError):
            await models.ask("m")
        for status, body in ((404, b""), (200, b"[]"), (200, b'{"models":3}'), (200, b'{"models":[0,{"name":0}]}')):
            server.says["/api/tags"] = (status, body)
            models._tags_at = float("-inf")
            assert (await models.ask("m")).size is None
        assert models.known_names() == frozenset()
        server.says.clear()
        models._tags_at = float("-inf")
        await models.ask("m")
        assert models.known_names() == {"m:latest"}


async def test_nobody_there() -> None:
    pool = Pool(Origin.of("http://127.0.0.1:1"), 1.0)
    models = LocalModels(pool)
    with pytest.raises(UpstreamError) as caught:
        await models.ask("m")
    assert caught.value.kind == "connect"
    assert not await models.cloud_disabled()
    pool.close()


async def test_a_call_that_leaves_does_not_take_the_question_with_it() -> None:
    server, held, asked = Server(), asyncio.Event(), asyncio.Event()

    async def hold(_: str) -> None:
        asked.set()
        await held.wait()

    server.holds = hold
    async with knowing(server) as (models, _):
        first, second = (asyncio.create_task(models.ask("m")) for _ in range(2))
        await asked.wait()
        first.cancel()
        held.set()
        assert (await second).exists
        assert first.cancelled()
        assert server.asked["/api/show"] == 1


async def test_a_refresh_that_fails_bothers_nobody() -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    server = Server()
    async with knowing(server) as (models, clock):
        await models.ask("m")
        server.says["/api/show"] = (500, b"")
        clock.now += REFRESH_SECONDS
        assert models.cached("m")
        await idle(models)
        assert models.cached("m"), "what is known counts until its time"
        await idle(models)
        gc.collect()
    assert not told


# Changes.


async def test_a_change_through_us_drops_what_is_known_from_its_beginning_to_its_end() -> None:
    server = Server("m")
    async with knowing(server) as (models, _):
        await models.ask("m")
        models.changing()
        assert models.cached("m") is None
        assert not (await models.ask("m")).remote_model
        assert models.cached("m") is None, "while it changes nothing is kept"
        server.models.add(ALIAS)
        assert (await models.ask("m")).remote_model, "and the tags are read anew, too"
        models.changed()
        assert models.cached("m") is None
        assert (await models.ask("m")).remote_model
        assert models.cached("m")


async def test_changes_that_overlap() -> None:
    async with knowing(Server()) as (models, _):
        models.changing()
        models.changing()
        models.changed()
        await models.ask("m")
        assert models.cached("m") is None, "one is still under way"
        models.changed()
        await models.ask("m")
        assert models.cached("m")


@pytest.mark.parametrize("moment", ["/api/tags", "/api/show"])
async def test_an_answer_from_before_a_change_is_asked_for_again(moment: str) -> None:
    """The alias is made while the answer about the model that it replaces is on its way."""
    server, arrived, goes_on = Server("m"), asyncio.Event(), asyncio.Event()

    async def hold(path: str) -> None:
        if path == moment and not arrived.is_set():
            arrived.set()
            await goes_on.wait()

    server.holds = hold
    async with knowing(server) as (models, _):
        asking = asyncio.create_task(models.ask("m"))
        await arrived.wait()
        models.changing()
        server.models.add(ALIAS)
        models.changed()
        goes_on.set()
        assert (await asking).remote_model == "gpt-oss:120b"
        known = models.cached("m")
        assert known is None or known.remote_model


# Whether its cloud is off.


@pytest.mark.parametrize(
    ("status", "body", "disabled"),
    [
        (200, b'{"cloud":{"disabled":true,"source":"env"}}', True),
        (200, b'{"cloud":{"disabled":false}}', False),
        (200, b'{"cloud":{"disabled":"true"}}', False),
        (200, b'{"cloud":{"disabled":1}}', False),
        (200, b'{"cloud":true}', False),
        (200, b"{}", False),
        (200, b"[]", False),
        (200, b"<html>", False),
        (404, b'{"cloud":{"disabled":true}}', False),
        (500, b"", False),
    ],
)
async def test_the_cloud_is_off_only_where_the_server_says_so(status: int, body: bytes, disabled: bool) -> None:
    server = Server()
    server.says["/api/status"] = (status, body)
    async with knowing(server) as (models, _):
        assert await models.cloud_disabled() is disabled


async def test_what_it_says_of_its_cloud_counts_for_seconds() -> None:
    server = Server()
    server.cloud_disabled = True
    async with knowing(server) as (models, clock):
        assert await models.cloud_disabled()
        server.cloud_disabled = False
        clock.now += MOST_SECONDS - 0.1
        assert await models.cloud_disabled()
        assert server.asked["/api/status"] == 1
        clock.now += 0.1
        assert not await models.cloud_disabled()


# Names of all kinds.


@pytest.mark.parametrize(
    "name", ["", " ", "\ud800", "\x00", "a\nb", "../../etc/passwd", "x" * 100_000, "ü", "😀", '"}']
)
async def test_any_name_can_be_asked_for(name: str) -> None:
    async with knowing(Server()) as (models, _):
        assert not (await models.ask(name)).exists
        assert (models.cached(name) is None) == (len(name) > MAX_NAME)


async def test_names_do_not_pile_up() -> None:
    async with knowing(Server()) as (models, clock):
        for number in range(MAX_NAMES + 5):
            models._known[f"old-{number}"] = (clock.now, await models.ask("m"))
        await models.ask("new")
        assert len(models._known) < MAX_NAMES
        assert ASK_SECONDS > MOST_SECONDS
