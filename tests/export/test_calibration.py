"""Calibration: the temperature comes from the validation part, is in the graph, and the gate knows it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.calibration import LEAST_IMAGES, calibrate, describe, fit_temperature, softmax
from export.convert import convert
from export.parity import check_parity
from export.trained_model import TrainedModel
from serving.client import Client
from serving.config import EngineConfig
from serving.errors import ModelRejected
from serving.inference.engine import Engine
from serving.repository.manifest import Calibration
from training.datasets import Dataset
from training.evaluation import calibration_error

pytestmark = pytest.mark.slow


def _engine(content: bytes) -> Engine:
    engine = Engine(content, image_shape=(28, 28, 1), classes=10, config=EngineConfig(provider="cpu"))
    engine.start()
    return engine


def _drawn(temperature: float, *, seed: int = 5, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (count, 6)).astype(np.float32)
    chances = softmax(logits, temperature).cumsum(axis=1)
    return logits, (generator.uniform(size=(count, 1)) > chances).sum(axis=1).clip(max=5)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float) -> None:
    logits, labels = _drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)
    assert calibration_error(softmax(logits, temperature), labels) < 0.01


def test_where_no_temperature_is_best_it_is_one() -> None:
    logits = np.eye(10, dtype=np.float32).repeat(30, axis=0)
    labels = np.arange(10).repeat(30)
    assert fit_temperature(logits, labels) == 1
    assert fit_temperature(logits, (labels + 1) % 10) == 1


def test_few_images_or_a_small_gain_give_no_temperature() -> None:
    """Where 1 is right, the best temperature of few images is anything; of more, one set in a hundred gives another."""
    for seed in range(5):
        assert fit_temperature(*_drawn(0.4, seed=seed, count=LEAST_IMAGES - 1)) == 1
        assert fit_temperature(*_drawn(0.4, seed=seed, count=LEAST_IMAGES)) != 1
    assert sum(fit_temperature(*_drawn(1.0, seed=seed, count=300)) != 1 for seed in range(100)) <= 4


def test_the_command_s_line_says_why_it_is_one() -> None:
    measured = {"error_before": 0.02, "error_after": 0.02}
    assert describe(Calibration(images=19, **measured)) == (
        "1, since 19 validation images are too few to fit another on, 200 would do; "
        "calibration error on the test images 2.00%"
    )
    assert "1, since 600 validation images show no clearly better one" in describe(Calibration(images=600, **measured))
    assert describe(Calibration()) == "1.000, without images to fit it on"


def test_calibration_error_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.3, 0.7]] * 10, np.float32)
    labels = np.array([0] * 8 + [1] * 2 + [1] * 10)
    assert calibration_error(probabilities, labels) == pytest.approx((0.1 + 0.3) / 2)


def test_it_is_fitted_on_the_end_of_the_training_images_and_never_on_the_test_set(
    trained: TrainedModel, data: Dataset
) -> None:
    found = calibrate(trained, data)
    assert found.images == trained.record["data"]["validation_images"] == 600
    logits, _ = trained.predict(data.train_images[5400:])
    assert found.temperature == fit_temperature(logits, data.train_labels[5400:]) != 1
    elsewhere = dataclasses.replace(
        data,
        train_labels=np.concatenate([(data.train_labels[:5400] + 1) % 10, data.train_labels[5400:]]),
        test_labels=(data.test_labels + 1) % 10,
    )
    assert calibrate(trained, elsewhere).temperature == found.temperature


def test_without_validation_images_it_is_one(trained: TrainedModel, data: Dataset) -> None:
    recorded = {key: value for key, value in trained.record["data"].items() if key != "validation_images"}
    record = {**trained.record, "data": recorded}
    assert calibrate(dataclasses.replace(trained, record=record), data) == Calibration()


def test_it_divides_logits_for_probabilities_only(trained: TrainedModel, data: Dataset, content: bytes) -> None:
    images = data.test_images[:50]
    plain, scaled = (_engine(made).infer(images) for made in (content, convert(trained, model_name="t", temperature=2)))
    np.testing.assert_array_equal(scaled.logits, plain.logits)
    np.testing.assert_allclose(scaled.probabilities, softmax(plain.logits, 2), atol=1e-6)
    assert np.abs(scaled.probabilities - plain.probabilities).max() > 0.01


def test_the_gate_passes_the_right_temperature_and_fails_every_other(
    trained: TrainedModel, data: Dataset, content: bytes
) -> None:
    images, labels = data.test_images[:200], data.test_labels[:200]
    warm = convert(trained, model_name="t", temperature=1.5)
    assert check_parity(trained, _engine(warm), images, labels, temperature=1.5).problems == ()
    for made, temperature in ((warm, 1.0), (warm, 1.6), (content, 1.5)):
        report = check_parity(trained, _engine(made), images, labels, temperature=temperature)
        assert [problem[:13] for problem in report.problems] == ["a probability"]
    # Divided logits give the right probabilities, and are detected all the same.
    model = onnx.load_from_string(warm)
    node = next(node for node in model.graph.node if "logits" in node.output)
    divided = next(node for node in model.graph.node if "logits" in node.input)
    for each, name in ((node, "raw"), (divided, "logits")):
        for place, output in enumerate(each.output):
            if each is divided or output == "logits":
                each.output[place] = name
    for each in model.graph.node:
        for place, name in enumerate(each.input):
            if each is divided and name == "logits":
                each.input[place] = "raw"
            elif each.op_type == "Softmax":
                each.input[place] = "logits"
    report = check_parity(trained, _engine(model.SerializeToString()), images, labels, temperature=1.5)
    assert [problem[:7] for problem in report.problems] == ["a logit"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, digits_export: Callable) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("calibrated")
    done = digits_export("--repository", root)
    assert done.exit_code == 0, done.output
    return root, done.output


def test_the_export_prints_it_and_the_server_knows_it(exported: tuple[Path, str], start_server: Callable) -> None:
    root, printed = exported
    manifest = json.loads((root / "mnist_convnet" / "1" / "manifest.json").read_text())["calibration"]
    assert f"temperature    {manifest['temperature']:.3f}, fitted on 600 validation images" in printed
    assert f"{manifest['error_before']:.2%} before, {manifest['error_after']:.2%} after" in printed
    with start_server("--repository", str(root)) as server, Client(server.address) as client:
        assert client.get_model().temperature == manifest["temperature"] != 1


def test_verifying_takes_the_manifest_s_temperature(exported: tuple[Path, str], digits_export: Callable) -> None:
    root, _ = exported
    verify = ("--repository", root, "--verify", 1)
    assert digits_export(*verify).exit_code == 0
    path = root / "mnist_convnet" / "1" / "manifest.json"
    text = path.read_text()
    document = json.loads(text)
    document["calibration"]["temperature"] *= 1.5
    path.write_text(json.dumps(document))
    refused = digits_export(*verify)
    path.write_text(text)
    assert refused.exit_code == 1
    assert "a probability differs" in refused.output


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1000.0])
def test_impossible_temperatures_are_rejected(temperature: float) -> None:
    with pytest.raises(ModelRejected, match=r"calibration\.temperature"):
        Calibration(temperature=temperature)
