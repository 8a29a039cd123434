"""Verification of a stored version: loads it, runs it and checks its answers."""

from __future__ import annotations

import numpy as np

from serving.config import EngineConfig
from serving.errors import DigitsError, InferenceFailed
from serving.inference.engine import Engine
from serving.repository.precision import FLOAT32
from serving.repository.repository import StoredModel

IMAGES = 16
# The error of a float32 softmax is far smaller, even with a thousand classes.
_SUM_TOLERANCE = 1e-3


def verify(stored: StoredModel, config: EngineConfig, *, precision: str = FLOAT32) -> str:
    """Runs a batch of random images the way a server on this machine would.

    Args:
        stored: The version. Its digests and parity were checked when it was read.
        config: The execution provider to run it on.
        precision: The precision to run it in, one that the version has; proven for this processor or not.

    Returns:
        The execution provider that ran it.

    Raises:
        ModelRejected: The engine can't load it, or its inputs and outputs differ from the manifest.
        ProviderUnavailable: The provider can't run it on this machine.
        InferenceFailed: It fails when it runs, or its answers are not probabilities.
    """
    spec, classes = stored.manifest.input, len(stored.manifest.labels)
    engine = Engine(
        stored.content if precision == FLOAT32 else stored.precisions[precision],
        image_shape=spec.shape,
        classes=classes,
        config=config,
        no_digit=stored.manifest.no_digit is not None,
    )
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, *spec.shape), np.uint8)
    try:
        engine.start()
        answer = engine.infer(images)
    except DigitsError:
        raise
    except Exception as error:  # ONNX Runtime's own errors, from the warm-up
        raise InferenceFailed(f"model.onnx: can't be run ({type(error).__name__})") from error
    for name, values in (("logits", answer.logits), ("probabilities", answer.probabilities)):
        if values.shape != (IMAGES, classes):
            raise InferenceFailed(f"{name} have the shape {list(values.shape)}, not {[IMAGES, classes]}")
        if not np.isfinite(values).all():
            raise InferenceFailed(f"{name} are not all finite")
    sums = answer.probabilities.sum(axis=1)
    worst = float(sums[np.abs(sums - 1).argmax()])
    if (answer.probabilities < 0).any() or abs(worst - 1) > _SUM_TOLERANCE:
        raise InferenceFailed(f"these are not probabilities: a row adds up to {worst:.4f}, or a value is below 0")
    if answer.no_digit is not None and not ((answer.no_digit >= 0) & (answer.no_digit <= 1)).all():
        raise InferenceFailed("no_digit is not always between 0 and 1")
    return engine.provider
