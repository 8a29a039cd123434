"""The parity gate compares a network as it was made with the engine that serves: every image, several batch sizes.

The engine checks names, types and shapes when it starts. The gate then compares values and labels.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from export.answers import answers_of
from export.calibration import softmax
from serving.errors import DigitsError
from serving.inference.engine import Engine
from serving.inference.sessions import RUNTIME_VERSION
from serving.repository.manifest import Accuracy, ParityFigures

FloatArray = npt.NDArray[np.float32]

BATCH_SIZES = (1, 7, 64, 256)
_WORST = 10


class Reference(Protocol):
    """A network as it was made: by Keras, or by ONNX Runtime on an untouched file."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class, in the order of the outputs."""

    def predict(self, images: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """Returns logits and probabilities, each float32 `[n, classes]`, of uint8 `[n, height, width, channels]`."""


@dataclass(frozen=True, kw_only=True)
class ParityLimits:
    """Largest absolute differences that pass.

    Attributes:
        probabilities: Of a probability. float32 sums in another order differ by about 1e-6.
        logits: Of a logit. Logits of digits reach about 30, where one unit in the last place is 2e-6.
    """

    probabilities: float = 1e-5
    logits: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class WorstImage:
    """An image with one of the largest differences.

    Attributes:
        index: Its position among the test images.
        label: Its true label; None if it has none.
        keras_label: The label that the network as it was made predicts, mostly in Keras.
        onnx_label: The label that the engine predicts.
        difference: Largest absolute difference of one of its probabilities.
    """

    index: int
    label: str | None
    keras_label: str
    onnx_label: str
    difference: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ParityReport:
    """The result of the gate.

    Attributes:
        provider: The execution provider that was compared.
        figures: The figures for the manifest; `figures.passed` is the verdict.
        accuracy: Accuracy of Keras and of the engine on these images; None if they have no labels.
        problems: Why it failed; empty if it passed.
        worst: The images with the largest differences, worst first.
        answers: int64 `[n]`, the label that the engine gives to each image.
    """

    provider: str
    figures: ParityFigures
    accuracy: Accuracy | None
    problems: tuple[str, ...]
    worst: tuple[WorstImage, ...]
    answers: npt.NDArray[np.int64]


def check_parity(
    reference: Reference,
    engine: Engine,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64] | None,
    *,
    temperature: float = 1.0,
    limits: ParityLimits | None = None,
    log_floor: float | None = None,
) -> ParityReport:
    """Compares a network with the engine that will serve it.

    Args:
        reference: The network as it was made.
        engine: A started engine with the exported model.
        images: uint8 `[n, height, width, channels]`; run at batch sizes 1, 7, 64, 256 and n, or on CUDA in each bucket
            and at n, since each bucket has plans of its own.
        labels: int64 `[n]`, the true labels; None if they are unknown.
        temperature: Divisor of the logits in the exported model. Its probabilities are compared with
            softmax(Keras's logits / temperature), its logits with Keras's logits.
        limits: Largest differences that pass.
        log_floor: For a reference that has probabilities and no logits. Its logits are then known only up to one
            constant for all classes, so logarithms of probabilities are compared, where they are above this floor.
    """
    limits = limits or ParityLimits()
    keras_logits, keras_probabilities = reference.predict(images)
    if log_floor is not None:
        keras_logits = _logarithms(keras_logits, log_floor)
    if temperature != 1:
        keras_probabilities = softmax(keras_logits, temperature)
    keras_labels = keras_probabilities.argmax(axis=1)
    sizes = engine.fixed_sizes or BATCH_SIZES
    batch_sizes = (*(size for size in sizes if size < len(images)), len(images))
    logits_difference = np.zeros(len(images))
    probabilities_difference = np.zeros(len(images))
    logits_sum = probabilities_sum = 0.0
    equal = np.ones(len(images), dtype=bool)
    finite, onnx_labels = True, keras_labels
    for size in batch_sizes:
        found = answers_of(engine, images, rows=size)
        logits, probabilities, no_digit = found.logits, found.probabilities, found.no_digit
        finite = finite and bool(np.isfinite(logits).all() and np.isfinite(probabilities).all())
        if log_floor is not None:
            logits = _logarithms(logits, log_floor)
        of_logits, of_probabilities = np.abs(logits - keras_logits), np.abs(probabilities - keras_probabilities)
        if no_digit is not None:  # another probability
            of_no_digit = np.abs(no_digit - no_digit_of(keras_logits))
            of_probabilities = np.concatenate([of_probabilities, of_no_digit[:, np.newaxis]], axis=1)
        logits_difference = np.maximum(logits_difference, of_logits.max(axis=1))
        probabilities_difference = np.maximum(probabilities_difference, of_probabilities.max(axis=1))
        logits_sum += float(of_logits.mean(dtype=np.float64))
        probabilities_sum += float(of_probabilities.mean(dtype=np.float64))
        onnx_labels = probabilities.argmax(axis=1)
        equal &= onnx_labels == keras_labels
    logits_max, probabilities_max = float(logits_difference.max()), float(probabilities_difference.max())
    problems = []
    if _labels_in_file(engine) != reference.labels:
        problems.append("the labels in the file are not those of the training, or their order differs")
    if not finite:
        problems.append("the engine's outputs are not all finite")
    # "not <=" instead of ">", so that NaN fails
    if not logits_max <= limits.logits:
        problems.append(f"a logit differs by {logits_max:.2e}, the limit is {limits.logits:.0e}")
    if not probabilities_max <= limits.probabilities:
        problems.append(f"a probability differs by {probabilities_max:.2e}, the limit is {limits.probabilities:.0e}")
    if not equal.all():
        problems.append(f"{(~equal).sum()} of {len(images)} labels differ")
    figures = ParityFigures(
        passed=not problems,
        images=len(images),
        batch_sizes=batch_sizes,
        labels_equal=int(equal.sum()),
        logits_max_difference=logits_max,
        logits_mean_difference=logits_sum / len(batch_sizes),
        probabilities_max_difference=probabilities_max,
        probabilities_mean_difference=probabilities_sum / len(batch_sizes),
        logits_limit=limits.logits,
        probabilities_limit=limits.probabilities,
        onnxruntime=RUNTIME_VERSION,
        verified=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    # Images with unequal labels come first, then the largest differences.
    order = np.lexsort((-np.nan_to_num(probabilities_difference, nan=np.inf), equal))[:_WORST]
    names = reference.labels
    return ParityReport(
        provider=engine.provider,
        figures=figures,
        accuracy=None
        if labels is None
        else Accuracy(keras=float((keras_labels == labels).mean()), onnx=float((onnx_labels == labels).mean())),
        problems=tuple(problems),
        answers=onnx_labels,
        worst=tuple(
            WorstImage(
                index=int(index),
                label=None if labels is None else names[labels[index]],
                keras_label=names[keras_labels[index]],
                onnx_label=names[onnx_labels[index]],
                difference=float(probabilities_difference[index]),
            )
            for index in order
        ),
    )


def no_digit_of(logits: FloatArray) -> FloatArray:
    """Computes what the output `no_digit` must be, float32 `[n]`: 1 / (1 + sum(exp(logits)))."""
    highest = np.maximum(logits.max(axis=1), 0).astype(np.float64)
    powers = np.exp(logits - highest[:, np.newaxis]).sum(axis=1)
    answers: FloatArray = (np.exp(-highest) / (np.exp(-highest) + powers)).astype(np.float32)
    return answers


def _logarithms(logits: FloatArray, floor: float) -> FloatArray:
    return np.log(np.maximum(softmax(logits), np.float32(floor)))


def _labels_in_file(engine: Engine) -> Sequence[str]:
    try:
        return tuple(json.loads(engine.metadata["labels"]))
    except (KeyError, ValueError, TypeError) as error:
        raise DigitsError("the ONNX file's metadata contains no labels") from error
