"""The served graph of a network from elsewhere: uint8 `images`, its own graph, `logits` and `probabilities`.

The contract is that of `export.convert`. The network's own nodes stay as they are, under names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper, shape_inference, version_converter

from export.errors import UnusableModel, reason_of
from export.foreign.head import LOG_SOFTMAX, ONE_LOGIT, PROBABILITIES, SIGMOID, SIGMOIDS, SMALLEST_PROBABILITY, Head
from export.foreign.origin import Origin
from export.foreign.pixels import PixelInput
from export.foreign.simplification import simplified
from serving.inference.interface import INPUT
from serving.inference.interface import LOGITS as LOGITS_OUTPUT
from serving.inference.interface import PROBABILITIES as PROBABILITIES_OUTPUT

BATCH = "batch"

_PREFIX = "origin/"
# The operators of the wrapping mean the same from this version on; older graphs are converted.
_OLDEST_OPSET, _CONVERTED_TO = 9, 18


def wrap(origin: Origin, pixels: PixelInput, head: Head, *, properties: Mapping[str, str]) -> bytes:
    """Wraps a network.

    Args:
        origin: The network.
        pixels: How images become its input.
        head: What its output is.
        properties: The file's metadata.

    Returns:
        A serialised ONNX model: input `images`, uint8 `[batch, height, width, channels]`; outputs `logits` and
        `probabilities`, float32 `[batch, classes]`.

    Raises:
        UnusableModel: Its graph is not valid ONNX, or too old.
    """
    model = onnx.ModelProto()
    model.CopyFrom(origin.model)
    if _opset(model) < _OLDEST_OPSET:
        try:
            model = version_converter.convert_version(model, _CONVERTED_TO)
        except Exception as error:
            raise UnusableModel(
                f"opset {_opset(model)} is too old, and can't be converted: {reason_of(error)}"
            ) from error
    del model.graph.value_info[:]  # inferred again, for any batch
    if origin.input_shape[0] == 1:
        _free_batch(model.graph)
    model = compose.add_prefix(model, _PREFIX, inplace=True)
    before, after = _Nodes("pixels"), _Nodes("head")
    own_input, source = _PREFIX + origin.input_name, _PREFIX + head.source
    if own_input == source:
        raise UnusableModel("its output is its input")
    _input_nodes(before, pixels, own_input)
    _output_nodes(after, head, source)
    height, width, channels = pixels.image_shape
    wrapped = helper.make_graph(
        [*before.nodes, *model.graph.node, *after.nodes],
        properties["model_name"],
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [BATCH, height, width, channels])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, head.classes])
            for name in (LOGITS_OUTPUT, PROBABILITIES_OUTPUT)
        ],
        [*before.constants, *model.graph.initializer, *after.constants],
        sparse_initializer=model.graph.sparse_initializer,
    )
    model.graph.CopyFrom(wrapped)
    model.producer_name = "digits-serving"
    del model.metadata_props[:]
    helper.set_model_props(model, {**properties})
    try:
        model = shape_inference.infer_shapes(simplified(model))
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise UnusableModel(f"its graph is not valid ONNX: {reason_of(error)}") from error
    content: bytes = model.SerializeToString()
    return content


class _Nodes:
    """Nodes of the wrapping, with their constants. Each `add` returns the name of its result."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = f"{self._prefix}/{len(self.nodes)}_{operator.lower()}"
        self.nodes.append(helper.make_node(operator, [*inputs], [output or name], name=name, **attributes))
        return output or name

    def cast(self, values: str, element_type: int) -> str:
        return self.add("Cast", values, to=element_type)

    def constant(self, values: object, dtype: type = np.float32) -> str:
        name = f"{self._prefix}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name


def _input_nodes(nodes: _Nodes, pixels: PixelInput, to: str) -> None:
    values: str = INPUT
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    if pixels.arithmetic:
        values, dtype = nodes.cast(values, TensorProto.FLOAT), np.dtype(np.float32)
    for operator, constant in pixels.arithmetic:
        values = nodes.add(operator, values, nodes.constant(constant))
    if pixels.transposed:
        values = nodes.add("Transpose", values, perm=[0, 3, 1, 2])
    if pixels.input_shape != pixels.image_shape:
        values = nodes.add("Reshape", values, nodes.constant([-1, *pixels.input_shape], np.int64))
    if dtype != pixels.dtype:
        values = nodes.cast(values, helper.np_dtype_to_tensor_dtype(pixels.dtype))
    nodes.add("Identity", values, output=to)


def _output_nodes(nodes: _Nodes, head: Head, source: str) -> None:
    values = nodes.cast(source, TensorProto.FLOAT)
    columns = 1 if head.kind in (SIGMOID, ONE_LOGIT) else head.classes
    values = nodes.add("Reshape", values, nodes.constant([-1, columns], np.int64))
    if head.kind == PROBABILITIES:
        floored = nodes.add("Max", values, nodes.constant(SMALLEST_PROBABILITY))
        nodes.add("Log", floored, output=LOGITS_OUTPUT)
        nodes.add("Identity", values, output=PROBABILITIES_OUTPUT)
        return
    if head.kind in (SIGMOID, ONE_LOGIT):
        # The sigmoid of x is the softmax of 0 and x.
        zeros = nodes.add("Mul", values, nodes.constant(0.0))
        values = nodes.add("Concat", zeros, values, axis=1)
    elif head.kind == SIGMOIDS:
        # The logarithm of the sigmoid of x is -log(1 + exp(-x)).
        values = nodes.add("Neg", nodes.add("Softplus", nodes.add("Neg", values)))
    logits = nodes.add("Identity", values, output=LOGITS_OUTPUT)
    if head.kind == LOG_SOFTMAX:
        nodes.add("Exp", logits, output=PROBABILITIES_OUTPUT)
    else:
        nodes.add("Softmax", logits, output=PROBABILITIES_OUTPUT, axis=1)


def _free_batch(graph: onnx.GraphProto) -> None:
    """Lets a graph for one image take any number: where it reshapes to one row, the number of rows is taken over.

    Whether the graph then computes the same is not decided here: the gate compares batches with single images.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in graph.node if _is_constant_tensor(node)}
    for_one = {name for name, tensor in tensors.items() if _reshapes_to_one_row(tensor)}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in for_one:
            del node.attribute[:]  # its only one, allowzero, would take 0 as a size
            target = tensors[node.input[1]]
            sizes = numpy_helper.to_array(target).copy()
            sizes[0] = 0
            target.CopyFrom(numpy_helper.from_array(sizes, target.name))


def _reshapes_to_one_row(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != TensorProto.INT64 or len(tensor.dims) != 1 or tensor.dims[0] < 2:
        return False
    first, *others = numpy_helper.to_array(tensor)
    return bool(first == 1 and 0 not in others)


def _is_constant_tensor(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.attribute[0].name == "value"


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
