"""Where a `digits.v1` request is decoded and its response encoded: messages from and to arrays, images and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.digits.v1 import digits_pb2
from serving.errors import InvalidImage, InvalidRequest, Violation
from serving.images.image_status import ImageStatus
from serving.images.preparation import PreparedImage
from serving.inference.request import InferenceResult
from serving.repository.labels import CANARY, STABLE
from serving.rollout.deployment import Deployment
from serving.rollout.rollout import Rollout
from serving.server.services.status import status_of

Uint8Array = npt.NDArray[np.uint8]

# Errors travel in metadata, which gRPC limits to 8 KiB.
_MAX_VIOLATIONS = 10

# The label of an unreadable image, of one whose best label is less probable than the request's min_confidence, and with
# only_digits of one with a status.
_NO_LABEL = -1


def check_min_confidence(request: digits_pb2.ClassifyRequest) -> None:
    """Refuses a threshold that is not a probability."""
    if not 0 <= request.min_confidence <= 1:  # also refuses NaN
        raise InvalidRequest.of("min_confidence", f"must be between 0 and 1, not {request.min_confidence:g}")


def raw_images(request: digits_pb2.ClassifyRequest, deployment: Deployment) -> Uint8Array:
    """Views the pixels of a request as uint8 `[n, height, width, channels]`.

    Raises:
        InvalidRequest: The pixels do not fit the model. Names everything that is wrong.
    """
    if request.WhichOneof("images") is None:
        raise InvalidRequest.of("raw_images", "no images in the request")
    raw, spec, limit = request.raw_images, deployment.manifest.input, deployment.max_request_images
    count, pixels = raw.count, raw.pixels
    size = raw.height, raw.width, raw.channels
    if 0 < count <= limit and len(pixels) == count * spec.image_bytes and size in ((0, 0, 0), spec.shape):
        return np.frombuffer(pixels, np.uint8).reshape(count, *spec.shape)
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
    """Returns the image files in a request.

    Raises:
        InvalidRequest: There are none, or too many.
    """
    images, limit = request.encoded_images.images, deployment.max_request_images
    if not images:
        raise InvalidRequest.of("encoded_images.images", "must be at least one")
    if len(images) > limit:
        raise InvalidRequest.of("encoded_images.images", f"{len(images)} images, but at most {limit} in a request")
    return list(images)  # each access would copy the bytes


def readable_images(
    prepared: Sequence[PreparedImage | InvalidImage], request: digits_pb2.ClassifyRequest
) -> Uint8Array | None:
    """Stacks the images that could be read, uint8 `[n, height, width, channels]`; None if none could.

    Raises:
        InvalidRequest: Some could not be read, and the request does not ask for errors per image.
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


def unsure_images(answer: InferenceResult, request: digits_pb2.ClassifyRequest) -> npt.NDArray[np.bool_] | None:
    """Returns which images are below the request's `min_confidence`, bool `[n]`; None if it has none."""
    if not request.HasField("min_confidence"):
        return None
    unsure: npt.NDArray[np.bool_] = answer.probabilities.max(axis=1) < np.float32(request.min_confidence)
    return unsure


def encode_response(
    answer: InferenceResult | None,
    request: digits_pb2.ClassifyRequest,
    deployment: Deployment,
    prepared: Sequence[PreparedImage | InvalidImage] = (),
) -> digits_pb2.ClassifyResponse:
    """Encodes an answer with what the request asks for.

    Args:
        answer: The answer for the readable images; None if there are none.
        request: The request.
        deployment: The deployment that answered.
        prepared: The result of preparation for each encoded image; empty for raw images.
    """
    classes = len(deployment.manifest.labels)
    probabilities = np.zeros((0, classes), np.float32) if answer is None else answer.probabilities
    labels, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1, initial=0)
    statuses = no_digit = None
    if answer is not None:
        statuses, no_digit = answer.statuses, answer.no_digit
        if (unsure := unsure_images(answer, request)) is not None:
            labels[unsure] = _NO_LABEL
        if statuses is not None and request.only_digits:
            labels[statuses != ImageStatus.DIGIT] = _NO_LABEL
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
        statuses = None if statuses is None else _spread(statuses, rows, len(prepared), ImageStatus.DIGIT)
        no_digit = None if no_digit is None else _spread(no_digit, rows, len(prepared), 0)
        for index, image in enumerate(prepared):
            if isinstance(image, InvalidImage):
                status = encode_error(InvalidRequest(_violation(index, image)))
                response.errors.append(digits_pb2.ImageError(index=index, status=status))
    response.labels.extend(labels.tolist())
    response.confidences.extend(confidences.tolist())
    if statuses is not None:
        response.statuses.extend(statuses.tolist())
    if request.include_probabilities:
        response.probabilities.extend(probabilities.ravel().tolist())
        if no_digit is not None:
            response.no_digit.extend(no_digit.tolist())
    if top is not None and top_confidences is not None:
        response.top_labels.extend(top.ravel().tolist())
        response.top_confidences.extend(top_confidences.ravel().tolist())
    if request.explain:
        response.preparations.extend(map(_preparation, prepared))
    return response


def encode_error(error: Exception) -> digits_pb2.Status:
    """Encodes the status that the client gets for an error. Logs the traceback of an unexpected error."""
    status = status_of(error)
    return digits_pb2.Status(code=status.code, message=status.message, details=status.details)


def encode_model(deployment: Deployment, rollout: Rollout, *, max_message_bytes: int) -> digits_pb2.GetModelResponse:
    """Describes a deployment, and the other versions of its model.

    Args:
        deployment: The deployment.
        rollout: What is served, and what was refused.
        max_message_bytes: The largest message that the front end accepts.
    """
    manifest, provider = deployment.manifest, deployment.provider
    reduced = deployment.precision_figures
    accuracy = reduced.accuracy if reduced else manifest.accuracy.onnx if manifest.accuracy else 0
    figures = reduced or manifest.parity.get(provider)
    return digits_pb2.GetModelResponse(
        model_name=deployment.name,
        model_version=deployment.version,
        labels=manifest.labels,
        height=manifest.input.height,
        width=manifest.input.width,
        channels=manifest.input.channels,
        max_images_per_request=deployment.max_request_images,
        sha256=manifest.sha256,
        execution_provider=provider,
        test_accuracy=accuracy,
        parity_max_difference=figures.probabilities_max_difference if figures else None,
        temperature=manifest.calibration.temperature,
        preparation=manifest.input.preparation,
        max_message_bytes=max_message_bytes,
        max_image_pixels=deployment.max_image_pixels,
        versions=_versions(rollout, deployment.name),
        no_digit_threshold=manifest.no_digit.threshold if manifest.no_digit else None,
        precision=deployment.precision,
    )


def _violation(index: int, error: InvalidImage) -> Violation:
    return Violation(field=f"encoded_images.images[{index}]", description=str(error))


def _spread(values: Any, rows: npt.NDArray[np.int64], count: int, fill: int) -> Any:
    """Puts values into the given rows of an array of `count` rows; the other rows get the fill value."""
    spread = np.full((count, *values.shape[1:]), fill, values.dtype)
    spread[rows] = values
    return spread


def _preparation(image: PreparedImage | InvalidImage) -> digits_pb2.ImagePreparation:
    if isinstance(image, InvalidImage):
        return digits_pb2.ImagePreparation()
    return digits_pb2.ImagePreparation(
        width=image.width, height=image.height, steps=image.steps, pixels=image.pixels.tobytes()
    )


def _versions(rollout: Rollout, name: str) -> list[digits_pb2.ModelVersion]:
    """Lists the loaded and the refused versions of a model."""
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
