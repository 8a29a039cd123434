"""One training run: from a data set to a directory with the model and its record."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow

from training.architectures import ARCHITECTURES
from training.batches import AugmentedBatches, CopiedBatches
from training.callbacks import BestWeights, NonFiniteLoss
from training.compilation import compile_model
from training.copies import Copies, copies_of
from training.datasets import Dataset
from training.distillation import one_hot
from training.errors import TrainingError
from training.evaluation import Evaluation
from training.no_digit import with_no_digit
from training.normalisation import normalisation_layer
from training.population_statistics import PopulationStatistics
from training.recipe import Recipe
from training.run_record import EVALUATION_FILE, METRICS_FILE, MODEL_FILE, RunRecord
from training.summary import summarise_config


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRun:
    """A finished run.

    Attributes:
        model: From uint8 `[batch, height, width, channels]` to probabilities `[batch, classes]`.
        record: How it was trained and how well it does; without the digest of the saved model.
    """

    model: keras.Model
    record: RunRecord

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics in the record."""
        return self.record.metrics

    def save(self, directory: Path) -> Path:
        """Writes `model.keras` and the record, each file completely or not at all; returns the path of the model."""
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".saving-") as name:
            scratch = Path(name)
            self.model.save(scratch / MODEL_FILE)
            digest = hashlib.sha256((scratch / MODEL_FILE).read_bytes()).hexdigest()
            dataclasses.replace(self.record, metrics={**self.metrics, "model_sha256": digest}).write(scratch)
            for file in (MODEL_FILE, EVALUATION_FILE, METRICS_FILE):
                (scratch / file).replace(directory / file)
        return directory / MODEL_FILE


def train(
    dataset: Dataset,
    *,
    architecture: str,
    recipe: Recipe,
    seed: int,
    normalisation: str = "rescale",
    limit: int | None = None,
    teacher: keras.Model | None = None,
    copies: Copies | None = None,
    verbose: int = 2,
) -> TrainingRun:
    """Trains one network. The test set is used once, after the last step, and decides nothing.

    Args:
        dataset: The data.
        architecture: A name in `ARCHITECTURES`.
        recipe: Epochs, batch size, optimizer.
        seed: Seed of Python, NumPy and TensorFlow: initial weights, dropout and the order of the images.
        normalisation: What the first layer does, one of `NORMALISATIONS`.
        limit: Use only this many training images, the first ones; None for all.
        teacher: The teacher of a recipe with distillation. It must not have been trained on the held-out images.
        copies: The copies of a recipe with copies, as `copies_of` makes them, already taught by its teacher; by default
            they are made here.
        verbose: Progress that Keras shows: 0 none, 1 a bar, 2 a line per epoch.

    A run that is interrupted (KeyboardInterrupt) or whose loss is no longer finite ends with the weights of its best
    epoch; `metrics["stopped"]` then says why.

    Raises:
        TrainingError: There are too few images for the recipe, the teacher is for other images or classes, or the run
            stopped before the first epoch ended.
    """
    keras.utils.set_random_seed(seed)
    images, labels = dataset.train_images[:limit], dataset.train_labels[:limit]
    fitted, classes = recipe.fitted_images(len(images)), len(dataset.label_names)
    model = ARCHITECTURES[architecture].build(
        dataset.image_shape,
        classes,
        normalisation=normalisation_layer(normalisation, images[:fitted]),
    )
    started = time.monotonic()
    batches: keras.utils.PyDataset
    trained = model
    held_out_labels: npt.NDArray[Any] = labels[fitted:]
    if recipe.copies:
        copies = copies or _taught_copies(dataset, recipe=recipe, limit=limit, teacher=teacher, seed=seed)
        batches = CopiedBatches(copies, batch_size=recipe.batch_size, seed=seed)
        held_out_labels = one_hot(held_out_labels, copies.targets.shape[-1])
        if copies.with_no_digit:
            trained = with_no_digit(model)
    else:
        batches = AugmentedBatches(
            images[:fitted],
            labels[:fitted],
            augmentation=recipe.augmentation,
            batch_size=recipe.batch_size,
            seed=seed,
        )
    compile_model(trained, recipe, steps_per_epoch=len(batches))
    best = BestWeights()
    stopped = None
    try:
        trained.fit(
            batches,
            epochs=recipe.epochs,
            validation_data=(images[fitted:], held_out_labels),
            callbacks=[PopulationStatistics(batches), best],
            verbose=verbose,
        )
    except (KeyboardInterrupt, NonFiniteLoss) as interruption:
        stopped = str(interruption) or f"interrupted after {len(best.history.get('loss', []))} epochs"
        if not best.best_epoch:
            raise TrainingError(f"{stopped}; no epoch had ended, so no weights are kept") from interruption
        best.restore()
    seconds = time.monotonic() - started
    # The plain loss makes the losses of all recipes comparable, and the saved file loads without this package.
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    validation = _evaluate(model, images[fitted:], labels[fitted:])
    test = _evaluate(model, dataset.test_images, dataset.test_labels)
    metrics = {
        "architecture": architecture,
        "recipe": dataclasses.asdict(recipe),
        "normalisation": normalisation,
        "seed": seed,
        "teacher": None if teacher is None else {"name": teacher.name, "parameters": teacher.count_params()},
        # Whether it learned what is no digit, so that the export may add the output `no_digit`.
        "knows_no_digit": trained is not model,
        "parameters": model.count_params(),
        "layers": [dataclasses.asdict(layer) for layer in summarise_config(model.get_config())],
        "data": {
            "source": dataset.source,
            "options": dict(dataset.options),
            "sha256": dataset.sha256,
            "train_images": fitted,
            "validation_images": len(images) - fitted,
            "test_images": len(dataset.test_images),
        },
        "labels": list(dataset.label_names),
        "input": {
            **dict(zip(("height", "width", "channels"), dataset.image_shape, strict=True)),
            "preparation": dataset.preparation,
        },
        "history": best.history,
        # Why the run ended early, with the weights of its best epoch; null if it ran to its end.
        "stopped": stopped,
        "validation": validation,
        "test": test,
        "seconds": round(seconds, 1),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tensorflow.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    evaluation = Evaluation.of(
        model.predict(dataset.test_images, batch_size=256, verbose=0),
        images=dataset.test_images,
        labels=dataset.test_labels,
        label_names=dataset.label_names,
    )
    return TrainingRun(model=model, record=RunRecord(metrics=metrics, evaluation=evaluation))


def _taught_copies(
    dataset: Dataset, *, recipe: Recipe, limit: int | None, teacher: keras.Model | None, seed: int
) -> Copies:
    if recipe.distillation is None:
        return copies_of(dataset, recipe=recipe, limit=limit, seed=seed)
    recipe.distillation.check(teacher, image_shape=dataset.image_shape, classes=len(dataset.label_names))
    copies = copies_of(dataset, recipe=recipe, limit=limit, seed=seed)
    return copies.taught_by(teacher, recipe.distillation)


def _evaluate(model: keras.Model, images: Any, labels: Any) -> dict[str, float]:
    figures = model.evaluate(images, labels, batch_size=256, verbose=0, return_dict=True)
    return {"loss": float(figures["loss"]), "accuracy": float(figures["accuracy"])}
