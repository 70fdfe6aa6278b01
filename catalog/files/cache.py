"""The cache that llama.cpp keeps of a request's tokens, from the header of a GGUF.

Layers with a window keep so many tokens, recurrent layers a state of fixed size, and layers that share another's
cache nothing. Source: llama.cpp, ``src/llama-hparams.cpp`` and ``src/llama-memory-recurrent.cpp``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from catalog.files.gguf import GgufHeader


class LayerCache(NamedTuple):
    """The cache of one layer: numbers per token for keys and for values, and the tokens of its window."""

    keys: int
    values: int
    window: int | None = None

    def tokens(self, context: int, batch: int) -> int:
        """The tokens that are kept of ``context``: a window is kept with a batch of the prompt beside it."""
        return context if self.window is None else min(context, self.window + batch)


def layer_caches(header: GgufHeader) -> Iterator[LayerCache]:
    """The caches of the layers that keep one. A header without windows gives an upper bound."""
    count, heads = header.integer("block_count") or 0, header.integer("attention.head_count") or 1
    width = (header.integer("embedding_length") or 0) // heads
    key = header.integer("attention.key_length") or width
    value = header.integer("attention.value_length") or width
    short_key = header.integer("attention.key_length_swa") or key
    short_value = header.integer("attention.value_length_swa") or value
    window = header.integer("attention.sliding_window")
    shared = header.integer("attention.shared_kv_layers") or 0
    for layer in range(count - shared):
        kv_heads = _at(header, "attention.head_count_kv", layer, heads)
        if not kv_heads or _is_recurrent(header, layer):
            continue
        if window and _slides(header, layer):
            yield LayerCache(kv_heads * short_key, kv_heads * short_value, window)
        else:
            yield LayerCache(kv_heads * key, kv_heads * value)


def recurrent_bytes(header: GgufHeader) -> int:
    """Bytes of the state of all recurrent layers, per request: a matrix and a short convolution, in 32 bits."""
    inner, size = header.integer("ssm.inner_size") or 0, header.integer("ssm.state_size") or 0
    groups, kernel = header.integer("ssm.group_count") or 0, header.integer("ssm.conv_kernel") or 1
    count = header.integer("block_count") or 0
    layers = sum(
        _is_recurrent(header, layer) or not _at(header, "attention.head_count_kv", layer, 1)
        for layer in range(count)
    )
    return 4 * layers * (inner * size + (kernel - 1) * (inner + 2 * groups * size))


def _is_recurrent(header: GgufHeader, layer: int) -> bool:
    interval = header.integer("full_attention_interval")
    return bool(interval) and (layer + 1) % (interval or 1) != 0


def _slides(header: GgufHeader, layer: int) -> bool:
    """Whether a layer has a window: told layer by layer, or by a period whose last layer has none."""
    name = f"{header.architecture}.attention.sliding_window_pattern"
    told = header.arrays.get(name)
    if told is not None:
        return layer < len(told) and bool(told[layer])
    period = header.values.get(name)
    return isinstance(period, int) and not isinstance(period, bool) and period > 1 and (layer + 1) % period != 0


def _at(header: GgufHeader, key: str, layer: int, default: int) -> int:
    """A number of this layer, where the header gives one for all or one for each."""
    each = header.arrays.get(f"{header.architecture}.{key}")
    if each is not None and layer < len(each):
        return int(each[layer])
    number = header.integer(key)
    return default if number is None else number
