"""Small files with a valid GGUF header."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float16] | NDArray[np.float32]
Value = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]


def gguf_bytes(
    pairs: Mapping[str, Value],
    *,
    tensors: Mapping[str, Tensor] | None = None,
    padding: int = 0,
) -> bytes:
    """Make a GGUF version 3 file with these pairs and tensors, and ``padding`` bytes of varying values."""
    head, data = b"".join(_string(key) + _value(value) for key, value in pairs.items()), b""
    tensors = tensors or {}
    for name, tensor in tensors.items():
        data += bytes(-len(data) % _ALIGNMENT)
        shape = struct.pack(f"<I{tensor.ndim}Q", tensor.ndim, *reversed(tensor.shape))
        head += _string(name) + shape + struct.pack("<IQ", _TYPES[tensor.dtype.name], len(data))
        data += tensor.tobytes()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + head
    padded = (_PATTERN * (padding // len(_PATTERN) + 1))[:padding]
    return head + (bytes(-len(head) % _ALIGNMENT) + data if data else b"") + padded


_ALIGNMENT = 32
_TYPES = {"float32": 0, "float16": 1}


_PATTERN = bytes(i * 31 % 251 for i in range(251))
"""The varying values, which begin anew after these."""


def chat_model(*, name: str = "Tiny", template: str = "{{ messages }}", padding: int = 0) -> bytes:
    """Make the file of a small chat model."""
    return gguf_bytes(
        {
            "general.architecture": "llama",
            "general.name": name,
            "general.size_label": "135M",
            "general.license": "apache-2.0",
            "general.languages": ["en", "fr"],
            "llama.block_count": 30,
            "llama.context_length": 8192,
            "llama.embedding_length": 576,
            "llama.attention.head_count": 9,
            "llama.attention.head_count_kv": 3,
            "tokenizer.ggml.tokens": ["<s>", "</s>"],
            "tokenizer.chat_template": template,
        },
        padding=padding,
    )


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case list():
            kinds: dict[type, int] = {str: 8, int: 5, float: 6, bool: 7}
            head = struct.pack("<IIQ", 9, kinds[type(value[0])] if value else 4, len(value))
            return head + b"".join(map(_item, value))


def _item(item: str | float) -> bytes:
    if isinstance(item, bool):
        return struct.pack("<?", item)
    return _string(item) if isinstance(item, str) else struct.pack("<f" if isinstance(item, float) else "<i", item)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
