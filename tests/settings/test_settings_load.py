"""File, variables, key and paths: what wins, what is resolved, what is only warned of."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from settings_support import HOME, errors, loaded, settings_file

from sidecar.settings import Settings, SettingsError, load, masked

VAR = "OLLAMA_SIDECAR_"
CLOUD_OFF = "cloud is off: no ollama_cloud.api_key and no ollama_cloud.api_key_file"
KEY = {VAR + "OLLAMA_CLOUD__API_KEY": "sk-secret"}

# The contract's two blocks, as far as they are values.
CONTRACT = """
ollama_cloud:
  enabled: true
  api_key: ${OLLAMA_CLOUD_API_KEY}
  base_url: "https://ollama.com"
  timeout_seconds: 60
  models: {}
  pricing: {}
  cost_limits: {daily_budget_usd: 5.0, monthly_budget_usd: 100.0, alert_threshold_pct: [50, 80, 90, 100]}
  decision_strategy: hybrid
  decision_thresholds: {model_size_threshold_gb: 10.0, gpu_utilization_threshold_pct: 80.0,
    latency_threshold_ms: 500, batch_size_threshold: 10}
  fallback: {on_budget_exceeded: local, on_cloud_unavailable: local}
  breaker: {failures: 5, open_seconds: 30}
  max_output_tokens: 4096
  cache: {enabled: false, ttl_seconds: 86400, max_size_mb: 2048}
listen: {data: ["127.0.0.1:11434", "[::1]:11434"], admin: "127.0.0.1:21434", hosts: [], drain_seconds: 10,
  max_inference_body_mb: 64}
local: {base_url: "http://127.0.0.1:11435", max_concurrent: 0, models: {}, gpu: {source: auto, url: ""}}
classification: {default: public, content: true, images: internal, keywords: {confidential: [], internal: [],
  defaults: true, strict: false}, allow: []}
task_defaults: {task_type: "", quality: medium, complexity: "", latency_ms: 1000, by_model: {}, by_task_type: {}}
canary: {percent: 100, by_task_type: {}, salt: "", sticky_header: ""}
state_dir: ~/.local/state/ollama-sidecar
budget: {store: embedded, timezone: UTC, wait_ms: 50, embedded: {path: <state_dir>/budget.db},
  redis: {url: "", password_file: "", replicas: null}, configmap: {namespace: "", name: ""}}
telemetry: {otlp_endpoint: "", sample_ratio: 1.0}
audit: {path: <state_dir>/audit.log, stdout: true}
"""


def test_the_contract_s_blocks_are_the_defaults() -> None:
    written = loaded(CONTRACT, {"OLLAMA_CLOUD_API_KEY": "sk-secret"}).settings
    defaults = loaded("", KEY).settings
    assert masked(written) == masked(defaults)
    assert written == defaults


def test_every_default_passes_its_own_check() -> None:
    defaults = Settings()
    assert Settings.model_validate(defaults.model_dump()) == defaults


def test_without_file_and_key_the_cloud_is_off_and_says_so() -> None:
    found = load(None, HOME)
    assert not found.settings.cloud_enabled
    assert found.warnings == (CLOUD_OFF,)
    assert dict(found.files) == {}


@pytest.mark.parametrize("content", ["ollama_cloud: {enabled: true}", "ollama_cloud: {api_key: '${K:-}'}"])
def test_without_a_key_the_cloud_is_off(content: str) -> None:
    found = loaded(content)
    assert not found.settings.cloud_enabled
    assert found.settings.ollama_cloud.resolve_api_key() is None
    assert found.warnings == (CLOUD_OFF,)


def test_switched_off_needs_no_warning() -> None:
    found = loaded("ollama_cloud: {enabled: false}")
    assert not found.settings.cloud_enabled
    assert found.warnings == ()


def test_with_a_key_the_cloud_is_on() -> None:
    found = loaded("ollama_cloud: {api_key: '${K}'}", {"K": "sk-secret"})
    assert found.settings.cloud_enabled
    assert found.settings.ollama_cloud.resolve_api_key() == "sk-secret"
    assert found.warnings == ()


def test_an_unreadable_file(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError) as caught:
            load(path, HOME)
        assert str(caught.value) == (
            f"1. {path}: cannot be read: {why}. Check the path, the mount and its permissions"
        )
    with pytest.raises(SettingsError, match="cannot be read: it is not a path"):
        load(Path("a\0b"), HOME)


def test_an_unreadable_file_hides_no_mistake_in_a_variable_and_invents_none(tmp_path: Path) -> None:
    # The file may well name another upstream, so that this listener is not its own upstream.
    env = {VAR + "LISTEN__DATA": '["127.0.0.1:11435"]', VAR + "CANARY__PERCENT": "101"}
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "none", {**HOME, **env})
    assert [error.key for error in caught.value.errors] == [str(tmp_path / "none"), "canary.percent"]


def test_errors_carry_their_parts() -> None:
    content = "ollama_cloud:\n  api_key: [sk-secret]\n  decision_strategy: fast\n"
    with settings_file(content) as path, pytest.raises(SettingsError) as caught:
        load(path, HOME)
    key, strategy = caught.value.errors
    assert (key.key, key.value, key.line) == ("ollama_cloud.api_key", "***", 2)
    assert (strategy.key, strategy.value, strategy.line) == ("ollama_cloud.decision_strategy", "fast", 3)
    assert strategy.message == "'fast' is not a strategy"
    assert strategy.fix == "Use one of: cost_optimized, hybrid, quality_optimized"
    assert str(caught.value).splitlines()[1] == f"2. {strategy}"


# --- the key file -------------------------------------------------------------------------------------------


def test_key_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b" sk-secret \r\n")
    found = loaded(f"ollama_cloud: {{api_key_file: {file}}}")
    assert found.settings.cloud_enabled
    assert found.settings.ollama_cloud.resolve_api_key() == "sk-secret"
    assert file in found.files
    file.write_text("sk-other")
    assert found.settings.ollama_cloud.resolve_api_key() == "sk-secret"
    assert loaded(f"ollama_cloud: {{api_key_file: {file}}}").digest != found.digest
    assert "sk-" not in repr(found)


def test_settings_made_without_load_read_the_key_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-secret\n")
    made = Settings.model_validate({"ollama_cloud": {"api_key_file": str(file)}})
    assert made.ollama_cloud.resolve_api_key() == "sk-secret"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"a\nb\n", "has more than one line"),
        (b"a b\n", "character 2 of the key is not visible ASCII"),
        (b"a\x00b", "character 2 of the key is not visible ASCII"),
        (b"a\xc3\xa9", "is not ASCII text"),
        (b"a" * 5000, "the key is longer than 4096 characters"),
    ],
)
def test_bad_key_files(tmp_path: Path, content: bytes, what: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    found = errors(f"ollama_cloud:\n  api_key_file: {file}\n")
    assert found == [f"ollama_cloud.api_key_file: '{file}': {what} (line 2). Write the key alone, on one line"]


# --- paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "state_dir", "warned"),
    [
        ({"HOME": "/home/app"}, "/home/app/.local/state/ollama-sidecar", False),
        ({"HOME": "/home/app", "XDG_STATE_HOME": "/state"}, "/state/ollama-sidecar", False),
        ({"HOME": "/home/app", "XDG_STATE_HOME": "relative"}, "/home/app/.local/state/ollama-sidecar", False),
        ({}, "/tmp/ollama-sidecar", True),
        ({"HOME": "/"}, "/tmp/ollama-sidecar", True),
        ({"TMPDIR": "/scratch"}, "/scratch/ollama-sidecar", True),
    ],
)
def test_state_dir(env: dict[str, str], state_dir: str, warned: bool) -> None:
    found = load(None, {**env, **KEY})
    assert str(found.settings.state_dir) == state_dir
    assert str(found.settings.budget.embedded.path) == f"{state_dir}/budget.db"
    assert str(found.settings.audit.path) == f"{state_dir}/audit.log"
    warning = f"state_dir: there is no home directory, so it is '{state_dir}'; set state_dir"
    assert found.warnings == ((warning,) if warned else ())


def test_paths_follow_state_dir_and_home() -> None:
    found = loaded("state_dir: ~/s\naudit: {path: ~/a.log}\nbudget: {embedded: {path: <state_dir>/b/c.db}}").settings
    assert [str(path) for path in (found.state_dir, found.audit.path, found.budget.embedded.path)] == [
        "/home/app/s",
        "/home/app/a.log",
        "/home/app/s/b/c.db",
    ]
    assert str(loaded("audit: {path: '-'}").settings.audit.path) == "-"


def test_a_home_that_is_missing() -> None:
    found = errors("audit: {path: ~/a.log}", {"HOME": ""})
    assert found == ["audit.path: '~/a.log' needs HOME, which is not set (line 1). Write it in full"]


# --- the rest -----------------------------------------------------------------------------------------------


def test_normal_forms() -> None:
    found = loaded(
        "ollama_cloud: {base_url: 'HTTPS://Ollama.COM/', cost_limits: {alert_threshold_pct: [90, 50.5, 90]}}\n"
        "listen: {data: ['LOCALHOST:080', '[0:0::1]:11435'], hosts: [Ollama.Example]}\n"
        "local: {base_url: 'http://[::1]:11436/'}\n"
    ).settings
    assert found.ollama_cloud.base_url == "https://ollama.com"
    assert found.local.base_url == "http://[::1]:11436"
    assert found.listen.data == ("localhost:80", "[::1]:11435")
    assert found.listen.hosts == ("ollama.example",)
    assert found.ollama_cloud.cost_limits.alert_threshold_pct == (Decimal("50.5"), Decimal(90))


def test_merge_keys() -> None:
    content = (
        "task_defaults:\n"
        "  by_model:\n"
        "    a: &a {quality: high, latency_ms: 5}\n"
        "    b: {<<: *a, quality: low}\n"
        "    c: {<<: [{quality: medium}, *a]}\n"
    )
    found = loaded(content).settings.task_defaults.by_model
    assert {name: (item.quality, item.latency_ms) for name, item in found.items()} == {
        "a": ("high", 5),
        "b": ("low", 5),
        "c": ("medium", 5),
    }


def test_canary_shares_are_exact() -> None:
    canary = loaded("canary: {percent: 0.29, by_task_type: {vlm: 57.03}}").settings.canary
    assert [canary.hundredths(task) for task in ("extraction", "vlm")] == [29, 5703]


def test_listening_to_everyone_is_warned_of() -> None:
    found = loaded('listen: {data: ["127.0.0.1:1", "0.0.0.0:2"]}', KEY)
    assert found.warnings == (
        "listen.data[1]: '0.0.0.0:2' is not loopback: whoever reaches it uses Ollama and spends the budget",
    )


def test_models_without_a_sure_price_are_warned_of() -> None:
    content = (
        "ollama_cloud:\n"
        "  models: {extraction_cloud: new:1b, by_local_model: {a: 'llama3.1:8b'}}\n"
        "  pricing: {'free:1b': {input_per_1m: 0, output_per_1m: 0}}\n"
    )
    assert loaded(content, KEY).warnings == (
        "ollama_cloud.models: the price of 'llama3.1:8b' is an estimate; set ollama_cloud.pricing",
        "ollama_cloud.models: 'new:1b' has no price, so no call goes to it; set ollama_cloud.pricing",
        'ollama_cloud.pricing."free:1b": a price of 0, so the budget does not bound this model',
    )


def test_the_digest_is_of_all_that_counts() -> None:
    def digest(content: str, env: dict[str, str]) -> str:
        return loaded(content, env).digest

    plain = digest("log: {level: info}", {})
    assert plain == digest("log: {level: info}", {"PATH": "/bin"})
    others = [
        digest("log: {level: info} ", {}),
        digest("log: {level: info}", {VAR + "CANARY__PERCENT": "1"}),
        digest("log: {level: '${L}'}", {"L": "info"}),
        digest("log: {level: '${L}'}", {"L": "debug"}),
        digest("log: {level: info}", {"HOME": "/other"}),
    ]
    assert len({plain, *others}) == 6


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().canary.salt = "b"


def test_masked() -> None:
    content = (
        "ollama_cloud: {api_key: sk-secret, pricing: {m: {input_per_1m: 0.07, output_per_1m: 2}}}\n"
        "budget: {redis: {url: 'rediss://me:sk-secret@r.example:6380/1?password=sk-secret', password_file: /p}}\n"
    )
    found = loaded(content)
    shown = masked(found.settings)
    assert shown["ollama_cloud"]["api_key"] == "***"
    assert shown["ollama_cloud"]["pricing"]["m"]["input_per_1m"] == 0.07
    assert shown["budget"]["redis"] == {
        "url": "rediss://***@r.example:6380/1?***",
        "password_file": "/p",
        "replicas": None,
    }
    assert "sk-secret" not in json.dumps(shown) + repr(found) + str(found.settings)
    assert masked(Settings())["ollama_cloud"]["api_key"] is None


@pytest.mark.parametrize(
    "url", ["sk-secret", "redis://[sk-secret", "redis:sk-secret@h", "//u:sk-secret@h", "redis://h/sk@secret"]
)
def test_masked_redis_urls_that_are_none(url: str) -> None:
    assert masked(loaded(f"budget: {{redis: {{url: '{url}'}}}}").settings)["budget"]["redis"]["url"] == "***"
