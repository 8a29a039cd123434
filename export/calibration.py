"""Calibration: one number, fitted on images that the training held out, makes confidences say how often they are right.

Temperature scaling of Chuan Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2: probabilities
are softmax(logits / T), with the T that gives the held-out labels the highest likelihood. It changes no label.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from export.trained_model import TrainedModel
from serving.repository.manifest import Calibration
from training.datasets import Dataset

FloatArray = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

# As many as in the paper.
BINS = 15
# Beyond these a network is broken, not miscalibrated.
_LOWEST, _HIGHEST = 0.05, 20.0


def calibrate(trained: TrainedModel, data: Dataset) -> Calibration:
    """Fits the temperature on the validation part, which is the end of the images that the training was given.

    The test images choose nothing; they tell what came of it.

    Args:
        trained: The network and its record, which says how many images were held out.
        data: The data that it was trained on.

    Returns:
        The temperature and the expected calibration error before and after, or a temperature of 1 where no images were
        held out.
    """
    images, labels = _validation_part(trained, data)
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


def fit_temperature(logits: FloatArray, labels: Labels) -> float:
    """Finds the temperature that gives labels the highest likelihood.

    The negative log-likelihood has one minimum, since it is convex in 1 / T; golden-section search finds it.

    Args:
        logits: float32 `[n, classes]`.
        labels: int64 `[n]`, the true labels.

    Returns:
        The temperature, between 0.05 and 20; 1 where none is best, as where no label is ever wrong.
    """
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
    return 1.0 if at_an_end else float(np.float32(temperature))  # as the graph has it


def softmax(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Probabilities of logits divided by a temperature, over the last axis; summed in float64, given in float32."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: FloatArray = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return probabilities


def calibration_error(probabilities: FloatArray, labels: Labels) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, in the mean over 15 bins of confidence.

    Source: Guo et al., section 2, weighed by the images in each bin.

    Args:
        probabilities: float32 `[n, classes]`.
        labels: int64 `[n]`, the true labels.
    """
    confidences = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    # A confidence on a bound belongs to the bin below it.
    places = np.ceil(confidences * BINS).astype(int).clip(1, BINS)
    surplus = np.bincount(places, weights=confidences - right)
    return float(np.abs(surplus).sum() / len(labels))


def _validation_part(trained: TrainedModel, data: Dataset) -> tuple[npt.NDArray[np.uint8], Labels]:
    recorded = trained.record["data"]
    fitted, held_out = recorded.get("train_images"), recorded.get("validation_images")
    if not isinstance(fitted, int) or not isinstance(held_out, int) or fitted + held_out > len(data.train_images):
        return data.train_images[:0], data.train_labels[:0]
    part = slice(fitted, fitted + held_out)
    return data.train_images[part], data.train_labels[part]
