"""Converts a BERT encoder from safetensors to an ONNX graph, once, when it is pulled.

ONNX Runtime's fused operators (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md) run
faster than PyTorch on the same cores, without PyTorch. The exceptions are SkipLayerNormalization and
LayerNormalization: they are not vectorised and take three times as long as five plain operators, a quarter of the
total time in int8.

The result is a folder with ``model.onnx`` (inputs ``input_ids`` and ``attention_mask``, int64 ``[batch, tokens]``;
output ``last_hidden_state``, float32 ``[batch, tokens, hidden]``), ``tokenizer.json`` and ``roundhouse.json``,
which gives the engine the pooling.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from catalog.errors import EngineMissing, PullError

CARD = "roundhouse.json"
_WEIGHTS = "model.safetensors"
_GRAPH = "model.onnx"
_OPSET = 17
_CONTRIB = "com.microsoft"
_SMALL = 1e-6
"""Largest accepted epsilon: MeanVarianceNormalization has a fixed one, 1e-9; up to here they give the same."""


def prepare(folder: Path, *, precision: str = "fp32", max_tokens: int, dimensions: int) -> None:
    """Convert ``folder`` (config.json, model.safetensors, tokenizer.json) for the ONNX engine, in place.

    ``precision`` is ``fp32`` or ``int8`` (weights quantised per channel, activations dynamically). The safetensors
    are deleted, as the graph contains the weights. Raises EngineMissing without the packages that write graphs,
    PullError for a network that is not a BERT encoder.
    """
    if precision not in ("fp32", "int8"):
        raise PullError(f"The precision {precision!r} is not known; fp32 and int8 are.")
    config = json.loads((folder / "config.json").read_bytes())
    _check(config)
    model = _graph_of(folder / _WEIGHTS, config)
    if precision == "int8":
        _quantise(model, folder / _GRAPH)
    else:
        _save(model, folder / _GRAPH)
    _open_tokenizer(folder / "tokenizer.json")
    card = {
        "kind": "embedding",
        "pooling": "mean",
        "normalize": True,
        "max_tokens": min(max_tokens, int(config["max_position_embeddings"])),
        "dimensions": dimensions,
        "precision": precision,
    }
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")
    (folder / _WEIGHTS).unlink()


def _check(config: dict[str, Any]) -> None:
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise PullError("Only a BERT encoder with exact GELU can be written as a graph here.")
    if float(config["layer_norm_eps"]) > _SMALL:
        raise PullError(f"A layer norm with an epsilon over {_SMALL} cannot be written as a graph here.")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise PullError("Only absolute position embeddings can be written as a graph here.")


def _open_tokenizer(path: Path) -> None:
    """Remove the saved truncation and padding: the engine sets both per batch."""
    tokenizer = json.loads(path.read_bytes())
    tokenizer["truncation"] = tokenizer["padding"] = None
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


class _Graph:
    """A graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, array: Any) -> str:
        """Add a constant; return its name."""
        import numpy as np
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output


def _graph_of(weights: Path, config: dict[str, Any]) -> Any:
    try:
        from onnx import TensorProto, helper
        from safetensors.numpy import load_file
    except ImportError as error:
        raise EngineMissing("onnx", extra="starter", package=error.name) from error

    tensors = load_file(weights)
    graph = _Graph()
    hidden = _embeddings(graph, tensors, float(config["layer_norm_eps"]))
    graph.node("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
    layers = int(config["num_hidden_layers"])
    for index in range(layers):
        output = "last_hidden_state" if index == layers - 1 else f"layer{index}"
        hidden = _layer(graph, tensors, index, hidden, output, int(config["num_attention_heads"]))

    def tokens(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])

    output = helper.make_tensor_value_info(
        "last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", int(config["hidden_size"])]
    )
    return helper.make_model(
        helper.make_graph(
            graph.nodes, "bert", [tokens("input_ids"), tokens("attention_mask")], [output], graph.weights
        ),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)],
        ir_version=9,
        producer_name="roundhouse",
    )


def _save(model: Any, target: Path) -> None:
    import onnx

    onnx.save(model, str(target))


def _embeddings(graph: _Graph, tensors: dict[str, Any], epsilon: float) -> str:
    """Add the word, position and token type embeddings, summed and normalised.

    Every token of a single text has type 0, so that type's vector is added to the positions beforehand.
    """
    from onnx import TensorProto, helper

    graph.node("Cast", ["input_ids"], "ids", to=TensorProto.INT32)
    positions = (
        tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][:1]
    )
    inputs = [
        "ids",
        "",
        graph.weight("word", tensors["embeddings.word_embeddings.weight"]),
        graph.weight("position", positions),
        "",
        graph.weight("embed_gamma", tensors["embeddings.LayerNorm.weight"]),
        graph.weight("embed_beta", tensors["embeddings.LayerNorm.bias"]),
    ]
    graph.nodes.append(
        helper.make_node(
            "EmbedLayerNormalization",
            inputs,
            ["embedded", "unused_mask_index"],
            name="embedded",
            domain=_CONTRIB,
            epsilon=epsilon,
        )
    )
    return "embedded"


def _layer(graph: _Graph, tensors: dict[str, Any], index: int, hidden: str, output: str, heads: int) -> str:
    """Add an encoder layer. PyTorch stores linear layers as ``[out, in]``; MatMul takes ``[in, out]``."""
    import numpy as np

    prefix = f"encoder.layer.{index}."
    name = f"l{index}_"

    def matrix(key: str) -> str:
        return graph.weight(name + key, tensors[f"{prefix}{key}.weight"].T)

    def vector(key: str) -> str:
        return graph.weight(f"{name}{key}.{len(graph.weights)}", tensors[prefix + key])

    def normed(x: str, skipped: str, part: str, into: str) -> str:
        """Add the bias and the residual connection ``skipped`` to ``x``, and normalise over the width."""
        biased = graph.node("Add", [x, vector(f"{part}.dense.bias")], f"{into}_biased")
        whole = graph.node("Add", [biased, skipped], f"{into}_sum")
        even = graph.node("MeanVarianceNormalization", [whole], f"{into}_even", axes=[2])
        scaled = graph.node("Mul", [even, vector(f"{part}.LayerNorm.weight")], f"{into}_scaled")
        return graph.node("Add", [scaled, vector(f"{part}.LayerNorm.bias")], into)

    projections = [f"{prefix}attention.self.{part}" for part in ("query", "key", "value")]
    packed = graph.weight(f"{name}qkv", np.concatenate([tensors[f"{p}.weight"].T for p in projections], axis=1))
    packed_bias = graph.weight(f"{name}qkv_bias", np.concatenate([tensors[f"{p}.bias"] for p in projections]))
    attended = graph.node(
        "Attention", [hidden, packed, packed_bias, "mask"], f"{name}attended", _CONTRIB, num_heads=heads
    )
    projected = graph.node("MatMul", [attended, matrix("attention.output.dense")], f"{name}projected")
    middle = normed(projected, hidden, "attention.output", f"{name}middle")
    widened = graph.node("MatMul", [middle, matrix("intermediate.dense")], f"{name}widened")
    activated = graph.node("BiasGelu", [widened, vector("intermediate.dense.bias")], f"{name}activated", _CONTRIB)
    narrowed = graph.node("MatMul", [activated, matrix("output.dense")], f"{name}narrowed")
    return normed(narrowed, middle, "output", output)


def _quantise(model: Any, target: Path) -> None:
    """Quantise to dynamic int8: weights per output channel, activations per batch; embeddings stay unchanged."""
    try:
        from onnx import TensorProto
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata
    except ImportError as error:
        raise EngineMissing("onnx", extra="starter", package=error.name) from error

    # The graph is fused already; without this mark the quantiser logs a request for a fusion pass.
    add_pre_process_metadata(model)
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul", "Attention"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # Output types of fused operators cannot be inferred; all are float32.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
