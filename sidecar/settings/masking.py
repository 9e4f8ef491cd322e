"""The settings as `/config` shows them: in the file's own shape, without what is secret."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from sidecar.settings.errors import MASK
from sidecar.settings.model import Settings


def masked(settings: Settings) -> dict[str, Any]:
    """JSON-safe; `***` where a secret is set. Files with secrets are named and never read."""
    shown: dict[str, Any] = _shown(settings)
    url = settings.budget.redis.url
    if url is not None:
        shown["budget"]["redis"]["url"] = _masked_url(url.get_secret_value())
    return shown


def _shown(value: object) -> Any:
    if isinstance(value, BaseModel):
        return {name: _shown(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {str(name): _shown(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_shown(item) for item in value]
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()  # a path can hold bytes that are no text


def _masked_url(url: str) -> str:
    """Scheme and host of a URL. What surrounds them may be a password: user, query, a port that is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return MASK
    if not parts.scheme or not host or "@" in parts.path:
        return MASK
    user = f"{MASK}@" if "@" in parts.netloc else ""
    query = f"?{MASK}" if parts.query else ""
    named = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{user}{named}{f':{port}' if port else ''}{parts.path}{query}"
