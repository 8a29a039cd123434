"""One inference request of the Open Inference Protocol: what it asks for, checked, and what it gets. No transport."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from serving.errors import DeadlinePassed, InvalidRequest, ModelNotFound, Violation
from serving.inference.request import InferenceResult
from serving.repository.labels import CANARY, STABLE
from serving.rollout.deployment import Deployment
from serving.rollout.deployments import Deployments
from serving.server.services.oip_tensors import OutputTensor, Tensor, classification, shown, to_images

INPUT = "images"
OUTPUTS = ("logits", "probabilities")

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
# Errors travel in headers, twice, and clients bound those to 8 KiB.
_MAX_VIOLATIONS = 5


@dataclass(frozen=True, kw_only=True)
class RequestedOutput:
    """An output that a request names.

    Attributes:
        name: Its name.
        parameters: `classification` may be among them.
    """

    name: str
    parameters: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """A request as it came.

    Attributes:
        model_name: Name of the model.
        model_version: Its version, or the label of one; empty for the current one.
        parameters: `timeout`, in microseconds, and `priority` may be among them.
        inputs: The tensors.
        outputs: What to send back; all outputs where none is named.
    """

    model_name: str
    model_version: str
    parameters: Mapping[str, object]
    inputs: Sequence[Tensor]
    outputs: Sequence[RequestedOutput]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What a request gets.

    Attributes:
        deployment: What answered.
        outputs: The tensors.
    """

    deployment: Deployment
    outputs: Sequence[OutputTensor]


def find(deployments: Deployments, name: str, version: str, *, trial: bool = False) -> Deployment:
    """Finds what a client names.

    Args:
        deployments: Where to look.
        name: Name of the model; unlike elsewhere it must be given.
        version: Its version, a number, or the label of one; empty for the one that is stable.
        trial: Whether empty may stand for the canary too, in its share of the calls.

    Raises:
        InvalidRequest: The version is no number above 0, and no label.
        ModelNotFound: No such model or version is served here.
        NotReady: It is still being loaded.
    """
    label = version if version in (STABLE, CANARY) else ""
    if version and not label and not _VERSION.fullmatch(version):
        raise InvalidRequest.of(
            "model_version",
            f"failed to get model version from specified version string {shown(version)}: must be a number above 0",
        )
    try:
        if not name:
            raise ModelNotFound
        look = deployments.find if trial else deployments.described
        return look(name, 0 if label else int(version or 0), label)
    except ModelNotFound as error:
        which = f" version {version}" if version else ""
        raise ModelNotFound(f"Request for unknown model: {shown(name)}{which} is not found") from error


async def infer(request: InferenceRequest, deployments: Deployments, *, deadline: float | None = None) -> Inference:
    """Answers a request.

    Args:
        request: What is asked.
        deployments: Where models are found.
        deadline: When the caller stops waiting, in seconds of `time.monotonic`.

    Raises:
        InvalidRequest: Names everything that is wrong with it.
        ModelNotFound: No such model or version is served here.
        DigitsError: What `Deployment.classify` raises besides.
    """
    started = time.perf_counter()
    deployment = find(deployments, request.model_name, request.model_version, trial=True)
    violations: list[Violation] = []
    timeout_s = _read_parameters(request.parameters, violations)
    wanted = _read_outputs(request.outputs, deployment.name, violations)
    images = None
    _check_inputs(request.inputs, deployment.name, violations)
    if len(request.inputs) == 1:
        try:
            images = to_images(
                request.inputs[0],
                "inputs[0]",
                model=deployment.name,
                image_shape=deployment.manifest.input.shape,
                limit=deployment.max_request_images,
            )
        except InvalidRequest as error:
            violations += error.violations
    if violations or images is None:
        raise InvalidRequest(*_first(violations))
    decoded_s = time.perf_counter() - started
    if timeout_s:
        answer = await _classify_within(timeout_s, deployment, images, deadline)
    else:
        answer = await deployment.classify(images, deadline=deadline)
    started = time.perf_counter()
    outputs = [_output(name, k, answer, deployment) for name, k in wanted]
    deployment.statistics.converted(decoded_s, time.perf_counter() - started)
    return Inference(deployment=deployment, outputs=outputs)


async def _classify_within(
    timeout_s: float, deployment: Deployment, images: npt.NDArray[np.uint8], deadline: float | None
) -> InferenceResult:
    """Classifies, or gives up: the batcher itself would tell only once the engine is free again."""
    until = time.monotonic() + timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            return await deployment.classify(images, deadline=until if deadline is None else min(deadline, until))
    except TimeoutError as error:
        raise DeadlinePassed("the request's timeout passed before it was answered") from error


def _read_parameters(parameters: Mapping[str, object], violations: list[Violation]) -> float:
    """Reads a request's parameters; returns how long it may take, in seconds, 0 for no limit of its own."""
    timeout_us = 0
    for name, value in parameters.items():
        field = f"parameters[{shown(name)}]"
        if name == "timeout":
            if _is_count(value):
                timeout_us = value
            else:
                violations.append(Violation(field=field, description="must be a number of microseconds, 0 or more"))
        elif name == "priority":
            if not _is_count(value) or value:
                violations.append(Violation(field=field, description="must be 0: there are no levels of priority"))
        elif name == "triton_enable_empty_final_response":
            # Every answer is its request's final one, and none is empty: nothing is left to do, whichever is asked.
            if not isinstance(value, bool):
                violations.append(Violation(field=field, description="must be true or false"))
        elif name in ("sequence_id", "sequence_start", "sequence_end"):
            violations.append(Violation(field=field, description="the model keeps no state: it takes no sequences"))
        else:
            violations.append(Violation(field=field, description="this server has no such parameter of requests"))
    return timeout_us / 1e6


def _read_outputs(outputs: Sequence[RequestedOutput], model: str, violations: list[Violation]) -> list[tuple[str, int]]:
    """Reads what is asked for: names of outputs, each with the number of classes, 0 for the values themselves."""
    if not outputs:
        return [(name, 0) for name in OUTPUTS]
    wanted: dict[str, int] = {}
    for index, output in enumerate(outputs):
        field, k = f"outputs[{index}]", 0
        if output.name not in OUTPUTS:
            description = f"unexpected inference output {shown(output.name)} for model {model!r}"
            violations.append(Violation(field=f"{field}.name", description=description))
        elif output.name in wanted:
            violations.append(Violation(field=f"{field}.name", description=f"{output.name!r} is asked for twice"))
        for name, value in output.parameters.items():
            where = f"{field}.parameters[{shown(name)}]"
            if name != "classification":
                violations.append(Violation(field=where, description="this server has no such parameter of outputs"))
            elif _is_count(value):
                k = value
            else:
                violations.append(Violation(field=where, description="must be a number of classes, 0 or more"))
        wanted[output.name] = k
    return list(wanted.items())


def _check_inputs(inputs: Sequence[Tensor], model: str, violations: list[Violation]) -> None:
    """Names inputs that are missing, unknown or there twice."""
    if not inputs:
        violations.append(
            Violation(field="inputs", description=f"expected 1 inputs but got 0 inputs for model {model!r}")
        )
    seen = False
    for index, tensor in enumerate(inputs):
        if tensor.name != INPUT:
            description = f"unexpected inference input {shown(tensor.name)} for model {model!r}"
            violations.append(Violation(field=f"inputs[{index}].name", description=description))
        elif seen:
            violations.append(Violation(field=f"inputs[{index}].name", description=f"{INPUT!r} is there twice"))
        seen = seen or tensor.name == INPUT


def _output(name: str, k: int, answer: InferenceResult, deployment: Deployment) -> OutputTensor:
    values = answer.probabilities if name == "probabilities" else answer.logits
    if k:
        shape, raw = classification(values, deployment.manifest.labels, k)
        return OutputTensor(name=name, datatype="BYTES", shape=shape, raw=raw)
    raw = values.astype(np.dtype("<f4"), copy=False).tobytes()
    return OutputTensor(name=name, datatype="FP32", shape=values.shape, raw=raw)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _first(violations: list[Violation]) -> list[Violation]:
    left = len(violations) - _MAX_VIOLATIONS
    if left <= 0:
        return violations
    return [*violations[:_MAX_VIOLATIONS], Violation(field="request", description=f"and {left} more")]
