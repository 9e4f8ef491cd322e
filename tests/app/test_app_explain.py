"""`explain` as a person or a script meets it: its words, its JSON, its body, its mistakes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import main
from support.process import run_command, settings_file

CHAT = {"model": "llama3", "messages": [{"role": "user", "content": "List the towns."}]}
EXTRACTION = {**CHAT, "format": {"type": "object"}}
HIGH = ("-H", "X-Quality-Requirement: high")
# Of our own, so that the figures below do not move with the catalogue's.
PRICING = {"gpt-oss:120b": {"input_per_1m": 1, "output_per_1m": 2}}
Explained = tuple[int, str, str]


@pytest.fixture
def explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Explained]:
    """Runs `explain` in this process: exit code, stdout, stderr. Opens no socket, whatever the request."""

    def no_network(*_: object) -> None:
        raise AssertionError("explain sends nothing")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for name in [name for name in os.environ if name.startswith("OLLAMA")]:
        monkeypatch.delenv(name)
    config = settings_file(tmp_path, {"ollama_cloud": {"api_key": "canary-key", "pricing": PRICING}})

    def run(body: Any, *arguments: str, over: Path | None = None) -> Explained:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = main(["explain", "--config", str(over or config), *arguments])
        out, err = capsys.readouterr()
        assert "canary-key" not in out + err
        return code, out, err

    return run


def test_the_table_for_people(explained: Callable[..., Explained]) -> None:
    code, out, err = explained(EXTRACTION, *HIGH)
    assert (code, err) == (0, "")
    *lines, money, tokens = out.splitlines()
    assert lines == [
        "goes to the cloud, model gpt-oss:120b: high_quality_extraction (confidence 0.95)",
        "",
        "task",
        "  type         extraction   from the request itself",
        "  quality      high         from its header",
        "  complexity   low          from the request itself",
        "  latency      1000 ms      by the settings (task_defaults)",
        "",
        "data class public, the strictest of",
        "  public       pod-default",
        "",
        "rules of hybrid, the first that applies decides",
        "  sensitive              no",
        "  budget                 not asked  only the running sidecar knows",
        "  extraction_quality     cloud      high_quality_extraction",
        "",
        "gates between it and the cloud, the first that objects keeps it here",
        "  local_only_operation   passes",
        "  cloud_disabled         passes",
        "  sensitive_data         passes",
        "  no_cloud_model         passes",
        "  unpriced_model         passes",
        "  canary_holdback        passes",
        "  budget_exceeded        not asked  only the running sidecar knows",
        "  budget_unavailable     not asked  only the running sidecar knows",
        "  rate_limited           not asked  only the running sidecar knows",
        "  cloud_unavailable      not asked  only the running sidecar knows",
        "",
    ]
    most = int(tokens.split()[2])
    assert tokens == f"  at most {most} tokens in and 4096 out"
    assert money == f"worst case in the cloud: {(most + 2 * 4096) / 1e6:.6f} USD with gpt-oss:120b"


def test_what_objects_is_said(explained: Callable[..., Explained]) -> None:
    _, out, _ = explained({**EXTRACTION, "model": "gpt-oss:120b-cloud"}, "-H", "X-Data-Classification: topsecret")
    lines = out.splitlines()
    assert lines[:2] == [
        "refused: sensitive_data (confidence 1)",
        "It is refused: no local model is set for extraction (local.models).",
    ]
    found = lines.index("  confidential header-not-valid  in X-Data-Classification")
    assert lines[found + 1] == "               a value that is no class counts as confidential"
    assert "  sensitive_data         objects    by header" in lines


@pytest.mark.parametrize("columns", [80, 120])
def test_it_fits_a_terminal(explained: Callable[..., Explained], columns: int) -> None:
    """But for a line that names what a gate objects to, which is as long as it is."""
    body = {**EXTRACTION, "messages": [{"role": "user", "content": "mail a@example.com, b@example.com"}]}
    for headers in (HIGH, ("-H", "X-Data-Classification: x", "-H", "X-Complexity: 9")):
        _, out, _ = explained(body, *headers)
        assert max(map(len, out.splitlines())) <= columns


def test_the_json_has_every_part_also_where_a_part_is_empty(explained: Callable[..., Explained]) -> None:
    parts = {"task", "classification", "rules", "gates", "price", "decision", "notes"}
    for body, arguments in ((EXTRACTION, HIGH), (b"nonsense", ()), (CHAT, ("--path", "/api/tags")), (b"", ())):
        code, out, _ = explained(body, "--json", *arguments)
        report = json.loads(out)
        assert (code, set(report)) == (0, parts)
        assert set(report["decision"]) == {"location", "model", "reason", "confidence", "strategy"}
    report = json.loads(explained(EXTRACTION, "--json", *HIGH)[1])
    assert set(report["classification"]) == {"class", "source", "findings"}
    assert {"name", "answer"} <= set(report["rules"][0]) & set(report["gates"][0])
    assert report["price"]["worst_case_usd"] == (report["price"]["tokens_in_at_most"] + 2 * 4096) / 1e6
    assert report["task"]["origins"]["quality"] == "header"


def test_nothing_of_the_body_is_shown(explained: Callable[..., Explained]) -> None:
    canary = "canary-prompt-text"
    body = {
        **EXTRACTION,
        canary: {canary: f"{canary}@example.com"},
        "messages": [
            {"role": canary, "content": f"{canary} {canary}@example.com DE89370400440532013000 confidential"},
            {"role": "user", "content": canary, canary: canary, "images": [canary]},
        ],
        "tools": [
            {"type": "function", "function": {"name": canary, "parameters": {canary: {"x": f"{canary}@a.de"}}}}
        ],
    }
    for value in (body, {**body, "model": f"{canary} with blanks"}, {**body, "model": canary + "\x1b[31m\ud800"}):
        for arguments in ((), ("--json",), (*HIGH, "--path", f"/api/chat?q={canary}")):
            data = json.dumps(value).encode()
            for given in (data, data[:-1], b"\xff" + data, data.replace(b"llama3", b"x\\u0000:cloud")):
                code, out, err = explained(given, *arguments)
                assert code == 0
                assert canary not in out + err
                assert "\x1b" not in out


def test_a_path_with_a_query_is_not_shown(explained: Callable[..., Explained]) -> None:
    code, out, err = explained(CHAT, "--path", "/api/chat?token=canary-query bad")
    assert code == 2
    assert "canary-query" not in out + err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-H", "no colon"), "a -H is no header. Write it as 'Name: value'"),
        (("-H", ": value"), "a -H is no header. Write it as 'Name: value'"),
        (("-H", "Bad Name: x"), "the path or the headers are not valid HTTP"),
        (("-H", "X-A: b\r\nX-C: d"), "a -H is no header. Write it as 'Name: value'"),
        (("--path", "api/chat"), "the path or the headers are not valid HTTP"),
        (("--path", "/a b"), "the path or the headers are not valid HTTP"),
        (("-H", "Host: a", "-H", "Host: b"), "the path or the headers are not valid HTTP"),
    ],
)
def test_what_is_no_request_is_wrong_use(
    explained: Callable[..., Explained], arguments: Sequence[str], text: str
) -> None:
    code, out, err = explained(CHAT, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("ollama-sidecar: ")
    assert text in err
    assert len(err.splitlines()) == 1


def test_a_header_that_could_be_a_secret_is_not_said_again(explained: Callable[..., Explained]) -> None:
    _, out, err = explained(CHAT, "-H", "Authorization Bearer canary-secret")
    assert "canary-secret" not in out + err


def test_headers_that_a_tool_puts_in_are_taken(explained: Callable[..., Explained]) -> None:
    """What curl -v or a proxy shows can be given as it is."""
    pasted = ("Host: localhost:11434", "Content-Length: 12", "Accept: */*", "Content-Type: application/json")
    code, out, _ = explained(CHAT, *(part for header in pasted for part in ("-H", header)))
    assert (code, out.splitlines()[0]) == (0, "stays local, model llama3: default_local (confidence 0.7)")


def test_the_same_request_id_is_the_same_bucket(explained: Callable[..., Explained], tmp_path: Path) -> None:
    """A call without a text to tell its conversation by: the canary goes by its request id."""
    config = settings_file(tmp_path, {"ollama_cloud": {"api_key": "k"}, "canary": {"percent": 50}}, "half.yaml")
    body = {"model": "llama3", "format": {"type": "object"}, "prompt": "", "images": []}
    reasons = set()
    for number in range(12):
        arguments = (*HIGH, "-H", f"X-Request-Id: r{number}", "-H", "X-Task-Type: extraction", "--json")
        chat = {**body, "messages": [{"role": "user", "content": ""}]}
        reasons.add(json.loads(explained(chat, *arguments, over=config)[1])["decision"]["reason"])
    assert reasons == {"high_quality_extraction", "canary_holdback"}


def test_a_budget_that_pays_for_a_part_of_the_answer_is_said(
    explained: Callable[..., Explained], tmp_path: Path
) -> None:
    limits = {"cost_limits": {"daily_budget_usd": "0.008"}}
    cloud = {"api_key": "k", "pricing": PRICING, **limits}
    config = settings_file(tmp_path, {"ollama_cloud": cloud}, "poor.yaml")
    _, out, _ = explained(EXTRACTION, *HIGH, over=config)
    most = int(out.splitlines()[-1].split()[2])
    left = (8000 - most) // 2
    assert out.splitlines()[1] == f"The whole budget pays for {left} tokens of answer: the answer is cut there."


# Where the body comes from.


async def test_the_body_from_a_file_from_stdin_and_from_nothing(tmp_path: Path) -> None:
    body = json.dumps(CHAT).encode()
    file = tmp_path / "a body.json"
    file.write_bytes(body)
    by_file, by_dash, by_nothing, empty = await asyncio.gather(
        run_command("explain", str(file), home=tmp_path),
        run_command("explain", "-", home=tmp_path, stdin=body),
        run_command("explain", home=tmp_path, stdin=body),
        run_command("explain", home=tmp_path),
    )
    assert by_file == by_dash == by_nothing
    assert by_file.code == 0
    assert empty.code == 0
    assert empty.out.startswith("stays local: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [("not-there", "No such file or directory"), (".", "Is a directory"), ("\0", "is not a path")],
)
def test_a_body_that_cannot_be_read_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"ollama-sidecar: {name}: {text}\n".replace("\0", "\\x00") or text in err


def test_binary_is_unreadable_and_so_refused(explained: Callable[..., Explained]) -> None:
    code, out, _ = explained(bytes(range(256)))
    assert (code, out.splitlines()[0]) == (0, "refused: unreadable_body (confidence 1)")


def test_settings_that_are_wrong_are_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("canary: {percent: 101}\n")
    assert main(["explain", "--config", str(config), "not-there"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == f"1 mistake in {config}"
    assert "canary.percent" in err
