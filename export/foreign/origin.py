"""What was brought: a network in its own terms, as the graph that will be wrapped and as something that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from export.errors import UnusableModel

Array = npt.NDArray[Any]

# Operators that loop over a sequence, whatever the framework called the layer.
_RECURRENT = frozenset({"GRU", "LSTM", "Loop", "RNN", "Scan"})


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that the import took from the file or had to guess, for the user to read.

    Attributes:
        subject: What it is about: `layout`, `pixels`, `output` and so on.
        text: What was found, and from what.
        option: The option that overrides it; None if nothing does.
    """

    subject: str
    text: str
    option: str | None = None

    def __str__(self) -> str:
        return f"{self.subject:<14} {self.text}" + (f"; {self.option} overrides" if self.option else "")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A network from elsewhere.

    Attributes:
        path: The file or directory.
        kind: What it is, for messages: `Keras`, `SavedModel` or `ONNX`.
        sha256: Digest of the file, or of all files of the directory.
        model: Its graph, with one input and one output, in the network's own terms.
        run: The untouched network: from a batch of its own inputs to its own output, one row per image.
        parameters: Number of its parameters.
        versions: Releases of the tools that made and converted it.
        labels: Names of its classes, if the file says them.
        label_output: An output, not served, with the name of each image's class; None if it has none.
        findings: What opening it found.
    """

    path: Path
    kind: str
    sha256: str
    model: onnx.ModelProto
    run: Callable[[Array], Array]
    parameters: int
    versions: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    label_output: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def input_name(self) -> str:
        """Name of the graph's input."""
        return self._input.name

    @property
    def output_name(self) -> str:
        """Name of the graph's output."""
        name: str = self.model.graph.output[0].name
        return name

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """Element type of the input."""
        found: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(self._input.type.tensor_type.elem_type)
        return found

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Dimensions of the input with the batch in front; None where the file leaves one open."""
        return dimensions(self._input)

    @property
    def _input(self) -> onnx.ValueInfoProto:
        (found,) = inputs_of(self.model.graph)
        return found


def dimensions(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The dimensions of a tensor; None for each that is a name or absent."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must give: older files list their weights among the inputs too."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def refuse_recurrent(model: onnx.ModelProto) -> None:
    """Refuses a graph that loops.

    Raises:
        UnusableModel: Names the operator and its node.
    """
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and node.op_type in _RECURRENT:
            raise UnusableModel(
                f"the operator {node.op_type} ({node.name or node.output[0]}) is recurrent over time; "
                "only networks that see the whole image at once can be served"
            )


def shape_text(shape: tuple[int | None, ...]) -> str:
    """A shape for messages, with the batch in front: `[batch, 28, 28]`."""
    return f"[{', '.join(['batch', *('?' if size is None else str(size) for size in shape[1:])])}]"
