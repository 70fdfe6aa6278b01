"""A small image projector with random weights, of Gemma 3's kind, for a language model that is there anyway.

The model answers at random, but not blindly: each picture has tokens of its own, and other pictures other ones.
Names of keys and tensors: llama.cpp's conversion of Gemma 3. This kind needs no
tokens of its own in the vocabulary.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.fakes.gguf import Value, gguf_bytes

SIDE, PATCH, MERGED, WIDTH, INNER, HEADS, LAYERS = 64, 16, 2, 32, 64, 4, 2
TOKENS = (SIDE // PATCH // MERGED) ** 2
"""Tokens of a picture, whatever its size: it is scaled to a square of :data:`SIDE` pixels."""
_ALIGNMENT = 32


def write_projector(path: Path, *, embedding_length: int, seed: int = 1) -> Path:
    """Write the GGUF of a projector into the embeddings of a model with this ``embedding_length``."""
    pairs: dict[str, Value] = {
        "general.architecture": "clip",
        "general.alignment": _ALIGNMENT,
        "clip.has_vision_encoder": True,
        "clip.projector_type": "gemma3",
        "clip.use_gelu": True,
        "clip.vision.image_size": SIDE,
        "clip.vision.patch_size": PATCH,
        "clip.vision.embedding_length": WIDTH,
        "clip.vision.feed_forward_length": INNER,
        "clip.vision.projection_dim": embedding_length,
        "clip.vision.block_count": LAYERS,
        "clip.vision.attention.head_count": HEADS,
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.projector.scale_factor": MERGED,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }
    head = gguf_bytes(pairs)
    path.write_bytes(_with_tensors(head, _tensors(embedding_length, np.random.default_rng(seed))))
    return path


def _tensors(embedding_length: int, random: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    def weights(*shape: int) -> NDArray[np.float32]:
        made: NDArray[np.float32] = (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        return made

    def norm(name: str) -> dict[str, NDArray[np.float32]]:
        return {f"{name}.weight": np.ones(WIDTH, np.float32), f"{name}.bias": np.zeros(WIDTH, np.float32)}

    made = {
        "v.patch_embd.weight": weights(WIDTH, 3, PATCH, PATCH),
        "v.patch_embd.bias": np.zeros(WIDTH, np.float32),
        "v.position_embd.weight": weights((SIDE // PATCH) ** 2, WIDTH),
        "mm.input_projection.weight": weights(WIDTH, embedding_length),
        "mm.soft_emb_norm.weight": np.ones(WIDTH, np.float32),
        **norm("v.post_ln"),
    }
    for layer in range(LAYERS):
        block = f"v.blk.{layer}"
        made |= {**norm(f"{block}.ln1"), **norm(f"{block}.ln2")}
        for name, out, taken in (
            *((f"attn_{kind}", WIDTH, WIDTH) for kind in ("q", "k", "v", "out")),
            *(("ffn_up", INNER, WIDTH), ("ffn_down", WIDTH, INNER)),
        ):
            made[f"{block}.{name}.weight"] = weights(out, taken)
            made[f"{block}.{name}.bias"] = np.zeros(out, np.float32)
    return made


def _with_tensors(head: bytes, tensors: dict[str, NDArray[np.float32]]) -> bytes:
    """The file, with the tensors' descriptions and data after its head."""
    described, offset = b"", 0
    for name, data in tensors.items():
        described += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", data.ndim)
        described += struct.pack(f"<{data.ndim}Q", *reversed(data.shape)) + struct.pack("<IQ", 0, offset)
        offset += _padded(4 * prod(data.shape))
    whole = head[:8] + struct.pack("<Q", len(tensors)) + head[16:] + described
    whole = whole.ljust(_padded(len(whole)), b"\0")
    return whole + b"".join(data.tobytes().ljust(_padded(data.nbytes), b"\0") for data in tensors.values())


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
