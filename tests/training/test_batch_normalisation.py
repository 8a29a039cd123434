"""Batch normalisation on small data: what validates, is saved and is published follows the weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from training.architectures import ARCHITECTURES
from training.augmentation import Augmentation
from training.batches import AugmentedBatches
from training.datasets import Dataset, load
from training.population_statistics import recompute_statistics
from training.recipe import PUBLISHED
from training.run_record import RunRecord
from training.runs import train_seeds
from training.train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shapes(shapes_folder: Path) -> Dataset:
    return load(f"folder:{shapes_folder}")


def test_a_few_images_train_to_what_they_allow(shapes: Dataset) -> None:
    """Two steps per epoch, which moving averages with a memory of a hundred do not follow."""
    run = train(shapes, architecture="fully_connected", recipe=PUBLISHED.with_epochs(8), seed=0, verbose=0)
    assert run.metrics["test"]["accuracy"] > 0.9
    assert run.metrics["validation"]["accuracy"] > 0.8  # of 19 images
    assert run.metrics["validation"]["accuracy"] == pytest.approx(run.metrics["history"]["val_accuracy"][-1])
    assert run.record.drift is None


def test_the_statistics_are_those_of_all_images_with_the_dropout_off(shapes: Dataset) -> None:
    """In one batch, so that there is nothing to average; batches of other sizes then agree with it."""
    keras.utils.set_random_seed(0)
    model = ARCHITECTURES["fully_connected"].build(shapes.image_shape, 3)

    def statistics(batch_size: int) -> list[np.ndarray]:
        images, labels = shapes.train_images, shapes.train_labels
        changes = {"augmentation": Augmentation(), "batch_size": batch_size, "seed": 0}
        recompute_statistics(model, AugmentedBatches(images, labels, **changes))
        layers = [model.get_layer(f"batch_norm_{number}") for number in (1, 2)]
        return [values for layer in layers for values in layer.get_weights()[2:]]

    found = statistics(len(shapes.train_images))
    for number in (1, 2):
        entering = keras.Model(model.inputs, model.get_layer(f"batch_norm_{number}").input)
        values = entering.predict(shapes.train_images, verbose=0)
        np.testing.assert_allclose(found[2 * number - 2], values.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(found[2 * number - 1], values.var(axis=0), rtol=1e-3, atol=1e-6)
    for one, other in zip(found[:2], statistics(50)[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_network_that_learns_nothing_of_the_held_out_images_is_named(
    shapes: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With convolutions, whose statistics are taken over places too."""
    labels = shapes.train_labels.copy()
    labels[-19:] = (labels[-19:] + 1) % 3  # these are held out
    train_seeds(
        dataclasses.replace(shapes, train_labels=labels),
        architecture="convnet_batchnorm",
        recipe=PUBLISHED.with_epochs(3),
        seeds=range(1),
        teacher=None,
        teacher_epochs=None,
        directory=tmp_path / "run",
        echo=lambda _: None,
        verbose=0,
    )
    assert RunRecord.read(tmp_path / "run").metrics["test"]["accuracy"] > 0.9
    (warning,) = caplog.messages
    assert warning.startswith(f"{tmp_path / 'run'}: the network learns its training images (")
    assert "and nothing of the 19 held-out ones (" in warning
