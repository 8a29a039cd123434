"""What the output of a network from elsewhere means, and how logits and probabilities come from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from export.calibration import softmax
from export.errors import UnusableModel
from export.foreign.origin import Array, Finding, Origin

FloatArray = npt.NDArray[np.float32]

LOGITS, ONE_LOGIT = "logits", "one logit"
SOFTMAX, LOG_SOFTMAX, SIGMOID, SIGMOIDS = "softmax", "log softmax", "one sigmoid", "sigmoids"
PROBABILITIES = "probabilities"

# Below this a probability has no logarithm that float32 could still tell from another.
SMALLEST_PROBABILITY = 1e-30
# 1 - p has lost its digits where p is close to 1, so log(1 - p) can't be compared there.
_SMALLEST_COMPLEMENT = 1e-2
_SUM_TOLERANCE = 1e-3

# Operators after an activation that leave its values in order.
_FORWARDING = frozenset({"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_LINEAR = frozenset({"Add", "BatchNormalization", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "ReduceMean"})
_TEXTS = {
    LOGITS: "logits; probabilities are their softmax",
    ONE_LOGIT: "one logit, of two classes: the probability of the second is its sigmoid",
    SOFTMAX: "a softmax; logits are its input",
    LOG_SOFTMAX: "a log softmax; logits are its output, probabilities their exponential",
    SIGMOID: "one sigmoid unit, the probability of the second of two classes",
    SIGMOIDS: "sigmoids, independent of each other; logits are their logarithms, and probabilities are the sigmoids "
    "divided by their sum, so that each row adds up to 1",
    PROBABILITIES: "probabilities, since they add up to 1; logits are their logarithms",
}


@dataclass(frozen=True, kw_only=True)
class Head:
    """The end of a network.

    Attributes:
        kind: What its output is, one of the constants of this module.
        classes: Number of classes.
        source: The tensor of its graph that logits, or where none are reachable probabilities, are computed from.
    """

    kind: str
    classes: int
    source: str

    @property
    def log_floor(self) -> float | None:
        """The smallest probability whose logarithm the gate compares; None where it compares the logits themselves.

        Where the output is probabilities, logits are known from it only up to the same constant for all classes.
        """
        if self.kind in (LOGITS, ONE_LOGIT, LOG_SOFTMAX):
            return None
        return _SMALLEST_COMPLEMENT if self.kind == SIGMOID else SMALLEST_PROBABILITY

    def finish(self, output: Array) -> tuple[FloatArray, FloatArray]:
        """Computes logits and probabilities from the untouched network's output, with NumPy.

        Args:
            output: Its output, one row per image.

        Returns:
            Logits and probabilities, each float32 `[n, classes]`.
        """
        values = output.reshape(len(output), -1).astype(np.float32)
        if self.kind == ONE_LOGIT:
            values = np.concatenate([np.zeros_like(values), values], axis=1)
        elif self.kind == SIGMOID:
            values = np.concatenate([1 - values, values], axis=1)
        if self.kind in (LOGITS, ONE_LOGIT):
            return values, softmax(values)
        if self.kind == LOG_SOFTMAX:
            return values, np.exp(values)
        logits = np.log(np.maximum(values, np.float32(SMALLEST_PROBABILITY)))
        return logits, values / values.sum(axis=1, keepdims=True) if self.kind == SIGMOIDS else values


def head_of(origin: Origin, output: Array, *, logits: bool = False) -> tuple[Head, Finding]:
    """Finds out what a network's output is: from its last layer, or from the values where that tells nothing.

    Args:
        origin: The network.
        output: Its output for some images.
        logits: Whether the user said that it is logits.

    Raises:
        UnusableModel: It is not one number per class, or what it is can't be known.
    """
    count = math.prod(output.shape[1:])
    if output.ndim > 1 and max(output.shape[1:]) != count:
        raise UnusableModel(
            f"its output is [batch, {', '.join(map(str, output.shape[1:]))}], not one number for each class"
        )
    if not np.isfinite(output).all():
        raise UnusableModel("its own outputs are not all finite numbers; is the range of the pixels right (--scale)?")
    node = _last_node(origin.model.graph, origin.output_name)
    last = "" if node is None else node.op_type
    kind = _kind(last, output.reshape(len(output), count), said_logits=logits)
    source = origin.output_name
    if node is not None and kind in (SOFTMAX, SIGMOID, SIGMOIDS):
        source = node.input[0]
    classes = 2 if kind in (SIGMOID, ONE_LOGIT) else count
    text = _TEXTS[kind] + (", as --logits says" if logits else "")
    return Head(kind=kind, classes=classes, source=source), Finding(subject="output", text=text)


def _kind(last: str, values: Array, *, said_logits: bool) -> str:
    count = values.shape[1]
    if last in ("Softmax", "LogSoftmax", "Sigmoid"):
        if said_logits:
            raise UnusableModel(f"its last layer is a {last}, so its output is no logits; leave out --logits")
        if last == "Sigmoid":
            return SIGMOID if count == 1 else SIGMOIDS
        if count == 1:
            raise UnusableModel(f"its only output is a {last} of one number, which is always the same")
        return SOFTMAX if last == "Softmax" else LOG_SOFTMAX
    if count > 1 and _sums_to_one(values):
        if said_logits:
            raise UnusableModel("each row of its output adds up to 1, so it is no logits; leave out --logits")
        return PROBABILITIES
    if count > 1 and not said_logits and (values <= 0).all() and _sums_to_one(np.exp(values.astype(np.float64))):
        return LOG_SOFTMAX
    if count == 1 and not said_logits:
        raise UnusableModel(
            "its output is one number, which may measure anything; --logits says that it is the logit of the second of "
            "two classes"
        )
    if said_logits or last in _LINEAR:
        return ONE_LOGIT if count == 1 else LOGITS
    raise UnusableModel(
        f"its last layer is a {last or 'copy of its input'}: its values do not add up to 1, so they are no "
        "probabilities, and they need not be logits; --logits says that they are"
    )


def _sums_to_one(values: Array) -> bool:
    return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) < _SUM_TOLERANCE).all())


def _last_node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    made_by = {output: node for node in graph.node for output in node.output}
    node = made_by.get(name)
    while node is not None and node.op_type in _FORWARDING:
        node = made_by.get(node.input[0])
    return node
