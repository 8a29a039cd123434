"""Metrics of what models answer, and of what they answered on validation images, so that a drift can be seen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.images.image_status import ImageStatus
from serving.repository.repository import StoredModel

# A model with more labels has no series by label: they would cost a monitor more than they tell.
_MAX_LABELS = 100
_VERSION = ("model", "version")


class AnswerMetrics:
    """The metrics of all models' answers.

    Args:
        registry: Contains the metrics; None in a worker.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._answers = Counter(
            "digits_answers",
            f"Number of images by their most probable label, for models with at most {_MAX_LABELS} labels.",
            (*_VERSION, "label"),
            registry=registry,
        )
        self._confidence = Counter(
            "digits_confidence", "Sum of the confidences of all classified images.", _VERSION, registry=registry
        )
        self._unsure = Counter(
            "digits_unsure",
            "Number of images whose confidence was below the min_confidence of their request.",
            _VERSION,
            registry=registry,
        )
        self._statuses = Counter(
            "digits_statuses",
            "Number of images by what was noticed about them: no_ink, several_digits, no_digit.",
            (*_VERSION, "status"),
            registry=registry,
        )

        def validation(name: str, documentation: str, labels: tuple[str, ...]) -> Gauge:
            return Gauge(name, documentation, labels, registry=registry, multiprocess_mode="livemax")

        self._validation_share = validation(
            "digits_validation_share",
            "Share of each label among the answers for the validation images.",
            (*_VERSION, "label"),
        )
        self._validation_confidence = validation(
            "digits_validation_confidence", "Mean confidence of the answers for the validation images.", _VERSION
        )
        self._validation_no_digit = validation(
            "digits_validation_no_digit", "Share of the validation images that are called no digit.", _VERSION
        )

    def of(self, stored: StoredModel) -> ModelAnswers:
        """Returns what counts the answers of one version, and shows what it answered on validation images."""
        which, manifest = (stored.name, str(stored.version)), stored.manifest
        labels = manifest.labels if len(manifest.labels) <= _MAX_LABELS else ()
        if (validation := manifest.validation) is not None:
            for label, share in zip(labels, validation.labels, strict=False):
                self._validation_share.labels(*which, label).set(share)
            self._validation_confidence.labels(*which).set(validation.confidence)
            if validation.no_digit is not None:
                self._validation_no_digit.labels(*which).set(validation.no_digit)
        return ModelAnswers(
            labels=[self._answers.labels(*which, label) for label in labels],
            confidence=self._confidence.labels(*which),
            unsure=self._unsure.labels(*which),
            statuses={
                status: self._statuses.labels(*which, status.name.lower())
                for status in ImageStatus
                if status is not ImageStatus.DIGIT
            },
        )


class ModelAnswers:
    """Counts the answers of one model version, a batch or a request at a time.

    Args:
        labels: The counter of each label; none for a model with too many labels.
        confidence: Sums up confidences.
        unsure: Counts unsure answers.
        statuses: The counter of each status.
    """

    def __init__(
        self, *, labels: list[Counter], confidence: Counter, unsure: Counter, statuses: dict[ImageStatus, Counter]
    ) -> None:
        self._labels = labels
        self._confidence = confidence
        self._unsure = unsure
        self._statuses = statuses

    def add(self, probabilities: npt.NDArray[np.float32]) -> None:
        """Counts a batch, float32 `[n, classes]`."""
        if len(probabilities) == 1:  # the most frequent size, for which NumPy's functions cost more than they save
            label = int(probabilities.argmax())
            self._confidence.inc(float(probabilities[0, label]))
            if self._labels:
                self._labels[label].inc()
            return
        self._confidence.inc(float(probabilities.max(axis=1).sum()))
        if self._labels:
            counts = np.bincount(probabilities.argmax(axis=1))
            for label in np.flatnonzero(counts).tolist():
                self._labels[label].inc(int(counts[label]))

    def add_unsure(self, images: int) -> None:
        """Counts answers below the `min_confidence` of their request."""
        self._unsure.inc(images)

    def add_statuses(self, statuses: npt.NDArray[np.int64]) -> None:
        """Counts what was noticed about the images of a request, int64 `[n]`."""
        counts = np.bincount(statuses, minlength=len(ImageStatus))
        for status, counter in self._statuses.items():
            if counts[status]:
                counter.inc(int(counts[status]))
