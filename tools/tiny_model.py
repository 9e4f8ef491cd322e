"""Writes a tiny random Llama model (0.46 MB) that a real Ollama loads and answers with.

GGUF version 3, by its specification: header, metadata, tensor infos, padding, tensors. The weights are seeded noise:
what the model says means nothing, but it is tokenised, sampled, counted and streamed like any other.
"""

from __future__ import annotations

import random
import struct
import sys
from array import array
from pathlib import Path

EMBED, HEADS, KV_HEADS, FEED_FORWARD, BLOCKS, CONTEXT = 64, 4, 2, 128, 2, 2048
ALIGNMENT = 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

BYTES = [f"<0x{value:02X}>" for value in range(256)]
LETTERS = ["\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789.,"]
TOKENS = ["<unk>", "<s>", "</s>", *BYTES, *LETTERS]
KINDS = [UNKNOWN, CONTROL, CONTROL, *([BYTE] * len(BYTES)), *([NORMAL] * len(LETTERS))]
SCORES = [*([0.0] * (3 + len(BYTES))), *(-float(rank) for rank in range(len(LETTERS)))]


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: object) -> bytes:
    if kind == STRING:
        return _text(str(value))
    formats = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}
    return struct.pack(formats[kind], value)


def _metadata() -> list[bytes]:
    def one(key: str, kind: int, value: object) -> bytes:
        return _text(key) + struct.pack("<I", kind) + _value(kind, value)

    def many(key: str, kind: int, values: list[object]) -> bytes:
        head = _text(key) + struct.pack("<IIQ", ARRAY, kind, len(values))
        return head + b"".join(_value(kind, value) for value in values)

    return [
        one("general.architecture", STRING, "llama"),
        one("general.name", STRING, "tiny"),
        one("general.file_type", UINT32, 0),
        one("llama.context_length", UINT32, CONTEXT),
        one("llama.embedding_length", UINT32, EMBED),
        one("llama.block_count", UINT32, BLOCKS),
        one("llama.feed_forward_length", UINT32, FEED_FORWARD),
        one("llama.attention.head_count", UINT32, HEADS),
        one("llama.attention.head_count_kv", UINT32, KV_HEADS),
        one("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        one("llama.rope.dimension_count", UINT32, EMBED // HEADS),
        one("llama.vocab_size", UINT32, len(TOKENS)),
        one("tokenizer.ggml.model", STRING, "llama"),
        one("tokenizer.ggml.pre", STRING, "default"),
        many("tokenizer.ggml.tokens", STRING, list(TOKENS)),
        many("tokenizer.ggml.scores", FLOAT32, list(SCORES)),
        many("tokenizer.ggml.token_type", INT32, list(KINDS)),
        one("tokenizer.ggml.bos_token_id", UINT32, 1),
        one("tokenizer.ggml.eos_token_id", UINT32, 2),
        one("tokenizer.ggml.unknown_token_id", UINT32, 0),
        one("tokenizer.ggml.add_bos_token", BOOL, True),
        one("tokenizer.ggml.add_eos_token", BOOL, False),
    ]


def _tensors() -> list[tuple[str, tuple[int, ...], bytes]]:
    """Name, shape as GGUF has it (fastest first), and data."""
    noise = random.Random(0)

    def weight(name: str, out: int, inner: int) -> tuple[str, tuple[int, ...], bytes]:
        return name, (inner, out), array("f", (noise.gauss(0, 0.05) for _ in range(out * inner))).tobytes()

    def ones(name: str) -> tuple[str, tuple[int, ...], bytes]:
        return name, (EMBED,), array("f", [1.0] * EMBED).tobytes()

    head = EMBED // HEADS
    tensors = [
        weight("token_embd.weight", len(TOKENS), EMBED),
        ones("output_norm.weight"),
        weight("output.weight", len(TOKENS), EMBED),
    ]
    for index in range(BLOCKS):
        block = f"blk.{index}."
        tensors += [
            ones(f"{block}attn_norm.weight"),
            ones(f"{block}ffn_norm.weight"),
            weight(f"{block}attn_q.weight", HEADS * head, EMBED),
            weight(f"{block}attn_k.weight", KV_HEADS * head, EMBED),
            weight(f"{block}attn_v.weight", KV_HEADS * head, EMBED),
            weight(f"{block}attn_output.weight", EMBED, HEADS * head),
            weight(f"{block}ffn_gate.weight", FEED_FORWARD, EMBED),
            weight(f"{block}ffn_up.weight", FEED_FORWARD, EMBED),
            weight(f"{block}ffn_down.weight", EMBED, FEED_FORWARD),
        ]
    return tensors


def model() -> bytes:
    """The whole file."""
    metadata, tensors = _metadata(), _tensors()
    infos, offset = [], 0
    for name, shape, data in tensors:
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos.append(_text(name) + dimensions + struct.pack("<IQ", 0, offset))
        offset += _padded(len(data))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata) + b"".join(infos)
    return head.ljust(_padded(len(head)), b"\0") + b"".join(
        data.ljust(_padded(len(data)), b"\0") for *_, data in tensors
    )


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(model())
