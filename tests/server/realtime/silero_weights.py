"""Writes ``silero.npz`` from Silero's ONNX file: ``python -m tests.server.realtime.silero_weights
VAD.onnx``.

The file is the 16 kHz model of version 6, as in the packages ``silero-vad`` and ``faster-whisper``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).parents[3] / "server" / "realtime" / "hearing" / "silero.npz"


def convert(source: Path) -> dict[str, Any]:
    """The weights by the names that :mod:`server.realtime.hearing.silero` uses."""
    import onnx
    from onnx import numpy_helper

    stored = {each.name: numpy_helper.to_array(each) for each in onnx.load(str(source)).graph.initializer}
    lstm = [each for name, each in stored.items() if name.startswith("onnx::LSTM")]
    kernel, recurrent, bias = (each[0] for each in lstm)
    found = {
        "basis": stored["encoder.feature_extractor.forward_basis_buffer"][:, 0].T,
        "lstm": np.concatenate((kernel, recurrent), axis=1),
        "lstm_bias": bias[:512] + bias[512:],
        "out": stored["decoder.conv1d.weight"][0, :, 0],
        "out_bias": stored["decoder.conv1d.bias"],
    }
    for number in range(4):
        weight = stored[f"encoder.conv_layers.{number}.weight"]
        found[f"conv{number}"] = weight.reshape(weight.shape[0], -1).T
        found[f"bias{number}"] = stored[f"encoder.conv_layers.{number}.bias"]
    return found


if __name__ == "__main__":
    np.savez_compressed(
        TARGET, **{name: each.astype(np.float16) for name, each in convert(Path(sys.argv[1])).items()}
    )
