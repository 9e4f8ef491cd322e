"""The admin port: what is open to everyone, what is for this machine alone, and what it says to nonsense."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from app_support import messages
from prometheus_client.parser import text_string_to_metric_families

from sidecar import __version__
from sidecar.core.record import Attempt, CallRecord
from sidecar.standins import StandInCloud, faults
from support.raw import ask, connect, request
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, VISION_MODEL, World, world

# The contract's own, each with its labels; `None`: no value before the comparison of answers is built.
NAMES: dict[str, tuple[str, set[str] | None]] = {
    "ollama_cloud_cost_usd_total": ("counter", set()),
    "ollama_cloud_cost_usd_daily": ("gauge", set()),
    "ollama_cloud_budget_remaining_pct": ("gauge", {"period"}),
    "ollama_execution_total": ("counter", {"location", "model", "task_type"}),
    "ollama_tokens_total": ("counter", {"location", "model"}),
    "ollama_execution_latency_seconds_bucket": ("histogram", {"location", "model", "task_type", "le"}),
    "ollama_execution_latency_seconds_sum": ("histogram", {"location", "model", "task_type"}),
    "ollama_execution_latency_seconds_count": ("histogram", {"location", "model", "task_type"}),
    "extraction_accuracy": ("gauge", None),
    # "Also needed", in the same style.
    "ollama_sidecar_decisions_total": ("counter", {"location", "reason", "strategy"}),
    "ollama_sidecar_fallbacks_total": ("counter", {"reason"}),
    "ollama_sidecar_time_to_first_token_seconds_bucket": ("histogram", {"location", "model", "le"}),
    "ollama_sidecar_local_queue_depth": ("gauge", set()),
    "ollama_sidecar_local_queue_wait_seconds_count": ("histogram", set()),
    "ollama_sidecar_breaker_state": ("gauge", {"state"}),
    "ollama_sidecar_config_errors_total": ("counter", set()),
    "ollama_sidecar_api_key_age_seconds": ("gauge", set()),
    "ollama_sidecar_lease_usd": ("gauge", {"state"}),
}


async def scrape(here: World) -> dict[str, tuple[str, list[tuple[dict[str, str], float]]]]:
    """Samples by name: the family's type, and each one's labels and value."""
    page = await ask(here.admin, "GET", "/metrics")
    assert page.get("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, tuple[str, list[tuple[dict[str, str], float]]]] = {}
    for family in text_string_to_metric_families(page.body.decode()):
        if not family.samples:
            found[family.name] = (family.type, [])
        for sample in family.samples:
            found.setdefault(sample.name, (family.type, []))[1].append((sample.labels, sample.value))
    return found


async def test_every_metric_of_the_contract_is_there_with_its_labels(tmp_path: Path) -> None:
    cloud = StandInCloud([TEXT_MODEL, VISION_MODEL], key=KEY, prices=PRICES)
    async with world(tmp_path, cloud=cloud) as here:
        await here.chat()
        await here.chat("Towns: Ulm.", HIGH)
        cloud.misbehave = [faults.Status(503)]
        await here.chat("Towns: Pisa.", HIGH)
        found = await scrape(here)
    for name, (kind, labels) in NAMES.items():
        assert name in found, name
        assert found[name][0] == kind
        if labels is None:
            assert found[name][1] == [], "nothing is faked"
        for seen, _ in found[name][1]:
            assert set(seen) == labels, name
    assert {labels["period"] for labels, _ in found["ollama_cloud_budget_remaining_pct"][1]} == {"daily", "monthly"}
    assert {labels["location"] for labels, _ in found["ollama_execution_total"][1]} == {"local", "cloud"}
    assert sum(value for _, value in found["ollama_execution_total"][1]) == 3
    assert found["ollama_sidecar_fallbacks_total"][1] == [({"reason": "cloud_unavailable"}, 1)]


async def test_labels_stay_few_whatever_clients_invent(here: World) -> None:
    """Ten thousand names that nobody knows, and one that everybody knows in a hundred spellings."""
    await here.chat()
    for name in ("LLAMA3", "llama3:latest", "Llama3:LATEST", "library/llama3", "registry.ollama.ai/library/llama3"):
        assert (await here.chat(model=name)).status in (200, 404)
    for number in range(50):
        odd = {f"X-Invented-{number}": "x", "X-Task-Type": f"t{number}", "X-User-Id": f"u{number}"}
        await here.chat(headers=odd, model=f"invented-{number}")
        await ask(here.port, f"M{number}", "/")
    metrics = here.sidecar.services.metrics
    for number in range(10_000):
        record = CallRecord(f"r{number}", "t", "/api/chat", "ollama", 0.0, location="local", reason="default_local")
        record.model = f"invented-{number}" if number % 2 else "lLaMa3".swapcase() if number % 3 else "llama3"
        record.attempts.append(Attempt("local", record.model))
        metrics(record)
    found = await scrape(here)
    assert sum(len(samples) for _, samples in found.values()) < 400
    models = {labels["model"] for _, samples in found.values() for labels, _ in samples if "model" in labels}
    assert models <= {"llama3", "other"}
    assert {labels["method"] for labels, _ in found["ollama_sidecar_passed_through_total"][1]} == {"other"}
    assert len(found["ollama_sidecar_invalid_headers_total"][1]) == 1


async def test_probes_are_good_whatever_the_upstreams_do(tmp_path: Path) -> None:
    async with world(tmp_path, {"local": {"base_url": "http://127.0.0.1:9"}}) as here:
        for path in ("/livez", "/readyz"):
            answer = await ask(here.admin, "GET", path)
            assert (answer.status, answer.body, answer.get("cache-control")) == (200, b"ok\n", "no-store")


async def test_the_version(here: World) -> None:
    answer = await ask(here.admin, "GET", "/version")
    assert (answer.status, answer.json()) == (200, {"version": __version__})


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/version", "/config", "/nothing"])
async def test_head_is_get_without_its_body(here: World, path: str) -> None:
    async with connect(here.admin) as client:
        await client.send(request("HEAD", path) + request("GET", path))
        head, whole = await client.read("HEAD"), await client.read()
    assert (head.status, head.body) == (whole.status, b"")
    # The figures change from one scrape to the next, and with them the length.
    differing = {b"date", b"content-length"} if path == "/metrics" else {b"date"}
    kept = [[field for field in answer.fields if field[0].lower() not in differing] for answer in (head, whole)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_are_told_which_there_are(here: World, method: str) -> None:
    for path in ("/livez", "/config"):
        answer = await ask(here.admin, method, path, {}, b"some body")
        assert (answer.status, answer.get("allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/nothing", "/livez/", "//livez", "/metrics/../config", "/api/chat"])
async def test_what_is_not_there_is_said_with_what_is(here: World, path: str) -> None:
    answer = await ask(here.admin, "GET", path)
    assert answer.status == 404
    assert "/livez, /readyz, /metrics, /version, /config" in answer.json()["error"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\nHost: a\n\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
async def test_bad_http_gets_an_answer_and_nothing_of_it_is_shown(here: World, data: bytes, status: int) -> None:
    async with connect(here.admin) as client:
        await client.send(data)
        answer = await client.read()
    assert answer.status == status
    assert "error" in answer.json()
    assert b"nonsense" not in answer.body
    assert (await ask(here.admin, "GET", "/livez")).status == 200


# The settings.


CANARIES = ("canary-api-key-0001", "canary-redis-0002", "canary-env-0003")


async def test_the_settings_are_shown_without_their_secrets(tmp_path: Path) -> None:
    over = {
        "ollama_cloud": {"api_key": "${SOME_KEY}"},
        "budget": {"redis": {"url": f"redis://user:{CANARIES[1]}@redis.example:6379/0"}},
    }
    cloud = StandInCloud([TEXT_MODEL, VISION_MODEL], key=CANARIES[0], prices=PRICES)
    env = {"SOME_KEY": CANARIES[0], "OTHER": CANARIES[2]}
    async with world(tmp_path, over, env=env, cloud=cloud) as here:
        await here.chat("Towns: Ulm.", HIGH)
        pages = [await ask(here.admin, "GET", path) for path in ("/config", "/metrics", "/version", "/nothing")]
    shown = pages[0].json()
    assert shown["generation"] == 1
    assert shown["settings"]["ollama_cloud"]["api_key"] == "***"
    assert shown["settings"]["budget"]["redis"]["url"] == "redis://***@redis.example:6379/0"
    assert shown["settings"]["state_dir"] == str(tmp_path)
    for page in pages:
        for canary in CANARIES:
            assert canary not in page.raw.decode()
    files = (tmp_path / "sidecar.log").read_text() + (tmp_path / "audit.log").read_text()
    assert not [canary for canary in CANARIES if canary in files]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:21434", "[::1]:21434", "10.2.3.4", socket.gethostname()])
async def test_the_settings_are_shown_under_names_of_this_machine(here: World, host: str) -> None:
    assert (await ask(here.admin, "GET", "/config", {"Host": host})).status == 200


async def test_an_admin_port_on_ipv6_loopback_is_this_machine_too(tmp_path: Path) -> None:
    with messages() as said:
        async with world(tmp_path, {"listen": {"admin": "[::1]:0"}}) as here:
            assert f"admin on [::1]:{here.admin};" in await said.said("serving on ")
            async with connect(here.admin, "::1") as client:
                await client.send(request("GET", "/config"))
                assert (await client.read()).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:21434"])
async def test_the_settings_are_not_shown_to_a_page_that_was_brought_here_by_its_name(here: World, host: str) -> None:
    answer = await ask(here.admin, "GET", "/config", {"Host": host})
    assert (answer.status, list(answer.json())) == (403, ["error"])
    for path in ("/livez", "/metrics", "/version"):  # open to everyone who reaches them
        assert (await ask(here.admin, "GET", path, {"Host": host})).status == 200


def other_address() -> str | None:
    """An address of this machine that is not loopback. Nothing is sent: a datagram socket only looks its route up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = str(probe.getsockname()[0])
    return None if found.startswith("127.") else found


async def test_the_settings_are_not_shown_to_other_machines(tmp_path: Path) -> None:
    address = other_address()
    async with world(tmp_path, {"listen": {"admin": "0.0.0.0:0"}}) as here:
        if address is not None:
            for path, status in (("/config", 403), ("/livez", 200), ("/metrics", 200)):
                async with connect(here.admin, address) as client:
                    await client.send(request("GET", path))
                    assert (await client.read()).status == status
        async with connect(here.admin, "127.0.0.2") as client:  # all of 127.0.0.0/8 is this machine
            await client.send(request("GET", "/config"))
            assert json.loads((await client.read()).body)["generation"] == 1
    if address is None:
        pytest.skip("NOT RUN in part: this machine has no address but loopback")


async def test_a_page_that_fails_is_an_answer_and_a_line_without_texts(
    here: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> dict[str, object]:
        raise ValueError("canary-text")

    monkeypatch.setattr(here.sidecar, "_restart_needed", fails)
    answer = await ask(here.admin, "GET", "/config")
    assert (answer.status, answer.json()) == (500, {"error": "the page failed; the log says where"})
    assert "an admin page failed" in caplog.messages
