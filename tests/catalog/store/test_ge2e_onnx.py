"""The voice encoder's graph computes what its weights say, and its file is read without running a pickle."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.errors import PullError
from catalog.store import ge2e_onnx

HIDDEN, CHANNELS = 256, 40


class _Storage:
    def __init__(self, key: str, count: int) -> None:
        self.key, self.count = key, count


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", "FloatStorage", value.key, "cpu", value.count) if isinstance(value, _Storage) else None


def _tensors(seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (HIDDEN, HIDDEN), "linear.bias": (HIDDEN,)}
    for layer in range(3):
        width = CHANNELS if layer == 0 else HIDDEN
        shapes[f"lstm.weight_ih_l{layer}"] = (4 * HIDDEN, width)
        shapes[f"lstm.weight_hh_l{layer}"] = (4 * HIDDEN, HIDDEN)
        shapes[f"lstm.bias_ih_l{layer}"] = shapes[f"lstm.bias_hh_l{layer}"] = (4 * HIDDEN,)
    return {name: rng.normal(0, 0.08, shape).astype("<f4") for name, shape in shapes.items()}


def _file(tensors: dict[str, np.ndarray]) -> bytes:
    """The tensors as PyTorch before 1.6 wrote them, among other numbers."""
    numbers = {str(10 + place): array for place, array in enumerate(tensors.values())}
    keys = dict(zip(tensors, numbers, strict=True))
    numbers["7"] = np.ones(3, "<f4")
    state = {
        name: ("rebuild", _Storage(keys[name], array.size), 0, array.shape) for name, array in tensors.items()
    }
    written = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, written, protocol=2)
    _Pickler(written, protocol=2).dump({"step": 1, "model_state": state, "other": _Storage("7", 3)})
    pickle.dump(sorted(numbers), written, protocol=2)
    for key in sorted(numbers):
        written.write(struct.pack("<q", numbers[key].size) + numbers[key].tobytes())
    return written.getvalue()


def _reference(tensors: dict[str, np.ndarray], mels: np.ndarray) -> np.ndarray:
    """PyTorch's LSTM (gates i, f, g, o), the linear layer, ReLU and the norm, for one sequence."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = 1 / (1 + np.exp(-x))
        return found

    steps = list(mels.astype(np.float64))
    hidden = np.zeros(HIDDEN)
    for layer in range(3):
        inner, own = (tensors[f"lstm.weight_{part}_l{layer}"].astype(np.float64) for part in ("ih", "hh"))
        bias = tensors[f"lstm.bias_ih_l{layer}"].astype(np.float64) + tensors[f"lstm.bias_hh_l{layer}"]
        hidden, cell, after = np.zeros(HIDDEN), np.zeros(HIDDEN), []
        for step in steps:
            i, f, g, o = np.split(inner @ step + own @ hidden + bias, 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            after.append(hidden)
        steps = after
    raw = np.maximum(tensors["linear.weight"].astype(np.float64) @ hidden + tensors["linear.bias"], 0)
    return np.asarray(raw / np.linalg.norm(raw), np.float64)


def test_the_graph_computes_what_the_weights_say(tmp_path: Path) -> None:
    import onnxruntime

    tensors = _tensors()
    (tmp_path / "pretrained.pt").write_bytes(_file(tensors))
    ge2e_onnx.prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    mels = np.random.default_rng(5).uniform(0, 2, (2, 20, CHANNELS)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["embeddings"], {"mels": mels})
    assert found.shape == (2, HIDDEN)
    for sequence, embedding in zip(mels, found, strict=True):
        assert np.allclose(embedding, _reference(tensors, sequence), atol=1e-5)


class _Harmful:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize(
    "data",
    [b"", b"nothing", _file({"linear.weight": np.zeros(4, "<f4")}), _file(_tensors())[:-100_000]],
    ids=["empty", "text", "another network", "cut"],
)
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pretrained.pt").write_bytes(data)
    with pytest.raises(PullError, match="not the voice encoder"):
        ge2e_onnx.prepare(tmp_path)


def test_no_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained.pt").write_bytes(pickle.dumps(_Harmful()) * 5)
    with pytest.raises(PullError):
        ge2e_onnx.prepare(tmp_path)
    assert not (tmp_path / "harmed").exists()
