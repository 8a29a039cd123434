"""The parity gate: passes what computes the same, and fails every way of not doing so."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.parity import ParityLimits, ParityReport, check_parity
from export.trained_model import TrainedModel
from serving.config import EngineConfig
from serving.errors import ModelRejected
from serving.inference.engine import Engine
from training.datasets import Dataset


@pytest.fixture(scope="module")
def gate(trained: TrainedModel, data: Dataset) -> Callable[..., ParityReport]:
    def run(content: bytes, **options: object) -> ParityReport:
        engine = Engine(content, image_shape=(28, 28, 1), classes=10, config=EngineConfig(provider="cpu"))
        engine.start()
        return check_parity(trained, engine, data.test_images, data.test_labels, **options)

    return run


def _tensor(model: onnx.ModelProto, shape: tuple[int, ...]) -> onnx.TensorProto:
    (found,) = (tensor for tensor in model.graph.initializer if tuple(tensor.dims) == shape)
    return found


def _change(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def test_the_exported_model_passes(gate: Callable, content: bytes, trained: TrainedModel) -> None:
    report = gate(content)
    figures = report.figures
    assert report.problems == ()
    assert figures.passed
    assert report.provider == "CPUExecutionProvider"
    assert figures.images == figures.labels_equal == 1000
    assert figures.batch_sizes == (1, 7, 64, 256, 1000)
    assert 0 < figures.probabilities_mean_difference < figures.probabilities_max_difference < 1e-5
    assert report.accuracy.keras == pytest.approx(trained.record["test"]["accuracy"], abs=1e-6)
    assert report.accuracy.onnx == report.accuracy.keras


def test_a_tampered_weight_fails(gate: Callable, content: bytes) -> None:
    model = onnx.load_from_string(content)
    kernel = _tensor(model, (32, 1, 3, 3))
    values = numpy_helper.to_array(kernel).copy()
    values[0, 0, 0, 0] += 0.01
    _change(kernel, values)
    report = gate(model.SerializeToString())
    assert not report.figures.passed
    assert any("a probability differs" in problem for problem in report.problems)


def test_swapped_outputs_fail_and_the_worst_images_are_named(gate: Callable, content: bytes, data: Dataset) -> None:
    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.dims[-1:] == [10]:
            values = numpy_helper.to_array(tensor).copy()
            values[..., [3, 8]] = values[..., [8, 3]]
            _change(tensor, values)
    report = gate(model.SerializeToString())
    assert not report.figures.passed
    assert f"{1000 - report.figures.labels_equal} of 1000 labels differ" in report.problems
    swapped = int(np.isin(data.test_labels, [3, 8]).sum())
    assert 1000 - report.figures.labels_equal == pytest.approx(swapped, abs=20)
    worst = report.worst[0]
    assert {worst.keras_label, worst.onnx_label} == {"3", "8"}
    assert worst.label == str(data.test_labels[worst.index])


def test_swapped_label_names_fail(gate: Callable, content: bytes) -> None:
    model = onnx.load_from_string(content)
    for entry in model.metadata_props:
        if entry.key == "labels":
            entry.value = json.dumps([*"0128456739"])
    report = gate(model.SerializeToString())
    assert report.problems == ("the labels in the file are not those of the training, or their order differs",)


def test_a_wrong_normalisation_fails(gate: Callable, content: bytes) -> None:
    model = onnx.load_from_string(content)
    kernel = _tensor(model, (32, 1, 3, 3))  # the division by 255 is part of it
    _change(kernel, numpy_helper.to_array(kernel) * (255 / 256))
    assert not gate(model.SerializeToString()).figures.passed


def test_not_a_number_fails(gate: Callable, content: bytes) -> None:
    model = onnx.load_from_string(content)
    kernel = _tensor(model, (1600, 10))
    _change(kernel, np.full((1600, 10), np.nan))
    report = gate(model.SerializeToString())
    assert not report.figures.passed
    assert "the engine's outputs are not all finite" in report.problems


def test_the_limit_is_what_decides(gate: Callable, content: bytes) -> None:
    measured = gate(content).figures.probabilities_max_difference
    assert gate(content, limits=ParityLimits(probabilities=measured)).figures.passed
    report = gate(content, limits=ParityLimits(probabilities=measured * 0.99))
    assert not report.figures.passed
    assert f"{measured:.2e}" in report.problems[0]


def test_renamed_outputs_never_reach_the_values(gate: Callable, content: bytes) -> None:
    model = onnx.load_from_string(content)
    model.graph.output[1].name = model.graph.node[-1].output[0] = "scores"
    with pytest.raises(ModelRejected, match=r"(probabilities is absent|scores is)"):
        gate(model.SerializeToString())
