"""What flows through a graph while it runs: the ranges and means of its values, and the moments of a layer's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.inference.interface import INPUT
from serving.inference.sessions import open_untouched

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

_ROWS = 100
_ROWS_OF_PATCHES = 10  # a patch is as large as a filter, and each pixel has one


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One tensor over many images.

    Attributes:
        low: Its smallest value, at most 0.
        high: Its largest value, at least 0.
        mean: float64 `[channels]`.
        active: float64 `[channels]`, the share of its values that are above 0.
    """

    low: float
    high: float
    mean: Float64Array
    active: Float64Array


def observe(model: onnx.ModelProto, tensors: Sequence[str], images: Uint8Array) -> dict[str, Observed]:
    """Runs a graph over images, uint8 `[n, height, width, channels]`, and sums up some of its tensors."""
    lows, highs = dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 0.0)
    means: dict[str, Float64Array | float] = dict.fromkeys(tensors, 0.0)
    active: dict[str, Float64Array | float] = dict.fromkeys(tensors, 0.0)
    for share, values in _batches(model, tensors, images):
        for name, value in zip(tensors, values, strict=True):
            others = (0, *range(2, value.ndim))
            lows[name] = min(lows[name], float(value.min()))
            highs[name] = max(highs[name], float(value.max()))
            means[name] = means[name] + share * value.mean(axis=others, dtype=np.float64)
            active[name] = active[name] + share * (value > 0).mean(axis=others)
    return {
        name: Observed(low=lows[name], high=highs[name], mean=np.asarray(means[name]), active=np.asarray(active[name]))
        for name in tensors
    }


def input_moments(model: onnx.ModelProto, conv: onnx.NodeProto, images: Uint8Array) -> Float64Array:
    """The mean of x xᵀ over all patches x that a convolution sees: float64 `[inputs, inputs]`.

    A convolution whose filters pick one weight each returns the patches, with the padding and strides of the original.
    """
    shape = next(list(each.dims) for each in model.graph.initializer if each.name == conv.input[1])
    inputs = int(np.prod(shape[1:]))
    one_each = np.eye(inputs, dtype=np.float32).reshape(inputs, *shape[1:])
    node = helper.make_node("Conv", ["values", "one_each"], ["patches"])
    node.attribute.extend(conv.attribute)
    graph = helper.make_graph(
        [node],
        "patches",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, [None, *[None] * (len(shape) - 1)])],
        [helper.make_tensor_value_info("patches", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(one_each, "one_each")],
    )
    cutter = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = open_untouched(cutter.SerializeToString())
    total, count = np.zeros((inputs, inputs)), 0
    for _, (values,) in _batches(model, [conv.input[0]], images, rows=_ROWS_OF_PATCHES):
        (found,) = session.run(None, {"values": values})
        patches = np.moveaxis(found, 1, -1).reshape(-1, inputs)
        total += patches.T @ patches
        count += len(patches)
    return total / count


def _batches(
    model: onnx.ModelProto, tensors: Sequence[str], images: Uint8Array, *, rows: int = _ROWS
) -> Iterator[tuple[float, list[FloatArray]]]:
    """Yields the share of the images in a batch, and the values of the tensors."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors if name not in outputs
    )
    session = open_untouched(watched.SerializeToString())
    for start in range(0, len(images), rows):
        batch = images[start : start + rows]
        yield len(batch) / len(images), session.run(list(tensors), {INPUT: batch})
