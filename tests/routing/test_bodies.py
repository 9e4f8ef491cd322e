"""Bodies of every kind that the local server reads: what they name and say, or one kind of refusal."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from email import message_from_bytes
from email.policy import HTTP
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.dialects import match
from sidecar.dialects.base import Route
from sidecar.dialects.reading import UnreadableError
from sidecar.routing import bodies
from sidecar.routing.bodies import Body, read_body

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
CLOUD = "gpt-oss:120b-cloud"


def route_of(path: str) -> Route:
    route = match(b"POST", path.encode())
    assert route is not None
    return route


def read(raw: bytes, path: str = "/v1/chat/completions", query: bytes = b"", **headers: bytes) -> Body:
    fields = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return read_body(route_of(path), fields, query, raw)


# Plain ones.


@pytest.mark.parametrize("coding", [b"", b"identity", b"Identity", b" identity "])
def test_a_plain_body_is_read_as_it_came(coding: bytes) -> None:
    body = read(CHAT, content_encoding=coding)
    assert body.raw is CHAT
    assert body.decoded is CHAT
    assert body.value == json.loads(CHAT)
    assert (body.facts.model, body.facts.models, body.facts.cloud_blocker) == ("m", ("m",), "")


@pytest.mark.parametrize("media", [b"", b"text/plain", b"application/xml", b"multipart/form-data; boundary=B"])
def test_the_content_type_means_nothing_on_a_json_route(media: bytes) -> None:
    # Handlers parse JSON whatever it says.
    assert read(CHAT, content_type=media).facts.model == "m"


@pytest.mark.parametrize("raw", [b"", b" ", b"\r\n\t"])
def test_an_empty_body_goes_to_the_server_that_says_so(raw: bytes) -> None:
    body = read(raw)
    assert (body.facts.models, body.texts, body.value) == ((), [], None)
    assert body.facts.cloud_blocker == "the body is empty"


@pytest.mark.parametrize("raw", [b"model=m", b"{", b"\x00\x01", b"\x1f\x8b", b"<xml/>", b"--B\r\n"])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/messages", "/v1/audio/transcriptions"])
def test_what_is_no_json_is_unreadable(raw: bytes, path: str) -> None:
    with pytest.raises(UnreadableError):
        read(raw, path)


def test_another_case_of_the_model_is_read_as_ollama_reads_it() -> None:
    body = read(b'{"Model":"gpt-oss:120b-cloud","messages":[]}', "/api/chat")
    assert body.facts.models == (CLOUD,)
    assert body.facts.ambiguous


def test_an_object_behind_something_else_is_read_too() -> None:
    body = read(b'[] {"model":"gpt-oss:120b-cloud"}', "/api/chat")
    assert body.facts.models == (CLOUD,)
    assert body.facts.ambiguous


# Compressed ones.


def deflated(raw: bytes) -> bytes:
    return zlib.compress(raw)


def zstd(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(raw)


def streamed_zstd(raw: bytes) -> bytes:
    """A frame that does not tell its size."""
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(raw) + compressor.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": deflated,
    "zstd": zstd,
    "streamed-zstd": streamed_zstd,
}
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
COMPRESSED: dict[str, tuple[bytes, bytes]] = {
    "gzip": (b"gzip", gzip.compress(CHAT)),
    "gzip-upper-case": (b"GZIP", gzip.compress(CHAT)),
    "x-gzip": (b"x-gzip", gzip.compress(CHAT)),
    "deflate": (b"deflate", deflated(CHAT)),
    "zstd": (b"zstd", zstd(CHAT)),
    "zstd-with-blanks": (b" zstd ", zstd(CHAT)),
    "zstd-upper-case": (b"ZSTD", zstd(CHAT)),
    "zstd-streamed": (b"zstd", streamed_zstd(CHAT)),
    "zstd-two-frames": (b"zstd", zstd(CHAT[:9]) + zstd(CHAT[9:])),
    "zstd-empty-frames": (b"zstd", zstd(b"") + zstd(CHAT[:9]) + zstd(b"") + zstd(CHAT[9:]) + zstd(b"")),
    "zstd-skippable-frames": (b"zstd", SKIPPABLE + zstd(CHAT[:9]) + SKIPPABLE + streamed_zstd(CHAT[9:]) + SKIPPABLE),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_body_is_read_and_goes_on_as_it_came(name: str) -> None:
    coding, raw = COMPRESSED[name]
    body = read(raw, content_encoding=coding)
    assert body.raw is raw
    assert body.decoded == CHAT
    assert (body.facts.model, body.facts.cloud_blocker) == ("m", "the body is compressed")
    assert "hello" in body.texts


@pytest.mark.parametrize(
    ("coding", "raw"),
    [
        *((coding, CHAT) for coding in (b"gzip", b"deflate", b"zstd")),
        *((coding, gzip.compress(CHAT)) for coding in (b"deflate", b"zstd", b"br", b"compress")),
        *(
            (coding, CHAT)
            for coding in (b"br", b"compress", b"gzip, gzip", b"identity, gzip", b"gzip;q=1", b"x", b"*")
        ),
        (b"gzip", gzip.compress(CHAT)[:-1]),
        (b"gzip", gzip.compress(CHAT)[:20]),
        (b"gzip", gzip.compress(CHAT) + b"x"),
        (b"gzip", gzip.compress(CHAT[:9]) + gzip.compress(CHAT[9:])),
        (b"gzip", b""),
        (b"gzip", gzip.compress(CHAT)[:-8] + b"\x00" * 8),
        (b"deflate", zlib.compress(CHAT)[2:-4]),
        (b"deflate", zlib.compress(CHAT) + b"{}"),
        (b"zstd", zstd(CHAT) + b"garbage behind it"),
        (b"zstd", zstd(CHAT)[:-3]),
        (b"zstd", zstd(CHAT)[1:]),
    ],
)
def test_what_cannot_be_decoded_is_unreadable(coding: bytes, raw: bytes) -> None:
    with pytest.raises(UnreadableError):
        read(raw, content_encoding=coding)


def test_zstd_of_too_large_a_window_is_unreadable_as_it_is_to_ollama() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    raw = compressor.compress(CHAT) + compressor.flush()
    with pytest.raises(UnreadableError):
        read(raw, content_encoding=b"zstd")


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd", "streamed-zstd"])
def test_a_bomb_is_refused_within_bounds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_DECODED", 1 << 20)
    zeros = bytes(64 << 20)
    raw = PACKERS[name](zeros)
    del zeros
    tracemalloc.start()
    with pytest.raises(UnreadableError):
        read(raw, content_encoding=name.removeprefix("streamed-").encode())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"zstd"])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_the_bound_is_exact(coding: bytes, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_DECODED", 5000)
    plain = CHAT + b" " * (5000 + more - len(CHAT))
    raw = PACKERS[coding.decode()](plain)
    if more > 0:
        with pytest.raises(UnreadableError):
            read(raw, content_encoding=coding)
    else:
        assert read(raw, content_encoding=coding).decoded == plain


# A model in the query.


@pytest.mark.parametrize(
    ("query", "models"),
    [
        (b"model=x", ("m", "x")),
        (b"model=x&model=y", ("m", "x", "y")),
        (b"Model=x", ("m", "x")),
        (b"mo%64el=x", ("m", "x")),
        (b"model=gpt-oss%3A120b-cloud", ("m", CLOUD)),
        (b"model=a+b", ("m", "a b")),
        (b"model=m", ("m",)),
        (b"model=", ("m", "")),
        (b"a=b&model=x#y", ("m", "x#y")),
        (b"models=x", ("m",)),
        (b"beta=true", ("m",)),
        (b"", ("m",)),
        (b"model=%ff", ("m", "\ufffd")),
        (b"&&=&%", ("m",)),
    ],
)
def test_a_model_in_the_query_counts_too(query: bytes, models: tuple[str, ...]) -> None:
    assert read(CHAT, query=query).facts.models == models


# Forms.

SOUND = b"RIFF\x00\xff\r\n--\r\n\r\n--Bx"
AUDIO = "/v1/audio/transcriptions"


def part(disposition: bytes, content: bytes, *more: bytes) -> bytes:
    lines = (b"Content-Disposition: " + disposition, *more)
    return b"--XBX\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + content + b"\r\n"


def field(name: bytes, content: bytes) -> bytes:
    return part(b'form-data; name="' + name + b'"', content)


FILE = part(b'form-data; name="file"; filename="a.wav"', SOUND, b"Content-Type: audio/wav")
END = b"--XBX--\r\n"


def form(*parts: bytes, end: bytes = END, media: bytes = b"multipart/form-data; boundary=XBX") -> Body:
    return read(b"".join(parts) + end, AUDIO, content_type=media)


@pytest.mark.parametrize(
    ("parts", "models"),
    [
        ([FILE, field(b"model", b"m")], ("m",)),
        ([field(b"model", b"m"), FILE], ("m",)),
        ([field(b"model", b" m\n"), FILE], ("m",)),
        ([field(b"model", b"m"), field(b"model", b"gpt-oss:120b-cloud")], ("m", CLOUD)),
        ([field(b"model", b"gpt-oss:120b-cloud"), field(b"Model", b"m")], (CLOUD, "m")),
        ([field(b"MODEL", b"m")], ("m",)),
        ([field(b"model", b"")], ("",)),
        ([field(b"prompt", b"m")], ()),
        ([part(b"form-data; name=model", b"m")], ("m",)),
        ([part(b"form-data;name=model", b"m")], ("m",)),
        ([part(b'FORM-DATA; NAME="model"', b"m")], ("m",)),
        ([part(b'form-data ; name = "model"', b"m")], ("m",)),
        ([part(b'form-data; name="model";', b"m")], ("m",)),
        ([part(b'form-data; filename="a\\"; name=b"; name="model"', b"m")], ("m",)),
        # To Go a part with an empty file name is a value.
        ([part(b'form-data; name="model"; filename=""', b"gpt-oss:120b-cloud")], (CLOUD,)),
        ([part(b'form-data; name="model"; filename="x"', b"gpt-oss:120b-cloud")], (CLOUD,)),
        ([part(b"form-data; name=\"model\"; filename*=utf-8''", b"gpt-oss:120b-cloud")], (CLOUD,)),
        ([part(b'form-data; name="model"', b"m", b"Content-Type: text/plain; charset=utf-16")], ("m",)),
        ([part(b'form-data; name="model"', b"m", b"Content-Transfer-Encoding: 8bit")], ("m",)),
        ([part(b'form-data; name="model"', b"m", b"Content-Type: multipart/mixed; boundary=Y")], ("m",)),
        ([], ()),
    ],
)
def test_the_models_that_a_form_names(parts: list[bytes], models: tuple[str, ...]) -> None:
    body = form(*parts)
    assert body.facts.models == models
    assert body.facts.model == (models[0] if models else "")
    assert body.facts.opaque
    assert body.facts.cloud_blocker


@pytest.mark.parametrize(
    "media",
    [
        *(
            b"multipart/form-data; boundary=XBX",
            b"Multipart/Form-Data;boundary=XBX",
            b'multipart/form-data; boundary="XBX"',
        ),
        *(b"multipart/form-data; charset=utf-8; Boundary=XBX", b" multipart/form-data ; boundary=XBX ;"),
    ],
)
def test_spellings_of_the_media_type(media: bytes) -> None:
    assert form(FILE, field(b"model", b"m"), media=media).facts.models == ("m",)


@pytest.mark.parametrize("end", [b"--XBX--", b"--XBX--\r\n"])
@pytest.mark.parametrize("begin", [b"", b"\r\n"])
def test_how_a_form_may_begin_and_end(begin: bytes, end: bytes) -> None:
    assert form(begin, field(b"model", b"m"), end=end).facts.models == ("m",)


def test_the_texts_of_a_form_are_its_fields_but_not_its_files() -> None:
    body = form(FILE, field(b"model", b"m"), field(b"prompt", "Jürgen".encode()), field(b"x", b"\xff"))
    assert body.texts == ["m", "Jürgen", "\ufffd"]
    assert body.facts.shape.text_bytes == 8
    assert body.value is None


MODEL = field(b"model", b"gpt-oss:120b-cloud")


@pytest.mark.parametrize(
    "media",
    [
        *(b"multipart/form-data", b"multipart/form-data; boundary=", b'multipart/form-data; boundary=""'),
        *(b"multipart/form-data; boundary=XBX; boundary=Y", b"multipart/form-data; boundary*=utf-8''XBX"),
        *(b"multipart/form-data; boundary*0=XB; boundary*1=X", b'multipart/form-data; boundary="X\\BX"'),
        *(
            b"multipart/form-data; boundary=YBY",
            b"multipart/form-datax; boundary=XBX",
            b'multipart/form-data; boundary="XBX',
        ),
        *(
            b"multipart/form-data boundary=XBX",
            b"multipart/form-data; boundary=XBX x",
            b"multipart/form-data, x; boundary=XBX",
        ),
        b"multipart/form-data; boundary=" + b"X" * 71,
    ],
)
def test_a_boundary_that_readers_could_read_differently_is_unreadable(media: bytes) -> None:
    with pytest.raises(UnreadableError):
        form(FILE, MODEL, media=media)


@pytest.mark.parametrize(
    "raw",
    [
        MODEL,
        END + MODEL,
        MODEL + END + MODEL + END,
        MODEL + END + b"epilogue",
        b"preamble\r\n" + MODEL + END,
        MODEL.replace(b"\r\n", b"\n") + END,
        MODEL.replace(b"--XBX\r\n", b"--XBX \r\n") + END,
        MODEL.replace(b"--XBX\r\n", b"--XBX\t\r\n") + END,
        MODEL.replace(b"--XBX\r\n", b"--XBX\n") + END,
        MODEL + b"--XBX-- \r\n",
        MODEL[:-2] + END,
        MODEL[:-2] + b"\n" + END,
        # One reader ends the file here, another goes on to the model behind it.
        part(b'form-data; name="file"; filename="a"', b"x\r--XBX--\r\ny") + MODEL + END,
        part(b'form-data; name="file"; filename="a"', b"x\n--XBX--\r\ny") + MODEL + END,
        part(b'form-data; name="file"; filename="a"', b"x\r\n--XBXy") + MODEL + END,
        part(b'form-data; name="file"; filename="a"', b"--XBX") + MODEL + END,
        b"--XBX\r\n\r\n\r\n" + END,
        b"--XBX\r\n" + END,
        b"--XBX\r\nContent-Disposition: form-data; name=model\r\nm\r\n" + END,
    ],
)
def test_a_form_that_readers_could_split_differently_is_unreadable(raw: bytes) -> None:
    with pytest.raises(UnreadableError):
        read(raw, AUDIO, content_type=b"multipart/form-data; boundary=XBX")


@pytest.mark.parametrize(
    "disposition",
    [
        *(
            b"form-data",
            b"form-data; name",
            b'form-data; name=""',
            b"form-data; filename=a",
            b"",
            b"attachment; name=model",
        ),
        *(b"form-data; name=model; name=x", b"form-data; name*=utf-8''model", b"form-data; name*0=mo; name*1=del"),
        *(
            b"form-data; name=x; name*=utf-8''model",
            b'form-data; name="mo\\del"',
            b'form-data; name="model',
            b"; name=model",
        ),
        *(
            b'form-data; name="model" x',
            b"form-data, name=model",
            b"form-data name=model",
            b'form-data; name="a" "b"',
        ),
        b'form-data; filename="a\\"; name="model"',
    ],
)
def test_a_part_that_readers_could_name_differently_is_unreadable(disposition: bytes) -> None:
    with pytest.raises(UnreadableError):
        form(part(disposition, b"gpt-oss:120b-cloud"))


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"Content-Transfer-Encoding: base64",
            b"content-transfer-encoding: quoted-printable",
            b"Content-Transfer-Encoding: x",
        ),
        *(
            b"Content-Disposition: form-data; name=model",
            b" folded",
            b"\tfolded",
            b"no colon",
            b"X : y",
            b": y",
            b"X: a\nb",
        ),
        *(b"X: a\rb", b"X A: b"),
    ],
)
def test_a_part_with_a_header_that_readers_could_read_differently_is_unreadable(line: bytes) -> None:
    with pytest.raises(UnreadableError):
        form(part(b'form-data; name="x"', b"gpt-oss:120b-cloud", line))


def test_a_name_that_is_too_long_to_be_one_is_unreadable() -> None:
    with pytest.raises(UnreadableError):
        form(field(b"model", b"m" * 2000))


def test_a_compressed_form_is_read_as_well() -> None:
    raw = zstd(FILE + MODEL + END)
    body = read(raw, AUDIO, content_type=b"multipart/form-data; boundary=XBX", content_encoding=b"zstd")
    assert body.facts.models == (CLOUD,)
    assert body.raw is raw


def test_the_query_of_a_form_names_models_too() -> None:
    fields = {b"content-type": b"multipart/form-data; boundary=XBX"}
    body = read_body(route_of(AUDIO), fields, b"model=gpt-oss:120b-cloud", FILE + field(b"model", b"m") + END)
    assert body.facts.models == ("m", CLOUD)


def by_email(media: bytes, raw: bytes) -> list[tuple[str | None, bytes]] | None:
    """Names and contents by Python's mail parser, which is lenient in other ways."""
    message = message_from_bytes(b"Content-Type: " + media + b"\r\n\r\n" + raw, policy=HTTP)
    if not message.is_multipart():
        return None
    found: list[tuple[str | None, bytes]] = []
    for each in message.iter_parts():
        content = each.get_payload(decode=True)
        name = each.get_param("name", header="content-disposition")
        found.append(
            (str(name[2] if isinstance(name, tuple) else name), content if isinstance(content, bytes) else b"")
        )
    return found


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    contents = st.sampled_from([b"m", b"", b"gpt-oss:120b-cloud", b"a\r\nb", b"--", b"XBX", b"\r\n"])
    names = st.sampled_from([b"model", b"Model", b"prompt", b"x"])
    raw = b"".join(draw(st.lists(st.one_of(st.builds(field, names, contents), st.just(FILE)), max_size=4))) + END
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.sampled_from([b"\r", b"\n", b"\r\n", b"--XBX", b" ", b'"', b";", b"\\"])) + raw[at:]
    return raw


@QUICK
@given(forms())
def test_a_form_that_is_taken_is_the_same_form_to_another_reader(raw: bytes) -> None:
    media = b"multipart/form-data; boundary=XBX"
    try:
        body = read(raw, AUDIO, content_type=media)
    except UnreadableError:
        return
    theirs = by_email(media, raw) or []
    models = {content.decode("utf-8", "replace").strip() for name, content in theirs if str(name).lower() == "model"}
    assert models == set(body.facts.models)


# Whatever comes.


@QUICK
@given(
    st.sampled_from(["/api/chat", "/v1/responses", AUDIO]),
    st.dictionaries(
        st.sampled_from([b"content-encoding", b"content-type"]),
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from([b"gzip", b"deflate", b"zstd", b"multipart/form-data; boundary=XBX"]),
        ),
    ),
    st.binary(max_size=20),
    st.one_of(
        st.binary(max_size=40),
        forms(),
        st.sampled_from([gzip.compress(CHAT), zstd(CHAT), deflated(CHAT), CHAT]).flatmap(
            lambda raw: st.integers(0, len(raw)).map(lambda at: raw[:at])
        ),
    ),
)
def test_nothing_raises_but_unreadable(path: str, headers: dict[bytes, bytes], query: bytes, raw: bytes) -> None:
    try:
        body = read_body(route_of(path), headers, query, raw)
    except UnreadableError:
        return
    assert body.raw is raw
    assert all(isinstance(text, str) for text in (*body.texts, *body.facts.models))


@pytest.mark.parametrize("coding", [b"gzip", b"s3cr3t"])
def test_no_text_of_the_call_is_in_an_error(coding: bytes) -> None:
    with pytest.raises(UnreadableError) as caught:
        read(b"s3cr3t", content_encoding=coding)
    assert "s3cr3t" not in str(caught.value)


def test_texts_are_all_strings_and_the_joined_parts_but_no_image() -> None:
    image = "iVBORw0KGgo" + "A" * 40
    parts: list[Any] = [{"type": "text", "text": "John D"}, {"type": "text", "text": "oe"}]
    parts.append({"type": "image_url", "image_url": {"url": image}})
    value = {"model": "m", "messages": [{"role": "user", "content": parts}], "metadata": {"key": ["value"]}}
    body = read(json.dumps(value).encode())
    assert {"John D", "oe", "John Doe", "key", "value", "metadata", "m", "user"} <= set(body.texts)
    assert image not in body.texts
    assert body.texts[-1] == "John Doe"
