"""The manifest of a network that `digits-train` made."""

from __future__ import annotations

import datetime
import hashlib

import keras
import numpy as np
import onnx
import tensorflow
import tf2onnx

from export.parity import ParityReport
from export.trained_model import TrainedModel
from serving.inference.sessions import RUNTIME_VERSION
from serving.repository.manifest import Calibration, InputSpec, Manifest, NoDigit, ValidationAnswers

# Parts of the training record that the manifest contains.
_FROM_RECORD = ("architecture", "recipe", "normalisation", "seed", "parameters", "model_sha256")


def manifest_of(
    trained: TrainedModel,
    name: str,
    content: bytes,
    report: ParityReport,
    calibration: Calibration,
    validation: ValidationAnswers | None,
    no_digit: NoDigit | None,
) -> Manifest:
    """Puts together what was recorded by the training and what the gates measured."""
    record = trained.record
    height, width, channels = trained.image_shape
    return Manifest(
        model_name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        labels=trained.labels,
        input=InputSpec(height=height, width=width, channels=channels, preparation=record["input"]["preparation"]),
        training={
            **{key: record[key] for key in _FROM_RECORD},
            # Without the path of a folder, which is private.
            "data": {**record["data"], "source": record["data"]["source"].partition(":")[0]},
        },
        accuracy=report.accuracy,
        parity={report.provider: report.figures},
        versions={
            **record["versions"],
            "tensorflow_at_export": tensorflow.__version__,
            "keras_at_export": keras.__version__,
            "numpy_at_export": np.__version__,
            "tf2onnx": tf2onnx.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": RUNTIME_VERSION,
        },
        calibration=calibration,
        validation=validation,
        no_digit=no_digit,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
