"""A trained network's predictions for the test set, and the metrics that follow from them."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

MISTAKES_KEPT = 40
RELIABILITY_BINS = 15


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """Precision and recall of one class.

    Attributes:
        name: The label's name.
        precision: Share of the images predicted as this class that belong to it.
        recall: Share of the images of this class that were predicted as it.
        images: Number of images of the class.
    """

    name: str
    precision: float
    recall: float
    images: int


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The predictions whose confidence lies between two bounds.

    Attributes:
        images: Their number, at least 1.
        confidence: Their mean confidence.
        accuracy: Share of correct ones.
    """

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """A network's predictions for the test set.

    Attributes:
        label_names: Name of each class.
        labels: int64 `[n]`, the true classes.
        probabilities: float32 `[n, classes]`.
        mistakes: int64 `[k]`, positions of the worst mistakes; the lowest probability of the true class comes first.
        mistake_images: uint8 `[k, height, width, channels]`, the images at these positions.
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
        """Evaluates predictions for `images`, uint8 `[n, height, width, channels]`, and keeps the worst mistakes."""
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
        """Share of correct predictions."""
        return float((self.predictions == self.labels).mean())

    @property
    def mistake_count(self) -> int:
        """Number of wrong predictions, not only those that are kept."""
        return int((self.predictions != self.labels).sum())

    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts images by true class (row) and predicted class (column): int64 `[classes, classes]`."""
        from sklearn.metrics import confusion_matrix

        counts: npt.NDArray[np.int64] = confusion_matrix(
            self.labels, self.predictions, labels=np.arange(len(self.label_names))
        )
        return counts

    def by_class(self) -> tuple[ClassFigures, ...]:
        """Computes precision and recall of each class; 0 if there is nothing to divide by."""
        from sklearn.metrics import precision_recall_fscore_support

        precision, recall, _, images = precision_recall_fscore_support(
            self.labels, self.predictions, labels=np.arange(len(self.label_names)), zero_division=0
        )
        rows = zip(self.label_names, precision, recall, images, strict=True)
        return tuple(
            ClassFigures(name=name, precision=float(p), recall=float(r), images=int(count))
            for name, p, r, count in rows
        )

    def reliability(self) -> tuple[ReliabilityBin, ...]:
        """Compares confidence and accuracy in bins of equal width between 0 and 1; empty bins are left out.

        Source: Chuan Guo et al., "On Calibration of Modern Neural Networks", 2017, section 2; 15 bins as there.
        """
        right = self.predictions == self.labels
        bins = _bins(self.confidences)
        members = (bins == number for number in np.unique(bins))
        return tuple(
            ReliabilityBin(
                images=int(chosen.sum()),
                confidence=float(self.confidences[chosen].mean()),
                accuracy=float(right[chosen].mean()),
            )
            for chosen in members
        )

    def calibration_error(self) -> float:
        """Expected calibration error of these predictions."""
        return calibration_error(self.probabilities, self.labels)

    def save(self, path: Path) -> None:
        """Writes everything to one .npz file."""
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Reads the file that `save` wrote.

        Raises:
            OSError: The file can't be read.
            ValueError: It is damaged or of another content.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(**{**stored, "label_names": tuple(stored["label_names"].tolist())})
        except (KeyError, TypeError, AttributeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged, or not written by digits-train") from error


def calibration_error(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Computes the expected calibration error: mean distance of confidence and accuracy in 15 bins of confidence.

    Source: as for `Evaluation.reliability`; bins are weighted by their images.

    Args:
        probabilities: float32 `[n, classes]`.
        labels: int64 `[n]`, the true labels.
    """
    confidences = probabilities.max(axis=1).astype(np.float64)
    surplus = np.bincount(_bins(confidences), weights=confidences - (probabilities.argmax(axis=1) == labels))
    return float(np.abs(surplus).sum() / len(labels))


def _bins(confidences: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Numbers of the bins, from 1; a confidence on a bound belongs to the bin below it."""
    bins: npt.NDArray[np.int64] = np.ceil(confidences * RELIABILITY_BINS).astype(np.int64).clip(1, RELIABILITY_BINS)
    return bins
