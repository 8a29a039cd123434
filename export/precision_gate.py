"""The gate of a precision: its engine answers as that of float32 does, on the test images and on non-digits.

The parity gate asks whether two computations are the same. This one knows that they are not, and asks whether a user
would notice.
"""

from __future__ import annotations

import datetime
import timeit
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from export.answers import answers_of
from serving.inference.engine import Engine, Prediction
from serving.inference.sessions import RUNTIME_VERSION
from serving.repository.precision import PrecisionFigures
from training.evaluation import calibration_error

Uint8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

# Accuracy may be lower by this share of the test images: by two of 10,000, by none of 300.
MOST_LOST = 0.0002
# Labels may differ on this share of the images: on five of 10,000, on none of 300.
MOST_CHANGED = 0.0005
# As above, of digits and non-digits together: many non-digits are close to the threshold.
MOST_NO_DIGIT_CHANGED = 0.002
# Otherwise there is no reason to serve it. Either time is the shortest of many, so that a busy machine does not decide.
LEAST_TIMES_AS_FAST = 1.05

_TIMED_ROWS, _TIMED_RUNS = 64, 25


@dataclass(frozen=True, kw_only=True)
class ChangedLabel:
    """A test image that both label differently.

    Attributes:
        index: Its position among the test images.
        before: Its label in float32.
        after: Its label in the other precision.
        label: Its true label.
    """

    index: int
    before: str
    after: str
    label: str


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """The result of the gate.

    Attributes:
        figures: The figures for the manifest; `figures.passed` is the verdict.
        problems: Why it failed; empty if it passed.
        changed: Every test image whose label changed, in their order.
    """

    figures: PrecisionFigures
    problems: tuple[str, ...]
    changed: tuple[ChangedLabel, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class GateImages:
    """What both precisions answer on.

    Attributes:
        images: uint8 `[n, height, width, channels]`, the test images.
        labels: int64 `[n]`, the true labels.
        names: Name of each label.
        non_digits: uint8 `[m, height, width, channels]`, for a model with the output `no_digit`.
        threshold: Of that output; None for a model without it.
    """

    images: Uint8Array
    labels: Int64Array
    names: tuple[str, ...]
    non_digits: Uint8Array | None = None
    threshold: float | None = None


def check_precision(exact: Engine, other: Engine, test: GateImages) -> PrecisionReport:
    """Compares another precision of a model with float32.

    Args:
        exact: A started engine of the model in float32, which has passed the parity gate.
        other: A started engine of the same model in the other precision, on the same provider.
        test: What both answer on. No choice of the quantisation may depend on it.
    """
    before, after = answers_of(exact, test.images), answers_of(other, test.images)
    was, now = before.probabilities.argmax(axis=1), after.probabilities.argmax(axis=1)
    difference = np.abs(after.probabilities.astype(np.float64) - before.probabilities)
    images, equal = len(test.images), int((was == now).sum())
    right_before, right_after = int((was == test.labels).sum()), int((now == test.labels).sum())
    no_digit_equal = _no_digit_equal(exact, other, before, after, test)
    times_as_fast = _times_as_fast(exact, other, test.images)
    problems = []
    if not all(np.isfinite(values).all() for values in (after.logits, after.probabilities)):
        problems.append("its outputs are not all finite")
    if right_before - right_after > MOST_LOST * images:
        problems.append(
            f"{right_after:,} of {images:,} test images are right, {right_before:,} in float32: it may lose "
            f"{int(MOST_LOST * images)}"
        )
    if images - equal > MOST_CHANGED * images:
        problems.append(f"{images - equal:,} of {images:,} labels differ: {int(MOST_CHANGED * images)} may")
    if no_digit_equal is not None and not no_digit_equal >= 1 - MOST_NO_DIGIT_CHANGED:
        problems.append(
            f"it decides otherwise whether {1 - no_digit_equal:.2%} of digits and non-digits are digits: "
            f"{MOST_NO_DIGIT_CHANGED:.1%} may differ"
        )
    if not times_as_fast >= LEAST_TIMES_AS_FAST:
        problems.append(f"it is {times_as_fast:.2f} times as fast as float32, so nothing speaks for it")
    return PrecisionReport(
        figures=PrecisionFigures(
            passed=not problems,
            provider=other.provider,
            images=images,
            labels_equal=equal,
            accuracy=right_after / images,
            accuracy_float32=right_before / images,
            probabilities_max_difference=float(difference.max()),
            probabilities_mean_difference=float(difference.mean()),
            calibration_error=calibration_error(after.probabilities, test.labels),
            calibration_error_float32=calibration_error(before.probabilities, test.labels),
            no_digit_equal=no_digit_equal,
            times_as_fast=round(times_as_fast, 2),
            onnxruntime=RUNTIME_VERSION,
            verified=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        ),
        problems=tuple(problems),
        changed=tuple(
            ChangedLabel(
                index=int(index),
                before=test.names[was[index]],
                after=test.names[now[index]],
                label=test.names[test.labels[index]],
            )
            for index in np.flatnonzero(was != now)
        ),
    )


def precision_lines(report: PrecisionReport, *, precision: str, kernels: str) -> list[str]:
    """The report as text: a line for each figure, and one for each changed label."""
    figures = report.figures
    rows = {
        precision: f"{figures.provider} with {kernels}, {figures.times_as_fast:.2f} times as fast as float32",
        "labels equal": f"{figures.labels_equal:,} of {figures.images:,}",
        "accuracy": f"float32 {figures.accuracy_float32:.2%}  {precision} {figures.accuracy:.2%}",
        "probabilities": f"max {figures.probabilities_max_difference:.2e}  "
        f"mean {figures.probabilities_mean_difference:.2e}",
        "calibration": f"error in float32 {figures.calibration_error_float32:.2%}  "
        f"{precision} {figures.calibration_error:.2%}",
    }
    if figures.no_digit_equal is not None:
        rows["no digit"] = f"{figures.no_digit_equal:.2%} of digits and non-digits decided alike"
    lines = [f"{title:<14} {value}" for title, value in rows.items()]
    return lines + [
        f"image {changed.index:>5}  is {changed.label}  float32 {changed.before}  {precision} {changed.after}"
        for changed in report.changed
    ]


def _no_digit_equal(
    exact: Engine, other: Engine, before: Prediction, after: Prediction, test: GateImages
) -> float | None:
    """The share of the images that both call a digit, or both call none; None for a model without that output."""
    if test.threshold is None or before.no_digit is None or after.no_digit is None:
        return None
    pairs = [(before.no_digit, after.no_digit)]
    if test.non_digits is not None:
        found = [answers_of(engine, test.non_digits).no_digit for engine in (exact, other)]
        pairs.append((np.asarray(found[0]), np.asarray(found[1])))
    alike = [(was > test.threshold) == (now > test.threshold) for was, now in pairs]
    return float(np.concatenate(alike).mean())


def _times_as_fast(exact: Engine, other: Engine, images: Uint8Array) -> float:
    """Times both in turn on the same images."""
    batch = images[:_TIMED_ROWS]
    times_s = [
        [timeit.timeit(partial(engine.infer, batch), number=1) for engine in (exact, other)] for _ in range(_TIMED_RUNS)
    ]
    before, after = np.min(times_s, axis=0)
    return float(before / after)
