"""The shipped model with the output `no_digit`: a real graph, to be served."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from serving.config import PRETRAINED
from serving.repository.manifest import NoDigit, ValidationAnswers
from serving.repository.repository import Repository

# Drawn digits are below this, and `GRAY_BOX` is far above.
THRESHOLD = 0.6
GRAY_BOX = np.zeros((28, 28, 1), np.uint8)
GRAY_BOX[5:23, 5:23] = 192
VALIDATION = ValidationAnswers(
    images=1000, labels=(0.1, 0.11, 0.1, 0.1, 0.1, 0.09, 0.1, 0.1, 0.1, 0.1), confidence=0.99, no_digit=0.004
)


def without_no_digit(content: bytes) -> bytes:
    """Removes the output from a model, if it has it."""
    model = onnx.load_from_string(content)
    kept = [output for output in model.graph.output if output.name != "no_digit"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    encoded: bytes = model.SerializeToString()
    return encoded


def with_no_digit(content: bytes) -> bytes:
    """Adds the output to a model, if it has it not: the sigmoid of minus the logits' log-sum-exp, float32 `[batch]`."""
    model = onnx.load_from_string(content)
    if all(output.name != "no_digit" for output in model.graph.output):
        model.graph.initializer.append(helper.make_tensor("rows", TensorProto.INT64, [1], [1]))
        model.graph.node.extend(
            [
                helper.make_node("ReduceLogSumExp", ["logits", "rows"], ["energy"], keepdims=0),
                helper.make_node("Neg", ["energy"], ["doubt"]),
                helper.make_node("Sigmoid", ["doubt"], ["no_digit"]),
            ]
        )
        model.graph.output.append(helper.make_tensor_value_info("no_digit", TensorProto.FLOAT, ["batch"]))
    onnx.checker.check_model(model, full_check=True)
    encoded: bytes = model.SerializeToString()
    return encoded


def publish_with_no_digit(root: Path) -> Repository:
    """Makes a repository whose only model, `mnist_convnet`, has the output, a threshold and validation answers."""
    repository, shipped = Repository(root), Repository(PRETRAINED).load("mnist_convnet", 1)
    content = with_no_digit(shipped.content)
    manifest = dataclasses.replace(
        shipped.manifest,
        sha256=hashlib.sha256(content).hexdigest(),
        no_digit=NoDigit(threshold=THRESHOLD, caught={"boxes": 1.0}, kept={"drawn": 1.0}),
        validation=VALIDATION,
    )
    repository.publish(content, manifest)
    return repository
