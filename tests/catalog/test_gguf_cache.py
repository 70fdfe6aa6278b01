"""The cache of a request's tokens, by the header of a GGUF."""

from __future__ import annotations

from pathlib import Path

from backends.workers.engines import llamacpp
from catalog.files.cache import layer_caches, recurrent_bytes
from catalog.files.gguf import GgufHeader, read_header
from tests.fakes.gguf import Value, gguf_bytes


def header(folder: Path, **pairs: Value) -> GgufHeader:
    """The header of a file of architecture ``toy``; double underscores stand for dots."""
    named = {f"toy.{key.replace('__', '.')}": value for key, value in pairs.items()}
    path = folder / "toy.gguf"
    path.write_bytes(gguf_bytes({"general.architecture": "toy", **named}))
    return read_header(path)


SHAPE: dict[str, Value] = {
    "block_count": 4, "attention__head_count": 8, "attention__head_count_kv": 2, "embedding_length": 512,
}  # fmt: skip


def kept(found: GgufHeader, context: int, batch: int = 0) -> int:
    """Numbers that all layers keep for so many tokens."""
    return sum(layer.tokens(context, batch) * (layer.keys + layer.values) for layer in layer_caches(found))


def test_every_layer_of_a_plain_model_keeps_all_tokens(tmp_path: Path) -> None:
    assert kept(header(tmp_path, **SHAPE), 100) == 4 * 100 * 2 * (64 + 64)


def test_layers_with_a_window_keep_that_and_a_batch(tmp_path: Path) -> None:
    told = header(
        tmp_path,
        **SHAPE,
        attention__sliding_window=10,
        attention__sliding_window_pattern=[True, True, True, False],
    )
    assert kept(told, 100, batch=5) == 2 * 128 * (3 * 15 + 100)
    assert kept(told, 8, batch=5) == 2 * 128 * 4 * 8
    period = header(tmp_path, **SHAPE, attention__sliding_window=10, attention__sliding_window_pattern=4)
    assert kept(period, 100) == 2 * 128 * (3 * 10 + 100)
    assert kept(header(tmp_path, **SHAPE, attention__sliding_window=10), 100) == 2 * 128 * 400, "not told: all"


def test_layers_with_a_window_may_have_heads_of_another_width(tmp_path: Path) -> None:
    found = header(
        tmp_path, **SHAPE, attention__sliding_window=10,
        attention__sliding_window_pattern=[True, True, True, False],
        attention__key_length=512, attention__value_length=512, attention__key_length_swa=256,
        attention__value_length_swa=256,
    )  # fmt: skip
    assert kept(found, 100) == 2 * (3 * 10 * 512 + 100 * 1024)


def test_recurrent_layers_keep_a_state_and_no_tokens(tmp_path: Path) -> None:
    ssm: dict[str, Value] = {
        "ssm__inner_size": 64, "ssm__state_size": 16, "ssm__group_count": 2, "ssm__conv_kernel": 4
    }  # fmt: skip
    every_fourth = header(tmp_path, **SHAPE, **ssm, full_attention_interval=4)
    assert kept(every_fourth, 100) == 100 * 2 * 128
    assert recurrent_bytes(every_fourth) == 4 * 3 * (64 * 16 + 3 * (64 + 2 * 2 * 16))
    by_heads = header(tmp_path, **{**SHAPE, "attention__head_count_kv": [0, 0, 2, 0]}, **ssm)
    assert kept(by_heads, 100) == 100 * 2 * 128
    assert recurrent_bytes(by_heads) == recurrent_bytes(every_fourth)
    assert recurrent_bytes(header(tmp_path, **SHAPE)) == 0


def test_layers_that_share_a_cache_have_none(tmp_path: Path) -> None:
    assert kept(header(tmp_path, **SHAPE, attention__shared_kv_layers=3), 100) == 100 * 2 * 128


def test_a_workers_memory_counts_the_cache_of_its_slots(tmp_path: Path) -> None:
    header(tmp_path, **SHAPE, full_attention_interval=4)
    one = llamacpp.memory(tmp_path / "toy.gguf", 1, 8192, {})
    four = llamacpp.memory(tmp_path / "toy.gguf", 4, 8192, {})
    assert four - one == 3 * 8192 * 2 * 128 * 2
