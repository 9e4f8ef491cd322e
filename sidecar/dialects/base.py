"""What a dialect is: a body's facts, the edits for the cloud, the answer's usage, and errors in its own shape."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from sidecar.core.call import Facts, Usage
from sidecar.core.task import Shape


@dataclass(frozen=True, slots=True)
class Route:
    """One inference route. `path` is the canonical one; `cloud_path` is empty where the cloud has no such route.

    `operation` is the GenAI operation name of OpenTelemetry: chat, text_completion, embeddings, generate_content.
    `web` marks the local server's own door to a search in the cloud; `web_tools` a route on which that server goes
    there itself where a tool of the call says so.
    """

    path: str
    dialect: Dialect
    operation: str
    cloud_path: str = ""
    multipart: bool = False
    web: bool = False
    web_tools: bool = False

    @property
    def separator(self) -> bytes:
        """What ends a record of a streamed answer."""
        return b"\n" if self.path.startswith("/api/") else b"\n\n"


class Observer(Protocol):
    """Watches an answer's body go by and learns its usage; with `drops_usage` it also filters it.

    `feed` gives what to pass on: the same pieces, unless there is something in them that we asked for ourselves.
    `close` gives what was held back when the answer ended.
    """

    usage: Usage

    def feed(self, pieces: list[bytes]) -> list[bytes]: ...
    def close(self) -> list[bytes]: ...


class Dialect(Protocol):
    """One of the three languages that clients speak to Ollama."""

    name: str

    def facts(self, route: Route, value: dict[str, Any]) -> Facts:
        """The facts of a body that was read. Wrong types count as absent: the server answers for them."""

    def cap_path(self, value: dict[str, Any]) -> list[tuple[str, ...]]:
        """Where the bound on output tokens stands, or would stand, in this body."""

    def observer(self, route: Route, stream: bool, *, drops_usage: bool = False) -> Observer:
        """A fresh observer for one answer."""

    def begins_with_error(self, piece: bytes) -> bool:
        """Whether a streamed answer's first bytes are an error record: nothing of use has come then."""

    def error(self, status: int, message: str, code: str) -> bytes:
        """The body of an error answer."""

    def stream_error(self, route: Route, message: str, code: str) -> bytes:
        """The record that ends a stream which cannot go on."""


_JSON_INT_MAX = 2**31 - 1
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
# The first bytes of the formats that vision models take: JPEG, PNG, GIF; WebP has its name behind a length.
_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
# A data URL that is an image and nothing else: any further parameter could hold a text.
_IMAGE_HEADER = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64", re.IGNORECASE)
# What a tool names that the server runs by itself.
_SERVED = frozenset(("connector_id", "container", "server_url", "vector_store_ids"))
_SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]{0,31}:", re.IGNORECASE)


def is_image_data(text: str) -> bool:
    """Whether a string is base64 of an image, by its alphabet and magic bytes."""
    if not text.isascii():
        return False
    head = text[:24]
    try:
        start = binascii.a2b_base64(head[: len(head) // 4 * 4])
    except binascii.Error:
        return False
    magic = start.startswith(_IMAGE_MAGIC) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP")
    return magic and not text.encode("ascii").translate(None, _BASE64)


def is_binary(text: str) -> bool:
    """Whether a string is base64 of something that is no text, so that nobody can scan it.

    As the most lenient reader takes base64: in lines, of either alphabet, with or without its padding.
    """
    if not text.isascii():
        return False
    digits = text.encode("ascii").translate(_URL_SAFE, b" \t\r\n").rstrip(b"=")
    if digits.translate(None, _BASE64):
        return False  # no base64, so it is the text that it is
    if len(digits) % 4 == 1:  # six bits alone are no byte
        digits = digits[:-1]
    try:
        binascii.a2b_base64(digits + b"=" * (-len(digits) % 4)).decode("utf-8")
    except ValueError:
        return True
    return False


class Gathering:
    """Facts in the making, shared by the dialects: texts, turns, images and tool calls of messages."""

    __slots__ = (
        "blocker",
        "calls",
        "first_user",
        "image_data",
        "images",
        "joined",
        "messages",
        "opaque",
        "system",
        "text_bytes",
        "turns",
    )

    def __init__(self) -> None:
        self.text_bytes = self.turns = self.messages = self.images = 0
        self.image_data: list[str] = []
        self.joined: list[str] = []
        self.system: list[str] = []
        self.calls: list[Any] = []
        self.first_user: str | None = None
        self.opaque = self.blocker = ""

    def message(self, role: Any, text: str) -> None:
        """One message with all of its text."""
        self.messages += 1
        self.text_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if role == "system" or role == "developer":
            self.system.append(text)
            return
        self.turns += 1
        if self.first_user is None and role != "assistant" and role != "tool":
            self.first_user = text

    def joint(self, texts: list[str]) -> str:
        """The text parts of one message as a model reads them, one behind the other."""
        if len(texts) == 1:
            return texts[0]
        text = "".join(texts)
        if texts:
            self.joined.append(text)
        return text

    def text(self, value: Any) -> str:
        """What should be a text. Something else in its place is not read here, and is sent all the same."""
        if type(value) is str:
            return value
        if value is not None:
            self.opaque = self.opaque or "something else stands in a text's place"
        return ""

    def image(self, data: Any) -> None:
        """An image in base64, or a data URL of one. Something else in its place is not hidden as an image."""
        self.images += 1
        if not isinstance(data, str):
            self.opaque = self.opaque or "an image is no string"
            return
        header, encoded = "", data
        scheme = _SCHEME.match(data)
        if scheme is not None:
            if scheme[0].strip().lower() != "data:":
                self.blocker = self.blocker or "the cloud would fetch a URL"
                return
            header, _, encoded = data.partition(",")
            if not header.strip().lower().startswith("data:image/"):
                self.opaque = self.opaque or "an image is of another type than image/*"
                return
        if is_image_data(encoded) and (not header or _IMAGE_HEADER.fullmatch(header)):
            self.image_data.append(data)
        elif is_binary(encoded):
            self.opaque = self.opaque or "an image is in no known format"

    def facts(self, *, tools: Any = None, structured: bool = False, embeds: bool = False) -> Facts:
        """The part of the facts that was gathered; `tools` are the call's tools as they came."""
        facts = Facts()
        facts.messages = self.messages
        facts.first_user_text = self.first_user or ""
        offered = 0
        if tools or self.calls:
            offered = self._count_tools(facts, several(tools))
        facts.shape = Shape(embeds, self.images, structured, self.text_bytes, self.turns, offered)
        if self.image_data:
            facts.image_data = tuple(self.image_data)
        if self.joined:
            facts.texts = tuple(self.joined)
        if self.system:
            facts.system_text = "\n".join(self.system)
        if self.opaque:
            facts.opaque = self.opaque
        if self.blocker:
            facts.cloud_blocker = self.blocker
        return facts

    def _count_tools(self, facts: Facts, tools: list[Any]) -> int:
        written = tools + self.calls
        facts.tools, facts.tool_items = len(tools), len(written)
        try:
            size = len(orjson.dumps(written))
            indented = len(orjson.dumps(written, option=orjson.OPT_INDENT_2))
        except TypeError:  # lone surrogates, or too deep
            self.blocker = self.blocker or "its tools cannot be measured"
        else:
            # Go writes `<` in six bytes, and Ollama indents the tools of some models by four blanks a level.
            facts.tool_bytes = 6 * size + 2 * (indented - size)
        if any(map(is_served_tool, tools)):
            self.blocker = self.blocker or "a tool fetches from where the sidecar cannot see"
        return len(tools)


def items(value: Any) -> list[Any]:
    """A list as it is; anything else as an empty one."""
    return value if type(value) is list else []


def several(value: Any) -> list[Any]:
    """A list as it is, and an object as a list of one: what no server takes is still sent, so it has to be seen."""
    return value if type(value) is list else [value] if type(value) is dict else []


def text_of(value: Any) -> str:
    """A string as it is; anything else as an empty one."""
    return value if type(value) is str else ""


def member(value: Any, name: str) -> Any:
    """A member of an object; None where there is no such object."""
    return value.get(name) if type(value) is dict else None


def is_served_tool(tool: Any) -> bool:
    """Whether a tool has the server fetch from elsewhere: from another server, a connector, files that it keeps."""
    if type(tool) is not dict:
        return False
    return not _SERVED.isdisjoint(tool) or text_of(tool.get("type")).strip().lower().startswith("mcp")


def is_web_tool(kind: Any) -> bool:
    """Whether a tool of this type makes the local server itself post a model-written query to Ollama's cloud."""
    return text_of(kind).strip().lower().startswith(("web_search", "web_fetch"))


def bound(value: Any) -> int | None:
    """A bound on tokens: a positive number that a server could take, without its fraction. Else there is none."""
    if type(value) is float and value <= _JSON_INT_MAX:
        value = int(max(value, 0.0))  # as Ollama reads its options
    return value if type(value) is int and 0 < value <= _JSON_INT_MAX else None


def count(value: Any) -> int | None:
    """A token count that a server reported; None for anything that is none."""
    return value if type(value) is int and 0 <= value <= _JSON_INT_MAX else None


def parse(record: bytes) -> dict[str, Any] | None:
    """A record of an answer; None where it is no JSON object."""
    try:
        value = orjson.loads(record)
    except orjson.JSONDecodeError:
        return None
    return value if type(value) is dict else None
