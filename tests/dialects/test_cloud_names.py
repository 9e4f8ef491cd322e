"""Names of models: which of them the local Ollama would run on its cloud."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_support import QUICK

from sidecar.core.models import cloud_base, short, with_tag

CLOUD = {
    "gpt-oss:120b-cloud": "gpt-oss:120b",
    "gpt-oss:cloud": "gpt-oss",
    "gpt-oss:120b:cloud": "gpt-oss:120b",
    "gpt-oss:120B-CLOUD": "gpt-oss:120B",
    "gpt-oss:Cloud": "gpt-oss",
    "GPT-OSS:20b-Cloud": "GPT-OSS:20b",
    "  gpt-oss:20b-cloud  ": "gpt-oss:20b",
    "\tgpt-oss:cloud\n": "gpt-oss",
    "gpt-oss: cloud": "gpt-oss",
    "gpt-oss: 20b-cloud": "gpt-oss:20b",
    "gpt-oss:cloud\u00a0": "gpt-oss",
    "gpt-oss:cloud\u2003": "gpt-oss",
    "user/model:7b-cloud": "user/model:7b",
    "registry.ollama.ai/library/gpt-oss:20b-cloud": "registry.ollama.ai/library/gpt-oss:20b",
    "localhost:5000/model:cloud": "localhost:5000/model",
    "gpt-oss:-cloud": "gpt-oss:",
    "gpt-oss:x-cloud-cloud": "gpt-oss:x-cloud",
    "gpt-oss:120b-cloud:cloud": "gpt-oss:120b-cloud",
    "gpt-oss:local:cloud": "gpt-oss:local",
    ":cloud": "",
    "a b:cloud": "a b",
}
NOT_CLOUD = [
    *("", " ", "llama3", "llama3:8b", "llama3:latest", "cloud", "my-cloud", "llama3-cloud", "gpt-oss-120b-cloud"),
    *("gpt-oss:local", "gpt-oss:120b:local", "gpt-oss:LOCAL", "gpt-oss:120b-cloud:local", "gpt-oss:cloudy"),
    *("gpt-oss:cloud-120b", "gpt-oss:120bcloud", "gpt-oss:120b_cloud", "gpt-oss:120b-clouds", "gpt-oss:cloud-"),
    *(
        "gpt-oss:",
        ":",
        "localhost:5000/model-cloud",
        "localhost:5000/my-cloud",
        "host:80/a/b-cloud",
        "gpt-oss:cl oud",
    ),
    *("gpt-oss：cloud", "gpt-oss:ｃloud", "cloud:8b", "120b-cloud:latest"),
]


@pytest.mark.parametrize("name", CLOUD)
def test_a_name_of_the_cloud(name: str) -> None:
    assert cloud_base(name) == CLOUD[name]


@pytest.mark.parametrize("name", NOT_CLOUD)
def test_a_name_of_none(name: str) -> None:
    assert cloud_base(name) is None


def go_rule(raw: str) -> bool:
    """Ollama's modelref.parseSourceSuffix, in its own words."""
    raw = raw.strip(
        "\t\n\v\f\r \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
    )
    index = raw.rfind(":")
    if index < 0:
        return False
    suffix = raw[index + 1 :].strip()
    if suffix.lower() == "cloud":
        return True
    return "/" not in suffix and suffix.lower().endswith("-cloud")


PIECES = st.sampled_from(
    [":", "-", "cloud", "CLOUD", "local", "120b", "/", " ", "\u00a0", "\t", "gpt-oss", "K", "\u0131"]
)


@QUICK
@given(st.one_of(st.lists(PIECES, max_size=7).map("".join), st.text(max_size=12)))
def test_what_ollama_runs_on_its_cloud_is_known_as_such(name: str) -> None:
    if go_rule(name):
        assert cloud_base(name) is not None
    else:
        # Blanks that Go does not trim are trimmed here: then a name counts as the cloud's that is none.
        assert cloud_base(name) is None or any("\x1c" <= char <= "\x1f" for char in name)


@pytest.mark.parametrize(
    ("name", "tagged"),
    [
        ("llama3", "llama3:latest"),
        ("llama3:8b", "llama3:8b"),
        ("localhost:5000/llama3", "localhost:5000/llama3:latest"),
        ("localhost:5000/llama3:8b", "localhost:5000/llama3:8b"),
        ("user/llama3", "user/llama3:latest"),
    ],
)
def test_a_name_with_its_tag(name: str, tagged: str) -> None:
    assert with_tag(name) == tagged


@pytest.mark.parametrize(
    "name",
    [
        *(
            "llama3",
            "llama3:latest",
            "LLAMA3",
            " llama3 ",
            "library/llama3",
            "registry.ollama.ai/library/llama3:latest",
        ),
        *("https://registry.ollama.ai/library/llama3", "http://registry.ollama.ai/library/llama3:latest"),
    ],
)
def test_names_that_are_one_to_ollama_are_one_here(name: str) -> None:
    assert short(name) == "llama3:latest"


@pytest.mark.parametrize("name", ["llama3:8b", "user/llama3", "localhost:5000/llama3", "example.com/library/llama3"])
def test_names_that_are_not_are_not(name: str) -> None:
    assert short(name) != "llama3:latest"
