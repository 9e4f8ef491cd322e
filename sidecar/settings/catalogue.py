"""The shipped catalogue of cloud models, and what the settings make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from sidecar.settings.cloud import CatalogueOverride, OllamaCloud, Price, TaskModels
from sidecar.settings.document import parse, plain
from sidecar.settings.errors import SettingsError
from sidecar.settings.kinds import Flag, Named, Section, reject, text
from sidecar.settings.names import CloudModel

FILE = Path(__file__).parent.parent / "data" / "catalogue.yaml"


@dataclass(frozen=True, slots=True)
class CloudModelEntry:
    """One cloud model as the settings and the catalogue know it together. None means unknown."""

    name: str
    input_per_1m: Decimal | None
    output_per_1m: Decimal | None
    price_factor_max: Decimal
    max_image_tokens: int
    context_length: int | None
    capabilities: frozenset[str] | None
    estimate: bool

    @property
    def priced(self) -> bool:
        return self.input_per_1m is not None and self.output_per_1m is not None


def _date(value: object) -> date:
    try:
        return date.fromisoformat(text(value))
    except ValueError:
        raise reject("is not a date", "Write YYYY-MM-DD") from None


class CatalogueModel(Price, CatalogueOverride):
    """One model of the catalogue: a price and what it can do."""

    estimate: Flag = Field(default=False, description="Whether the price is a figure by size class.")


class Catalogue(Section):
    """The catalogue file."""

    updated: Annotated[date, BeforeValidator(_date)] = Field(description="Day on which the figures were looked up.")
    defaults: TaskModels = Field(description="Which model takes which task where the settings do not say.")
    models: Named[CloudModel, CatalogueModel] = Field(description="Cloud model → price and abilities.")


@cache
def load_catalogue() -> Catalogue:
    """The catalogue of this package, read once."""
    root, problems = parse(FILE.read_text(encoding="utf-8"), FILE.name)
    if root is None or problems:
        raise SettingsError(problems)
    return Catalogue.model_validate(plain(root))


def merged(cloud: OllamaCloud) -> dict[str, CloudModelEntry]:
    """Every cloud model that the catalogue or the settings name; the settings win, key by key."""
    shipped = load_catalogue()
    names = [*shipped.models, *cloud.catalogue, *cloud.pricing]
    mappings = (shipped.defaults, cloud.models, *cloud.models.by_local_model.values())
    names += [name for mapping in mappings for name in targets(mapping).values()]
    return {name: _entry(name, cloud, shipped.models) for name in dict.fromkeys(names)}


def targets(models: TaskModels) -> dict[str, str]:
    """Task type → cloud model, of those that are set. Embeddings have none: the cloud has no route for them."""
    found = {
        "extraction": models.extraction_cloud,
        "generation": models.generation_cloud,
        "vlm": models.vision_cloud,
    }
    return {task_type: name for task_type, name in found.items() if name is not None}


def _entry(name: str, cloud: OllamaCloud, shipped: Mapping[str, CatalogueModel]) -> CloudModelEntry:
    base = shipped.get(name, CatalogueModel())
    price = cloud.pricing.get(name, Price())
    ability = cloud.catalogue.get(name, CatalogueOverride())
    limits = price.model_fields_set
    capabilities = base.capabilities if ability.capabilities is None else ability.capabilities
    own_price = price.input_per_1m is not None and price.output_per_1m is not None
    return CloudModelEntry(
        name=name,
        input_per_1m=base.input_per_1m if price.input_per_1m is None else price.input_per_1m,
        output_per_1m=base.output_per_1m if price.output_per_1m is None else price.output_per_1m,
        price_factor_max=(price if "price_factor_max" in limits else base).price_factor_max,
        max_image_tokens=(price if "max_image_tokens" in limits else base).max_image_tokens,
        context_length=ability.context_length or base.context_length,
        capabilities=None if capabilities is None else frozenset(capabilities),
        estimate=base.estimate and not own_price,
    )
