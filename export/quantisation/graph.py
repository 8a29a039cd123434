"""The quantised graph: pairs of QuantizeLinear and DequantizeLinear, from which ONNX Runtime makes int8 kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

LEVELS = 255  # of a uint8

# Sums of fewer products stay float32: requantising their results takes longer than int8 saves. Measured: 9 products
# take four times as long in int8, 288 less than a third.
MIN_PRODUCTS = 64


@dataclass(frozen=True, kw_only=True)
class Activation:
    """How a tensor becomes uint8.

    Attributes:
        scale: The step between two levels.
        zero_point: The level that means 0.
    """

    scale: float
    zero_point: int

    @classmethod
    def of(cls, low: float, high: float) -> Activation:
        """Covers a range that contains 0."""
        scale = float(np.float32(max(high - low, 1e-6) / LEVELS))
        return cls(scale=scale, zero_point=int(np.clip(np.rint(-low / scale), 0, LEVELS)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """The weights of a convolution in int8.

    Attributes:
        values: int8 `[outputs, inputs, height, width]`.
        scales: float32 `[outputs]`.
        bias: float64 `[outputs]`, in units of the output.
    """

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution that will be quantised, with what follows it at once.

    Attributes:
        conv: Its node.
        source: The tensor that it takes.
        result: The tensor that it gives, after a ReLU if one follows.
        pooled: The same after the poolings that follow.
    """

    conv: onnx.NodeProto
    source: str
    result: str
    pooled: str


def constants(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.generic]]:
    """All constants of a graph by name."""
    return {each.name: numpy_helper.to_array(each) for each in graph.initializer}


def layers_of(graph: onnx.GraphProto) -> Iterator[Layer]:
    """Yields the convolutions that are worth it, in their order."""
    known = constants(graph)
    for conv in _convolutions(graph):
        weights = known.get(conv.input[1])
        if weights is None or weights[0].size < MIN_PRODUCTS:
            continue
        result = _after(graph, conv.output[0], "Relu", most=1)
        yield Layer(conv=conv, source=conv.input[0], result=result, pooled=_after(graph, result, "MaxPool"))


def pool_before_relu(graph: onnx.GraphProto) -> None:
    """Moves the ReLU of a convolution that stays float32 behind its pooling, which changes no value.

    Otherwise ONNX Runtime quantises before the pooling, four times as many values, and pools them as slow uint8.
    """
    quantised_ones = {layer.conv.output[0] for layer in layers_of(graph)}
    for conv in _convolutions(graph):
        if conv.output[0] in quantised_ones:
            continue
        relu = _only_consumer(graph, conv.output[0], "Relu")
        pool = relu and _only_consumer(graph, relu.output[0], "MaxPool")
        if not relu or not pool:
            continue
        pooled, rectified = pool.output[0], relu.output[0]
        pool.input[0], pool.output[0] = conv.output[0], rectified
        relu.input[0], relu.output[0] = rectified, pooled
        order = [node for node in graph.node if node is not relu]
        order.insert(order.index(pool) + 1, relu)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
        del graph.node[:]
        graph.node.extend(nodes)


def quantised(
    model: onnx.ModelProto, weights: Mapping[str, Weights], activations: Mapping[str, Activation]
) -> onnx.ModelProto:
    """Returns a graph in which some convolutions, with their ReLU and pooling, are quantised.

    Args:
        model: The graph in float32.
        weights: For each convolution to quantise, by the name of its output, its weights.
        activations: For each tensor to quantise, how; at least what these convolutions take and give.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    del graph.value_info[:]  # types have changed
    writer = _Writer(graph, activations)
    layers = {layer.conv.output[0]: layer for layer in layers_of(model.graph) if layer.conv.output[0] in weights}
    relus = {layer.conv.output[0] for layer in layers.values() if layer.result != layer.conv.output[0]}
    for node in list(graph.node):
        if node.op_type == "Relu" and node.input[0] in relus:
            continue  # uint8 with a zero point of 0 has no negative values
        layer = layers.get(node.output[0]) if node.op_type == "Conv" else None
        if layer:
            writer.quantise(layer.source)
        writer.add(node, outputs=[layer.result] if layer else None)
        if layer:
            writer.use_int8(node, weights[layer.conv.output[0]], activations[layer.source])
            writer.quantise(layer.result)
        elif node.op_type == "MaxPool" and node.output[0] in activations:
            writer.quantise(node.output[0])
    writer.finish()
    return made


def read_as(tensor: str) -> str:
    """What a quantised tensor is called after its DequantizeLinear; under its own name it is not yet rectified."""
    return f"{tensor}/read"


class _Writer:
    """Writes the nodes of a graph anew; tensors that were quantised are read through their DequantizeLinear."""

    def __init__(self, graph: onnx.GraphProto, activations: Mapping[str, Activation]) -> None:
        self._graph = graph
        self._activations = activations
        self._nodes: list[onnx.NodeProto] = []
        self._read_as: dict[str, str] = {}

    def add(self, node: onnx.NodeProto, *, outputs: list[str] | None) -> None:
        """Adds a node of the original graph, with other outputs if they are given."""
        for place, name in enumerate(node.input):
            node.input[place] = self._read_as.get(name, name)
        if outputs:
            node.output[:] = outputs
        self._nodes.append(node)

    def quantise(self, tensor: str) -> None:
        """Quantises a tensor for everything that reads it from now on."""
        if tensor in self._read_as:
            return
        how = self._activations[tensor]
        names = [
            self._constant(f"{tensor}/scale", np.float32(how.scale)),
            self._constant(f"{tensor}/zero_point", np.uint8(how.zero_point)),
        ]
        for kind, before, after in (
            ("QuantizeLinear", tensor, f"{tensor}/uint8"),
            ("DequantizeLinear", f"{tensor}/uint8", read_as(tensor)),
        ):
            self._nodes.append(helper.make_node(kind, [before, *names], [after], name=after))
        self._read_as[tensor] = read_as(tensor)

    def use_int8(self, conv: onnx.NodeProto, weights: Weights, source: Activation) -> None:
        """Gives a convolution that was just added its weights and its bias as integers."""
        unit = (weights.scales * np.float32(source.scale)).astype(np.float32)
        bias = np.rint(weights.bias / unit).clip(-(2**31) + 1, 2**31 - 1).astype(np.int32)
        name = conv.output[0]
        parts = ((f"{name}/weights", weights.values, weights.scales), (f"{name}/bias", bias, unit))
        read = [self._dequantised(*part) for part in parts]
        self._nodes.remove(conv)  # its weights come first
        del conv.input[1:]
        conv.input.extend(read)
        self._nodes.append(conv)

    def finish(self) -> None:
        """Replaces the nodes of the graph, and drops constants that none of them reads."""
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        read = {name for node in self._nodes for name in node.input}
        kept = [each for each in self._graph.initializer if each.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _dequantised(self, name: str, values: npt.NDArray[np.generic], scales: npt.NDArray[np.float32]) -> str:
        inputs = [
            self._constant(f"{name}/integers", values),
            self._constant(f"{name}/scales", scales),
            self._constant(f"{name}/zero_points", np.zeros(len(scales), values.dtype)),
        ]
        self._nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}/read"], name=f"{name}/read", axis=0))
        return f"{name}/read"

    def _constant(self, name: str, value: npt.NDArray[np.generic] | np.generic) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == "Conv"]


def _only_consumer(graph: onnx.GraphProto, tensor: str, kind: str) -> onnx.NodeProto | None:
    consumers = [node for node in graph.node if tensor in node.input]
    is_output = any(output.name == tensor for output in graph.output)
    return consumers[0] if len(consumers) == 1 and not is_output and consumers[0].op_type == kind else None


def _after(graph: onnx.GraphProto, tensor: str, kind: str, *, most: int | None = None) -> str:
    """Follows a tensor through nodes of a kind, as long as nothing else reads it."""
    while most != 0 and (node := _only_consumer(graph, tensor, kind)):
        tensor = node.output[0]
        most = most and most - 1
    return tensor
