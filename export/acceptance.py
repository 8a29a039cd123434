"""What a network must be able to do before it is published: better than chance, no worse than what it would replace."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.answers import answers_of
from serving.config import EngineConfig
from serving.errors import DigitsError
from serving.inference.engine import Engine
from serving.repository.labels import CANARY
from serving.repository.listing import model_listings
from serving.repository.manifest import Manifest
from serving.repository.repository import Repository

Labels = npt.NDArray[np.int64]

# Chance passes each test below with this probability.
_SIGNIFICANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What is asked of a network.

    Attributes:
        min_accuracy: The lowest accuracy on the test images, 0 to 1; None for clearly better than chance.
        allow_worse: Whether it may replace a version that is better.
    """

    min_accuracy: float | None = None
    allow_worse: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What the engine answers on the test images.

    Attributes:
        images: uint8 `[n, height, width, channels]`.
        labels: int64 `[n]`, the true labels; None if they are unknown.
        answers: int64 `[n]`, the labels that the engine gives.
    """

    images: npt.NDArray[np.uint8]
    labels: Labels | None
    answers: Labels


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a network may be published.

    Attributes:
        replaces: The version that it would replace and how both compare, in words; None if it would replace none.
        refusal: Why it is not published, and what can be done; None if it is.
    """

    replaces: str | None
    refusal: str | None


def judge(
    manifest: Manifest, test: Answers, repository: Repository, *, label: str | None, demands: Demands, provider: str
) -> Verdict:
    """Judges a network by its answers on the test images.

    Args:
        manifest: What would be published.
        test: Its answers.
        repository: Where it would be published.
        label: The label that it would get.
        demands: What is asked of it.
        provider: The execution provider, `cpu` or `cuda`.
    """
    if test.labels is None:
        refusal = None
    elif demands.min_accuracy is None:
        refusal = _no_better_than_chance(test.labels, test.answers)
    else:
        refusal = _below(demands.min_accuracy, test.labels, test.answers)
    if refusal:
        return Verdict(replaces=None, refusal=refusal)
    return _compared(manifest, test, repository, label=label, demands=demands, provider=provider)


def binomial_tail(right: int, images: int, probability: float) -> float:
    """The upper tail of the binomial distribution: the probability that at least so many guesses are right.

    Written out, since these few lines are all that would need SciPy, which an import of ONNX does without.

    Args:
        right: Number of right guesses.
        images: Number of guesses.
        probability: That one of them is right, 0 to 1.
    """
    if not 0 < probability < 1:
        return float(right == 0 or probability == 1)
    ways = math.lgamma(images + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(
                ways
                - math.lgamma(count + 1)
                - math.lgamma(images - count + 1)
                + count * math.log(probability)
                + (images - count) * math.log1p(-probability)
            )
            for count in range(right, images + 1)
        ),
    )


def _no_better_than_chance(labels: Labels, answers: Labels) -> str | None:
    right, images = int((answers == labels).sum()), len(labels)
    largest = int(np.bincount(labels).max())
    luck = binomial_tail(right, images, largest / images)
    if luck < _SIGNIFICANCE:
        return None
    return (
        f"{right:,} of {images:,} test images are right, which is not clearly better than chance ({largest:,} are of "
        f"the largest class; p = {luck:.2g}); nothing published. --min-accuracy 0 publishes it all the same"
    )


def _below(floor: float, labels: Labels, answers: Labels) -> str | None:
    accuracy = float((answers == labels).mean())
    if accuracy >= floor:
        return None
    images = f"{len(labels):,} test images"
    return f"{accuracy:.2%} of {images} are right, less than --min-accuracy {floor:g}; nothing published"


def _compared(
    manifest: Manifest, test: Answers, repository: Repository, *, label: str | None, demands: Demands, provider: str
) -> Verdict:
    """Compares it with the version that it would replace, on the same images.

    Source: Quinn McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    1947. Only images that one of the two gets right count; if both were equally good, each would get half of them. The
    test is exact and one-sided.
    """
    version = _replaced(repository, manifest.model_name, label)
    if version is None:
        return Verdict(replaces=None, refusal=None)
    if test.labels is None:
        reason = "the images have no labels; --data names images that have"
        return Verdict(replaces=f"version {version}, not compared: {reason}", refusal=None)
    before = _answers_of(version, manifest, test, repository, provider)
    if isinstance(before, str):
        return Verdict(replaces=f"version {version}, not compared: {before}", refusal=None)
    was_right, is_right = before == test.labels, test.answers == test.labels
    lost, gained = int((was_right & ~is_right).sum()), int((is_right & ~was_right).sum())
    luck = binomial_tail(lost, lost + gained, 0.5)
    counts = f"{gained:,} only the new one reads, {lost:,} only version {version}"
    replaces = f"version {version}, with {was_right.mean():.2%} on the same images; {counts}"
    if demands.allow_worse or luck >= _SIGNIFICANCE:
        return Verdict(replaces=replaces, refusal=None)
    return Verdict(
        replaces=replaces,
        refusal=f"worse than version {version}, which it would replace: {is_right.mean():.2%} against "
        f"{was_right.mean():.2%} of the same {len(is_right):,} images, {counts} (McNemar's test, p = {luck:.2g}); "
        "nothing published. --label canary publishes it on trial, --allow-worse all the same",
    )


def _replaced(repository: Repository, name: str, label: str | None) -> int | None:
    """The version that answers calls which name none, if the new one would do so in its place."""
    follows_the_newest = repository.read_labels(name).stable is None
    if label == CANARY or (label is None and not follows_the_newest) or not repository.versions(name):
        return None
    (listing,) = model_listings(repository, name)
    return listing.current


def _answers_of(version: int, manifest: Manifest, test: Answers, repository: Repository, provider: str) -> Labels | str:
    """The answers of an earlier version as labels of the new one, or why there are none."""
    stored = repository.load(manifest.model_name, version)
    theirs = stored.manifest
    if theirs.input.shape != manifest.input.shape:
        sizes = ["x".join(map(str, each.input.shape)) for each in (theirs, manifest)]
        return f"it takes images of {sizes[0]}, the new one {sizes[1]}"
    if {*theirs.labels} != {*manifest.labels}:
        return "it has other labels"
    engine = Engine(
        stored.content,
        image_shape=theirs.input.shape,
        classes=len(theirs.labels),
        config=EngineConfig(provider=provider),
    )
    try:
        engine.start()
        answers = answers_of(engine, test.images).probabilities.argmax(axis=1)
    except DigitsError as error:
        return str(error)
    position = np.array([manifest.labels.index(label) for label in theirs.labels])
    return np.asarray(position[answers], np.int64)
