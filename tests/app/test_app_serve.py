"""`serve` from the outside: how it starts, what it says, and what keeps it from starting."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from sidecar.standins import StandInCloud, StandInOllama, faults
from support.process import OWN_NETWORK, can_unshare, run_command, serving, settings_file, started
from support.raw import ask
from support.world import HIGH, KEY, PRICES, TEXT_MODEL

CHAT = {"model": "llama3", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
SCHEMA_CHAT = {**CHAT, "format": {"type": "object"}}
# Asks a port from inside the network namespace of the process that holds it.
_GET = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())"


async def test_without_any_setting_it_serves_on_ollamas_port_and_says_that_the_cloud_is_off(tmp_path: Path) -> None:
    if not can_unshare():
        pytest.skip("NOT RUN: Ollama's own port may be in use here, and a network of its own needs root")
    command = (*OWN_NETWORK, sys.executable, "-m", "sidecar")
    async with started("serve", home=tmp_path, command=command) as process:
        said = await process.logged("serving on ")
        assert "serving on 127.0.0.1:11434, [::1]:11434, admin on 127.0.0.1:21434;" in said
        assert "local Ollama http://127.0.0.1:11435 (by the default)" in said
        assert "cloud off: there is no api_key" in said
        assert "settings from defaults and environment, without a file" in said
        assert await process.logged("cloud is off: no ollama_cloud.api_key")
        missing = await process.logged("no Ollama answers at http://127.0.0.1:11435 yet")
        assert "(Connection refused); it is looked for every 5 s." in missing
        assert "Start it there (OLLAMA_HOST=127.0.0.1:11435 ollama serve), or set local.base_url" in missing
        for address in ("127.0.0.1:21434", "[::1]:11434"):
            path = "/version" if address.endswith("21434") else "/"
            inside = ("nsenter", f"--net=/proc/{process.pid}/ns/net", sys.executable, "-c", _GET)
            done = await run_command(f"http://{address}{path}", home=tmp_path, command=inside)
            if path == "/version":
                assert set(json.loads(done.out)) == {"version"}
            else:
                assert "503" in done.err  # nothing is behind it, and it says so
        assert await process.stop() == 0
        assert not os.listdir(tmp_path), "the state directory is made when there is something to keep"


async def test_without_any_setting_a_call_goes_local(tmp_path: Path) -> None:
    async with StandInOllama(["llama3:latest"]) as local:
        env = {
            "OLLAMA_SIDECAR_LISTEN__DATA": "[127.0.0.1:0]",
            "OLLAMA_SIDECAR_LISTEN__ADMIN": "127.0.0.1:0",
            "OLLAMA_HOST": local.base_url,
        }
        async with started("serve", home=tmp_path, env=env) as process:
            port, _ = await process.ports()
            assert "(by OLLAMA_HOST)" in await process.logged("serving on ")
            assert local.base_url in await process.logged("found Ollama ")
            answer = await ask(port, "POST", "/api/chat", HIGH, SCHEMA_CHAT)
            assert (answer.status, answer.get("x-sidecar-location")) == (200, "local")
            assert answer.get("x-sidecar-reason") == "cloud_disabled"


@pytest.mark.parametrize("by", ["--config", "OLLAMA_SIDECAR_CONFIG"])
async def test_the_settings_file_is_given_by_option_or_variable_and_variables_win(tmp_path: Path, by: str) -> None:
    path = settings_file(
        tmp_path, {"ollama_cloud": {"decision_strategy": "cost_optimized"}, "log": {"level": "debug"}}
    )
    arguments = ("--config", str(path)) if by == "--config" else ()
    env = {"OLLAMA_SIDECAR_OLLAMA_CLOUD__DECISION_STRATEGY": "quality_optimized"}
    env |= {"OLLAMA_SIDECAR_CONFIG": str(path) if not arguments else str(tmp_path / "not-there.yaml")}
    env |= {"OLLAMA_SIDECAR_PORT": "tcp://10.0.0.1:11434", "OLLAMA_SIDECAR_CANARY_PERCENT": "3"}
    async with started("serve", *arguments, home=tmp_path, env=env) as process:
        said = await process.logged("serving on ")
        assert f"strategy quality_optimized, settings from {path}" in said
        # What the kubelet sets for a Service of our name is no mistake, and a typo is heard of.
        assert "a Service of our name" in await process.logged("OLLAMA_SIDECAR_PORT")
        assert "OLLAMA_SIDECAR_CANARY__PERCENT" in await process.logged("did you mean")


async def test_ten_mistakes_are_ten_lines_and_nothing_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("listen: {admin: nowhere}\nlocal: {base_url: ftp://x}\nbudget: {wait_ms: 0}\n", encoding="utf-8")
    done = await run_command("serve", "--config", str(path), home=tmp_path)
    assert (done.code, done.out) == (2, "")
    first, *rest = done.err.splitlines()
    assert first == f"3 mistakes in {path}"
    assert [line.split(":")[0] for line in rest] == ["1. listen.admin", "2. local.base_url", "3. budget.wait_ms"]


async def test_an_unreadable_key_file_keeps_it_from_starting(tmp_path: Path) -> None:
    path = settings_file(tmp_path, {"ollama_cloud": {"api_key_file": str(tmp_path / "no" / "key")}})
    done = await run_command("serve", "--config", str(path), home=tmp_path)
    assert done.code == 2
    assert "ollama_cloud.api_key_file" in done.err
    assert "No such file or directory" in done.err


# Ports.


@pytest.mark.parametrize("key", ["data", "admin"])
async def test_a_taken_port_is_named_with_who_has_it(tmp_path: Path, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        address = f"127.0.0.1:{port}"
        path = settings_file(tmp_path, {"listen": {key: [address] if key == "data" else address}})
        done = await run_command("serve", "--config", str(path), home=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert f": {address} is taken by " in done.err
    assert f" (pid {os.getpid()}). Stop it, or set listen.{key} to another port\n" in done.err


async def test_a_port_that_ollama_has_is_told_apart(tmp_path: Path) -> None:
    async with StandInOllama() as ollama:
        address = ollama.base_url.removeprefix("http://")
        path = settings_file(tmp_path, {"listen": {"data": [address]}})
        done = await run_command("serve", "--config", str(path), home=tmp_path)
    assert done.code == 2
    assert "Ollama 0." in done.err
    assert "start it elsewhere (OLLAMA_HOST=127.0.0.1:11435 ollama serve)" in done.err


async def test_a_port_that_another_sidecar_has_is_told_apart(tmp_path: Path) -> None:
    async with (
        StandInOllama() as ollama,
        serving(tmp_path, {"local": {"base_url": ollama.base_url}}) as (_, port, __),
    ):
        path = settings_file(tmp_path, {"listen": {"data": [f"127.0.0.1:{port}"]}}, "other.yaml")
        done = await run_command("serve", "--config", str(path), home=tmp_path)
    assert done.code == 2
    assert "Another sidecar runs there: stop it, or set listen.data to another port" in done.err


async def test_an_address_of_another_machine_is_not_called_taken(tmp_path: Path) -> None:
    path = settings_file(tmp_path, {"listen": {"data": ["192.0.2.1:11434"]}})
    done = await run_command("serve", "--config", str(path), home=tmp_path)
    assert done.code == 2
    assert "cannot listen on 192.0.2.1:11434: " in done.err
    assert "Set listen.data to an address of this machine and a port that this user may open" in done.err


@pytest.mark.parametrize("order", [1, -1])
async def test_ipv6_loopback_is_best_effort_in_any_order(tmp_path: Path, order: int) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as holder:
        taken = f"[::1]:{holder.getsockname()[1]}"
        async with serving(tmp_path, {"listen": {"data": ["127.0.0.1:0", taken][::order]}}) as (process, port, _):
            assert f"{taken} is taken by " in await process.logged("apps that prefer IPv6 do not reach the sidecar")
            assert (await ask(port, "GET", "/")).status == 503
        path = settings_file(tmp_path, {"listen": {"data": [taken]}})
        done = await run_command("serve", "--config", str(path), home=tmp_path)
        assert done.code == 2, "with no other port it is no best effort any more"


# The local Ollama.


async def test_our_own_listener_as_the_local_ollama_is_refused_by_the_settings(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path, {"listen": {"data": ["127.0.0.1:24680"]}, "local": {"base_url": "http://localhost:24680"}}
    )
    done = await run_command("serve", "--config", str(path), home=tmp_path)
    assert done.code == 2
    assert "local.base_url" in done.err
    assert "our own listener" in done.err


async def test_a_way_back_to_ourselves_under_another_address_ends_it(tmp_path: Path) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", ports[0])

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    ports: list[int] = []
    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
        path = settings_file(tmp_path, {"listen": {"data": [f"127.0.0.1:{ports[0]}"]}, "local": {"base_url": url}})
        async with started("serve", "--config", str(path), home=tmp_path) as process:
            assert await process.ended() == 2
    assert process.lines[-1] == (
        f"ollama-sidecar: local.base_url {url} leads back to this sidecar. "
        "Set it to where Ollama listens, e.g. http://127.0.0.1:11435"
    )


@pytest.mark.parametrize("url", ["https://ollama.com", "https://cloud.ollama.ai", "http://127.0.0.1:9"])
async def test_the_cloud_as_the_local_ollama_is_refused(tmp_path: Path, url: str) -> None:
    """What has to stay here would go there as local calls."""
    cloud = {"api_key": "k", "base_url": "http://127.0.0.1:9"}
    path = settings_file(tmp_path, {"local": {"base_url": url}, "ollama_cloud": cloud})
    done = await run_command("serve", "--config", str(path), home=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "local.base_url" in done.err
    assert url in done.err


async def test_ollama_host_that_is_the_cloud_is_not_followed(tmp_path: Path) -> None:
    env = {
        "OLLAMA_SIDECAR_LISTEN__DATA": "[127.0.0.1:0]",
        "OLLAMA_SIDECAR_LISTEN__ADMIN": "127.0.0.1:0",
        "OLLAMA_HOST": "https://ollama.com",
    }
    async with started("serve", home=tmp_path, env=env) as process:
        assert "local Ollama http://127.0.0.1:11435 (by the default)" in await process.logged("serving on ")
        assert "is Ollama's cloud" in await process.logged("OLLAMA_HOST is not used")


async def test_what_answers_but_is_no_ollama_is_not_taken_for_one(tmp_path: Path) -> None:
    async with StandInOllama() as other:
        other.misbehave = lambda _: faults.Status(404)
        async with serving(tmp_path, {"local": {"base_url": other.base_url}}) as (process, _, __):
            assert "(HTTP 404 for /api/version)" in await process.logged(
                f"what answers at {other.base_url} is no Ollama"
            )
            assert not [event for event in process.events() if "found Ollama" in event.get("message", "")]


async def test_start_up_waits_for_no_upstream(tmp_path: Path) -> None:
    async with StandInOllama() as local, StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES) as cloud:
        local.misbehave = cloud.misbehave = lambda _: faults.Hang()
        over = {"local": {"base_url": local.base_url}, "ollama_cloud": {"api_key": KEY, "base_url": cloud.base_url}}
        async with serving(tmp_path, over) as (process, _, admin):
            await local.wait_for_request()  # the probe hangs there, and yet …
            assert (await ask(admin, "GET", "/readyz")).status == 200
            assert await process.stop() == 0


async def test_python_m_sidecar_and_the_script_are_the_same(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("ollama-sidecar")
    if not script.exists():
        pytest.skip("the package is not installed here")
    for arguments in (("version",), ("--help",), ("nonsense",)):
        one = await run_command(*arguments, home=tmp_path)
        other = await run_command(*arguments, home=tmp_path, command=(str(script),))
        assert one == other
