"""The teacher of a run whose recipe has one: read from a file, or trained first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from training.datasets import Dataset
from training.recipe import Recipe, recipe_for
from training.train import TrainingError, train


def teacher_for(
    recipe: Recipe,
    file: Path | None,
    dataset: Dataset,
    directory: Path,
    *,
    seed: int,
    epochs: int | None,
    say: Callable[[str], object],
    **options: Any,
) -> keras.Model | None:
    """The network that a recipe learns from; None where it learns from none.

    Args:
        recipe: What needs it.
        file: A network that was trained before; None to train one, accurately.
        dataset: What it learns.
        directory: Where it is kept, with its record.
        seed: See `train`.
        epochs: In place of its recipe's.
        say: Is told what is done and what came of it, a line each.
        **options: Passed on to `train`.

    Raises:
        TrainingError: The file is none that Keras can load; or none can be trained, or its training was stopped: then
            its best weights so far are kept.
    """
    if recipe.distillation is None:
        return None
    if file is None:
        architecture = recipe.distillation.teacher
        say(f"training the teacher, {architecture}; --teacher names one that there is")
        theirs = recipe_for("accurate", architecture).with_epochs(epochs)
        run = train(dataset, architecture=architecture, recipe=theirs, seed=seed, **options)
        file = run.save(directory)
        if run.metrics["stopped"]:
            raise TrainingError(f"{run.metrics['stopped']}; the teacher's best weights so far are in {file}")
        say(f"the teacher's validation accuracy is {run.metrics['validation']['accuracy']:.2%}: {file}")
    try:
        return keras.models.load_model(file, compile=False)
    except ValueError as error:
        raise TrainingError(f"{file}: no .keras file that Keras can load") from error
