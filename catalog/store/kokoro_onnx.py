"""Prepares the files of Kokoro's voices for the engine ``speech``, once, when they are pulled.

The result is a folder with ``model.onnx`` and ``voices.bin``. The graph has the inputs ``tokens`` (int64
``[1, n]``), ``style`` (float32 ``[1, 256]``) and ``speed`` (float32 ``[1]``), the outputs ``audio`` (24 kHz) and
``duration`` (frames of 600 samples, one number a token). ``voices.bin`` is numpy's npz: by the name of a voice its
style vectors, float32 ``[510, 1, 256]``, a row per count of phonemes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from catalog.errors import EngineMissing, PullError

GRAPH, STYLES = "model.onnx", "voices.bin"
ROWS, WIDTH = 510, 256
DURATION = "duration"


def prepare(folder: Path) -> None:
    """Give ``folder``'s graph its second output, and put the vectors of ``voices/*.bin`` into one file, in place.

    Raises EngineMissing without the package that writes graphs, PullError for files of another shape.
    """
    _with_durations(folder / GRAPH)
    _packed(folder / "voices", folder / STYLES)


def _packed(folder: Path, target: Path) -> None:
    styles: dict[str, Any] = {}
    for path in sorted(folder.glob("*.bin")):
        vectors = np.fromfile(path, "<f4")
        if vectors.size != ROWS * WIDTH:
            raise PullError(f"{path.name} holds {vectors.size} numbers, and a voice has {ROWS * WIDTH}.")
        styles[path.stem] = vectors.reshape(ROWS, 1, WIDTH)
    if not styles:
        raise PullError(f"{folder.name} holds no voices.")
    with target.open("wb") as file:
        np.savez(file, **styles)
    for path in folder.glob("*.bin"):
        path.unlink()
    folder.rmdir()


def _with_durations(path: Path) -> None:
    """Make the lengths of tokens an output: the graph rounds them and holds each to one frame at least."""
    try:
        import onnx
    except ImportError:
        raise EngineMissing("speech", extra="starter", package="onnx") from None
    model = onnx.load(str(path))
    graph: Any = model.graph
    made = {name: node for node in graph.node for name in node.output}
    clips = [node for node in graph.node if node.op_type == "Clip"]
    lengths = [node.output[0] for node in clips if _rounded(made.get(node.input[0]))]
    if len(lengths) != 1:
        raise PullError("The graph is not Kokoro's: it has no single place that rounds the lengths of tokens.")
    graph.node.append(
        onnx.helper.make_node("Cast", [lengths[0]], [DURATION], to=onnx.TensorProto.INT64, name="durations")
    )
    graph.output.append(onnx.helper.make_tensor_value_info(DURATION, onnx.TensorProto.INT64, None))
    onnx.save(model, str(path))


def _rounded(node: Any) -> bool:
    return node is not None and node.op_type == "Round"
