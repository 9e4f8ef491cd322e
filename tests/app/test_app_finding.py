"""Where the local Ollama should be, told from settings and OLLAMA_HOST, and whether it is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from app_support import messages
from hypothesis import given
from hypothesis import strategies as st

from sidecar import app
from sidecar.finding import CloudIsNotLocalError, Place, ollama_host, place_of
from sidecar.settings import Settings, load
from sidecar.standins import StandInModel, StandInOllama, faults
from support.world import world


def settings(**env: str) -> Settings:
    variables = {f"OLLAMA_SIDECAR_{name}": value for name, value in env.items()}
    return load(None, {"HOME": "/home/u", **variables}).settings


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("gpu-box", "http://gpu-box:11434"),
        ("gpu-box:8000", "http://gpu-box:8000"),
        ("http://gpu-box", "http://gpu-box:80"),
        ("https://gpu-box", "https://gpu-box:443"),
        ("http://gpu-box:99/", "http://gpu-box:99"),
        ("http://gpu-box:99/ollama/", "http://gpu-box:99/ollama"),
        ("gpu-box/ollama", "http://gpu-box:11434/ollama"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:11435", "http://127.0.0.1:11435"),
        (":11435", "http://127.0.0.1:11435"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:11435", "http://[::1]:11435"),
        ("[::]:11435", "http://[::1]:11435"),
        ("gpu-box:", "http://gpu-box:11434"),
        ("gpu-box:port", "http://gpu-box:11434"),
        ("gpu-box:99999", "http://gpu-box:11434"),
        (" 'gpu-box:1' ", "http://gpu-box:1"),
        ("GPU-Box:1", "http://gpu-box:1"),
    ],
)
def test_every_form_of_ollama_host_is_read_as_ollama_reads_it(text: str, url: str) -> None:
    assert ollama_host(text) == url
    assert place_of(settings(), {"OLLAMA_HOST": text}) in (
        Place(url, "OLLAMA_HOST"),
        Place("http://127.0.0.1:11435", "the default, as OLLAMA_HOST is where apps find the sidecar"),
    )


@pytest.mark.parametrize(
    "text",
    ["ftp://box", "a b", "ü", "user:secret@box:1", "http://user:secret@box", "127.1", "http://b x", "tcp://b:2"],
)
def test_what_is_no_address_is_said_and_not_followed(text: str) -> None:
    place = place_of(settings(), {"OLLAMA_HOST": text})
    assert (place.base_url, place.said_by) == ("http://127.0.0.1:11435", "the default")
    assert place.warning.startswith("OLLAMA_HOST is not used: ")
    assert "secret" not in place.warning


@given(st.text())
def test_no_value_of_ollama_host_keeps_it_from_starting(text: str) -> None:
    place_of(settings(), {"OLLAMA_HOST": text})


@pytest.mark.parametrize("text", ["127.0.0.1", "0.0.0.0", "localhost:11434", "[::1]", "::", "http://127.0.0.1:11434"])
def test_ollama_host_that_is_our_own_port_is_where_apps_find_us(text: str) -> None:
    assert place_of(settings(), {"OLLAMA_HOST": text}).base_url == "http://127.0.0.1:11435"


def test_ollama_host_on_our_port_of_another_loopback_address_is_followed() -> None:
    place = place_of(settings(LISTEN__DATA="[127.0.0.2:11434]"), {"OLLAMA_HOST": "127.0.0.1:11434"})
    assert place == Place("http://127.0.0.1:11434", "OLLAMA_HOST")


def test_a_listener_on_all_addresses_is_ours_by_every_loopback_address() -> None:
    place = place_of(settings(LISTEN__DATA="[0.0.0.0:11434]"), {"OLLAMA_HOST": "127.0.0.9:11434"})
    assert place.base_url == "http://127.0.0.1:11435"


def test_local_base_url_wins_over_ollama_host() -> None:
    place = place_of(settings(LOCAL__BASE_URL="http://box:1"), {"OLLAMA_HOST": "other:2"})
    assert place == Place("http://box:1", "local.base_url")


@pytest.mark.parametrize("url", ["https://ollama.com", "http://ollama.com:11434", "https://api.ollama.com/x"])
def test_the_cloud_is_no_local_ollama(url: str) -> None:
    assert "is Ollama's cloud" in place_of(settings(), {"OLLAMA_HOST": url}).warning
    with pytest.raises(CloudIsNotLocalError, match=r"local\.base_url"):
        place_of(settings(LOCAL__BASE_URL=url), {})


def test_the_cloud_of_the_settings_is_no_local_ollama() -> None:
    own = settings(OLLAMA_CLOUD__BASE_URL="https://llm.example", LOCAL__BASE_URL="https://llm.example/local")
    with pytest.raises(CloudIsNotLocalError):
        place_of(own, {})


async def test_an_ollama_that_comes_up_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LOOK_AGAIN_SECONDS", 0.02)
    later = StandInOllama([StandInModel("llama3:latest")])
    await later.start()
    port = later.port
    await later.close()
    with messages() as log:
        async with world(tmp_path, {"local": {"base_url": f"http://127.0.0.1:{port}"}}) as running:
            await log.said("no Ollama answers")
            assert (await running.chat()).status == 503
            await later.start(port=port)
            try:
                assert f"found Ollama {later.version} at http://127.0.0.1:{port}" in await log.said("found Ollama ")
                assert (await running.chat()).status == 200
            finally:
                await later.close()
        assert sum("no Ollama answers" in line for line in log.lines) == 1, "it is said once, not every time"


async def test_what_is_there_is_said_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LOOK_AGAIN_SECONDS", 0.02)
    local = StandInOllama([StandInModel("llama3:latest")])
    # A connection that was kept and is lost is replaced once, so one more cut than is to be seen.
    answers = [faults.Status(404), faults.Status(404), *[faults.Cut("before_work")] * 3, None]
    local.misbehave = lambda _: answers.pop(0) if answers else None
    with messages() as log:
        async with world(tmp_path, local=local):
            await log.said("found Ollama ")
        kinds = [line.split()[1:4] for line in log.lines if "Ollama" in line and "serving" not in line]
    assert kinds == [["what", "answers", "at"], ["no", "Ollama", "answers"], ["found", "Ollama", local.version]]
