"""Reading request bodies of every kind that the local server reads, to learn what they name and say.

Compressed and multipart bodies are decoded here, bounded, to be read only: they go on as they came.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from sidecar.core.call import Facts
from sidecar.core.task import Shape
from sidecar.dialects.base import Route, is_web_tool
from sidecar.dialects.reading import Reading, UnreadableError, fold, read_json

# Ollama itself takes 20 MiB of a decoded body.
MAX_DECODED = 64 * 1024 * 1024
_ZSTD_STEP = 256
_PLAIN = frozenset((b"", b"identity"))
_MAX_NAME = 1024
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEADER = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\r\n]*)")
_PARAMETER = re.compile(
    rb"[ \t]*;[ \t]*(?:(" + _TOKEN + rb')[ \t]*=[ \t]*(?:"((?:[^"\\\r\n]|\\.)*)"|(' + _TOKEN + rb")))?"
)


class Body:
    """One body as read: `raw` as it came, `decoded` without compression, its JSON `value` where it has one."""

    __slots__ = ("decoded", "facts", "raw", "texts", "value")

    def __init__(self, raw: bytes, decoded: bytes, value: Any, facts: Facts, texts: list[str]) -> None:
        self.raw = raw
        self.decoded = decoded
        self.value = value
        self.facts = facts
        self.texts = texts


def read_body(route: Route, headers: Mapping[bytes, bytes], query: bytes, raw: bytes) -> Body:
    """Reads an inference call's body. Raises UnreadableError where that cannot be done."""
    coding = headers.get(b"content-encoding", b"").strip().lower()
    decoded = raw if coding in _PLAIN else _decode(coding, raw)
    media = headers.get(b"content-type", b"").lstrip()
    if route.multipart and media[:19].lower() == b"multipart/form-data":
        body = _read_form(media, raw, decoded)
    elif decoded.strip():
        body = _read_json_body(route, raw, decoded)
    else:
        body = Body(raw, decoded, None, _blocked("the body is empty"), [])  # the server says so itself
    facts = body.facts
    if decoded is not raw:
        facts.cloud_blocker = facts.cloud_blocker or "the body is compressed"
    if query:
        named = [value for key, values in _query(query) if fold(key) == "model" for value in values]
        facts.models = tuple(dict.fromkeys((*facts.models, *named)))
    return body


def _read_json_body(route: Route, raw: bytes, decoded: bytes) -> Body:
    reading = read_json(decoded)
    value = reading.value
    if type(value) is not dict:
        body = Body(raw, decoded, value, _blocked("the body is no JSON object"), reading.texts)
        body.facts.models, body.facts.ambiguous = reading.models, reading.problem
        return body
    facts = route.dialect.facts(route, value)
    _name(facts, value, reading)
    if reading.problem and route.web_tools:
        # Another reader may find the tool that makes the local server search where this one did not.
        facts.web_tools = facts.web_tools or any(map(is_web_tool, reading.texts))
    if value.get("context"):
        facts.opaque = facts.opaque or "context holds the tokens of an earlier call"
    texts = reading.texts
    if facts.images:
        images = frozenset(map(id, facts.image_data))
        texts = [text for text in texts if id(text) not in images]
        if any(map(_IMAGE_TAG.search, (*texts, *facts.texts))):
            facts.cloud_blocker = facts.cloud_blocker or "a text of it says where an image goes in"
    elif reading.pictured:
        facts.stray_image = True
    if reading.numbers:
        facts.texts += tuple(reading.numbers)
    texts += facts.texts
    return Body(raw, decoded, value, facts, texts)


# Ollama's own mark for an image: it puts a whole image in the place of each, however often one comes. The renderers
# of some models cut `<|channel>…` and `/think` out of a text, and a tool call's arguments are JSON of their own: what
# is around the one may come together as a mark, and so may escapes in the other.
_IMAGE_TAG = re.compile(r"\[img-|<\|channel>|(?<!<)/think|/think(?!>)|/no_think|\\u00[2-7]")


def _name(facts: Facts, value: dict[str, Any], reading: Reading) -> None:
    model = value.get("model")
    facts.model = model if type(model) is str else ""
    facts.models = reading.models
    facts.ambiguous = reading.problem
    if not facts.model:
        facts.cloud_blocker = facts.cloud_blocker or "no model is named"


def _decode(coding: bytes, raw: bytes) -> bytes:
    if coding == b"zstd":
        return _decode_zstd(raw)
    if coding not in (b"gzip", b"x-gzip", b"deflate"):
        raise UnreadableError("the request body's Content-Encoding is none that can be read here")
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | (0 if coding == b"deflate" else 16))
    try:
        decoded = decoder.decompress(raw, MAX_DECODED)
    except zlib.error:
        raise UnreadableError(f"the request body is not valid {coding.decode()}") from None
    if decoder.unconsumed_tail or not decoder.eof or decoder.unused_data:
        raise UnreadableError("the compressed request body is too large, cut short, or has more behind it")
    return decoded


def _decode_zstd(raw: bytes) -> bytes:
    """All its frames (RFC 8878, section 3.1), as the local server's reader takes them."""
    import zstandard

    decoded: list[bytes] = []
    size = at = 0
    try:
        while at < len(raw):
            frame = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()
            # Its output has no bound but its input's: a block takes 4 bytes or more and gives 128 KiB at most.
            while at < len(raw) and not frame.eof:
                decoded.append(frame.decompress(raw[at : at + _ZSTD_STEP]))
                at += _ZSTD_STEP
                size += len(decoded[-1])
                if size > MAX_DECODED:
                    raise UnreadableError("the compressed request body is too large")
            if not frame.eof:
                raise UnreadableError("the compressed request body is cut short")
            at = min(at, len(raw)) - len(frame.unused_data)
    except zstandard.ZstdError:
        raise UnreadableError("the request body is not valid zstd") from None
    return b"".join(decoded)


def _read_form(media: bytes, raw: bytes, decoded: bytes) -> Body:
    """A form with files. Its audio or image cannot be scanned, so the call is confidential.

    Only forms that every reader splits alike are read: the boundary stands nowhere but where parts begin and end.
    """
    kind, parameters = _parameters(media)
    boundary = parameters.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70 or b"\\" in boundary:
        raise UnreadableError("the multipart request body's boundary cannot be read")
    first, *parts = decoded.split(b"--" + boundary)
    if first not in (b"", b"\r\n") or not parts or parts.pop() not in (b"--", b"--\r\n"):
        raise UnreadableError("the multipart request body cannot be read")
    models: dict[str, None] = {}
    texts: list[str] = []
    for part in parts:
        name, is_file, content = _read_part(part)
        if not is_file:
            texts.append(content.decode("utf-8", "replace"))
        if fold(name) == "model":
            if len(content) > _MAX_NAME:
                raise UnreadableError("the model's name is too long")
            models[content.decode("utf-8", "replace").strip()] = None
    facts = _blocked("a form is no JSON")
    facts.models = tuple(models)
    facts.model = facts.models[0] if models else ""
    facts.shape = Shape(text_bytes=sum(map(len, texts)))
    facts.opaque = "a file in a form cannot be scanned"
    return Body(raw, decoded, None, facts, texts)


def _read_part(part: bytes) -> tuple[str, bool, bytes]:
    """One part's field name, whether it is a file to every reader, and its content."""
    head, blank, content = part[2:-2].partition(b"\r\n\r\n")
    if not blank or not (part.startswith(b"\r\n") and part.endswith(b"\r\n")):
        raise UnreadableError("a part of the multipart request body cannot be read")
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        field = _HEADER.fullmatch(line)
        if field is None or field[1].lower() in headers:
            raise UnreadableError("a part's header in the multipart request body cannot be read")
        headers[field[1].lower()] = field[2].strip()
    kind, parameters = _parameters(headers.get(b"content-disposition", b""))
    name = parameters.get(b"name", b"")
    coded = headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"7bit", b"8bit", b"binary")
    if kind != b"form-data" or not name or b"\\" in name or coded:
        raise UnreadableError("a part of the multipart request body has no plain name or content")
    return name.decode("utf-8", "replace"), bool(parameters.get(b"filename")), content


def _parameters(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """A header's value in lower case and its parameters (RFC 9110, section 5.6.6): no name twice or in pieces."""
    value = value.strip()
    kind = value.partition(b";")[0]
    found: dict[bytes, bytes] = {}
    position = len(kind)
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        if parameter is None:
            raise UnreadableError("a header's parameters in the multipart request body cannot be read")
        position = parameter.end()
        if parameter[1] is None:
            continue  # a semicolon with nothing behind it
        name = parameter[1].lower()
        if name in found or name.startswith((b"name*", b"boundary*")):
            raise UnreadableError("a header's parameter in the multipart request body can be read in two ways")
        found[name] = parameter[2] if parameter[2] is not None else parameter[3]
    return kind.strip().lower(), found


def _blocked(why: str) -> Facts:
    facts = Facts()
    facts.cloud_blocker = why
    return facts


def _query(query: bytes) -> list[tuple[str, list[str]]]:
    return list(parse_qs(query.decode("utf-8", "replace"), keep_blank_values=True).items())
