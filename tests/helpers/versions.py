"""Model versions that can be told apart by their answers: each one gives every image the same label."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.config import PRETRAINED
from serving.repository.manifest import InputSpec, Manifest
from serving.repository.repository import Repository


def constant_model(label: int, *, side: int = 28, classes: int = 10, ballast: int = 0) -> bytes:
    """Makes a model that gives every image of `side` x `side` pixels the same label, with `ballast` extra bytes."""
    bias = np.zeros(classes, np.float32)
    bias[label] = 9
    weights = np.zeros((side * side, classes), np.float32)
    constants = {"weights": weights, "bias": bias, "ballast": np.ones(max(1, ballast // 4), np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "weights"], ["zeros"]),
            helper.make_node("ReduceMax", ["ballast"], ["one"], keepdims=1),
            helper.make_node("Mul", ["zeros", "one"], ["products"]),
            helper.make_node("Add", ["products", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", side, side, 1])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes])
            for name in ("logits", "probabilities")
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def manifest_of(content: bytes, *, name: str = "net", side: int = 28, classes: int = 10) -> Manifest:
    """Makes a true manifest for such a model, with the shipped model's proof of parity."""
    shipped = Repository(PRETRAINED).read_manifest("mnist_convnet", 1)
    return dataclasses.replace(
        shipped,
        model_name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        labels=tuple(f"class {number}" for number in range(classes)),
        input=InputSpec(height=side, width=side, channels=1, preparation="mnist"),
        no_digit=None,
        validation=None,
    )


def publish(repository: Repository, label: int, *, name: str = "net", **shape: int) -> int:
    """Publishes the next version, which gives every image the same label; returns its number."""
    content = constant_model(label, **shape)
    shape.pop("ballast", None)
    return repository.publish(content, manifest_of(content, name=name, **shape))


def damage(repository: Repository, version: int, *, name: str = "net") -> None:
    """Changes one byte of a version's model file."""
    path = repository.root / name / str(version) / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
