"""What a trained network said of every test image, and the figures that follow from it."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

MISTAKES_KEPT = 40
RELIABILITY_BINS = 15


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class: how often the network was right when it said so, and how much of the class it found.

    Attributes:
        name: The label's name.
        precision: Of the images that were called so, the share that are.
        recall: Of the images that are so, the share that were called so.
        images: Number of images of the class.
    """

    name: str
    precision: float
    recall: float
    images: int


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The answers whose confidence falls between two bounds.

    Attributes:
        images: Their number, at least 1.
        confidence: Their mean confidence.
        accuracy: Share of right ones.
    """

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """A network's answers on the test part of its data.

    Attributes:
        label_names: Name of each class.
        labels: int64 `[n]`, the true classes.
        probabilities: float32 `[n, classes]`.
        mistakes: int64 `[k]`, positions of the worst mistakes: where the true class got the least, first.
        mistake_images: uint8 `[k, height, width, channels]`, the pictures at these positions.
    """

    label_names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    mistakes: npt.NDArray[np.int64]
    mistake_images: npt.NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        probabilities: npt.NDArray[np.float32],
        *,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        label_names: tuple[str, ...],
    ) -> Evaluation:
        """Evaluates the answers for `images`, uint8 `[n, height, width, channels]`, and keeps the worst mistakes."""
        wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
        order = np.argsort(probabilities[wrong, labels[wrong]], kind="stable")
        mistakes = wrong[order][:MISTAKES_KEPT]
        return cls(
            label_names=label_names,
            labels=labels,
            probabilities=probabilities,
            mistakes=mistakes,
            mistake_images=images[mistakes],
        )

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image, int64 `[n]`."""
        answers: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return answers

    @property
    def confidences(self) -> npt.NDArray[np.float32]:
        """The probability of that class, float32 `[n]`."""
        highest: npt.NDArray[np.float32] = self.probabilities.max(axis=1)
        return highest

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float((self.predictions == self.labels).mean())

    @property
    def mistake_count(self) -> int:
        """Number of wrong answers, the kept ones and the others."""
        return int((self.predictions != self.labels).sum())

    def confusion(self) -> npt.NDArray[np.int64]:
        """Number of images by true class (row) and answer (column), int64 `[classes, classes]`."""
        counts: npt.NDArray[np.int64] = confusion_matrix(
            self.labels, self.predictions, labels=np.arange(len(self.label_names))
        )
        return counts

    def by_class(self) -> tuple[ClassFigures, ...]:
        """Precision and recall of each class; 0 where there is nothing to divide by."""
        precision, recall, _, images = precision_recall_fscore_support(
            self.labels, self.predictions, labels=np.arange(len(self.label_names)), zero_division=0
        )
        rows = zip(self.label_names, precision, recall, images, strict=True)
        return tuple(
            ClassFigures(name=name, precision=float(p), recall=float(r), images=int(count))
            for name, p, r, count in rows
        )

    def reliability(self) -> tuple[ReliabilityBin, ...]:
        """Confidence against accuracy in bins of equal width between 0 and 1; empty ones are left out.

        Source: Chuan Guo et al., "On Calibration of Modern Neural Networks", 2017, section 2; 15 bins as there.
        """
        right = self.predictions == self.labels
        # A confidence on a bound belongs to the bin below it.
        places = np.ceil(self.confidences * RELIABILITY_BINS).astype(int).clip(1, RELIABILITY_BINS)
        members = (places == place for place in range(1, RELIABILITY_BINS + 1))
        return tuple(
            ReliabilityBin(
                images=int(chosen.sum()),
                confidence=float(self.confidences[chosen].mean()),
                accuracy=float(right[chosen].mean()),
            )
            for chosen in members
            if chosen.any()
        )

    def calibration_error(self) -> float:
        """Expected calibration error: the bins' mean distance of confidence and accuracy, weighed by their images.

        Source: as for `reliability`.
        """
        return sum(row.images / len(self.labels) * abs(row.accuracy - row.confidence) for row in self.reliability())

    def save(self, path: Path) -> None:
        """Writes everything to one .npz file."""
        np.savez_compressed(
            path,
            label_names=np.array(self.label_names),
            labels=self.labels,
            probabilities=self.probabilities,
            mistakes=self.mistakes,
            mistake_images=self.mistake_images,
        )

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Reads what `save` wrote.

        Raises:
            OSError: The file can't be read.
            ValueError: It holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(
                    label_names=tuple(stored["label_names"].tolist()),
                    labels=stored["labels"],
                    probabilities=stored["probabilities"],
                    mistakes=stored["mistakes"],
                    mistake_images=stored["mistake_images"],
                )
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged, or not written by digits-train") from error
