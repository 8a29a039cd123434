"""The JSON that answers `POST /v1/classify`."""

from __future__ import annotations

from dataclasses import dataclass

from serving.images.image_status import ImageStatus
from serving.server.http.documents import member


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A label that an image may have."""

    label: int = member("An index into the model's labels.")
    name: str = member("Name of the label.")
    confidence: float = member("Its probability, from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How an image was prepared."""

    width: int = member("Width of the image in pixels, after rotation as its EXIF data require.")
    height: int = member("Its height in pixels.")
    steps: list[str] = member("The steps of the preparation, in order, described for people.")
    pixels: str | None = member(
        "With explain: what the network saw, height x width x channels of the model, one byte each, in base64.",
        optional=True,
    )


@dataclass(frozen=True, kw_only=True)
class ImageAnswer:
    """The answer for one image."""

    file: str | None = member("Name of the file, if it came with one.", optional=True)
    label: int = member(
        "The most probable label, an index into the model's labels; -1 below min_confidence, with only_digits for an "
        "image with a status, and for one that can't be read."
    )
    name: str = member("Name of the label. That of -1 is the status, or unsure, or empty if the image can't be read.")
    confidence: float = member("Probability of the most probable label, from 0 to 1.")
    status: str | None = member(
        "Why the label may mean nothing; null if nothing speaks against it.",
        choices=tuple(status.words for status in ImageStatus if status.words),
    )
    candidates: list[Candidate] = member("The most probable labels, the best first; top_k says how many.")
    probabilities: list[float] | None = member(
        "With include_probabilities: the probability of every label.", optional=True
    )
    no_digit: float | None = member(
        "With include_probabilities, from a model that can tell: how much speaks against a digit, from 0 to 1.",
        optional=True,
    )
    preparation: Preparation | None = member("What was done to the image before the network saw it.", optional=True)
    error: str | None = member("With per_image_errors: why the image can't be read.", optional=True)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer for a request."""

    model_name: str = member("The model that answered.")
    model_version: int = member("Its version.")
    images: list[ImageAnswer] = member("The answer for each image, in order.")
    queue_time_us: int = member("How long the request waited for its batch, in microseconds.")
    inference_time_us: int = member("How long its batch took in the engine, in microseconds.")
