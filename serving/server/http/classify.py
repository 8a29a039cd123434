"""`digits.v1.DigitClassifierService` over HTTP: image files in, JSON out, answered by the same servicer."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from starlette.requests import Request
from starlette.responses import Response

from protos.digits.v1 import digits_pb2
from serving.errors import InvalidImage, InvalidRequest
from serving.images.image_status import ImageStatus
from serving.server.http.answer import Answer, Candidate, ImageAnswer, Preparation
from serving.server.http.documents import to_document
from serving.server.http.handlers import JSON, HttpContext
from serving.server.http.message_json import to_json
from serving.server.http.uploads import Upload, uploads_of
from serving.server.services.digits_service import Classified, DigitClassifierService
from serving.server.services.message_limits import MAX_OCCURRENCES
from serving.server.services.oip_tensors import quoted

# The parameters of the URL: the fields of the messages of gRPC that hold no images, with the same names and meanings.
CLASSIFY_OPTIONS = {
    "model_name": "Name of the model; the default one without it.",
    "model_version": "Version of the model; without it the stable one or, for its share of calls, the canary.",
    "model_label": "Instead of a version: stable or canary.",
    "top_k": "How many candidates to list for each image.",
    "include_probabilities": "Whether to return the probability of every label.",
    "per_image_errors": "Whether an image that can't be read fails only itself, and not the request.",
    "explain": "Whether to return what the network saw of each image.",
    "min_confidence": "From 0 to 1. The label of an image with a lower confidence becomes -1.",
    "only_digits": "Whether the label of an image with a status becomes -1.",
}
MODEL_OPTIONS = {name: CLASSIFY_OPTIONS[name] for name in ("model_name", "model_version", "model_label")}
# gRPC's default is 0: there the whole probabilities are cheap.
DEFAULTS = {"top_k": 3}

_EXPECTED = {
    FieldDescriptor.TYPE_BOOL: ((bool,), "true or false"),
    FieldDescriptor.TYPE_FLOAT: ((int, float), "a number"),
    FieldDescriptor.TYPE_INT64: ((int,), "a whole number"),
    FieldDescriptor.TYPE_UINT32: ((int,), "a whole number from 0 on"),
}

# Converts something of this size, in a thread if that takes long.
Converter = Callable[[int, Callable[[], Any]], Awaitable[Any]]


class ClassifyEndpoints:
    """Answers calls of `Classify` and `GetModel`.

    Args:
        servicer: The servicer.
        converted: Runs conversions.
        max_images: The most images that a request may have, of any model.
    """

    def __init__(self, servicer: DigitClassifierService, converted: Converter, *, max_images: int) -> None:
        self._servicer = servicer
        self._converted = converted
        self._max_files = max_images + MAX_OCCURRENCES  # the service says how many there were, as over gRPC

    async def classify(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Classifies the digits in image files."""
        message = digits_pb2.ClassifyRequest()
        for name, value in DEFAULTS.items():
            setattr(message, name, value)
        decode_options(request.query_params.multi_items(), message, CLASSIFY_OPTIONS)
        content_type = request.headers.get("content-type", "")
        uploads = await self._converted(len(body), lambda: uploads_of(body, content_type, max_files=self._max_files))
        message.encoded_images.images.extend(upload.content for upload in uploads)
        try:
            found = await self._servicer.classify(message, context)
        except InvalidRequest as error:
            raise _with_file_names(error, uploads) from error
        size = found.response.ByteSize()
        return Response(
            await self._converted(size, lambda: json.dumps(to_document(_answer(found, message, uploads)))),
            media_type=JSON,
        )

    async def model(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Describes a model: its labels, input size and limits, accuracy, and the versions that are served."""
        message = digits_pb2.GetModelRequest()
        decode_options(request.query_params.multi_items(), message, MODEL_OPTIONS)
        return Response(json.dumps(to_json(await self._servicer.GetModel(message, context))), media_type=JSON)


def decode_options(given: Sequence[tuple[str, str]], message: Any, known: Mapping[str, str]) -> None:
    """Copies parameters of the URL into the fields of a message that have their names.

    Raises:
        InvalidRequest: A parameter is unknown, is given twice, or has the wrong type.
    """
    for place, (name, text) in enumerate(given):
        if name not in known:
            raise InvalidRequest.of(quoted(name), f"unknown parameter; there are {', '.join(known)}")
        if name in dict(given[:place]):
            raise InvalidRequest.of(name, "given twice")
        field = message.DESCRIPTOR.fields_by_name[name]
        types, words = _EXPECTED.get(field.type, ((), ""))
        value: object = text
        try:
            if types:
                value = json.loads(text)
                if type(value) not in types:
                    raise ValueError
            setattr(message, name, value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest.of(name, f"must be {words}, not {quoted(text)}") from error


def _answer(found: Classified, request: Any, uploads: Sequence[Upload]) -> Answer:
    response, labels = found.response, found.deployment.manifest.labels
    images = []
    per_image = len(response.top_labels) // len(uploads)
    for place, (upload, prepared) in enumerate(zip(uploads, found.prepared, strict=True)):
        if isinstance(prepared, InvalidImage):
            images.append(
                ImageAnswer(
                    file=upload.name, label=-1, name="", confidence=0, status=None, candidates=[], error=str(prepared)
                )
            )
            continue
        label = response.labels[place]
        status = ImageStatus(response.statuses[place]) if response.statuses else ImageStatus.DIGIT
        top = slice(place * per_image, (place + 1) * per_image)
        row = slice(place * len(labels), (place + 1) * len(labels))
        images.append(
            ImageAnswer(
                file=upload.name,
                label=label,
                name=labels[label] if label >= 0 else status.words or "unsure",
                confidence=response.confidences[place],
                status=status.words or None,
                candidates=[
                    Candidate(label=each, name=labels[each], confidence=confidence)
                    for each, confidence in zip(response.top_labels[top], response.top_confidences[top], strict=True)
                ],
                probabilities=list(response.probabilities[row]) if request.include_probabilities else None,
                no_digit=response.no_digit[place] if response.no_digit else None,
                preparation=Preparation(
                    width=prepared.width,
                    height=prepared.height,
                    steps=list(prepared.steps),
                    pixels=base64.b64encode(prepared.pixels.tobytes()).decode() if request.explain else None,
                ),
            )
        )
    return Answer(
        model_name=response.model_name,
        model_version=response.model_version,
        images=images,
        queue_time_us=response.queue_time_us,
        inference_time_us=response.inference_time_us,
    )


def _with_file_names(error: InvalidRequest, uploads: Sequence[Upload]) -> InvalidRequest:
    """Replaces the names of fields that only gRPC's message has, and adds the names of the files."""
    named = {
        f"encoded_images.images[{place}]": f"images[{place}]" + (f" ({quoted(upload.name)})" if upload.name else "")
        for place, upload in enumerate(uploads)
    }
    named["encoded_images.images"] = "images"
    return InvalidRequest(*(replace(each, field=named.get(each.field, each.field)) for each in error.violations))
