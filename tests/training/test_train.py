"""Training: the published network, and a run that leaves a whole and true record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from training.datasets import Dataset, load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("synthetic")


def test_the_convnet_is_the_published_one() -> None:
    from training.architectures import ARCHITECTURES

    network = ARCHITECTURES["mnist_convnet"].build()
    assert network.count_params() == 34_826
    weights = {layer.name: layer.count_params() for layer in network.layers if layer.count_params()}
    assert weights == {"conv_1": 320, "conv_2": 18_496, "dense_1": 16_010}
    assert network.layers[-3].output.shape == (None, 1600)
    assert network.get_layer("dropout_1").rate == 0.5
    pixels = np.array([0, 51, 255], np.uint8)
    np.testing.assert_allclose(network.get_layer("normalisation")(pixels), [0, 0.2, 1], atol=1e-7)


def test_the_record_tells_what_was_done(synthetic_run: Path, data: Dataset) -> None:
    metrics = json.loads((synthetic_run / "metrics.json").read_text())
    assert metrics["architecture"] == "mnist_convnet"
    assert metrics["parameters"] == 34_826
    assert metrics["seed"] == 3
    assert metrics["recipe"].items() >= {"name": "published", "epochs": 2, "batch_size": 128}.items()
    assert metrics["normalisation"] == "rescale"
    assert metrics["input"] == {"height": 28, "width": 28, "channels": 1, "preparation": "mnist"}
    assert metrics["data"] == {
        "source": "synthetic",
        "options": {},
        "sha256": data.sha256,
        "train_images": 5400,
        "validation_images": 600,
        "test_images": 1000,
    }
    assert set(metrics["history"]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(metrics["history"]["loss"]) == 2
    assert metrics["validation"]["accuracy"] == pytest.approx(metrics["history"]["val_accuracy"][-1], abs=1e-6)
    assert metrics["test"]["accuracy"] > 0.9
    assert metrics["seconds"] > 0
    assert metrics["model_sha256"] == hashlib.sha256((synthetic_run / "model.keras").read_bytes()).hexdigest()


def test_the_record_keeps_the_predictions_of_the_saved_model(synthetic_run: Path, data: Dataset) -> None:
    import keras

    from training.run_record import RunRecord

    record = RunRecord.read(synthetic_run)
    probabilities = keras.models.load_model(synthetic_run / "model.keras").predict(data.test_images, verbose=0)
    np.testing.assert_allclose(record.evaluation.probabilities, probabilities, atol=1e-5)
    assert np.array_equal(record.evaluation.labels, data.test_labels)
    assert record.evaluation.label_names == data.label_names
    assert record.evaluation.accuracy == pytest.approx(record.metrics["test"]["accuracy"], abs=1e-6)
    assert sum(layer["trainable"] for layer in record.metrics["layers"]) == 34_826


def test_the_saved_model_needs_nothing_of_this_package(tmp_path: Path) -> None:
    """Whatever it was trained with: schedule and smoothed loss; a teacher is in test_distillation."""
    from training.__main__ import main

    few = ["--data", "synthetic", "--limit", "300", "--epochs", "1"]
    options = [*few, "--architecture", "fully_connected", "--recipe", "accurate", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, options).exit_code == 0
    script = (
        "import keras, sys; model = keras.models.load_model(sys.argv[1]); "
        "assert not [name for name in sys.modules if name.split('.')[0] in ('training', 'serving')]; print(model.loss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "model.keras"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "sparse_categorical_crossentropy\n", done.stderr


def test_smoothing_leaves_some_probability_to_every_class() -> None:
    """Against Keras's own, for one-hot labels; without smoothing it is the plain loss."""
    import keras

    from training.compilation import SmoothedCrossentropy

    labels, probabilities = np.array([0, 2]), np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]], np.float32)
    plain = keras.losses.SparseCategoricalCrossentropy()(labels, probabilities)
    assert float(SmoothedCrossentropy(0.0)(labels, probabilities)) == pytest.approx(float(plain))
    smoothed = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)(np.eye(3)[labels], probabilities)
    assert float(SmoothedCrossentropy(0.1)(labels, probabilities)) == pytest.approx(float(smoothed))


def test_a_recipe_may_change_the_dropout_and_nothing_that_is_exported() -> None:
    import keras

    from training.architectures import ARCHITECTURES
    from training.compilation import compile_model
    from training.recipe import Recipe

    def rates(recipe: Recipe) -> list[float]:
        model = ARCHITECTURES["mnist_convnet"].build()
        compile_model(model, recipe, steps_per_epoch=1)
        assert model.count_params() == 34_826
        return [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]

    plain = Recipe(name="plain", epochs=1, source="this test")
    assert rates(plain) == [0.5]
    assert rates(dataclasses.replace(plain, dropout=0.0)) == [0.0]
    with pytest.raises(ValueError, match="dropout"):
        dataclasses.replace(plain, dropout=1.0)


def test_the_test_set_chooses_nothing(data: Dataset) -> None:
    """The same run with other test labels must give the same network: only the final figures may change."""
    from training.recipe import FAST
    from training.train import train

    def run(labels: np.ndarray) -> tuple[list[np.ndarray], dict]:
        changed = dataclasses.replace(data, test_labels=labels)
        recipe = FAST.with_epochs(1)
        done = train(changed, architecture="mnist_convnet", recipe=recipe, seed=0, limit=600, verbose=0)
        return done.model.get_weights(), done.metrics

    weights, metrics = run(data.test_labels)
    other_weights, other_metrics = run((data.test_labels + 1) % 10)
    for one, other in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert metrics["validation"]["loss"] == pytest.approx(other_metrics["validation"]["loss"], rel=1e-4)
    assert metrics["test"]["accuracy"] != other_metrics["test"]["accuracy"]


@pytest.mark.parametrize("epochs", [0, 2])
def test_an_interrupted_run_keeps_its_best_weights(data: Dataset, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    import training.train as module
    from training.recipe import PUBLISHED

    class Interrupted(module.BestWeights):
        def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
            if len(self.history.get("loss", [])) == epochs and batch == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "BestWeights", Interrupted)

    def run():
        return module.train(data, architecture="mnist_convnet", recipe=PUBLISHED, seed=0, limit=600, verbose=0)

    if epochs == 0:
        with pytest.raises(module.TrainingError, match="no epoch had ended"):
            run()
        return
    done = run()
    assert done.metrics["stopped"] == "interrupted after 2 epochs"
    assert len(done.metrics["history"]["loss"]) == 2
    best = min(done.metrics["history"]["val_loss"])
    assert done.metrics["validation"]["loss"] == pytest.approx(best, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(data: Dataset) -> None:
    from training.errors import TrainingError
    from training.recipe import Recipe
    from training.train import train

    wild = Recipe(name="wild", epochs=3, learning_rate=1e30, optimizer="sgd", source="a test")
    with pytest.raises(TrainingError, match=r"the loss is not finite after step [2-4] of epoch 1; no epoch had ended"):
        train(data, architecture="mnist_convnet", recipe=wild, seed=0, limit=600, verbose=0)


def test_a_full_disk_is_reported_and_leaves_no_partial_file(tmp_path: Path) -> None:
    """A limit on the size of files, which fails a write as a full disk does."""
    arguments = ["--data", "synthetic", "--limit", "300", "--epochs", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        ["prlimit", "--fsize=50000", Path(sys.executable).parent / "digits-train", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--limit", "3"], "3 training images are too few"),
        (["--recipe", "accurate", "--teacher", __file__], "not a .keras file that Keras can load"),
    ],
)
def test_a_run_that_can_not_be_made_is_refused_in_one_line(options: list[str], said: str, tmp_path: Path) -> None:
    """Refusals that need no TensorFlow are in test_start.py."""
    from training.__main__ import main

    result = CliRunner().invoke(main, ["--data", "synthetic", "--out", str(tmp_path / "run"), *options])
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output


def test_every_recipe_can_be_chosen() -> None:
    from training.recipe import NAMES, recipe_for

    assert [recipe_for(name, "mnist_convnet").name for name in NAMES] == list(NAMES)
    assert recipe_for(None, "mnist_convnet").name == "fast"
    assert recipe_for(None, "kaggle_stacked").name == "published"
