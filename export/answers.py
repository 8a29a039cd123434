"""What an engine answers on many images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving.inference.engine import Engine, Prediction


def answers_of(engine: Engine, images: npt.NDArray[np.uint8], *, rows: int = 256) -> Prediction:
    """Runs an engine over all images.

    Args:
        engine: A started engine.
        images: uint8 `[n, height, width, channels]`, at least one.
        rows: Images per run; the last run takes what is left.

    Returns:
        The outputs for all images.
    """
    parts = [engine.infer(images[start : start + rows]) for start in range(0, len(images), rows)]
    doubts = [part.no_digit for part in parts if part.no_digit is not None]
    return Prediction(
        logits=np.concatenate([part.logits for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        no_digit=np.concatenate(doubts) if doubts else None,
    )
