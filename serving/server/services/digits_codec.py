"""The messages of `digits.v1` from and to what the core knows: arrays, prepared images, answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.digits.v1 import digits_pb2
from serving.errors import InvalidImage, InvalidRequest, Violation
from serving.images.preparation import PreparedImage
from serving.inference.request import InferenceResult
from serving.repository.labels import CANARY, STABLE
from serving.rollout.deployment import Deployment
from serving.rollout.rollout import Rollout
from serving.server.services.status import status_of

Uint8Array = npt.NDArray[np.uint8]

# A failed call's metadata holds so many violations; gRPC takes 8 KiB of it.
_MAX_VIOLATIONS = 10

# The label of an image that could not be read, or whose best label is less probable than the request's min_confidence.
_NO_LABEL = -1


def check_min_confidence(request: digits_pb2.ClassifyRequest) -> None:
    """Refuses what no probability can be compared with."""
    if not 0 <= request.min_confidence <= 1:  # NaN is not either
        raise InvalidRequest.of("min_confidence", f"must lie between 0 and 1, not {request.min_confidence:g}")


def raw_images(request: digits_pb2.ClassifyRequest, deployment: Deployment) -> Uint8Array:
    """Views a request's pixels as uint8 `[n, height, width, channels]`, or names everything that is wrong with them."""
    if request.WhichOneof("images") is None:
        raise InvalidRequest.of("raw_images", "no images in the request")
    raw, spec, limit = request.raw_images, deployment.manifest.input, deployment.max_request_images
    violations = []
    if raw.count == 0:
        violations.append(Violation(field="raw_images.count", description="must be at least 1"))
    elif raw.count > limit:
        violations.append(
            Violation(field="raw_images.count", description=f"{raw.count} images, but at most {limit} in a request")
        )
    for name in ("height", "width", "channels"):
        given, expected = getattr(raw, name), getattr(spec, name)
        if given not in (0, expected):
            violations.append(
                Violation(field=f"raw_images.{name}", description=f"{given}, but the model has {expected}")
            )
    if len(raw.pixels) != raw.count * spec.image_bytes:
        violations.append(
            Violation(
                field="raw_images.pixels",
                description=f"{len(raw.pixels)} bytes, but {raw.count} images of "
                f"{spec.height} x {spec.width} x {spec.channels} are {raw.count * spec.image_bytes}",
            )
        )
    if violations:
        raise InvalidRequest(*violations)
    return np.frombuffer(raw.pixels, np.uint8).reshape(raw.count, *spec.shape)


def encoded_images(request: digits_pb2.ClassifyRequest, deployment: Deployment) -> Sequence[bytes]:
    """The files in a request.

    Raises:
        InvalidRequest: There are none, or too many.
    """
    images, limit = request.encoded_images.images, deployment.max_request_images
    if not images:
        raise InvalidRequest.of("encoded_images.images", "must be at least one")
    if len(images) > limit:
        raise InvalidRequest.of("encoded_images.images", f"{len(images)} images, but at most {limit} in a request")
    return list(images)  # each access would copy the bytes


def sound_images(
    prepared: Sequence[PreparedImage | InvalidImage], request: digits_pb2.ClassifyRequest
) -> Uint8Array | None:
    """The images that could be read, uint8 `[n, height, width, channels]`, or None where none could.

    Raises:
        InvalidRequest: Some could not, and the request does not ask for errors of single images.
    """
    bad = [(index, image) for index, image in enumerate(prepared) if isinstance(image, InvalidImage)]
    if bad and not request.per_image_errors:
        violations = [_violation(index, error) for index, error in bad[:_MAX_VIOLATIONS]]
        if len(bad) > _MAX_VIOLATIONS:
            more = f"{len(bad) - _MAX_VIOLATIONS} more can't be read"
            violations.append(Violation(field="encoded_images.images", description=more))
        raise InvalidRequest(*violations)
    pixels = [image.pixels for image in prepared if isinstance(image, PreparedImage)]
    return np.stack(pixels) if pixels else None


def encode_answer(
    answer: InferenceResult | None,
    request: digits_pb2.ClassifyRequest,
    deployment: Deployment,
    prepared: Sequence[PreparedImage | InvalidImage] = (),
) -> digits_pb2.ClassifyResponse:
    """An answer as the request wants it.

    Args:
        answer: For the images that could be read; None where none could.
        request: What was asked for.
        deployment: What answered.
        prepared: What became of each encoded image; empty for raw ones.
    """
    classes = len(deployment.manifest.labels)
    probabilities = np.zeros((0, classes), np.float32) if answer is None else answer.probabilities
    labels, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1, initial=0)
    if request.HasField("min_confidence"):
        labels[confidences < np.float32(request.min_confidence)] = _NO_LABEL
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, : request.top_k] if request.top_k else None
    top_confidences = None if top is None else np.take_along_axis(probabilities, top, axis=1)
    response = digits_pb2.ClassifyResponse(
        model_name=deployment.name,
        model_version=deployment.version,
        queue_time_us=int(answer.queue_s * 1e6) if answer else 0,
        inference_time_us=int(answer.inference_s * 1e6) if answer else 0,
    )
    if len(probabilities) < len(prepared):
        rows = np.flatnonzero([isinstance(image, PreparedImage) for image in prepared])
        labels = _spread(labels, rows, len(prepared), _NO_LABEL)
        confidences = _spread(confidences, rows, len(prepared), 0)
        probabilities = _spread(probabilities, rows, len(prepared), 0)
        if top is not None and top_confidences is not None:
            top, top_confidences = (
                _spread(top, rows, len(prepared), _NO_LABEL),
                _spread(top_confidences, rows, len(prepared), 0),
            )
        for index, image in enumerate(prepared):
            if isinstance(image, InvalidImage):
                status = status_of(InvalidRequest(_violation(index, image)))
                response.errors.append(digits_pb2.ImageError(index=index, status=status))
    response.labels.extend(labels.tolist())
    response.confidences.extend(confidences.tolist())
    if request.include_probabilities:
        response.probabilities.extend(probabilities.ravel().tolist())
    if top is not None and top_confidences is not None:
        response.top_labels.extend(top.ravel().tolist())
        response.top_confidences.extend(top_confidences.ravel().tolist())
    if request.explain:
        response.preparations.extend(map(_preparation, prepared))
    return response


def _violation(index: int, error: InvalidImage) -> Violation:
    return Violation(field=f"encoded_images.images[{index}]", description=str(error))


def _spread(values: Any, rows: npt.NDArray[np.int64], count: int, fill: int) -> Any:
    """Values in rows of their own, and others between them."""
    spread = np.full((count, *values.shape[1:]), fill, values.dtype)
    spread[rows] = values
    return spread


def _preparation(image: PreparedImage | InvalidImage) -> digits_pb2.ImagePreparation:
    if isinstance(image, InvalidImage):
        return digits_pb2.ImagePreparation()
    return digits_pb2.ImagePreparation(
        width=image.width, height=image.height, steps=image.steps, pixels=image.pixels.tobytes()
    )


def encode_versions(rollout: Rollout, name: str) -> list[digits_pb2.ModelVersion]:
    """The versions of a model that are loaded, and those that are refused."""
    route = rollout.routes[name]
    found = {stored.version: digits_pb2.ModelVersion() for stored in rollout.models if stored.name == name}
    found[route.stable].label = STABLE
    found[route.stable].traffic_share = 1 - route.share
    if route.canary:
        found[route.canary].label = CANARY
        found[route.canary].traffic_share = route.share
    for refusal in rollout.refusals:
        if refusal.name == name:
            found.setdefault(refusal.version, digits_pb2.ModelVersion()).refused_because = refusal.reason
    for version, message in found.items():
        message.version = version
    return [found[version] for version in sorted(found)]
