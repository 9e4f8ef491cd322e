"""Finding the local Ollama: where it should be, whether it is there, and whether it is not ourselves or the cloud."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
from pydantic_core import PydanticCustomError

from sidecar.settings import Settings
from sidecar.settings.errors import show
from sidecar.settings.names import base_url as checked_url
from sidecar.settings.names import is_loopback, split_address
from sidecar.upstream.connection import UpstreamError
from sidecar.upstream.fetch import fetch
from sidecar.upstream.pool import Origin, Pool

_log = logging.getLogger("sidecar.local")

PROBE_HEADER = b"x-sidecar-probe"
PROBE_SECONDS = 5.0
# The status of a probe that came back to its sender (RFC 5842, section 7.2).
LOOP_STATUS = 508
OLLAMA_PORT = 11434
# An address to listen on that means "all of them" is reached by loopback.
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - read here, not bound
_SCHEME_PORTS = {"http": 80, "https": 443}
# Ollama's cloud by its own names, which OLLAMA_HOST may well hold: what has to stay here must not go there as local.
_CLOUD_DOMAINS = ("ollama.com", "ollama.ai")


class CloudIsNotLocalError(Exception):
    """`local.base_url` is Ollama's cloud. The text says so."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the local Ollama should be, and what said so. `warning` tells of a setting that could not be followed."""

    base_url: str
    said_by: str
    warning: str = ""


def place_of(settings: Settings, env: Mapping[str, str]) -> Place:
    """`local.base_url` where it is set, else OLLAMA_HOST unless we listen there ourselves, else the default.

    Raises CloudIsNotLocalError.
    """
    local = settings.local
    if "base_url" in local.model_fields_set:
        if is_cloud(local.base_url, settings):
            raise CloudIsNotLocalError(
                f"local.base_url {show(local.base_url)} is Ollama's cloud, where calls that have to stay here would "
                "go. Set it to where Ollama itself listens, such as http://127.0.0.1:11435"
            )
        return Place(local.base_url, "local.base_url")
    given = env.get("OLLAMA_HOST", "").strip()
    if not given:
        return Place(local.base_url, "the default")
    try:
        url = ollama_host(given)
    except ValueError as error:
        return Place(local.base_url, "the default", f"OLLAMA_HOST is not used: {error}")
    if _is_ours(url, settings):
        return Place(local.base_url, "the default, as OLLAMA_HOST is where apps find the sidecar")
    if is_cloud(url, settings):
        return Place(
            local.base_url, "the default", f"OLLAMA_HOST is not used: {url} is Ollama's cloud, no local Ollama"
        )
    return Place(url, "OLLAMA_HOST")


def ollama_host(text: str) -> str:
    """The URL of an OLLAMA_HOST value, by the rules of Ollama's own `envconfig`. Raises ValueError for no URL."""
    text = text.strip().strip("'\"").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest, default = "http", text, OLLAMA_PORT
    else:
        default = _SCHEME_PORTS.get(scheme, OLLAMA_PORT)
    place, slash, path = rest.partition("/")
    if "@" in place:
        raise ValueError("it holds a user or a password")  # neither of which Ollama takes
    host, port = _host_and_port(place, default)
    host = _ANY_ADDRESS.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    try:
        return checked_url(f"{scheme}://{shown}:{port}{slash}{path}")
    except PydanticCustomError as error:
        raise ValueError(str((error.context or {}).get("message", "it is no address"))) from None


def _host_and_port(place: str, default: int) -> tuple[str, int]:
    """Go's SplitHostPort, as Ollama uses it: an IPv6 address without a port may lack its brackets, too."""
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = place.rpartition(":") if place.count(":") == 1 else (place, "", "")
    known = port.isascii() and port.isdecimal() and 0 < int(port) <= 65535
    return host, int(port) if known else default


def is_cloud(url: str, settings: Settings) -> bool:
    """Whether a URL is Ollama's cloud, by its names or by the settings."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if any(host == domain or host.endswith(f".{domain}") for domain in _CLOUD_DOMAINS):
        return True
    here, cloud = Origin.of(url), Origin.of(settings.ollama_cloud.base_url)
    return (here.host, here.port) == (cloud.host, cloud.port)


def _is_ours(url: str, settings: Settings) -> bool:
    """Whether one of our own listeners is at a URL, as far as its text tells; `probe` finds the rest."""
    origin = Origin.of(url)
    for address in (*settings.listen.data, settings.listen.admin):
        host, port = split_address(address)
        everywhere = host in _ANY_ADDRESS
        usual = {"127.0.0.1", "::1", "localhost"}
        same = origin.host == host or (origin.host in usual and host in usual)
        if port == origin.port and (same or (everywhere and is_loopback(origin.host))):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Found:
    """What is at the local address: Ollama with its `version`, something else that answers with `status`, or nothing:
    then `missing` says why."""

    version: str = ""
    status: int = 0
    missing: str = ""

    @property
    def is_ollama(self) -> bool:
        return bool(self.version)


class LoopError(Exception):
    """The local address leads back to us. The text is that address."""


async def probe(pool: Pool, nonce: str) -> Found:
    """What is at the local address. Raises LoopError for ourselves."""
    header = PROBE_HEADER + b": " + nonce.encode("ascii") + b"\r\n"
    try:
        head, body = await fetch(pool, "GET", "/api/version", seconds=PROBE_SECONDS, headers=header)
    except UpstreamError as error:
        return Found(missing=error.message.removeprefix(f"no connection to {pool.origin}: "))
    if head.status == LOOP_STATUS:
        raise LoopError(str(pool.origin))
    try:
        version = orjson.loads(body)["version"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        version = ""
    known = head.status == 200 and isinstance(version, str) and version.isprintable() and len(version) <= 64
    return Found(version if known else "", head.status)
