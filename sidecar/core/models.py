"""Names of models, as the local Ollama reads them."""

from __future__ import annotations


def cloud_base(name: str) -> str | None:
    """The cloud's own name of a model that the local Ollama would run on its cloud; None for any other.

    The rule of Ollama's `modelref`: the part behind the last `:` is `cloud`, or ends in `-cloud` and has no `/`,
    in any case and with blanks trimmed. `gpt-oss:120b-cloud` and `gpt-oss:120b:cloud` are `gpt-oss:120b`.
    """
    name = name.strip()
    base, colon, suffix = name.rpartition(":")
    if not colon:
        return None
    suffix = suffix.strip()
    lower = suffix.lower()
    if lower == "cloud":
        return base
    if lower.endswith("-cloud") and "/" not in suffix:
        return f"{base}:{suffix[: -len('-cloud')]}"
    return None


def with_tag(name: str) -> str:
    """A name with its tag: `llama3` is `llama3:latest` to Ollama. A registry's port is no tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def short(name: str) -> str:
    """A name without what Ollama takes for granted: registry, `library` and blanks, in lower case, with its tag."""
    name = name.strip().lower()
    for prefix in ("https://", "http://", "registry.ollama.ai/", "library/"):
        name = name.removeprefix(prefix)
    return with_tag(name)
