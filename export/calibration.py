"""Calibration by temperature scaling: makes the confidence of a prediction the probability that it is correct.

Source: Chuan Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2. Probabilities are
softmax(logits / T), with the T that maximises the likelihood of the held-out labels. It changes no label.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from export.validation import validation_part
from serving.repository.manifest import Calibration
from training.datasets import Dataset
from training.evaluation import calibration_error

if TYPE_CHECKING:
    from export.trained_model import TrainedModel

FloatArray = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

# A network whose temperature lies outside these bounds is broken, not miscalibrated.
_LOWEST, _HIGHEST = 0.05, 20.0
# Fewer images give a temperature by accident: 19 of them gave 0.346 where 1 was right.
LEAST_IMAGES = 200
_SIGNIFICANCE = 0.01


def calibrate(trained: TrainedModel, data: Dataset) -> Calibration:
    """Fits the temperature on the validation images: those at the end of the training images, held out by the training.

    The test images only measure the result.

    Args:
        trained: The network, and its record with the number of held-out images.
        data: The data that it was trained on.

    Returns:
        The temperature, 1 where the images give no reason for another, their number, and the expected calibration error
        before and after; nothing is measured if no images were held out.
    """
    images, labels = validation_part(trained, data)
    if len(images) == 0:
        return Calibration()
    logits, _ = trained.predict(images)
    temperature = fit_temperature(logits, labels)
    test_logits, _ = trained.predict(data.test_images)
    return Calibration(
        temperature=temperature,
        images=len(images),
        error_before=calibration_error(softmax(test_logits), data.test_labels),
        error_after=calibration_error(softmax(test_logits, temperature), data.test_labels),
    )


def describe(calibration: Calibration) -> str:
    """Says in one line what the temperature is, and why it is 1 if it is."""
    if not calibration.images:
        return f"{calibration.temperature:.3f}, without images to fit it on"
    images = f"{calibration.images:,} validation images"
    if calibration.temperature != 1:
        return (
            f"{calibration.temperature:.3f}, fitted on {images}; "
            f"calibration error on the test images {calibration.error_before:.2%} before, "
            f"{calibration.error_after:.2%} after"
        )
    if calibration.images < LEAST_IMAGES:
        reason = f"{images} are too few to fit another on, {LEAST_IMAGES} would do"
    else:
        reason = f"{images} show no clearly better one"
    return f"1, since {reason}; calibration error on the test images {calibration.error_after:.2%}"


def fit_temperature(logits: FloatArray, labels: Labels) -> float:
    """Finds the temperature that maximises the likelihood of the labels, if it is clearly better than 1.

    Clearly is what the likelihood-ratio test says at 1 % (Samuel S. Wilks, "The Large-Sample Distribution of the
    Likelihood Ratio for Testing Composite Hypotheses", 1938): twice the gain in log-likelihood, summed over all images,
    exceeds the quantile of the chi-squared distribution with one degree of freedom, the temperature.

    The negative log-likelihood is convex in 1 / T, so it has one minimum, which golden-section search finds. Written
    out here, since these few lines are all that would need SciPy.

    Args:
        logits: float32 `[n, classes]`.
        labels: int64 `[n]`, the true labels.

    Returns:
        The temperature, between 0.05 and 20; 1 if there is no optimum, for example if every prediction is correct, if
        there are fewer than `LEAST_IMAGES` images, or if no temperature is clearly better.
    """
    if len(labels) < LEAST_IMAGES:
        return 1.0
    exact = logits.astype(np.float64)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = exact / math.exp(log_temperature)
        highest = scaled.max(axis=1)
        normaliser = highest + np.log(np.exp(scaled - highest[:, np.newaxis]).sum(axis=1))
        return float((normaliser - scaled[rows, labels]).mean())

    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-6:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    temperature = math.exp((low + high) / 2)
    at_an_end = temperature < 1.01 * _LOWEST or temperature > 0.99 * _HIGHEST
    # A chi-squared variable with one degree of freedom is the square of a normal one.
    needed = NormalDist().inv_cdf(1 - _SIGNIFICANCE / 2) ** 2
    gain = 2 * len(labels) * (loss(0.0) - loss(math.log(temperature)))
    return 1.0 if at_an_end or gain <= needed else float(np.float32(temperature))  # as in the graph


def softmax(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Divides logits by a temperature and computes their softmax over the last axis, in float64; returns float32."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: FloatArray = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return probabilities
