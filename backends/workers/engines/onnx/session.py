"""Runs one ONNX graph on one device: padded batches in, a vector or a score per text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from backends.workers.engines.common.batching import Interrupt, Tokens
from catalog.errors import EngineMissing, ModelUnavailable

if TYPE_CHECKING:
    import onnxruntime

LANES = 2
"""Concurrent batches on the CPU: one uses the cores while the other is in Python or single-threaded. On two cores
this gives 10 to 15% more texts per second.
"""

TOKENS_A_THREAD = 96
"""Tokens per thread in a batch on the CPU, few enough for the intermediate results to stay in a core's cache. On
two cores this gives 4 to 12% more texts per second than batches of 512 tokens.
"""

TOKENS_ON_GPU = 8192

Floats = NDArray[np.float32]
Pooling = Literal["mean", "cls", "last", "none"]


def open_session(path: Path, *, device: str, threads: int) -> onnxruntime.InferenceSession:
    """Open ``path`` on ``cpu`` or ``cuda:N``.

    Raises EngineMissing if ONNX Runtime, or its build for the device, is not installed, and ModelUnavailable if it
    cannot run the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise EngineMissing("onnx", extra="onnx", package="onnxruntime") from None
    if not path.is_file():
        raise ModelUnavailable(f"The model file {path.name} is missing. Pull the model again.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads would take the cores from the other lane's batch and from the gateway.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=_providers(device))
    except (RuntimeError, ValueError) as error:
        raise ModelUnavailable(f"ONNX Runtime cannot run {path.name}: {str(error)[:300]}") from error


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    import onnxruntime

    if device == "cpu":
        return ["CPUExecutionProvider"]
    kind, _, number = device.partition(":")
    provider = {"cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}.get(kind)
    if provider is None or provider not in onnxruntime.get_available_providers():
        raise EngineMissing("onnx", extra="onnx", package=f"a build of onnxruntime for {device}")
    own = {"device_id": number or "0"} if kind == "cuda" else {}
    return [(provider, own), "CPUExecutionProvider"]


class OnnxBatchRunner:
    """Runs batches of tokenised texts; the result of a text is its pooled vector or its logits.

    The graph's inputs are ``input_ids``, ``attention_mask`` and optionally ``token_type_ids`` (int64, [batch,
    tokens]); its first output is float [batch, tokens, width], or [batch, width] with pooling ``none`` (the graph
    pools by itself).
    """

    def __init__(self, session: onnxruntime.InferenceSession, *, pooling: Pooling, pad_id: int) -> None:
        self._session = session
        self._inputs = {given.name for given in session.get_inputs()}
        self._output = session.get_outputs()[0].name
        self._pooling = pooling
        self._pad_id = pad_id

    def begin(self, batch: Sequence[Tokens]) -> tuple[Callable[[], Sequence[Floats]], Interrupt]:
        """Implements ``BatchRunner.begin`` of ``batching``; an interrupt acts between two operators."""
        import onnxruntime

        options = onnxruntime.RunOptions()

        def interrupt() -> None:
            options.terminate = True

        def call() -> Sequence[Floats]:
            feed, mask = self._padded(batch)
            (output,) = self._session.run([self._output], feed, options)
            return list(pooled(output, mask, self._pooling))

        return call, interrupt

    def width(self) -> int:
        """Return the length of a result, by running one token."""
        call, _ = self.begin([Tokens([self._pad_id])])
        return len(call()[0])

    def _padded(self, batch: Sequence[Tokens]) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
        longest = max(len(text) for text in batch)
        ids = np.full((len(batch), longest), self._pad_id, np.int64)
        mask = np.zeros_like(ids)
        types = np.zeros_like(ids)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = text.ids
            mask[row, : len(text)] = 1
            if text.types is not None:
                types[row, : len(text)] = text.types
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: value for name, value in feed.items() if name in self._inputs}, mask


def pooled(output: Floats, mask: NDArray[np.int64], pooling: Pooling) -> Floats:
    """Pool [batch, tokens, width] with mask [batch, tokens] to [batch, width]; padding is ignored."""
    if pooling == "none":
        return output.reshape(len(output), -1)
    if pooling == "cls":
        return output[:, 0]
    if pooling == "last":
        rows: Floats = output[np.arange(len(output)), mask.sum(axis=1) - 1]
        return rows
    weights = (mask / mask.sum(axis=1, keepdims=True)).astype(np.float32)
    means: Floats = np.matmul(weights[:, None, :], output)[:, 0]
    return means


def normalized(vectors: Floats) -> Floats:
    """Scale the rows to length 1; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit
