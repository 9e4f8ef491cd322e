"""A call of each kind, from the outside."""

from __future__ import annotations

from support.raw import ask
from support.world import HIGH, TEXT_MODEL, World


async def test_a_plain_chat_stays_local(here: World) -> None:
    answer = await here.chat()
    assert answer.status == 200
    assert answer.json()["done"] is True
    assert (answer.get("x-sidecar-location"), answer.get("x-sidecar-reason")) == ("local", "default_local")
    assert not here.cloud.requests


async def test_high_quality_extraction_goes_to_the_cloud_and_is_billed_as_booked(here: World) -> None:
    answer = await here.chat("List the towns: Ulm, Pisa.", HIGH)
    assert answer.status == 200
    assert (answer.get("x-sidecar-location"), answer.get("x-sidecar-model")) == ("cloud", TEXT_MODEL)
    assert here.booked == here.cloud.billed_micro_usd > 0


async def test_what_is_not_inference_passes_through(here: World) -> None:
    answer = await ask(here.port, "GET", "/")
    assert (answer.status, answer.body) == (200, b"Ollama is running")
    assert answer.get("x-sidecar-location") is None
    assert answer.get("x-request-id")
