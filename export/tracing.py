"""From a TensorFlow function to an ONNX graph, with what tf2onnx leaves undone put right."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from onnx import helper, numpy_helper

from export.errors import UnusableModel

OPSET = 18


def trace(function: Callable[[Any], Any], *, shape: tuple[int | None, ...], dtype: Any, name: str) -> onnx.ModelProto:
    """Converts a function of one tensor to ONNX.

    Args:
        function: From a tensor to a tensor, or to a dictionary of tensors.
        shape: Shape of its argument, with None for the batch.
        dtype: Type of its argument.
        name: Name of the graph's input.

    Raises:
        UnusableModel: tf2onnx does not know an operation. The message names it.
    """
    signature = [tf.TensorSpec(shape, dtype, name=name)]
    traced = tf.function(function, input_signature=signature)
    captured = {
        inner.name: outer
        for outer, inner in traced.get_concrete_function().graph.captures
        if outer.dtype != tf.resource
    }
    model: onnx.ModelProto
    with _without_log():
        model, _ = tf2onnx.convert.from_function(traced, input_signature=signature, opset=OPSET)
    _make_captured_tensors_constants(model.graph, captured)
    _rewrite_erfc(model.graph)
    for node in model.graph.node:
        if node.domain == "" and not onnx.defs.has(node.op_type):
            raise UnusableModel(f"the operation {node.op_type} ({node.name}) can't be converted to ONNX")
    return model


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """tf2onnx logs what it can't convert, and returns a broken graph all the same. We look at the graph ourselves."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _make_captured_tensors_constants(graph: onnx.GraphProto, captured: dict[str, Any]) -> None:
    """Tensors that a layer holds, such as the mean of a Normalization, are no inputs of the graph."""
    used = {name for node in graph.node for name in node.input}
    for value in [value for value in graph.input if value.name in captured]:
        graph.input.remove(value)
    for tensor in [tensor for tensor in graph.initializer if tensor.name in captured]:
        graph.initializer.remove(tensor)
    for name in captured.keys() & used:
        graph.initializer.append(numpy_helper.from_array(np.asarray(captured[name]), name))


def _rewrite_erfc(graph: onnx.GraphProto) -> None:
    """Writes Erfc, which the exact gelu needs and ONNX lacks, as 1 - Erf."""
    nodes = []
    for node in graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        erf, one = f"{node.output[0]}/erf", f"{node.output[0]}/one"
        graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), one))
        nodes.append(helper.make_node("Erf", [node.input[0]], [erf], name=erf))
        nodes.append(helper.make_node("Sub", [one, erf], [node.output[0]], name=node.name))
    del graph.node[:]
    graph.node.extend(nodes)
