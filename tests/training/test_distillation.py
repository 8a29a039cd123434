"""Distillation: what a network learns from a larger one."""

from __future__ import annotations

import dataclasses
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from training.architectures import ARCHITECTURES
from training.augmentation import Augmentation
from training.batches import CopiedBatches
from training.copies import copies_of
from training.datasets import Dataset, load
from training.distillation import Distillation
from training.errors import TrainingError
from training.recipe import Recipe, recipe_for
from training.train import train

pytestmark = pytest.mark.slow

HALF = Distillation(teacher="mnist_convnet", share=0.5, temperature=2.0)
TAUGHT = Recipe(name="taught", epochs=2, source="this test", copies=3, distillation=HALF)
TAUGHT_CHANGED = dataclasses.replace(TAUGHT, augmentation=Augmentation(shift_px=3, rotation_deg=20))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("synthetic")


@pytest.fixture(scope="module")
def teacher() -> keras.Model:
    """An untrained network: its predictions still depend on the images."""
    keras.utils.set_random_seed(0)
    return ARCHITECTURES["mnist_convnet"].build()


def test_targets_lie_between_the_label_and_the_teacher_s_prediction() -> None:
    probabilities = np.array([[0.64, 0.32, 0.04], [0.01, 0.98, 0.01]], np.float32)
    targets = HALF.targets(probabilities, np.eye(3, dtype=np.float32)[[1, 1]])
    roots = np.sqrt(probabilities)  # a temperature of two halves the logits
    softened = roots / roots.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(targets, softened / 2 + np.array([[0, 0.5, 0], [0, 0.5, 0]]), rtol=1e-5)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)


def test_each_epoch_has_every_image_once_as_another_copy_with_its_own_target(data: Dataset, teacher) -> None:
    copies = copies_of(data, recipe=TAUGHT_CHANGED, limit=55, seed=1).taught_by(teacher, HALF)
    known = np.pad(copies.images, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    origin = {
        known[copy, number, y : y + 28, x : x + 28].tobytes(): (copy, number)
        for copy in range(3)
        for number in range(50)
        for y in range(3)
        for x in range(3)
    }
    batches = CopiedBatches(copies, batch_size=16, seed=1)
    epochs, shown = [], []
    for _ in range(4):
        images, targets = (np.concatenate(parts) for parts in zip(*map(batches.__getitem__, range(4)), strict=True))
        origins = [origin[image.tobytes()] for image in images]
        assert sorted(number for _, number in origins) == list(range(50))
        np.testing.assert_array_equal(targets, copies.targets[*np.transpose(origins)])
        epochs.append(set(origins))
        shown.append({image.tobytes() for image in images})
        batches.on_epoch_end()
    assert not epochs[0] & epochs[1]
    assert not epochs[1] & epochs[2]
    assert epochs[0] == epochs[3]
    assert len(shown[0] & shown[3]) < 25  # each epoch shifts them anew


def test_targets_of_copies_are_the_teacher_s_for_that_copy(data: Dataset, teacher) -> None:
    copies = copies_of(data, recipe=TAUGHT_CHANGED, limit=55, seed=1).taught_by(teacher, HALF)
    labels = np.eye(10, dtype=np.float32)[data.train_labels[:50]]
    for images, targets in zip(copies.images, copies.targets, strict=True):
        np.testing.assert_allclose(targets, HALF.targets(teacher.predict(images, verbose=0), labels))


def test_a_recipe_with_a_teacher_needs_one_that_fits(data: Dataset) -> None:
    accurate = recipe_for("accurate", "mnist_convnet")
    with pytest.raises(TrainingError, match="this recipe needs a teacher, convnet_batchnorm"):
        train(data, architecture="mnist_convnet", recipe=accurate, seed=0, verbose=0)
    theirs = r"the data have images of \(28, 28, 1\) and 10 classes"
    for shape, classes in [((32, 32, 1), 10), ((28, 28, 1), 9), ((28, 28, 1), 12)]:
        other = ARCHITECTURES["mnist_convnet"].build(shape, classes)
        said = rf"the teacher takes images of {re.escape(str(shape))} and has {classes} classes, {theirs}"
        with pytest.raises(TrainingError, match=said):
            train(data, architecture="mnist_convnet", recipe=accurate, seed=0, teacher=other, verbose=0)


def test_the_teacher_s_predictions_are_learnt(data: Dataset, teacher, tmp_path: Path) -> None:
    """From an untrained teacher nothing is learnt. The saved model needs nothing of this package."""
    taught = train(data, architecture="mnist_convnet", recipe=TAUGHT, seed=0, teacher=teacher, limit=2000, verbose=0)
    assert taught.metrics["validation"]["accuracy"] > 0.5
    assert taught.metrics["teacher"]["parameters"] == 34_826
    with zipfile.ZipFile(taught.save(tmp_path / "run")) as saved:
        config = saved.read("config.json").decode()
    assert '"loss": "sparse_categorical_crossentropy"' in config
    assert "training." not in config
    misled = dataclasses.replace(TAUGHT, distillation=dataclasses.replace(HALF, share=1.0))
    run = train(data, architecture="mnist_convnet", recipe=misled, seed=0, teacher=teacher, limit=2000, verbose=0)
    assert run.metrics["validation"]["accuracy"] < 0.3
