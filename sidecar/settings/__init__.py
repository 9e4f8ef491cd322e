"""Settings: one YAML file, the environment over it, all mistakes at once. `model` has the map."""

from sidecar.settings.catalogue import CloudModelEntry, load_catalogue
from sidecar.settings.errors import SettingError, SettingsError
from sidecar.settings.load import Loaded, load
from sidecar.settings.masking import masked
from sidecar.settings.model import Settings
from sidecar.settings.watch import FileWatch

__all__ = [
    "CloudModelEntry",
    "FileWatch",
    "Loaded",
    "SettingError",
    "Settings",
    "SettingsError",
    "load",
    "load_catalogue",
    "masked",
]
