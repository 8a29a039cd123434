"""Constants of an ONNX graph, and what its first layers do to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

# Operators that change neither the values nor how far they are apart.
_KEEPING = frozenset(
    {"Add", "Cast", "Dropout", "Flatten", "Identity", "Pad", "Reshape", "Resize", "Slice", "Squeeze", "Sub"}
    | {"Transpose", "Unsqueeze"}
)
_FORWARDING = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


class Constants:
    """The tensors of a graph whose values the file contains.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._made_by = {output: node for node in graph.node for output in node.output}

    def value(self, name: str) -> npt.NDArray[Any] | None:
        """The values of a tensor, in any shape; None if they depend on the input."""
        if name in self._tensors:
            values: npt.NDArray[Any] = numpy_helper.to_array(self._tensors[name])
            return values
        node = self._made_by.get(name)
        if node is not None and node.op_type in _FORWARDING:
            return self.value(node.input[0])
        if node is not None and node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    return np.asarray(numpy_helper.to_array(attribute.t))
                if attribute.name == "value_float":
                    return np.array([attribute.f], np.float32)
        return None


def slope_of_first_layer(graph: onnx.GraphProto, input_name: str, constants: Constants) -> float | None:
    """Follows the input to the first layer that mixes pixels, and returns by what they were multiplied until then.

    A Rescaling by 1/255 gives 1/255, a Normalization gives the inverse of the standard deviation.

    Returns:
        The largest factor of any channel, or None if nothing multiplies the pixels.
    """
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type != "Shape":
            for name in {*node.input}:
                consumers.setdefault(name, []).append(node)
    name, slope = input_name, 1.0
    while len(consumers.get(name, ())) == 1:
        node = consumers[name][0]
        if node.op_type in ("Mul", "Div"):
            other = constants.value(node.input[1 if node.input[0] == name else 0])
            if (
                other is None
                or not other.size
                or not np.all(other)
                or (node.op_type == "Div" and node.input[0] != name)
            ):
                break
            largest = float(np.abs(other.astype(np.float64) ** (1 if node.op_type == "Mul" else -1)).max())
            slope *= largest
        elif node.op_type not in _KEEPING:
            break
        name = node.output[0]
    return None if slope == 1.0 else slope
