"""One or several runs that differ in their seed: the teacher first, then each run with its files and its report."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from training.copies import Copies, copies_of
from training.datasets import Dataset
from training.errors import TrainingError
from training.recipe import Recipe, recipe_for
from training.report import Echo, write_comparison, write_report
from training.run_record import TEACHER, run_directories
from training.train import TrainingRun, train

_logger = logging.getLogger(__name__)


def train_seeds(
    dataset: Dataset,
    *,
    architecture: str,
    recipe: Recipe,
    seeds: range,
    teacher: Path | None,
    teacher_epochs: int | None,
    directory: Path,
    echo: Echo,
    **options: Any,
) -> None:
    """Trains a network once per seed and writes models, records and reports.

    Args:
        dataset: The data.
        architecture: A name in `ARCHITECTURES`.
        recipe: How the network is trained.
        seeds: One or more seeds.
        teacher: The teacher's `.keras` file; None to train a teacher first if the recipe has one.
        teacher_epochs: Epochs of that training; None for those of its recipe.
        directory: Directory of the only run; of several runs, the directory that contains theirs.
        echo: Is called with each line for the user.
        **options: Passed on to `train`.

    Raises:
        TrainingError: As for `train`; or the teacher can't be loaded; or a run was stopped early. Its best weights so
            far are then saved.
    """
    teacher_model = copies = None
    if teacher and recipe.distillation:
        teacher_model = _load_teacher(teacher)
        recipe.distillation.check(teacher_model, image_shape=dataset.image_shape, classes=len(dataset.label_names))
    if recipe.copies:
        echo(f"making {recipe.copies} changed copies of the training images")
        copies = copies_of(dataset, recipe=recipe, limit=options.get("limit"), seed=seeds[0])
    if recipe.distillation and copies:
        if teacher_model is None:
            name, place = recipe.distillation.teacher, directory / TEACHER
            teacher_model = _train_teacher(name, dataset, place, seeds[0], teacher_epochs, copies, echo, options)
        copies = copies.taught_by(teacher_model, recipe.distillation)
    records = {}
    for seed, place in zip(seeds, run_directories(directory, seeds), strict=True):
        run = train(
            dataset,
            architecture=architecture,
            recipe=recipe,
            seed=seed,
            teacher=teacher_model,
            copies=copies,
            **options,
        )
        path = run.save(place)
        _warn_of_drift(run, place)
        records[f"seed {seed}"] = run.record
        test, validation = run.metrics["test"], run.metrics["validation"]
        echo(
            f"{architecture}, {run.metrics['parameters']:,} parameters, seed {seed}: "
            f"validation accuracy {validation['accuracy']:.2%}, "
            f"test accuracy {test['accuracy']:.2%} (loss {test['loss']:.4f}) after {run.metrics['seconds']:.0f} s"
        )
        echo(path)
        echo(write_report({place.name: run.record}, place))
        if run.metrics["stopped"]:
            raise TrainingError(f"{run.metrics['stopped']}; the best weights so far are in {path}")
    if len(seeds) > 1:
        write_comparison(records, directory, echo)


def _load_teacher(file: Path) -> keras.Model:
    try:
        return keras.models.load_model(file, compile=False)
    except ValueError as error:
        raise TrainingError(f"{file}: not a .keras file that Keras can load") from error


def _train_teacher(
    architecture: str,
    dataset: Dataset,
    directory: Path,
    seed: int,
    epochs: int | None,
    copies: Copies,
    echo: Echo,
    options: Mapping[str, Any],
) -> keras.Model:
    """Trains the teacher, on the copies that the network will learn from."""
    recipe = recipe_for("accurate", architecture).with_epochs(epochs)
    echo(f"training the teacher, {architecture}; --teacher takes one that is already trained")
    run = train(dataset, architecture=architecture, recipe=recipe, seed=seed, copies=copies, **options)
    file = run.save(directory)
    _warn_of_drift(run, directory)
    if run.metrics["stopped"]:
        raise TrainingError(f"{run.metrics['stopped']}; the teacher's best weights so far are in {file}")
    echo(f"the teacher's validation accuracy is {run.metrics['validation']['accuracy']:.2%}: {file}")
    return run.model


def _warn_of_drift(run: TrainingRun, directory: Path) -> None:
    if drift := run.record.drift:
        _logger.warning("%s: %s", directory, drift)
