"""Write a FLUX with random weights, for stable-diffusion.cpp: ``make_flux.py FOLDER``.

``flux.gguf`` has one narrow block of each kind, and of the text encoders CLIP-L, which is most of its 80 MB,
because stable-diffusion.cpp knows one size of it. ``taesd.safetensors`` is the small autoencoder. The pictures are
noise that depends on the prompt, the seed and the pictures to change. Sources: the shapes of tensors in stable-
diffusion.cpp (flux.hpp, clip.hpp, tae.hpp), the GGUF and safetensors formats.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[np.float32]]
Packed = dict[str, tuple[tuple[int, ...], NDArray[np.uint8]]]
"""Shapes and blocks of tensors in Q4_0: 32 numbers as a float16 scale and 16 bytes."""
WIDTH = 128
"""The width of the model, which has one head; 128 is what FLUX's rotary positions need."""
_CHANNELS, _LATENTS = 64, 16
_F32, _Q4_0, _ALIGNMENT, _STRING = 0, 2, 32, 8
_BLOCK = np.dtype([("scale", "<f2"), ("numbers", "u1", 16)])


def flux(random: np.random.Generator) -> Tensors:
    """The tensors of the diffusion model, by the names of Black Forest Labs' files."""
    made: Tensors = {}

    def linear(name: str, inner: int, outer: int) -> None:
        made[f"model.diffusion_model.{name}.weight"] = _random(random, outer, inner)
        made[f"model.diffusion_model.{name}.bias"] = _random(random, outer)

    def norms(name: str) -> None:
        for kind in ("query_norm", "key_norm"):
            made[f"model.diffusion_model.{name}.{kind}.scale"] = np.ones(WIDTH, np.float32)

    linear("img_in", 64, WIDTH)
    linear("txt_in", 4096, WIDTH)
    for name, inner in (("time_in", 256), ("vector_in", 768)):
        linear(f"{name}.in_layer", inner, WIDTH)
        linear(f"{name}.out_layer", WIDTH, WIDTH)
    for side in ("img", "txt"):
        block = f"double_blocks.0.{side}"
        linear(f"{block}_mod.lin", WIDTH, 6 * WIDTH)
        linear(f"{block}_attn.qkv", WIDTH, 3 * WIDTH)
        norms(f"{block}_attn.norm")
        linear(f"{block}_attn.proj", WIDTH, WIDTH)
        linear(f"{block}_mlp.0", WIDTH, 4 * WIDTH)
        linear(f"{block}_mlp.2", 4 * WIDTH, WIDTH)
    linear("single_blocks.0.linear1", WIDTH, 7 * WIDTH)
    linear("single_blocks.0.linear2", 5 * WIDTH, WIDTH)
    norms("single_blocks.0.norm")
    linear("single_blocks.0.modulation.lin", WIDTH, 3 * WIDTH)
    linear("final_layer.linear", WIDTH, 64)
    linear("final_layer.adaLN_modulation.1", WIDTH, 2 * WIDTH)
    return made


def clip(random: np.random.Generator) -> tuple[Tensors, Packed]:
    """The tensors of CLIP-L's text model: the small ones, and the matrices in Q4_0."""
    width, inner, small, packed = 768, 3072, Tensors(), Packed()
    blocks = np.zeros(1 << 16, _BLOCK)
    blocks["scale"], blocks["numbers"] = 0.01, random.integers(0, 256, (1 << 16, 16), np.uint8)
    prefix = "text_encoders.clip_l.transformer.text_model"

    def matrix(name: str, outer: int, inner: int) -> None:
        packed[f"{prefix}.{name}.weight"] = (outer, inner), np.resize(blocks, outer * inner // 32).view(np.uint8)

    def layer_norm(name: str) -> None:
        small[f"{prefix}.{name}.weight"], small[f"{prefix}.{name}.bias"] = (
            np.ones(width, np.float32),
            np.zeros(width, np.float32),
        )

    matrix("embeddings.token_embedding", 49_408, width)
    small[f"{prefix}.embeddings.position_embedding.weight"] = _random(random, 77, width)
    for at in range(12):
        layer = f"encoder.layers.{at}"
        sides = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        for name, shape in {**sides, "mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}.items():
            matrix(f"{layer}.{name}", *shape)
            small[f"{prefix}.{layer}.{name}.bias"] = np.zeros(shape[0], np.float32)
        layer_norm(f"{layer}.layer_norm1")
        layer_norm(f"{layer}.layer_norm2")
    layer_norm("final_layer_norm")
    return small, packed


def autoencoder(random: np.random.Generator) -> Tensors:
    """The tensors of the small autoencoder of FLUX's latents (TAEF1)."""
    made: Tensors = {}

    def convolution(name: str, inner: int, outer: int, *, bias: bool = True) -> None:
        made[f"{name}.weight"] = _random(random, outer, inner, 3, 3)
        if bias:  # of zeros, so that few pixels are beyond black and white
            made[f"{name}.bias"] = np.zeros(outer, np.float32)

    ends = {"encoder": ((3, _CHANNELS), (_CHANNELS, _LATENTS)), "decoder": ((_LATENTS, _CHANNELS), (_CHANNELS, 3))}
    resized = {"encoder": (2, 6, 10), "decoder": (6, 11, 16)}
    without, last = {"encoder": (), "decoder": (1, 5, 10, 15)}, {"encoder": 14, "decoder": 18}
    for part, (first, final) in ends.items():
        convolution(f"{part}.layers.0", *first)
        for at in range(1, last[part]):
            if at in resized[part]:
                convolution(f"{part}.layers.{at}", _CHANNELS, _CHANNELS, bias=False)
            elif at not in without[part]:
                for step in (0, 2, 4):
                    convolution(f"{part}.layers.{at}.conv.{step}", _CHANNELS, _CHANNELS)
        convolution(f"{part}.layers.{last[part]}", *final)
    return made


def write_gguf(path: Path, tensors: Tensors, packed: Packed) -> None:
    """A GGUF file, version 3, of tensors in float32 and in Q4_0."""
    listed: list[tuple[str, tuple[int, ...], int, NDArray[Any]]] = [
        *((name, tensor.shape, _F32, tensor) for name, tensor in tensors.items()),
        *((name, shape, _Q4_0, blocks) for name, (shape, blocks) in packed.items()),
    ]
    head = [b"GGUF", struct.pack("<IQQ", 3, len(listed), 1)]
    head += [_text("general.architecture"), struct.pack("<I", _STRING), _text("flux")]
    offset = 0
    for name, shape, kind, data in listed:
        sides = shape[::-1]
        head += [
            _text(name),
            struct.pack(f"<I{len(sides)}Q", len(sides), *sides),
            struct.pack("<IQ", kind, offset),
        ]
        offset += -(-data.nbytes // _ALIGNMENT) * _ALIGNMENT
    with path.open("wb") as file:
        file.write(b"".join(head))
        for _, _, _, data in listed:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            file.write(data.tobytes())


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """A safetensors file of float32 tensors."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        ends = [offset, offset + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": ends}
        offset = ends[1]
    written = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(written)) + written)
        for tensor in tensors.values():
            file.write(tensor.tobytes())


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _random(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    fan = int(np.prod(shape[1:])) or 1
    return np.asarray(random.standard_normal(shape) / fan**0.5, np.float32)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    small, packed = clip(random)
    write_gguf(folder / "flux.gguf", {**flux(random), **small}, packed)
    write_safetensors(folder / "taesd.safetensors", autoencoder(random))


if __name__ == "__main__":
    main()
