"""The record of a training run, in two files beside the model: how it was trained and how well it does."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import RecordError, TrainingError
from training.evaluation import Evaluation

TEACHER = "teacher"  # the directory of a teacher's run in that of its pupil
MODEL_FILE = "model.keras"  # the model itself, which the run writes beside the record
METRICS_FILE = "metrics.json"
EVALUATION_FILE = "evaluation.npz"

# Training accuracy above validation accuracy, beyond what dropout and chance explain.
_DRIFT = 0.1
# If the validation loss ends this much above its lowest point, that is overfitting, not noise.
_OVERFITTING_RISE = 0.05


def run_directories(directory: Path, seeds: range) -> list[Path]:
    """Where the run of each seed is written: the directory itself if there is only one, else a directory in it."""
    return [directory] if len(seeds) == 1 else [directory / f"seed-{seed}" for seed in seeds]


def refuse_earlier_run(directory: Path) -> None:
    """Sees to it that a run may be written to a directory.

    Raises:
        TrainingError: It holds a run.
    """
    for file in (MODEL_FILE, METRICS_FILE):
        if (directory / file).exists():
            raise TrainingError(f"{directory}: holds a run already; choose another --out, or add --overwrite")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunRecord:
    """Everything that is known about a finished run, except the weights.

    Attributes:
        metrics: Network, recipe, seed, data, history, metrics, versions: the content of `metrics.json`.
        evaluation: The predictions for the test set.
    """

    metrics: dict[str, Any]
    evaluation: Evaluation

    def write(self, directory: Path) -> None:
        """Writes `metrics.json` and `evaluation.npz`."""
        text = json.dumps(self.metrics, indent=2) + "\n"
        (directory / METRICS_FILE).write_text(text, encoding="utf-8")
        self.evaluation.save(directory / EVALUATION_FILE)

    @classmethod
    def read(cls, directory: Path) -> RunRecord:
        """Reads the files that `write` wrote.

        Raises:
            RecordError: A file is missing, unreadable or of another content.
        """
        try:
            metrics = json.loads((directory / METRICS_FILE).read_text(encoding="utf-8"))
            evaluation = Evaluation.load(directory / EVALUATION_FILE)
        except OSError as error:
            raise RecordError(f"{error.filename}: {error.strerror}") from error
        except json.JSONDecodeError as error:
            raise RecordError(f"{directory / METRICS_FILE}: not JSON") from error
        except ValueError as error:
            raise RecordError(str(error)) from error
        if not isinstance(metrics, dict) or not metrics.keys() >= {"architecture", "recipe", "history", "layers"}:
            raise RecordError(f"{directory / METRICS_FILE}: not the record of a run of this version of digits-train")
        return cls(metrics=metrics, evaluation=evaluation)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        return sum(layer["macs"] for layer in self.metrics["layers"])

    @property
    def overfitting_epoch(self) -> int | None:
        """The epoch, counted from 1, after which the network overfits; None if it does not.

        It is the epoch with the lowest validation loss, if that loss then rises by 5 % or more until the end while the
        training loss keeps falling.
        """
        training, validation = self.metrics["history"]["loss"], self.metrics["history"]["val_loss"]
        best = validation.index(min(validation))
        rises = validation[-1] > (1 + _OVERFITTING_RISE) * validation[best]
        return best + 1 if rises and training[-1] < training[best] else None

    @property
    def drift(self) -> str | None:
        """What to say of a network that learns its training images and nothing of the held-out ones; None otherwise.

        That is so if the validation accuracy ends where it began, or lower, and the training accuracy ends well above
        it: by a tenth, and by what chance explains, two standard deviations of an accuracy on so many images.
        """
        training, validation = self.metrics["history"]["accuracy"], self.metrics["history"]["val_accuracy"]
        images = self.metrics["data"]["validation_images"]
        chance = 1 / math.sqrt(images)
        if validation[-1] > validation[0] + chance or training[-1] < validation[-1] + _DRIFT + chance:
            return None
        return (
            f"the network learns its training images ({training[-1]:.0%} correct) and nothing of the {images:,} "
            f"held-out ones ({validation[-1]:.0%} correct, {validation[0]:.0%} after the first epoch): are these like "
            "the others, are the labels right, and are there enough images?"
        )
