"""The ONNX file: the contract that the server and other tools rely on."""

from __future__ import annotations

import json

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from any_network import as_trained

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
    pixels, flatten, dense = ["Cast", "Reshape"], ["Reshape"], ["MatMul", "Add", "Softmax"]
    assert operators == [*pixels, *["Conv", "Relu", "MaxPool"] * 2, *flatten, *dense]
    constants = {tensor.name for tensor in model.graph.initializer}
    assert all(node.input[1] in constants for node in model.graph.node if node.op_type == "Reshape")


def test_no_digit_is_one_more_output_and_changes_no_other(trained: TrainedModel, content: bytes, data) -> None:
    images = np.concatenate([data.test_images[:20], np.zeros((1, 28, 28, 1), np.uint8)])
    with_it = convert(trained, model_name="drawn", with_no_digit=True)
    onnx.checker.check_model(onnx.load_from_string(with_it), full_check=True)
    outputs = onnx.load_from_string(with_it).graph.output
    assert [(value.name, _shape(value)) for value in outputs][2:] == [("no_digit", ["batch"])]
    logits, probabilities, no_digit = onnxruntime.InferenceSession(with_it).run(None, {"images": images})
    plain = onnxruntime.InferenceSession(content).run(None, {"images": images})
    np.testing.assert_array_equal(logits, plain[0])
    np.testing.assert_array_equal(probabilities, plain[1])
    np.testing.assert_allclose(no_digit, 1 / (1 + np.exp(logits.astype(float)).sum(axis=1)), atol=1e-6)


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
    content = _converted(shape, [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), *following])
    operators = [node.op_type for node in onnx.load_from_string(content).graph.node]
    assert operators.count("Transpose") == (0 if shape[2] == 1 else 1)


def _adapted() -> keras.layers.Normalization:
    normalization = keras.layers.Normalization()
    normalization.adapt(np.random.default_rng(0).integers(0, 256, (50, 9, 9, 3)) / 255)
    return normalization


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.RandomRotation(0.5), keras.layers.GaussianDropout(0.5), keras.layers.Flatten()],
        [keras.Sequential([keras.layers.RandomFlip(), keras.layers.SpatialDropout2D(0.5)]), keras.layers.Flatten()],
        [_adapted(), keras.layers.Flatten()],
        [keras.layers.Conv2D(4, 3), keras.layers.Permute((3, 1, 2)), keras.layers.Flatten("channels_first")],
        [
            keras.layers.Conv2D(4, 3),
            keras.layers.Permute((3, 1, 2)),
            keras.layers.GlobalAveragePooling2D("channels_first"),
        ],
        [keras.layers.Flatten(), keras.layers.Dense(6, activation="gelu")],
    ],
    ids=["training mode", "training mode, nested", "constants", "flatten", "average", "gelu"],
)
def test_what_was_not_converted_before_computes_the_same(layers: list[keras.Layer]) -> None:
    """Layers for training, tensors that a layer holds, channels first, and the exact gelu."""
    _converted((9, 9, 3), layers)


def test_a_last_layer_with_more_weights_has_logits_too() -> None:
    """Quantised, it has a scale beside kernel and bias."""
    _converted((9, 9, 3), [keras.layers.Flatten()], quantised=True)


def _converted(shape: tuple[int, int, int], layers: list[keras.Layer], *, quantised: bool = False) -> bytes:
    """Converts a network, and compares it with Keras."""
    keras.utils.set_random_seed(1)
    last = keras.layers.Dense(3, activation="softmax")
    network = keras.Sequential([keras.Input(shape, dtype="uint8"), keras.layers.Rescaling(1 / 255), *layers, last])
    for layer in network.layers:  # moving averages and offsets that matter
        if isinstance(layer, keras.layers.BatchNormalization):
            generator = np.random.default_rng(0)
            layer.set_weights([generator.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    if quantised:
        last.quantize("int8")
    trained = as_trained(network)
    content = convert(trained, model_name="any")
    images = np.random.default_rng(2).integers(0, 256, (6, *shape), dtype=np.uint8)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    np.testing.assert_allclose(probabilities, network.predict(images, verbose=0), atol=1e-5)
    np.testing.assert_allclose(logits, trained.predict(images)[0], atol=1e-4)
    return content
