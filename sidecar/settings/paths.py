"""Paths made real: `~`, `<state_dir>`, and the state directory itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sidecar.settings.checks import Problem
from sidecar.settings.errors import Path as KeyPath
from sidecar.settings.errors import show
from sidecar.settings.model import Settings

_STATE = "<state_dir>"


def resolved(settings: Settings, env: Mapping[str, str]) -> tuple[Settings, list[Problem], list[str]]:
    """The settings with real paths, what could not be resolved, and warnings."""
    problems: list[Problem] = []
    warnings: list[str] = []

    def real(path: Path, key: KeyPath) -> Path:
        text = str(path)
        if text == "~" or text.startswith("~/"):
            if not _home(env):
                problems.append(Problem(key, (), f"{show(text)} needs HOME, which is not set", "Write it in full"))
            text = _home(env) + text[1:]
        others: tuple[KeyPath, ...] = ()
        if key != ("state_dir",) and _STATE in text:
            others = (("state_dir",),)
            text = text.replace(_STATE, str(state_dir))
        if "<" in text:
            problems.append(Problem(key, others, f"{show(path)} holds a placeholder", "Write the path itself"))
        return Path(text)

    state_dir = settings.state_dir
    if "state_dir" in settings.model_fields_set:
        state_dir = real(state_dir, ("state_dir",))
    else:
        state_dir, warning = default_state_dir(env)
        warnings += warning
    budget, cloud = settings.budget, settings.ollama_cloud
    embedded = budget.embedded.model_copy(update={"path": real(budget.embedded.path, ("budget", "embedded", "path"))})
    redis, key_file = budget.redis, cloud.api_key_file
    if redis.password_file is not None:
        found = real(redis.password_file, ("budget", "redis", "password_file"))
        redis = redis.model_copy(update={"password_file": found})
    if key_file is not None:
        key_file = real(key_file, ("ollama_cloud", "api_key_file"))
    audit = settings.audit.model_copy(update={"path": real(settings.audit.path, ("audit", "path"))})
    update = {
        "state_dir": state_dir,
        "budget": budget.model_copy(update={"embedded": embedded, "redis": redis}),
        "ollama_cloud": cloud.model_copy(update={"api_key_file": key_file}),
        "audit": audit,
    }
    return settings.model_copy(update=update), problems, warnings


def default_state_dir(env: Mapping[str, str]) -> tuple[Path, list[str]]:
    state_home = env.get("XDG_STATE_HOME", "")
    if state_home.startswith("/"):  # the specification: a relative one is to be ignored
        return Path(state_home) / "ollama-sidecar", []
    if _home(env):
        return Path(_home(env)) / ".local" / "state" / "ollama-sidecar", []
    temporary = Path(env.get("TMPDIR") or "/tmp") / "ollama-sidecar"  # noqa: S108  said aloud in the warning
    return temporary, [f"state_dir: there is no home directory, so it is {show(temporary)}; set state_dir"]


def _home(env: Mapping[str, str]) -> str:
    """A container's user without an entry in passwd gets HOME=/ from the runtime: that is no home."""
    home = env.get("HOME", "").rstrip("/")
    return home if home.startswith("/") else ""
