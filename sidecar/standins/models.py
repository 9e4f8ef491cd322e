"""The models a stand-in says it has: names as Ollama reads them, and a table that create, copy and delete change."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"(?:[A-Za-z0-9_][A-Za-z0-9_.:-]*/)?(?:{_PART}/)?{_PART}(?::{_PART})?")
Source = Literal["", "local", "cloud"]


@dataclass(frozen=True)
class StandInModel:
    """A model that exists in name only.

    `size` in bytes; `capabilities` as /api/show lists them (completion, tools, insert, vision, embedding, thinking,
    image, audio); `context_length` in tokens. With `remote_host` and `remote_model` it is an alias that a local
    Ollama runs on its cloud.
    """

    name: str
    size: int = 2_000_000_000
    capabilities: tuple[str, ...] = ("completion",)
    remote_host: str = ""
    remote_model: str = ""
    context_length: int = 8192
    family: str = "llama"
    parameter_size: str = "3.2B"
    quantization_level: str = "Q4_K_M"
    digest: str = ""
    modified_at: str = ""

    @property
    def remote(self) -> bool:
        return bool(self.remote_host and self.remote_model)


LOCAL_MODELS = (
    StandInModel("llama3.2:3b", 2_019_393_189, ("completion", "tools"), context_length=131_072),
    StandInModel(
        "qwen3:8b", 5_225_388_164, ("completion", "tools", "thinking"), family="qwen3", context_length=40_960
    ),
    StandInModel("llava:7b", 4_733_363_377, ("completion", "vision"), context_length=32_768),
    StandInModel("nomic-embed-text", 274_302_450, ("embedding",), family="nomic-bert", context_length=2048),
)
CLOUD_MODELS = (
    StandInModel("gpt-oss:20b", 13_780_173_839, ("completion", "tools"), family="gptoss", context_length=131_072),
    StandInModel("gpt-oss:120b", 65_290_180_920, ("completion", "tools"), family="gptoss", context_length=131_072),
    StandInModel(
        "qwen3.5:397b", 396_800_000_000, ("completion", "tools", "vision"), family="qwen3", context_length=262_144
    ),
)


def rfc3339(nanoseconds: int | None = None) -> str:
    """A time (since the epoch; now by default) as Go prints it: `2026-01-02T03:04:05.678901234Z`."""
    seconds, rest = divmod(time.time_ns() if nanoseconds is None else nanoseconds, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def is_valid(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and len(name) <= 350


def display(name: str) -> str:
    """The shortest form with a tag, as lists show it: `tiny` is `tiny:latest`."""
    name = name.removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def qualified(name: str) -> str:
    """The full form that some error texts show."""
    short = display(name)
    slashes = short.count("/")
    return short if slashes > 1 else f"registry.ollama.ai/{'library/' if not slashes else ''}{short}"


def split_source(name: str) -> tuple[str, Source]:
    """The name and where a local Ollama would run it by the name alone: a part after the last `:` that is `cloud` or
    ends in `-cloud` means the cloud, `local` the contrary."""
    name = name.strip()
    base, colon, suffix = name.rpartition(":")
    word = suffix.strip().lower()
    if colon and word in ("cloud", "local"):
        return base, "cloud" if word == "cloud" else "local"
    if colon and word.endswith("-cloud") and "/" not in suffix:
        return f"{base}:{suffix.strip()[: -len('-cloud')]}", "cloud"
    return name, ""


class ModelTable:
    """Name to model; names match whatever their case, `tiny` is `tiny:latest`."""

    def __init__(self, models: Iterable[StandInModel | str]) -> None:
        self._models: dict[str, StandInModel] = {}
        for model in models:
            self.add(StandInModel(model) if isinstance(model, str) else model)

    def __iter__(self) -> Iterator[StandInModel]:
        """Most recently changed first, as /api/tags lists them."""
        return iter(sorted(self._models.values(), key=lambda model: model.modified_at, reverse=True))

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str) -> StandInModel | None:
        return self._models.get(display(name).lower())

    def add(self, model: StandInModel) -> StandInModel:
        """Adds or replaces; fills in digest and time where they are empty."""
        name = display(model.name)
        digest = model.digest or hashlib.sha256(name.encode()).hexdigest()
        made = dataclasses.replace(model, name=name, digest=digest, modified_at=model.modified_at or rfc3339())
        self._models[name.lower()] = made
        return made

    def copy(self, source: str, destination: str) -> bool:
        found = self.find(source)
        if found is not None:
            self.add(dataclasses.replace(found, name=destination, modified_at=""))
        return found is not None

    def remove(self, name: str) -> bool:
        return self._models.pop(display(name).lower(), None) is not None
