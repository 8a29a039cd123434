"""Simplifies a graph: constant reshapes instead of computed ones, and nothing that no output depends on.

tf2onnx flattens by computing a shape from the batch. CUDA has no such operators on integers, and a server that is told
to use CUDA runs nothing on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from export.foreign.origin import dimensions


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the same network in fewer nodes.

    Args:
        model: A whole model; its shapes are inferred anew.
    """
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    graph = inferred.graph
    _make_reshapes_constant(graph)
    needed = _needed(graph, {value.name for value in graph.output})
    used = {name for node in needed for name in _inputs(node)}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(needed)
    graph.initializer.extend(tensors)
    return inferred


def _make_reshapes_constant(graph: onnx.GraphProto) -> None:
    """Where all dimensions but the first are known, the first, which is the batch, follows from the rest."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    shapes = {value.name: dimensions(value) for value in graph.value_info}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        first, *others = shapes.get(node.output[0]) or (None, None)
        if first is None and others and None not in others and 0 not in others:
            name = f"{node.output[0]}/shape"
            graph.initializer.append(numpy_helper.from_array(np.array([-1, *others], np.int64), name))
            node.input[1] = name


def _needed(graph: onnx.GraphProto, outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that these tensors depend on, in their order."""
    wanted, kept = {*outputs}, []
    for node in reversed(graph.node):
        if wanted & {*node.output}:
            kept.append(node)
            wanted |= _inputs(node)
    return kept[::-1]


def _inputs(node: onnx.NodeProto) -> set[str]:
    """What a node reads, its branches included."""
    names = {*node.input}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names |= {name for inner in graph.node for name in _inputs(inner)} | _names(graph.output)
    return names


def _names(values: Iterable[onnx.ValueInfoProto]) -> set[str]:
    return {value.name for value in values}
