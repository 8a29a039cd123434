"""The ONNX file: the contract that the server and other tools rely on."""

from __future__ import annotations

import json

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from export.convert import convert
from export.trained_model import TrainedModel


def _shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_inputs_and_outputs_are_the_contract_s(content: bytes) -> None:
    graph = onnx.load_from_string(content).graph
    assert [(v.name, v.type.tensor_type.elem_type, _shape(v)) for v in graph.input] == [
        ("images", onnx.TensorProto.UINT8, ["batch", 28, 28, 1])
    ]
    assert [(v.name, v.type.tensor_type.elem_type, _shape(v)) for v in graph.output] == [
        ("logits", onnx.TensorProto.FLOAT, ["batch", 10]),
        ("probabilities", onnx.TensorProto.FLOAT, ["batch", 10]),
    ]


def test_no_dynamic_reshape_or_transpose_is_left(content: bytes) -> None:
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    normalisation, flatten, dense = ["Cast", "Mul", "Add", "Reshape"], ["Reshape"], ["MatMul", "Add", "Softmax"]
    assert operators == [*normalisation, *["Conv", "Relu", "MaxPool"] * 2, *flatten, *dense]
    constants = {tensor.name for tensor in model.graph.initializer}
    assert all(node.input[1] in constants for node in model.graph.node if node.op_type == "Reshape")


def test_the_bare_file_explains_itself(content: bytes, trained: TrainedModel) -> None:
    properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert json.loads(properties["labels"]) == [str(digit) for digit in range(10)]
    assert properties["model_name"] == "drawn"
    assert properties["architecture"] == "mnist_convnet"
    assert properties["parameters"] == "34826"
    assert properties["data_sha256"] == trained.record["data"]["sha256"]


@pytest.mark.parametrize(
    ("shape", "following"),
    [
        ((28, 28, 1), [keras.layers.Dropout(0.5)]),
        ((12, 20, 3), [keras.layers.BatchNormalization(), keras.layers.Activation("relu")]),
        ((9, 7, 3), [keras.layers.Dense(6, activation="relu"), keras.layers.Dense(5, activation="relu")]),
    ],
    ids=["dropout", "batch norm, colour", "two dense, colour"],
)
def test_permuted_weights_compute_the_same(shape: tuple[int, int, int], following: list[keras.Layer]) -> None:
    """Whatever follows a Flatten, ONNX must compute what Keras does: height, width and channels all differ."""
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [
            keras.Input(shape, dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            *following,
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    for layer in network.layers:  # moving averages and offsets that matter
        if isinstance(layer, keras.layers.BatchNormalization):
            generator = np.random.default_rng(0)
            layer.set_weights([generator.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    record = {
        "architecture": "any",
        "recipe": {},
        "seed": 0,
        "parameters": 1,
        "data": {"source": "x", "sha256": "y"},
        "labels": ["a", "b", "c"],
        "test": {},
    }
    content = convert(TrainedModel(network=network, record=record), model_name="any")
    operators = [node.op_type for node in onnx.load_from_string(content).graph.node]
    assert operators.count("Transpose") == (0 if shape[2] == 1 else 1)
    images = np.random.default_rng(2).integers(0, 256, (6, *shape), dtype=np.uint8)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": images})
    np.testing.assert_allclose(probabilities, network.predict(images, verbose=0), atol=1e-5)
