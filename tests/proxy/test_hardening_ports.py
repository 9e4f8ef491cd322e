"""A port that cannot be opened: the message names the address, the reason, and who holds it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.app import Sidecar, StartError
from sidecar.proxy import ports
from sidecar.proxy.ports import PortError, holder_of, listen
from sidecar.settings import load
from sidecar.telemetry.log import LineWriter
from support.raw import ask
from support.wire import nothing_left_behind
from support.world import world

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="told by /proc")
SERVER = """
import socket, sys
with open("/proc/self/comm", "w") as name: name.write("ollama")
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
sock.bind((sys.argv[1], int(sys.argv[2])))
sock.listen()
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 loopback")


class Holder:
    """Another process that listens and is called `ollama`."""

    def __init__(self, host: str, port: int = 0) -> None:
        command = [sys.executable, "-S", "-c", SERVER, host, str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def end(self) -> None:
        self.process.communicate(timeout=10)

    def __str__(self) -> str:
        return f"ollama (pid {self.process.pid})"


@pytest.fixture
def ollama() -> Iterator[Holder]:
    holder = Holder("127.0.0.1")
    yield holder
    holder.end()


def test_a_port_is_opened_and_listens() -> None:
    with listen("127.0.0.1", 0) as sock:
        with socket.create_connection(sock.getsockname(), timeout=5):
            pass
        assert not sock.getblocking()


def test_a_port_can_be_opened_again_at_once() -> None:
    """A restarted sidecar must not wait for connections of the earlier one to be forgotten."""
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            sock.setblocking(True)
            sock.accept()[0].close()
    with listen("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


@LINUX
def test_a_taken_port_names_its_holder(ollama: Holder) -> None:
    with pytest.raises(PortError) as raised:
        listen("127.0.0.1", ollama.port)
    assert str(raised.value) == f"127.0.0.1:{ollama.port} is taken by {ollama}"


@LINUX
@pytest.mark.parametrize("host", ["localhost", "0.0.0.0"])
def test_a_taken_port_names_its_holder_however_the_address_is_written(ollama: Holder, host: str) -> None:
    with pytest.raises(PortError, match=rf"is taken by ollama \(pid {ollama.process.pid}\)"):
        listen(host, ollama.port)


@LINUX
def test_a_holder_of_all_addresses_is_in_the_way_of_each() -> None:
    holder = Holder("0.0.0.0")
    try:
        with pytest.raises(PortError, match=r"by ollama \(pid"):
            listen("127.0.0.1", holder.port)
    finally:
        holder.end()


@LINUX
@IPV6
def test_a_taken_port_of_ipv6_names_its_holder() -> None:
    holder = Holder("::1")
    try:
        with pytest.raises(PortError) as raised:
            listen("::1", holder.port)
        assert str(raised.value) == f"[::1]:{holder.port} is taken by {holder}"
        # The same number on IPv4 is another port, free or held by somebody else.
        with listen("127.0.0.1", holder.port):
            assert holder_of("127.0.0.1", holder.port) == f"{_name()} (pid {os.getpid()})"
            assert holder_of("::1", holder.port) == str(holder)
    finally:
        holder.end()


@LINUX
def test_a_free_port_has_no_holder() -> None:
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    assert holder_of("127.0.0.1", port) == ""


@LINUX
def test_a_process_that_ends_while_it_is_looked_at_is_passed_over(
    ollama: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_text

    def gone(self: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if self.name == "comm":
            raise FileNotFoundError(self)
        return read(self, encoding, errors)

    monkeypatch.setattr(Path, "read_text", gone)
    with pytest.raises(PortError, match="is taken by another user's process"):
        listen("127.0.0.1", ollama.port)


@LINUX
def test_where_proc_cannot_be_read_the_message_goes_without_a_name(
    ollama: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "_listening_inodes", lambda _host, _port: frozenset())
    with pytest.raises(PortError) as raised:
        listen("127.0.0.1", ollama.port)
    assert str(raised.value) == f"127.0.0.1:{ollama.port} is taken"


def test_an_address_that_is_not_here_says_so() -> None:
    with pytest.raises(PortError, match=r"cannot listen on 203\.0\.113\.7:0: "):
        listen("203.0.113.7", 0)
    with pytest.raises(PortError, match=r"cannot listen on no-such-host\.invalid:0: "):
        listen("no-such-host.invalid", 0)


@IPV6
async def test_the_sidecar_serves_on_both_loopbacks(tmp_path: Path) -> None:
    async with nothing_left_behind(), world(tmp_path, {"listen": {"data": ["127.0.0.1:0", "[::1]:0"]}}) as here:
        addresses = here.sidecar.data.addresses
        assert [host for host, _ in addresses] == ["127.0.0.1", "::1"]
        for host, port in addresses:
            reader_port = int(port)
            if host == "127.0.0.1":
                assert (await ask(reader_port, "GET", "/")).status == 200
            else:
                from support.raw import connect, request

                async with connect(reader_port, host) as client:
                    await client.send(request("GET", "/", host=f"[::1]:{port}"))
                    assert (await client.read()).status == 200
                    assert here.sidecar.data.open_connections == 1


@LINUX
@pytest.mark.parametrize("which", ["data", "admin"])
async def test_a_sidecar_that_finds_its_port_taken_says_by_whom_and_opens_nothing(
    tmp_path: Path, ollama: Holder, which: str
) -> None:
    listen_ = {"data": "['127.0.0.1:0']", "admin": "'127.0.0.1:0'"}
    listen_[which] = f"['127.0.0.1:{ollama.port}']" if which == "data" else f"'127.0.0.1:{ollama.port}'"
    path = tmp_path / "settings.yaml"
    path.write_text(f"listen: {{data: {listen_['data']}, admin: {listen_['admin']}}}\nstate_dir: {tmp_path}\n")
    sidecar = Sidecar(load(path, {}), path, {}, LineWriter(2))
    with pytest.raises(
        StartError, match=rf"127\.0\.0\.1:{ollama.port} is taken by ollama \(pid {ollama.process.pid}\)"
    ):
        await sidecar.start()


def _name() -> str:
    return Path("/proc/self/comm").read_text().strip()
