"""Rules that no key breaks alone, and what is allowed and worth a warning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from sidecar.settings.catalogue import load_catalogue
from sidecar.settings.errors import Path, dotted, show
from sidecar.settings.model import Settings
from sidecar.settings.names import is_ip, is_loopback, split_address

_DEFAULT_PORT = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken rule. It is said of `path`; where one of `others` is wrong by itself, it is not said at all."""

    path: Path
    others: tuple[Path, ...]
    message: str
    fix: str


def problems(settings: Settings) -> Iterator[Problem]:
    yield from _listeners(settings)
    yield from _own_listener(settings)
    yield from _key(settings)
    yield from _prices(settings)
    yield from _files(settings)
    if settings.local.gpu.source == "prometheus" and not settings.local.gpu.url:
        fix = "Set it to the URL that is to be read, or choose another source"
        yield Problem(("local", "gpu", "url"), (("local", "gpu", "source"),), "source prometheus needs it", fix)


def warnings(settings: Settings) -> Iterator[str]:
    cloud = settings.ollama_cloud
    if cloud.enabled and not cloud.has_key:
        yield "cloud is off: no ollama_cloud.api_key and no ollama_cloud.api_key_file"
    for index, address in enumerate(settings.listen.data):
        if not is_loopback(split_address(address)[0]):
            key = dotted(("listen", "data", index))
            yield f"{key}: {show(address)} is not loopback: whoever reaches it uses Ollama and spends the budget"
    if not settings.cloud_enabled:
        return
    models = settings.cloud_models()
    own, defaults = cloud.models, load_catalogue().defaults
    mapped = {
        name
        for mapping in (own, *own.by_local_model.values(), defaults)
        for key in type(defaults).model_fields
        if (name := getattr(mapping, key)) is not None and (mapping is not defaults or getattr(own, key) is None)
    }
    for name in sorted(mapped):
        entry = models[name]
        if not entry.priced:
            yield f"ollama_cloud.models: {show(name)} has no price, so no call goes to it; set ollama_cloud.pricing"
        elif entry.estimate:
            yield f"ollama_cloud.models: the price of {show(name)} is an estimate; set ollama_cloud.pricing"
    for name, entry in models.items():
        if entry.input_per_1m == 0 or entry.output_per_1m == 0:
            key = dotted(("ollama_cloud", "pricing", name))
            yield f"{key}: a price of 0, so the budget does not bound this model"


def _listeners(settings: Settings) -> Iterator[Problem]:
    data = settings.listen.data
    for index, address in enumerate(data):
        taken = next((other for other in data[:index] if _overlap(address, other)), None)
        if taken is not None:
            path = ("listen", "data", index)
            yield Problem(path, (), f"{show(address)} takes the same port as {show(taken)}", "Remove one of them")
    taken = next((other for other in data if _overlap(settings.listen.admin, other)), None)
    if taken is not None:
        message = f"{show(settings.listen.admin)} takes the same port as listen.data's {show(taken)}"
        yield Problem(("listen", "admin"), (("listen", "data"),), message, "Choose another port, such as 21434")


def _own_listener(settings: Settings) -> Iterator[Problem]:
    """A call that comes back to us would go round until the connections are used up."""
    upstreams = (
        (("local", "base_url"), settings.local.base_url, "a local upstream", "http://127.0.0.1:11435"),
        (("ollama_cloud", "base_url"), settings.ollama_cloud.base_url, "a cloud", "https://ollama.com"),
    )
    for path, url, what, example in upstreams:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORT[parts.scheme]
        for key, address in (
            *(("data", address) for address in settings.listen.data),
            ("admin", settings.listen.admin),
        ):
            own_host, own_port = split_address(address)
            if port == own_port and _reaches(host, own_host):
                message = f"{show(url)} is {what} that is our own listener {show(address)}"
                yield Problem(path, (("listen", key),), message, f"Write the upstream's address, such as {example}")
                break


def _key(settings: Settings) -> Iterator[Problem]:
    cloud = settings.ollama_cloud
    if cloud.api_key is not None and cloud.api_key_file is not None:
        path = ("ollama_cloud", "api_key_file")
        yield Problem(path, (("ollama_cloud", "api_key"),), "stands beside api_key", "Remove one of the two")


def _prices(settings: Settings) -> Iterator[Problem]:
    shipped = load_catalogue().models
    for name, price in settings.ollama_cloud.pricing.items():
        path = ("ollama_cloud", "pricing", name)
        given = [key for key in ("input_per_1m", "output_per_1m") if getattr(price, key) is not None]
        if len(given) == 1:
            missing = "output_per_1m" if given == ["input_per_1m"] else "input_per_1m"
            yield Problem(path, (), f"{missing} is missing beside {given[0]}", "Give both prices")
        elif not given and name not in shipped:
            yield Problem(path, (), "has no price", "Give input_per_1m and output_per_1m")


def _files(settings: Settings) -> Iterator[Problem]:
    audit, budget = settings.audit, settings.budget
    if str(audit.path) == "-" and not audit.stdout:
        message, fix = "'-' together with audit.stdout: false writes nothing", "Set stdout to true, or path to a file"
        yield Problem(("audit", "path"), (("audit", "stdout"),), message, fix)
    if audit.path == budget.embedded.path:
        message = f"{show(audit.path)} is the budget's database too"
        yield Problem(("audit", "path"), (("budget", "embedded", "path"),), message, "Write another path")


def _overlap(one: str, other: str) -> bool:
    (host, port), (other_host, other_port) = split_address(one), split_address(other)
    if port != other_port or port == 0:
        return False
    for v4 in (True, False):
        mine, theirs = _binds(host, v4), _binds(other_host, v4)
        if mine and theirs and (mine == theirs or "*" in (mine, theirs)):
            return True
    return False


def _binds(host: str, v4: bool) -> str:
    """What a listener takes of one family: a name or address, `*` for all of it, nothing."""
    if is_loopback(host) and host not in ("127.0.0.1", "::1") and not is_ip(host):
        return "127.0.0.1" if v4 else "::1"
    if is_ip(host):
        found = ip_address(host)
        if (found.version == 4) != v4:
            return ""
        return "*" if found.is_unspecified else host
    return host


def _reaches(host: str, own: str) -> bool:
    """Whether a connection to `host` arrives at a listener on `own` (ports aside)."""
    if _is_here(host) and _is_here(own):
        return True
    wildcard = is_ip(own) and ip_address(own).is_unspecified
    return host == own or (wildcard and is_loopback(host))


def _is_here(host: str) -> bool:
    """Loopback by its usual names. 127.0.0.2 is another place, where an Ollama may well listen."""
    if is_ip(host):
        found = ip_address(host)
        mapped = getattr(found, "ipv4_mapped", None) or found
        return bool(mapped.is_unspecified) or str(mapped) in ("127.0.0.1", "::1")
    return is_loopback(host)
