"""The settings as one frozen tree. `load` makes it; `cli` and `app` are the only ones to see it.

load.py       the journey: file, variables, models, rules, paths, key
document.py   YAML with its lines          expand.py     ${NAME} inside it
overrides.py  variables over the file      schema.py     what stands at a path
cloud.py      ollama_cloud                 sections.py   everything beside it
kinds.py      what a value can be          names.py      names of things outside
checks.py     rules across keys            explain.py    pydantic's errors in our words
paths.py      ~ and <state_dir>            keyfile.py    the key's own file
catalogue.py  the shipped cloud models     masking.py    what /config shows
watch.py      whether a file has changed   errors.py     how a mistake reads
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sidecar.core.models import short
from sidecar.settings.catalogue import CloudModelEntry, load_catalogue, merged, targets
from sidecar.settings.cloud import OllamaCloud
from sidecar.settings.kinds import Section
from sidecar.settings.names import FilePath
from sidecar.settings.sections import Audit, Budget, Canary, ClassRules, Listen, Local, Log, Tasks, Telemetry


class Settings(Section):
    """All settings. Durations are in the unit that a key's name ends in."""

    ollama_cloud: OllamaCloud = Field(default_factory=OllamaCloud, description="Ollama Cloud.")
    listen: Listen = Field(default_factory=Listen, description="Where apps and operators reach the sidecar.")
    local: Local = Field(default_factory=Local, description="The local Ollama.")
    classification: ClassRules = Field(default_factory=ClassRules, description="How calls get their data class.")
    task_defaults: Tasks = Field(default_factory=Tasks, description="What calls without headers ask for.")
    canary: Canary = Field(default_factory=Canary, description="The share of eligible calls for the cloud.")
    state_dir: FilePath = Field(
        default=Path("~/.local/state/ollama-sidecar"),
        description="Directory of budget and audit log. Unset: ollama-sidecar under XDG_STATE_HOME or "
        "~/.local/state; in a pod an emptyDir.",
    )
    budget: Budget = Field(default_factory=Budget, description="Where the books are kept.")
    telemetry: Telemetry = Field(default_factory=Telemetry, description="Traces.")
    audit: Audit = Field(default_factory=Audit, description="The log of every call to the cloud.")
    log: Log = Field(default_factory=Log, description="The sidecar's own log.")

    @property
    def cloud_enabled(self) -> bool:
        """Whether any call may go to the cloud: it is switched on, and there is a key."""
        return self.ollama_cloud.enabled and self.ollama_cloud.has_key

    def cloud_models(self) -> dict[str, CloudModelEntry]:
        """Every cloud model that catalogue or settings name. Made anew each time: ask once per load."""
        return merged(self.ollama_cloud)

    def cloud_model_for(self, local_model: str, task_type: str) -> str | None:
        """The cloud model that stands in for a local one; None where the cloud has none for the task."""
        models = self.ollama_cloud.models
        by_name = models.by_local_model
        own = by_name.get(local_model)
        if own is None and by_name:
            wanted = short(local_model)
            own = next((to for name, to in by_name.items() if short(name) == wanted), None)
        for mapping in (own, models, load_catalogue().defaults):
            found = targets(mapping).get(task_type) if mapping is not None else None
            if found is not None:
                return found
        return None
