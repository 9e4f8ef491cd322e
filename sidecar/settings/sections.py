"""The sections of our own, beside `ollama_cloud`. Every default is the contract's."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sidecar.settings.kinds import (
    Class,
    Flag,
    Items,
    Level,
    LevelName,
    Named,
    Number,
    Percent,
    Phrase,
    Secret,
    Section,
    TaskType,
    TaskTypeName,
    Text,
    at_least_one,
    choice,
    choose,
    not_built_yet,
    or_unset,
)
from sidecar.settings.names import (
    Address,
    AnyModel,
    BaseUrl,
    FilePath,
    HeaderName,
    HostName,
    KubeName,
    LocalModel,
    OptionalFilePath,
    OptionalUrl,
    TimeZone,
)

GpuSourceName = Literal["auto", "nvml", "prometheus", "none"]
StoreName = Literal["embedded", "redis", "configmap"]
LogLevelName = Literal["debug", "info", "warning", "error"]
OptionalTaskTypeName = Literal["", "extraction", "generation", "vlm", "embedding"]
OptionalLevelName = Literal["", "low", "medium", "high"]

Percents = Named[TaskType, Percent]
Latency = Number(1, 86_400_000, whole=True)


class Listen(Section):
    """Where apps and operators reach the sidecar."""

    data: Annotated[Items[Address], AfterValidator(at_least_one)] = Field(
        default=("127.0.0.1:11434", "[::1]:11434"),
        description="Addresses for apps, host:port or [v6]:port; port 0 takes a free one. Ollama's own port on "
        "loopback, so that an app finds us where it expects Ollama.",
    )
    admin: Address = Field(
        default="127.0.0.1:21434",
        description="Address of probes, metrics and the console; all addresses in a pod, where the kubelet asks.",
    )
    hosts: Items[HostName] = Field(
        default=(),
        description="Further Host names that apps may use, beside loopback, IP literals, .local, .internal and "
        "the machine's own: the check keeps web pages from reaching us by DNS rebinding.",
    )
    drain_seconds: Annotated[float, Number(0, 3600)] = Field(
        default=10, description="Seconds that open streams get on SIGTERM. A pod has 30 by default."
    )
    max_inference_body_mb: Annotated[int, Number(1, 1024, whole=True)] = Field(
        default=64, description="MB (2^20 bytes) of an inference body, which is read as a whole; more is 413."
    )
    max_connections: Annotated[int, Number(1, 1_000_000, whole=True)] = Field(
        default=4096, description="Connections open at once; more wait. Far above one pod's need, below its memory."
    )
    max_header_kb: Annotated[int, Number(1, 1024, whole=True)] = Field(
        default=64, description="KB (2^10 bytes) of one request's header; more is 431. Browsers send under 16."
    )
    header_timeout_seconds: Annotated[float, Number(0, 3600, above=True)] = Field(
        default=10, description="Seconds in which a request's header must be complete."
    )
    body_idle_timeout_seconds: Annotated[float, Number(0, 86_400)] = Field(
        default=60, description="Seconds without a byte after which a request body is given up; 0: never."
    )


class Gpu(Section):
    """Where the local GPU's utilisation is read."""

    source: Annotated[GpuSourceName, choice("a GPU source", GpuSourceName)] = Field(
        default="auto", description="auto (nvml where there is a driver), nvml, prometheus or none."
    )
    url: OptionalUrl = Field(default="", description="URL to read with source prometheus.")


class Local(Section):
    """The local Ollama."""

    base_url: BaseUrl = Field(
        default="http://127.0.0.1:11435",
        description="Where the local Ollama listens: one port above its own, which is ours.",
    )
    max_concurrent: Annotated[int, Number(0, 100_000, whole=True)] = Field(
        default=0, description="Calls at once; more wait in line. 0: no limit, Ollama queues by itself."
    )
    models: Named[TaskType, LocalModel] = Field(
        default_factory=dict,
        description="Task type → local model for calls that name a cloud model and may not go there. Without "
        "one they are refused.",
    )
    gpu: Gpu = Field(default_factory=Gpu, description="Where the GPU's utilisation is read.")
    connect_timeout_seconds: Annotated[float, Number(0, 3600, above=True)] = Field(
        default=5, description="Seconds to connect to the local Ollama."
    )
    first_byte_timeout_seconds: Annotated[float, Number(0, 86_400)] = Field(
        default=0, description="Seconds to the first byte; 0: no limit, as loading a model takes minutes."
    )
    idle_timeout_seconds: Annotated[float, Number(0, 86_400)] = Field(
        default=0, description="Seconds between two bytes of an answer; 0: no limit, as Ollama has none."
    )


class Keywords(Section):
    """Words that make a text confidential or internal."""

    confidential: Items[Phrase] = Field(default=(), description="Words and phrases that mean confidential.")
    internal: Items[Phrase] = Field(default=(), description="Words and phrases that mean internal.")
    defaults: Flag = Field(default=True, description="Whether the built-in words count too; false clears them.")
    strict: Flag = Field(
        default=False,
        description="Whether 'internal' and 'secret' count everywhere, not only in labels, headings and set phrases.",
    )


class ClassRules(Section):
    """How calls get their data class. public and internal may go to the cloud, the others never."""

    default: Class = Field(
        default="public",
        description="The pod's own class: a floor under every call. Headers and content may raise it.",
    )
    content: Flag = Field(
        default=True, description="Whether the text of calls is searched for what raises the class."
    )
    images: Class = Field(
        default="internal", description="Class of image data, which is not read: internal may go to the cloud."
    )
    ip_addresses: Class = Field(
        default="internal", description="Class of a text with an IP or MAC address in it; public: they do not count."
    )
    keywords: Keywords = Field(default_factory=Keywords, description="Words that raise the class.")
    allow: Items[Phrase] = Field(
        default=(), description="Phrases in which a key word does not count, such as a product's name."
    )


class TaskDefaults(Section):
    """What a call of one task type is taken to ask for where it has no header for it."""

    quality: Annotated[LevelName | None, BeforeValidator(or_unset(choose("a level", LevelName)))] = Field(
        default=None, description="low, medium or high; unset: task_defaults.quality."
    )
    complexity: Annotated[LevelName | None, BeforeValidator(or_unset(choose("a level", LevelName)))] = Field(
        default=None, description="low, medium or high; unset: task_defaults.complexity."
    )
    latency_ms: Annotated[int | None, BeforeValidator(or_unset(Latency))] = Field(
        default=None, description="Milliseconds that the answer may take; unset: task_defaults.latency_ms."
    )


class ModelTaskDefaults(TaskDefaults):
    """The same for calls of one model, which may have a task type of their own."""

    task_type: Annotated[TaskTypeName | None, BeforeValidator(or_unset(choose("a task type", TaskTypeName)))] = Field(
        default=None, description="extraction, generation, vlm or embedding; unset: task_defaults.task_type."
    )


class Tasks(Section):
    """So that an app that sends no header can still ask for quality."""

    task_type: Annotated[OptionalTaskTypeName, choice("a task type", OptionalTaskTypeName)] = Field(
        default="", description="Task type of a call without the header; empty: told from the call itself."
    )
    quality: Level = Field(default="medium", description="Quality of a call without the header.")
    complexity: Annotated[OptionalLevelName, choice("a level", OptionalLevelName)] = Field(
        default="", description="Complexity of a call without the header; empty: told from its size."
    )
    latency_ms: Annotated[int, Latency] = Field(
        default=1000, description="Milliseconds that an answer may take, without the header."
    )
    by_model: Named[AnyModel, ModelTaskDefaults] = Field(
        default_factory=dict, description="Local model name → its own defaults. Wins over by_task_type."
    )
    by_task_type: Named[TaskType, TaskDefaults] = Field(
        default_factory=dict, description="Task type → its own defaults. Wins over the four beside it."
    )


class Canary(Section):
    """The share of eligible calls that may go to the cloud."""

    percent: Percent = Field(
        default=Decimal(100), description="Percent of eligible calls, to 0.01. 0 and 100 are exact."
    )
    by_task_type: Percents = Field(default_factory=dict, description="Task type → percent of its own.")
    salt: Text = Field(
        default="", description="Text that deals the conversations anew: the same salt picks the same ones."
    )
    sticky_header: HeaderName = Field(
        default="", description="Header whose value keeps calls together; empty: the conversation does."
    )

    def hundredths(self, task_type: str) -> int:
        """The share of a task type in hundredths of a percent, 0 to 10000: exact, unlike a float."""
        shares = (share for name, share in self.by_task_type.items() if name == task_type)
        return int(next(shares, self.percent) * 100)


class EmbeddedStore(Section):
    """A budget of one process, in SQLite."""

    path: FilePath = Field(
        default=Path("<state_dir>/budget.db"), description="The database; <state_dir> stands for that key's value."
    )


class RedisStore(Section):
    """A budget shared through Redis."""

    url: Secret = Field(default=None, description="redis:// or rediss:// URL; shown without its password.")
    password_file: OptionalFilePath = Field(default=None, description="File with the password on one line.")
    replicas: Annotated[int | None, BeforeValidator(or_unset(Number(0, 100, whole=True)))] = Field(
        default=None, description="Replicas that must acknowledge; unset: the highest number ever seen."
    )


class ConfigMapStore(Section):
    """A budget shared through a Kubernetes ConfigMap."""

    namespace: KubeName = Field(default="", description="Its namespace; empty: the pod's own.")
    name: KubeName = Field(default="", description="Its name.")


class Budget(Section):
    """Where the books are kept."""

    store: Annotated[
        StoreName,
        choice("a store", StoreName),
        not_built_yet("redis", "the Redis store", "embedded"),
        not_built_yet("configmap", "the ConfigMap store", "embedded"),
    ] = Field(default="embedded", description="embedded, redis or configmap; the last two are not built yet.")
    timezone: TimeZone = Field(
        default="UTC", description="IANA zone in which days and months begin. UTC: the same in every place."
    )
    wait_ms: Annotated[int, Number(1, 60_000, whole=True)] = Field(
        default=50, description="Milliseconds that a call waits for the store before it goes local."
    )
    embedded: EmbeddedStore = Field(default_factory=EmbeddedStore, description="Settings of the embedded store.")
    redis: RedisStore = Field(default_factory=RedisStore, description="Settings of the Redis store.")
    configmap: ConfigMapStore = Field(default_factory=ConfigMapStore, description="Settings of the ConfigMap store.")


class Telemetry(Section):
    """Traces. The standard OTEL_* variables win over these."""

    otlp_endpoint: OptionalUrl = Field(
        default="", description="Base URL of an OTLP/HTTP collector; empty: no traces leave, no exporter is loaded."
    )
    sample_ratio: Annotated[float, Number(0, 1)] = Field(
        default=1.0, description="Share of traces that are kept, 0 to 1; the app's own decision wins."
    )


class Audit(Section):
    """The log of every call to the cloud."""

    path: FilePath = Field(
        default=Path("<state_dir>/audit.log"),
        description="The file, or '-' for stdout alone; <state_dir> stands for that key's value. A line is on "
        "disk before its call is sent; with '-' it is only written.",
    )
    stdout: Flag = Field(default=True, description="Whether the lines go to stdout too, for the cluster's collector.")


class Log(Section):
    """The sidecar's own log on stderr."""

    level: Annotated[LogLevelName, choice("a log level", LogLevelName)] = Field(
        default="info", description="debug, info, warning or error."
    )
