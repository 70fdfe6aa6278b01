"""Converts Resemblyzer's voice encoder from PyTorch's old format to an ONNX graph, once, when it is pulled.

The encoder is a GE2E network (Wan et al., "Generalized End-to-End Loss for Speaker Verification", 2018): three
LSTM layers, a linear layer, ReLU, and L2 normalisation. The file is a row of pickles with raw numbers after them
(PyTorch before 1.6, ``torch/serialization.py``). No pickle is run: its opcodes are only read for the names.

The result is ``model.onnx``: input ``mels``, float32 ``[batch, frames, 40]``; output ``embeddings``, float32
``[batch, 256]``, of length 1.
"""

from __future__ import annotations

import io
import pickletools
import struct
from pathlib import Path
from typing import Any

from catalog.errors import EngineMissing, PullError

WEIGHTS, GRAPH = "pretrained.pt", "model.onnx"
_LAYERS, _HIDDEN, _CHANNELS = 3, 256, 40
_PARTS = 5
"""Pickles before the numbers: a magic number, a version, the system, the object and the order of the numbers."""
_OPSET = 17
_SIZES = {"linear.weight": _HIDDEN * _HIDDEN, "linear.bias": _HIDDEN} | {
    f"lstm.{name}_l{layer}": 4 * _HIDDEN * width
    for layer in range(_LAYERS)
    for name, width in {
        "weight_ih": _HIDDEN if layer else _CHANNELS, "weight_hh": _HIDDEN, "bias_ih": 1, "bias_hh": 1,
    }.items()
}  # fmt: skip
"""The numbers of each tensor."""


def prepare(folder: Path) -> None:
    """Convert ``pretrained.pt`` of ``folder``, which is removed then.

    Raises EngineMissing without the package that writes graphs, PullError for any other file.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineMissing("onnx", extra="starter", package=error.name) from error
    try:
        tensors = read_tensors((folder / WEIGHTS).read_bytes())
        onnx.save(_graph_of(tensors), str(folder / GRAPH))
    except (KeyError, ValueError, struct.error, IndexError) as error:
        raise PullError(f"{WEIGHTS} is not the voice encoder that is known here.") from error
    (folder / WEIGHTS).unlink()


def read_tensors(data: bytes) -> dict[str, Any]:
    """The encoder's tensors by name, float32, flat. Raises ValueError, KeyError or struct.error for others."""
    import numpy as np

    stream = io.BytesIO(data)
    parts = [list(pickletools.genops(stream)) for _ in range(_PARTS)]
    numbers: dict[str, Any] = {}
    for key in (argument for _, argument, _ in parts[4] if isinstance(argument, str)):
        count = struct.unpack("<q", stream.read(8))[0]
        written = stream.read(4 * count) if 0 <= count <= len(data) else b""
        if len(written) != 4 * count:
            raise ValueError("the numbers are cut off")
        numbers[key] = np.frombuffer(written, "<f4")
    found = {}
    for name, (key, offset) in _places(parts[3]).items():
        size = _SIZES[name]
        found[name] = numbers[key][offset : offset + size]
        if len(found[name]) != size:
            raise ValueError(f"{name} has another size")
    return found


def _places(opcodes: list[Any]) -> dict[str, tuple[str, int]]:
    """For each tensor the key of its numbers, and its place among them: layers may share their numbers."""
    places: dict[str, tuple[str, int]] = {}
    name = key = None
    referred = False
    for opcode, argument, _ in opcodes:
        if isinstance(argument, str) and argument in _SIZES:
            name, key, referred = argument, None, False
        elif name is not None and key is None and isinstance(argument, str) and argument.isdecimal():
            key = argument
        elif opcode.name == "BINPERSID":
            referred = True
        elif referred and name is not None and key is not None and opcode.name.startswith("BININT"):
            places[name] = (key, int(argument))
            name = key = None
    return places


def _graph_of(tensors: dict[str, Any]) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    weights: list[Any] = []

    def weight(name: str, array: Any) -> str:
        weights.append(numpy_helper.from_array(array, name))
        return name

    nodes.append(helper.make_node("Transpose", ["mels"], ["x0"], perm=[1, 0, 2]))
    for layer in range(_LAYERS):
        width = _CHANNELS if layer == 0 else _HIDDEN
        inner = weight(f"w{layer}", _gates(tensors[f"lstm.weight_ih_l{layer}"], width)[None])
        own = weight(f"r{layer}", _gates(tensors[f"lstm.weight_hh_l{layer}"], _HIDDEN)[None])
        biases = [_gates(tensors[f"lstm.bias_{part}_l{layer}"], 1)[:, 0] for part in ("ih", "hh")]
        bias = weight(f"b{layer}", _joined(biases)[None])
        nodes.append(
            helper.make_node(
                "LSTM", [f"x{layer}", inner, own, bias], [f"all{layer}", f"last{layer}"], hidden_size=_HIDDEN
            )
        )
        nodes.append(helper.make_node("Squeeze", [f"all{layer}", "one"], [f"x{layer + 1}"]))
    weight("one", _joined([[1]]).astype("int64"))
    nodes.append(
        helper.make_node("Squeeze", [f"last{_LAYERS - 1}", weight("zero", _joined([[0]]).astype("int64"))], ["h"])
    )
    matrix = weight("linear", tensors["linear.weight"].reshape(_HIDDEN, _HIDDEN))
    offset = weight("offset", tensors["linear.bias"].reshape(_HIDDEN))
    nodes.append(helper.make_node("Gemm", ["h", matrix, offset], ["raw"], transB=1))
    nodes.append(helper.make_node("Relu", ["raw"], ["positive"]))
    nodes.append(helper.make_node("LpNormalization", ["positive"], ["embeddings"], axis=1, p=2))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "voice-encoder",
            [helper.make_tensor_value_info("mels", TensorProto.FLOAT, ["batch", "frames", _CHANNELS])],
            [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", _HIDDEN])],
            weights,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=9,
        producer_name="roundhouse",
    )


def _gates(flat: Any, width: int) -> Any:
    """An LSTM's gates in ONNX's order (input, output, forget, cell); PyTorch's is input, forget, cell, output."""
    import numpy as np

    gates = flat.reshape(4, _HIDDEN, width)
    return np.ascontiguousarray(gates[[0, 3, 1, 2]].reshape(4 * _HIDDEN, width))


def _joined(arrays: list[Any]) -> Any:
    import numpy as np

    return np.concatenate(arrays)
