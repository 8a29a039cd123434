"""Tensors of the Open Inference Protocol: input tensors to images, and answers to output tensors."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.inference import inference_pb2 as pb
from serving.errors import InvalidRequest, Violation
from serving.rollout.deployment import Deployment

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

# The accepted datatypes: the type of their bytes on the wire, and the field of typed contents that holds their values.
_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
_CONTENTS = {"UINT8": "uint_contents", "FP32": "fp32_contents"}
# How far 255 times an FP32 value may be from a whole number. Writers of JSON that round to five digits err by less than
# 1.3e-3, and division in single precision by 5e-5. Values that were not pixels are nearly always further off, and so is
# white divided by 256, by 3.9e-3.
_TOLERANCE = 2e-3

# MLServer's parameter that says how to read a tensor, and its word for taking it as it is.
CONTENT_TYPE, _AS_IT_IS = "content_type", "np"

# Where the tensor and its raw bytes are in a request, for errors.
_FIELD, RAW_FIELD = "inputs[0]", "raw_input_contents[0]"

_MAX_QUOTED = 48


def quoted(text: str) -> str:
    """Quotes text from a client for an error message: shortened, and without control characters."""
    return repr(text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…")


def parameter_values(parameters: Mapping[str, Any]) -> dict[str, object]:
    """Takes the values of parameters out of their messages; a parameter without a value is None."""
    if not parameters:
        return {}
    return {
        name: getattr(parameter, kind) if (kind := parameter.WhichOneof("parameter_choice")) else None
        for name, parameter in parameters.items()
    }


def content_type_violation(value: object, where: str) -> list[Violation]:
    """Checks the parameter `content_type` of a request, an input or an output; returns what is wrong with it."""
    if value == _AS_IT_IS:
        return []
    return [Violation(field=where, description=f"must be {_AS_IT_IS!r}: tensors are taken as they are")]


def to_images(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, deployment: Deployment) -> Uint8Array:
    """Decodes the images in the only input tensor of a request.

    Args:
        tensor: UINT8 `[n, height, width, channels]`, or FP32 of the same shape with bytes divided by 255. Those are
            turned back into the same bytes, so that the answer is the same too.
        raw: Its values as little-endian bytes; None if they are typed contents.
        deployment: The deployment that they are for.

    Returns:
        uint8 `[n, height, width, channels]`, n from 1 to the deployment's `max_request_images`.

    Raises:
        InvalidRequest: The datatype or shape is wrong, there are too few or too many values, or some are not pixels.
    """
    violations = _check_parameters(tensor, raw)
    if tensor.datatype not in _DTYPES:
        violations.append(
            Violation(
                field=f"{_FIELD}.datatype",
                description=f"inference input data-type is {quoted(tensor.datatype)}, but model {deployment.name!r} "
                "expects 'UINT8', or 'FP32' from 0 to 1",
            )
        )
    shape = tuple(tensor.shape)
    violations += _check_shape(shape, deployment)
    if violations:
        raise InvalidRequest(*violations)
    if raw is None:
        values, source = _typed_values(tensor, expected=math.prod(shape))
    else:
        values, source = _raw_values(tensor, raw, expected=math.prod(shape)), RAW_FIELD
    values = values.reshape(shape)
    return values if values.dtype == np.uint8 else _to_bytes(values, source)


def classification(values: FloatArray, labels: Sequence[str], k: int) -> tuple[tuple[int, int], bytes]:
    """Encodes the best k classes of each image as strings `value:index:label`, best first, ties by index.

    Args:
        values: float32 `[n, classes]`.
        labels: The name of each class.
        k: At least 1; if it exceeds the number of classes, all classes are returned.

    Returns:
        The shape, `[n, k]`, and the values of a BYTES tensor: each string follows its length, four bytes little-endian.
    """
    best = np.argsort(-values, axis=1, kind="stable")[:, :k]
    strings = [
        f"{values[row, index]:f}:{index}:{labels[index]}".encode()
        for row, indices in enumerate(best.tolist())
        for index in indices
    ]
    return (best.shape[0], best.shape[1]), b"".join(struct.pack("<I", len(string)) + string for string in strings)


def _check_parameters(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> list[Violation]:
    violations = []
    for name, value in parameter_values(tensor.parameters).items():
        where = f"{_FIELD}.parameters[{quoted(name)}]"
        if name == CONTENT_TYPE:
            violations += content_type_violation(value, where)
        elif name != "binary_data_size":
            violations.append(Violation(field=where, description="this server has no such parameter of inputs"))
        elif raw is None or isinstance(value, bool) or value != len(raw):  # sent by KServe's client
            violations.append(Violation(field=where, description="must be the number of the input's raw bytes"))
    return violations


def _check_shape(shape: tuple[int, ...], deployment: Deployment) -> list[Violation]:
    image_shape, limit = deployment.manifest.input.shape, deployment.max_request_images
    if len(shape) != 4 or shape[1:] != image_shape:
        given = ",".join(map(str, shape[:8])) + (",…" if len(shape) > 8 else "")
        expected = ",".join(map(str, (-1, *image_shape)))
        description = (
            f"unexpected shape for input 'images' for model {deployment.name!r}. Expected [{expected}], got [{given}]"
        )
    elif shape[0] < 1:
        description = f"{shape[0]} images, but there must be at least 1"
    elif shape[0] > limit:
        description = f"{shape[0]} images, but inference request batch-size must be <= {limit} for {deployment.name!r}"
    else:
        return []
    return [Violation(field=f"{_FIELD}.shape", description=description)]


def _raw_values(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes, *, expected: int) -> npt.NDArray[Any]:
    dtype = _DTYPES[tensor.datatype]
    if tensor.HasField("contents") and tensor.contents.ListFields():
        raise InvalidRequest.of(
            f"{_FIELD}.contents", "contents field must not be specified when using raw_input_contents"
        )
    if len(raw) != expected * dtype.itemsize:
        raise InvalidRequest.of(
            RAW_FIELD,
            f"unexpected total byte size {len(raw)} for input {tensor.name!r}, expecting {expected * dtype.itemsize}",
        )
    return np.frombuffer(raw, dtype)


def _typed_values(tensor: pb.ModelInferRequest.InferInputTensor, *, expected: int) -> tuple[npt.NDArray[Any], str]:
    """Returns the values of typed contents, flat, and the field that they are in."""
    proper, field = _CONTENTS[tensor.datatype], f"{_FIELD}.contents"
    contents = {found.name: values for found, values in tensor.contents.ListFields()}
    if not contents:
        raise InvalidRequest.of(field, "no values, neither here nor in raw_input_contents")
    wrong = [name for name in contents if name != proper]
    if wrong:
        raise InvalidRequest(
            *(Violation(field=f"{field}.{name}", description=f"{tensor.datatype} goes into {proper}") for name in wrong)
        )
    source, values = f"{field}.{proper}", contents[proper]
    if len(values) != expected:
        raise InvalidRequest.of(
            source, f"unexpected number of values {len(values)} for input {tensor.name!r}, expecting {expected}"
        )
    if tensor.datatype == "FP32":
        return np.fromiter(values, _DTYPES["FP32"], count=expected), source
    numbers = np.fromiter(values, np.uint32, count=expected)
    if numbers.max() > 255:
        raise InvalidRequest.of(source, f"{numbers.max()} does not fit into UINT8")
    return numbers.astype(np.uint8), source


def _to_bytes(values: FloatArray, source: str) -> Uint8Array:
    """Turns float32 `[n, height, width, channels]` back into the bytes that were divided by 255."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = values * np.float32(255)
        pixels = np.rint(scaled)
        # Phrased so that NaN and infinity are wrong too.
        wrong = ~((np.abs(scaled - pixels) <= _TOLERANCE) & (pixels >= 0) & (pixels <= 255))
    if wrong.any():
        image, row, column, channel = np.argwhere(wrong)[0].tolist()
        raise InvalidRequest.of(
            source,
            f"the value {values[image, row, column, channel]:g} of images[{image}], row {row}, column {column}, "
            f"channel {channel} is not a pixel divided by 255; FP32 must be between 0 and 1 in steps of 1/255",
        )
    found: Uint8Array = pixels.astype(np.uint8)
    return found
