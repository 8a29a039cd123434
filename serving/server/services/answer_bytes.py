"""The common answer as bytes: what `encode_response` makes of raw images without options, at a fraction of the time."""

from __future__ import annotations

import struct

import numpy as np

from protos.digits.v1 import digits_pb2
from serving.inference.request import InferenceResult
from serving.rollout.deployment import Deployment

_Fields = digits_pb2.ClassifyResponse.DESCRIPTOR.fields_by_name


def _tag(name: str) -> bytes:
    """The tag of a packed list; all their numbers are below 16."""
    return bytes([_Fields[name].number << 3 | 2])


_LABELS, _CONFIDENCES, _PROBABILITIES = _tag("labels"), _tag("confidences"), _tag("probabilities")
_STATUSES, _NO_DIGIT = _tag("statuses"), _tag("no_digit")
_ONE = struct.Struct("<cBBcBf").pack  # label and confidence of one image


class AnswerBytes:
    """Encodes answers of one deployment as `digits.v1.ClassifyResponse`.

    Args:
        deployment: The deployment.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._end = digits_pb2.ClassifyResponse(
            model_name=deployment.name, model_version=deployment.version
        ).SerializeToString()

    def encode(self, answer: InferenceResult, *, include_probabilities: bool) -> bytes:
        """Encodes an answer.

        Args:
            answer: From `Deployment.classify` or `Deployment.completed`.
            include_probabilities: Whether the request asks for the probability of every label.
        """
        probabilities = answer.probabilities
        are_bytes = probabilities.shape[1] <= 128  # labels, on the wire
        if len(probabilities) == 1 and are_bytes:  # most answers, for which NumPy's functions cost more than they save
            row = probabilities[0]
            label = int(row.argmax())
            start = _ONE(_LABELS, 1, label, _CONFIDENCES, 4, row[label])
        else:
            labels = probabilities.argmax(axis=1)
            packed = labels.astype(np.uint8).tobytes() if are_bytes else b"".join(map(_varint, labels.tolist()))
            start = _list(_LABELS, packed) + _list(_CONFIDENCES, probabilities.max(axis=1).astype("<f4").tobytes())
        parts = [start]
        if include_probabilities:
            parts.append(_list(_PROBABILITIES, probabilities.astype("<f4", copy=False).tobytes()))
            if answer.no_digit is not None:
                parts.append(_list(_NO_DIGIT, answer.no_digit.astype("<f4", copy=False).tobytes()))
        if answer.statuses is not None:
            parts.append(_list(_STATUSES, answer.statuses.astype(np.uint8).tobytes()))
        parts += (
            self._end,
            b"\x40" + _varint(int(answer.queue_s * 1e6)),  # queue_time_us
            b"\x48" + _varint(int(answer.inference_s * 1e6)),  # inference_time_us
        )
        return b"".join(parts)


def _list(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    groups.append(value)
    return bytes(groups)
