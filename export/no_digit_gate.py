"""The gate of the output `no_digit`: pictures of no digit are caught, and digits are kept, however they arrive.

A network that was trained on drawn letters and textures can separate every benchmark of clean pixels and yet throw away
real photos. So digits and non-digits are sent and prepared alike here, and digits come from two sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.answers import answers_of
from serving.inference.engine import Engine
from serving.repository.manifest import NoDigit
from training.datasets import Dataset
from training.non_digits import KINDS, draw_non_digit
from training.sending import sent
from training.styles import enlarge

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

# Pictures per kind of non-digits and per source of sent digits.
COUNT = 1_000
_SEED = 14
# The threshold throws away at most these shares of the validation images: as raw pixels, and sent as pictures.
_LOST_RAW, _LOST_SENT = 0.005, 0.017
# What must be kept of each source of digits, and caught of each kind of non-digits. Some drawings resemble digits.
_LEAST_KEPT = {
    "test images": 0.99,
    "test images, sent as pictures": 0.97,
    "digits of scikit-learn, sent as pictures": 0.9,
}
_LEAST_CAUGHT = {kind: 0.8 if kind == "drawings" else 0.9 for kind in KINDS}


@dataclass(frozen=True, kw_only=True)
class NoDigitReport:
    """The result of the gate.

    Attributes:
        figures: The figures for the manifest.
        problems: Why it failed; empty if it passed.
    """

    figures: NoDigit
    problems: tuple[str, ...]

    def __str__(self) -> str:
        """One line for users."""
        if self.problems:
            return f"not known: {'; '.join(self.problems)}; the model is published without the output no_digit"
        caught, kept = self.figures.caught, self.figures.kept
        least = min(caught, key=caught.__getitem__)
        return (
            f"threshold {self.figures.threshold}; caught {np.mean(list(caught.values())):.2%}, the least of {least}, "
            f"{caught[least]:.2%}; kept " + ", ".join(f"{share:.2%} of the {name}" for name, share in kept.items())
        )


def check_no_digit(engine: Engine, data: Dataset, *, validation_images: Uint8Array) -> NoDigitReport:
    """Chooses the threshold on validation images, then measures both sides on other pictures.

    Args:
        engine: A started engine with a model that has the output `no_digit`.
        data: The digits that the network was trained on; their test images are measured.
        validation_images: uint8 `[n, 28, 28, 1]`, held out by the training.
    """
    generator = np.random.default_rng(_SEED)
    raw = _answers(engine, validation_images)
    as_sent = _answers(engine, _as_sent(validation_images[..., 0], generator, 2 * COUNT))
    highest = max(float(np.quantile(raw, 1 - _LOST_RAW)), float(np.quantile(as_sent, 1 - _LOST_SENT)))
    threshold = round(min(max(highest, 0.01), 0.999), 3)
    digits = data.test_images[..., 0]
    sources = {
        "test images": data.test_images,
        "test images, sent as pictures": _as_sent(digits, generator, COUNT),
        "digits of scikit-learn, sent as pictures": _as_sent(_other_digits(), generator, COUNT),
    }
    kept = {name: float((_answers(engine, images) <= threshold).mean()) for name, images in sources.items()}
    caught = {}
    for kind in KINDS:
        pictures = np.stack([draw_non_digit(kind, digits, generator) for _ in range(COUNT)])[..., np.newaxis]
        caught[kind] = float((_answers(engine, pictures) > threshold).mean())
    problems = [
        f"only {share:.2%} of the {name} are kept, {_LEAST_KEPT[name]:.1%} must be"
        for name, share in kept.items()
        if share < _LEAST_KEPT[name]
    ]
    problems += [
        f"only {share:.2%} of the {kind} are caught, {_LEAST_CAUGHT[kind]:.0%} must be"
        for kind, share in caught.items()
        if share < _LEAST_CAUGHT[kind]
    ]
    return NoDigitReport(figures=NoDigit(threshold=threshold, caught=caught, kept=kept), problems=tuple(problems))


def _answers(engine: Engine, images: Uint8Array) -> FloatArray:
    answers = answers_of(engine, images).no_digit
    if answers is None:
        raise ValueError("the model has no output no_digit")
    return answers


def _as_sent(digits: Uint8Array, generator: np.random.Generator, count: int) -> Uint8Array:
    """Sends digits, uint8 `[n, h, w]`, the first ones, as pictures: uint8 `[count, 28, 28, 1]`."""
    return np.stack([sent(enlarge(digit), generator) for digit in digits[:count]])[..., np.newaxis]


def _other_digits() -> Uint8Array:
    """Digits that other people wrote, from scikit-learn's test data: uint8 `[1797, 28, 28]`, light on black."""
    from sklearn.datasets import load_digits

    small = (load_digits().images * (255 / 16)).astype(np.uint8)
    return np.pad(small.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
