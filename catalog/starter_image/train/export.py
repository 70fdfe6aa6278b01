"""Writes the fitted reader and painter as ONNX graphs, with weights of 16 bits and codes of 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from catalog.starter_image.train.drawing import CHANNELS, CODE_RANGE, GRID, PATCH, SIDE, Painter, Residual
from catalog.starter_image.train.reader import SCALE, PromptReader

_OPSET = 17
_IR = 9


class GraphWriter:
    """Nodes and weights of a graph in the making. A name is the output of the node that made it."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def named(self, kind: str, source: str, name: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, [source], [name], **attributes))

    def constant(self, value: NDArray[Any] | np.float32) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, value: NDArray[np.float32]) -> str:
        """A weight that is stored in 16 bits and used in 32; ONNX Runtime converts it once, at the start."""
        return self.node("Cast", self.constant(value.astype(np.float16)), to=TensorProto.FLOAT)

    def linear(self, x: str, layer: nn.Linear) -> str:
        made = self.node("MatMul", x, self.weight(_array(layer.weight).T))
        return self.node("Add", made, self.weight(_array(layer.bias)))

    def conv(self, x: str, layer: nn.Conv2d) -> str:
        assert layer.bias is not None
        pad = layer.kernel_size[0] // 2
        return self.node(
            "Conv", x, self.weight(_array(layer.weight)), self.weight(_array(layer.bias)), pads=[pad] * 4
        )

    def silu(self, x: str) -> str:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def residual(self, x: str, block: Residual) -> str:
        return self.node("Add", x, self.conv(self.silu(self.conv(self.silu(x), block.first)), block.second))

    def shuffle(self, x: str, by: int) -> str:
        return self.node("DepthToSpace", x, blocksize=by, mode="CRD")

    def save(self, path: Path, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())


def export_reader(reader: PromptReader, path: Path) -> None:
    """``vector`` [n, 384] to ``subjects`` [n, subjects] and ``colours`` [n, 12], both logits."""
    graph = GraphWriter()
    large = graph.node("Mul", "vector", graph.constant(np.float32(SCALE)))
    wide = graph.node("Relu", graph.linear(large, reader.widen))
    moved = graph.node("Add", "vector", graph.linear(wide, reader.narrow))
    scores = graph.node("MatMul", moved, graph.weight(_array(reader.keys).T))
    graph.named("Identity", graph.node("Add", scores, graph.weight(_array(reader.bias))), "subjects")
    shade = graph.node("Relu", graph.linear(large, reader.shade))
    graph.named("Identity", graph.linear(shade, reader.colour), "colours")
    width = reader.widen.in_features
    graph.save(
        path,
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", width])],
        [
            helper.make_tensor_value_info("subjects", TensorProto.FLOAT, ["n", len(reader.keys)]),
            helper.make_tensor_value_info("colours", TensorProto.FLOAT, ["n", reader.colour.out_features]),
        ],
    )


def quantised(codes: NDArray[np.float32]) -> NDArray[np.int8]:
    """The codes in 8 bits; 127 is CODE_RANGE."""
    rounded: NDArray[np.int8] = np.rint(codes * (127 / CODE_RANGE)).astype(np.int8)
    return rounded


def export_painter(painter: Painter, codes: NDArray[np.float32], path: Path) -> None:
    """``row`` [n] of the codes to ``picture`` [n, SIDE, SIDE, 4]: premultiplied RGBA, from 0 to 1."""
    graph = GraphWriter()
    table = graph.constant(quantised(codes).reshape(len(codes), -1))
    bytes_ = graph.node("Cast", graph.node("Gather", table, "row", axis=0), to=TensorProto.FLOAT)
    flat = graph.node("Mul", bytes_, graph.constant(np.float32(CODE_RANGE / 127)))
    code = graph.node("Reshape", flat, graph.constant(np.array([-1, CHANNELS, GRID, GRID], np.int64)))
    x = graph.residual(graph.conv(code, painter.enter), painter.coarse)
    x = graph.shuffle(graph.conv(x, painter.to_middle), 2)
    for block in painter.middle:
        assert isinstance(block, Residual)
        x = graph.residual(x, block)
    x = graph.residual(graph.shuffle(graph.conv(x, painter.to_fine), 2), painter.fine)
    detail = graph.shuffle(graph.conv(graph.silu(x), painter.leave), 3)
    whole = graph.node("Add", graph.shuffle(graph.conv(code, painter.linear), PATCH), detail)
    low, high = (graph.constant(np.float32(bound)) for bound in (0, 1))
    graph.named("Transpose", graph.node("Clip", whole, low, high), "picture", perm=[0, 2, 3, 1])
    graph.save(
        path,
        [helper.make_tensor_value_info("row", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", SIDE, SIDE, 4])],
    )


def _array(parameter: nn.Parameter) -> NDArray[np.float32]:
    made: NDArray[np.float32] = parameter.detach().numpy()
    return made
