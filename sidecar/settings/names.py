"""Names of things outside: models, hosts, addresses, URLs, paths, time zones. See `kinds` for the rest."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from sidecar.core.models import cloud_base
from sidecar.settings.errors import show
from sidecar.settings.kinds import or_unset, reject, text

_VISIBLE = re.compile(r"[!-~]+")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


def model_name(value: object) -> str:
    found = text(value).strip()
    if not _VISIBLE.fullmatch(found) or len(found) > 200:
        raise reject(f"{show(found)} is not a model name", "Write a name such as llama3.1:8b")
    return found


def cloud_model_name(value: object) -> str:
    found = model_name(value)
    base = cloud_base(found)
    if base is not None:
        raise reject(f"{show(found)} is the name that a local Ollama uses", f"Write the cloud's own: {base}")
    return found


def local_model_name(value: object) -> str:
    found = model_name(value)
    if cloud_base(found) is not None:
        raise reject(
            f"{show(found)} is a model that the local Ollama runs on the cloud",
            "Write a model that runs here: what a gate kept from the cloud comes to it",
        )
    return found


def split_address(address: str) -> tuple[str, int]:
    """Host (without brackets) and port of an address that was checked."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_name(host: str) -> bool:
    """A name. `127.1` and `0x7f000001` are none: resolvers read them as addresses, and we could not tell which."""
    last = host.rpartition(".")[2].lower()
    return bool(_HOST_NAME.fullmatch(host)) and not re.fullmatch("[0-9]+|0x[0-9a-f]*", last)


def address(value: object) -> str:
    found = text(value).strip()
    fix = "Write host:port, such as 127.0.0.1:11434 or [::1]:11434"
    host, colon, port = found.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port):
        raise reject(f"{show(found)} has no port", fix)
    if int(port) > 65535:
        raise reject(f"{show(found)} has a port above 65535", fix)
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise reject(f"{show(found)} needs brackets around its IPv6 address", f"Write [{host}]:{port}")
    if not host:
        raise reject(f"{show(found)} has no host", f"Write 0.0.0.0:{port} for all addresses, or a host")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        if bracketed or not _is_name(host):
            raise reject(f"{show(found)} is not an address", fix) from None
        return f"{host.lower()}:{int(port)}"
    if bracketed != (ip.version == 6):
        raise reject(f"{show(found)} is not an address", fix)
    return f"[{ip}]:{int(port)}" if bracketed else f"{ip}:{int(port)}"


def host_name(value: object) -> str:
    found = text(value).strip().lower()
    if not _is_name(found):
        raise reject(f"{show(found)} is not a host name", "Write a name without scheme and port")
    return found


def url(value: object) -> str:
    """An http(s) URL in one spelling: lower-case host, no `/` at the end."""
    found = text(value).strip()
    fix = "Write a URL such as http://127.0.0.1:11435"
    try:
        parts = urlsplit(found)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise reject(f"{show(found)} is not a URL", fix) from None
    if not _VISIBLE.fullmatch(found) or parts.scheme not in ("http", "https") or not host or port == 0:
        raise reject(f"{show(found)} is not an http or https URL", fix)
    for present, what in (
        ("@" in parts.netloc, "a user or a password"),
        ("?" in found, "a query"),
        ("#" in found, "a fragment"),
    ):
        if present:
            raise reject(f"{show(found.split('?')[0])} holds {what}", "Write the URL without it")
    if not (is_ip(host) or _is_name(host)):
        raise reject(f"{show(found)} is not an http or https URL", fix)
    named = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{named}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def base_url(value: object) -> str:
    found = url(value)
    for ending in ("/api", "/v1"):
        if found.endswith(ending):
            short = found.removesuffix(ending)
            raise reject(f"{show(found)} ends in {ending}, which every call brings itself", f"Write {short}")
    return found


def cloud_url(value: object) -> str:
    found = base_url(value)
    parts = urlsplit(found)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise reject(f"{show(found)} would send the key and the text unencrypted", "Write an https URL")
    return found


def optional_url(value: object) -> str:
    return "" if value is None or value == "" else url(value)


def path(value: object) -> Path:
    found = str(value) if isinstance(value, Path) else text(value).strip()
    if not found:
        raise reject("an empty path", "Write a path, or remove the key")
    if found.startswith("~") and found != "~" and not found.startswith("~/"):
        raise reject(f"{show(found)} names another user's home", "Write the path in full")
    return Path(found)


def header_name(value: object) -> str:
    found = text(value).strip()
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*", found):
        raise reject(f"{show(found)} is not a header name", "Write a name such as X-Conversation-Id")
    return found


def kube_name(value: object) -> str:
    found = text(value).strip()
    if found and not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", found):
        raise reject(f"{show(found)} is not a Kubernetes name", "Use lower-case letters, digits, '-' and '.'")
    return found


def time_zone(value: object) -> str:
    from zoneinfo import ZoneInfo, available_timezones

    found = text(value).strip()
    try:
        ZoneInfo(found)
    except (KeyError, ValueError, OSError):
        # An odd name may be a directory or leave the database: each zoneinfo error means "no such zone".
        from difflib import get_close_matches

        by_lower = {zone.lower(): zone for zone in available_timezones()}
        near = get_close_matches(found.lower(), by_lower, n=1)
        fix = f"Did you mean {by_lower[near[0]]}?" if near else "Write a name such as UTC or Europe/Berlin"
        raise reject(f"{show(found)} is not a time zone", fix) from None
    return found


Address = Annotated[str, BeforeValidator(address)]
HostName = Annotated[str, BeforeValidator(host_name)]
LocalModel = Annotated[str, BeforeValidator(local_model_name)]
CloudModel = Annotated[str, BeforeValidator(cloud_model_name)]
AnyModel = Annotated[str, BeforeValidator(model_name)]
FilePath = Annotated[Path, BeforeValidator(path)]
OptionalFilePath = Annotated[Path | None, BeforeValidator(or_unset(path))]
OptionalUrl = Annotated[str, BeforeValidator(optional_url)]
OptionalLocalModel = Annotated[str | None, BeforeValidator(or_unset(local_model_name))]
OptionalCloudModel = Annotated[str | None, BeforeValidator(or_unset(cloud_model_name))]
BaseUrl = Annotated[str, BeforeValidator(base_url)]
CloudUrl = Annotated[str, BeforeValidator(cloud_url)]
HeaderName = Annotated[str, BeforeValidator(header_name)]
KubeName = Annotated[str, BeforeValidator(kube_name)]
TimeZone = Annotated[str, BeforeValidator(time_zone)]
