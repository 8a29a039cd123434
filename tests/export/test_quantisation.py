"""int8: what is quantised, how weights are rounded, and what the gate of the precision lets through."""

from __future__ import annotations

import platform
from collections.abc import Callable

import keras
import numpy as np
import onnx
import pytest
from any_network import as_trained
from onnx import TensorProto, numpy_helper

from export.convert import convert
from export.errors import UnusableModel
from export.precision_gate import GateImages, PrecisionReport, check_precision
from export.quantisation.quantise import quantise
from export.quantisation.rounding import round_weights, scales_of
from serving.config import EngineConfig
from serving.inference.engine import Engine
from serving.inference.processors import int8_kernels
from training.datasets import Dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def int8(content: bytes, data: Dataset) -> bytes:
    return quantise(content, data.train_images)


@pytest.fixture(scope="module")
def gate(content: bytes, data: Dataset) -> Callable[..., PrecisionReport]:
    """Compares a model with the one in float32 on the test images."""

    def started(model: bytes) -> Engine:
        config = EngineConfig(provider="cpu")
        engine = Engine(model, image_shape=data.image_shape, classes=len(data.label_names), config=config)
        engine.start()
        return engine

    exact = started(content)

    def compare(model: bytes, labels: np.ndarray = data.test_labels) -> PrecisionReport:
        test = GateImages(images=data.test_images, labels=labels, names=data.label_names)
        return check_precision(exact, started(model), test)

    return compare


@pytest.mark.skipif(int8_kernels() == (platform.machine(),), reason="this processor has no instruction for int8")
def test_a_sound_quantisation_passes(gate: Callable, int8: bytes) -> None:
    report = gate(int8)
    assert report.problems == ()
    assert report.changed == ()
    assert 0 < report.figures.probabilities_max_difference < 0.1


def test_only_the_convolution_of_many_products_is_in_int8(content: bytes, int8: bytes) -> None:
    before, after = onnx.load_from_string(content), onnx.load_from_string(int8)
    shapes = [list(each.dims) for each in after.graph.initializer if each.data_type == TensorProto.INT8]
    assert [64, 32, 3, 3] in shapes
    assert [32, 1, 3, 3] not in shapes
    assert before.metadata_props == after.metadata_props
    assert (before.graph.input, before.graph.output) == (after.graph.input, after.graph.output)


def test_a_network_without_convolutions_has_nothing_to_quantise() -> None:
    network = keras.Sequential(
        [keras.Input((4, 4, 1), dtype="uint8"), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    )
    network.add(keras.layers.Dense(3, "softmax"))
    dense = convert(as_trained(network), model_name="dense")
    with pytest.raises(UnusableModel, match="nothing to quantise"):
        quantise(dense, np.zeros((4, 4, 4, 1), np.uint8))


def _read_with(model: bytes, place: int, tensor: str, value: np.ndarray) -> bytes:
    """The model, where a uint8 tensor is read with another scale (place 1) or zero point (place 2) than it has."""
    changed = onnx.load_from_string(model)
    node = next(node for node in changed.graph.node if node.name == tensor and node.op_type == "DequantizeLinear")
    node.input[place] = "another"
    changed.graph.initializer.append(numpy_helper.from_array(value, "another"))
    return changed.SerializeToString()


@pytest.mark.parametrize("fault", ["zero point", "scale", "noise"])
def test_a_faulty_quantisation_fails(gate: Callable, int8: bytes, content: bytes, data: Dataset, fault: str) -> None:
    graph = onnx.load_from_string(int8).graph
    first, *_, last = [
        node.name for node in graph.node if node.op_type == "DequantizeLinear" and "uint8" in node.input[0]
    ]
    if fault == "zero point":
        faulty = _read_with(int8, 2, first, np.array(60, np.uint8))
    elif fault == "scale":  # that of the other tensor
        other = next(node.input[1] for node in graph.node if node.name == last)
        scale = next(numpy_helper.to_array(each) for each in graph.initializer if each.name == other)
        faulty = _read_with(int8, 1, first, scale)
    else:
        noise = np.random.default_rng(0).integers(0, 3, data.train_images[:200].shape).astype(np.uint8)
        faulty = quantise(content, noise)
    report = gate(faulty)
    assert not report.figures.passed
    assert any("labels differ" in problem for problem in report.problems)
    assert len(report.changed) == 1000 - report.figures.labels_equal


@pytest.mark.parametrize("between", ["nothing", "pooling and batch normalisation"])
def test_a_convolution_after_another_keeps_its_means(between: str) -> None:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential([keras.Input((8, 8, 1), dtype="uint8"), layers.Rescaling(1 / 255)])
    for _ in range(3):
        network.add(layers.Conv2D(16, 3, padding="same", activation="relu", bias_initializer="random_normal"))
        if between != "nothing":  # after which values are negative too
            network.add(layers.MaxPooling2D(2, padding="same"))
            network.add(layers.BatchNormalization(beta_initializer="random_normal", moving_mean_initializer="ones"))
    network.add(layers.Flatten())
    network.add(layers.Dense(3, "softmax"))
    exact = convert(as_trained(network), model_name="any")
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)
    before, after = (_logits(model, images) for model in (exact, quantise(exact, images)))
    assert np.abs(after - before).max() < 0.1 * before.std()


def _logits(model: bytes, images: np.ndarray) -> np.ndarray:
    engine = Engine(model, image_shape=images.shape[1:], classes=3, config=EngineConfig(provider="cpu"))
    engine.start()
    return engine.infer(images).logits


def test_labels_that_belong_to_other_images_show_in_the_accuracy(gate: Callable, int8: bytes, data: Dataset) -> None:
    """The figures are those of the labels that are given: swapped ones can't pass as a good accuracy."""
    figures = gate(int8, np.roll(data.test_labels, 1)).figures
    assert figures.accuracy == figures.accuracy_float32 < 0.5


def test_weights_are_rounded_so_that_errors_cancel() -> None:
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(4, 20)).astype(np.float32)
    inputs = np.repeat(generator.normal(size=(500, 4)), 5, axis=1) + 0.01 * generator.normal(size=(500, 20))
    scales = scales_of(weights)
    nearest = np.rint(weights / scales[:, np.newaxis])
    rounded = round_weights(weights, scales, inputs.T @ inputs / len(inputs))

    def error(values: np.ndarray) -> float:
        return float(((inputs @ (weights - values * scales[:, np.newaxis]).T) ** 2).mean())

    assert error(rounded) < 0.2 * error(nearest)
    assert np.array_equal(round_weights(weights, scales, np.eye(20)), nearest)
