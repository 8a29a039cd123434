"""Where an Open Inference Protocol request is decoded and its response encoded, whether it came over gRPC or HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from protos.inference import inference_pb2 as pb
from serving.errors import InvalidRequest, Violation
from serving.inference.request import InferenceResult
from serving.rollout.deployment import Deployment
from serving.server.services.oip_tensors import (
    CONTENT_TYPE,
    classification,
    content_type_violation,
    parameter_values,
    quoted,
    to_images,
)

INPUT = "images"
# What a response holds if the request names no outputs.
OUTPUTS = ("logits", "probabilities")
NO_DIGIT = "no_digit"

# Errors travel in headers, twice, and clients limit those to 8 KiB.
_MAX_VIOLATIONS = 5


@dataclass(frozen=True, kw_only=True)
class DecodedRequest:
    """A valid inference request.

    Attributes:
        images: uint8 `[n, height, width, channels]`.
        outputs: The requested outputs in order: each name with its number of classes, 0 for the values themselves.
        timeout_s: The request's own timeout in seconds, 0 for none.
    """

    images: npt.NDArray[np.uint8]
    outputs: Sequence[tuple[str, int]]
    timeout_s: float


def decode_request(request: pb.ModelInferRequest, deployment: Deployment) -> DecodedRequest:
    """Decodes a request for a deployment.

    Raises:
        InvalidRequest: Names everything that is wrong with it.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest.of(
            "raw_input_contents", f"{len(raw)} contents for {len(request.inputs)} inputs: there must be one for each"
        )
    violations: list[Violation] = []
    timeout_s = _timeout_s(parameter_values(request.parameters), violations)
    outputs = _requested_outputs(request.outputs, deployment, violations)
    images = None
    _check_names(request.inputs, deployment.name, violations)
    if len(request.inputs) == 1:
        try:
            images = to_images(request.inputs[0], raw[0] if raw else None, deployment)
        except InvalidRequest as error:
            violations += error.violations
    if violations or images is None:
        raise InvalidRequest(*_shortened(violations))
    return DecodedRequest(images=images, outputs=outputs, timeout_s=timeout_s)


def encode_response(
    answer: InferenceResult, outputs: Sequence[tuple[str, int]], deployment: Deployment, *, request_id: str
) -> pb.ModelInferResponse:
    """Encodes the requested outputs of an answer.

    Args:
        answer: The answer.
        outputs: As in `DecodedRequest`.
        deployment: The deployment that answered.
        request_id: The `id` of the request.
    """
    response = pb.ModelInferResponse(model_name=deployment.name, model_version=str(deployment.version), id=request_id)
    for name, k in outputs:
        values = _values(answer, name)
        if k:
            shape, raw = classification(values, deployment.manifest.labels, k)
            response.outputs.add(name=name, datatype="BYTES", shape=shape)
        else:
            raw = values.astype(np.dtype("<f4"), copy=False).tobytes()
            response.outputs.add(name=name, datatype="FP32", shape=values.shape)
        response.raw_output_contents.append(raw)
    return response


def output_columns(deployment: Deployment) -> dict[str, int]:
    """Returns the outputs that a deployment has, each with its number of columns."""
    columns = dict.fromkeys(OUTPUTS, len(deployment.manifest.labels))
    return {**columns, NO_DIGIT: 1} if deployment.manifest.no_digit else columns


def _values(answer: InferenceResult, name: str) -> npt.NDArray[np.float32]:
    """Returns an output, float32 `[n, columns]`."""
    if name == NO_DIGIT and answer.no_digit is not None:
        return answer.no_digit[:, np.newaxis]
    return answer.probabilities if name == "probabilities" else answer.logits


def _timeout_s(parameters: Mapping[str, object], violations: list[Violation]) -> float:
    """Checks a request's parameters and returns its timeout in seconds, 0 for none."""
    timeout_us = 0
    for name, value in parameters.items():
        field = f"parameters[{quoted(name)}]"
        if name == "timeout":
            if _is_count(value):
                timeout_us = value
            else:
                violations.append(Violation(field=field, description="must be a number of microseconds, 0 or more"))
        elif name == "priority":
            if not _is_count(value) or value:
                violations.append(Violation(field=field, description="must be 0: there are no priority levels"))
        elif name == "triton_enable_empty_final_response":
            # Either value is fine: each response is the final one of its request, and none is empty.
            if not isinstance(value, bool):
                violations.append(Violation(field=field, description="must be true or false"))
        elif name == CONTENT_TYPE:
            violations += content_type_violation(value, field)
        elif name in ("sequence_id", "sequence_start", "sequence_end"):
            violations.append(Violation(field=field, description="the model is stateless: it takes no sequences"))
        else:
            violations.append(Violation(field=field, description="this server has no such parameter of requests"))
    return timeout_us / 1e6


def _requested_outputs(
    outputs: Sequence[Any], deployment: Deployment, violations: list[Violation]
) -> list[tuple[str, int]]:
    """Returns the requested outputs, as in `DecodedRequest`."""
    if not outputs:
        return [(name, 0) for name in OUTPUTS]
    wanted: dict[str, int] = {}
    known = output_columns(deployment)
    for index, output in enumerate(outputs):
        field, k = f"outputs[{index}]", 0
        if output.name not in known:
            description = f"unexpected inference output {quoted(output.name)} for model {deployment.name!r}"
            violations.append(Violation(field=f"{field}.name", description=description))
        elif output.name in wanted:
            violations.append(Violation(field=f"{field}.name", description=f"{output.name!r} is requested twice"))
        for name, value in parameter_values(output.parameters).items():
            where = f"{field}.parameters[{quoted(name)}]"
            if name == CONTENT_TYPE:
                violations += content_type_violation(value, where)
            elif name != "classification":
                violations.append(Violation(field=where, description="this server has no such parameter of outputs"))
            elif not _is_count(value):
                violations.append(Violation(field=where, description="must be a number of classes, 0 or more"))
            elif value and output.name == NO_DIGIT:
                violations.append(Violation(field=where, description=f"{NO_DIGIT!r} has no classes"))
            else:
                k = value
        wanted[output.name] = k
    return list(wanted.items())


def _check_names(inputs: Sequence[Any], model: str, violations: list[Violation]) -> None:
    """Reports inputs that are missing, unknown or repeated."""
    if not inputs:
        violations.append(
            Violation(field="inputs", description=f"expected 1 inputs but got 0 inputs for model {model!r}")
        )
    seen = False
    for index, tensor in enumerate(inputs):
        if tensor.name != INPUT:
            description = f"unexpected inference input {quoted(tensor.name)} for model {model!r}"
            violations.append(Violation(field=f"inputs[{index}].name", description=description))
        elif seen:
            violations.append(Violation(field=f"inputs[{index}].name", description=f"{INPUT!r} is given twice"))
        seen = seen or tensor.name == INPUT


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shortened(violations: list[Violation]) -> list[Violation]:
    left = len(violations) - _MAX_VIOLATIONS
    if left <= 0:
        return violations
    return [*violations[:_MAX_VIOLATIONS], Violation(field="request", description=f"and {left} more")]
