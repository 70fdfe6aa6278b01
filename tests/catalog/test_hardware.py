"""Device budgets, and the memory of a model with its KV cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog import hardware
from catalog.hardware import Device, detect, fits, largest_context
from catalog.model import Geometry

GIB = 1 << 30
SMOLLM2 = Geometry(layers=30, kv_heads=3, head_dim=64)


def device(kind: str = "cuda", memory: int = 8 * GIB) -> Device:
    return Device(id="cpu" if kind == "cpu" else f"{kind}:0", kind=kind, name=kind, memory=memory)


def test_the_kv_cache_is_two_tensors_a_layer() -> None:
    # llama.cpp reports 180 MiB of f16 KV cache for SmolLM2-135M at 8192 tokens.
    assert SMOLLM2.kv_bytes(8192) == 180 << 20


def test_a_quantised_cache_is_smaller() -> None:
    assert SMOLLM2.kv_bytes(8192, element=1.0625) < SMOLLM2.kv_bytes(8192) * 0.54


def test_the_cache_decides_whether_a_model_fits() -> None:
    small = device(memory=2 * GIB)
    wide = Geometry(layers=32, kv_heads=8, head_dim=128)
    assert fits(GIB, small, context=2048, geometry=wide)
    assert not fits(GIB, small, context=32768, geometry=wide)
    assert largest_context(GIB, small, limit=131072, geometry=wide) == 4096
    assert largest_context(4 * GIB, small, limit=131072, geometry=wide) is None


def test_what_others_use_is_not_there() -> None:
    assert fits(3 * GIB, device())
    assert not fits(3 * GIB, device(), used=5 * GIB)


def test_the_cpu_keeps_memory_for_the_system() -> None:
    assert device("cpu", 16 * GIB).budget == 12 * GIB
    assert device("cpu", 2 * GIB).budget == 1 * GIB
    assert device("cpu", GIB // 2).budget == 0


def test_this_machine_is_seen_without_any_driver() -> None:
    machine = detect()
    assert machine.cores >= 1
    cpu = next(device for device in machine.devices if device.id == "cpu")
    assert 0 < cpu.budget < cpu.memory == machine.memory


def test_a_containers_limit_is_the_memory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("268435456\n")
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    assert detect().memory == 268435456
    (tmp_path / "memory.max").write_text("max\n")
    assert detect().memory > 268435456
