"""The precisions of a model: float32, which every version has, and others, each with a file and a proof of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from serving.errors import ModelRejected

FLOAT32, INT8 = "float32", "int8"

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class PrecisionFigures:
    """What the gate of a precision measured: its engine compared with that of float32, on the same test images.

    Attributes:
        passed: Whether every limit held.
        provider: The execution provider that both ran on.
        images: Number of images compared.
        labels_equal: Number of images that both label the same.
        accuracy: Share of the images that are labelled correctly, 0 to 1.
        accuracy_float32: The same in float32.
        probabilities_max_difference: Largest absolute difference of a probability.
        probabilities_mean_difference: Mean absolute difference of the probabilities.
        calibration_error: Expected calibration error, 0 to 1.
        calibration_error_float32: The same in float32.
        no_digit_equal: Share of digits and non-digits that both call a digit, or both none; None without that output.
        times_as_fast: How many times as fast as float32 it was, on one thread.
        onnxruntime: Release of ONNX Runtime that was used.
        verified: Time of the measurement, in ISO 8601.
    """

    passed: bool
    provider: str
    images: int
    labels_equal: int
    accuracy: float
    accuracy_float32: float
    probabilities_max_difference: float
    probabilities_mean_difference: float
    calibration_error: float
    calibration_error_float32: float
    no_digit_equal: float | None
    times_as_fast: float
    onnxruntime: str
    verified: str


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The same model in another precision, in a file of its own beside `model.onnx`.

    Attributes:
        sha256: Digest of that file, in hexadecimal.
        proven: The gate's figures by what the processor computes it with, as `int8_kernels` names it.
    """

    sha256: str
    proven: Mapping[str, PrecisionFigures]

    def __post_init__(self) -> None:
        if not SHA256.fullmatch(self.sha256):
            raise ModelRejected("manifest: a precision's sha256 is not a SHA-256 digest in hexadecimal")


def precision_file(precision: str) -> str:
    """Name of the file of a model in another precision than float32."""
    return f"model.{precision}.onnx"
