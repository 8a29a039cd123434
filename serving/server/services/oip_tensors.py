"""Tensors of the Open Inference Protocol, made into images and made from answers. Knows no transport."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidRequest, Violation

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

# What an image may be sent as: the type of its bytes on the wire, and the field of typed contents that holds it.
_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
_CONTENTS = {"UINT8": "uint_contents", "FP32": "fp32_contents"}
# How far 255 times an FP32 value may lie from a whole number: dividing by 255, or multiplying by 1/255, in single
# precision errs by less than 5e-5, while values that were no pixels are off by more nearly always.
_TOLERANCE = 1e-3

_SHOWN = 48


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor as it came.

    Attributes:
        name: Its name.
        datatype: Its type, in the protocol's words: `UINT8`, `FP32`, …
        shape: Its shape, as claimed.
        raw: Its values as little-endian bytes; None where they did not come so.
        raw_field: Where those were in the request, to be named in errors.
        contents: Its values by the names of the fields that they came in, where they came typed.
        parameters: What else was said about it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | None = None
    raw_field: str = ""
    contents: Mapping[str, Sequence[Any]]
    parameters: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class OutputTensor:
    """A tensor as it goes back.

    Attributes:
        name: Its name.
        datatype: `FP32` or `BYTES`.
        shape: Its shape.
        raw: Its values, little-endian; a string is its length in four bytes and then its own.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def shown(text: str) -> str:
    """A client's text in quotes, short enough to be said back to it, with nothing in it that a terminal obeys."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def to_images(tensor: Tensor, field: str, *, model: str, image_shape: tuple[int, int, int], limit: int) -> Uint8Array:
    """Makes the images that a tensor stands for.

    Args:
        tensor: UINT8 `[n, height, width, channels]`, or FP32 of the same shape whose values are such bytes divided by
            255: those are turned back into the very bytes, so that the answer is the one that the bytes get.
        field: Where the tensor is in its request, to be named in errors.
        model: Name of the model, for errors.
        image_shape: The model's height, width and channels.
        limit: Images that a request may have.

    Returns:
        uint8 `[n, height, width, channels]`, n from 1 to `limit`.

    Raises:
        InvalidRequest: It is of another type or shape, or its values are too few, too many, or no pixels.
    """
    violations = _wrong_parameters(tensor, field)
    if tensor.datatype not in _DTYPES:
        violations.append(
            Violation(
                field=f"{field}.datatype",
                description=f"inference input data-type is {shown(tensor.datatype)}, but model {model!r} expects "
                "'UINT8', or 'FP32' from 0 to 1",
            )
        )
    violations += _wrong_shape(tensor.shape, field, model=model, image_shape=image_shape, limit=limit)
    if violations:
        raise InvalidRequest(*violations)
    values, source = _values(tensor, field, expected=math.prod(tensor.shape))
    values = values.reshape(tensor.shape)
    return values if values.dtype == np.uint8 else _to_bytes(values, source)


def classification(values: FloatArray, labels: Sequence[str], k: int) -> tuple[tuple[int, int], bytes]:
    """The best k classes of each image as strings `value:index:label`, the best first, ties by index.

    Args:
        values: float32 `[n, classes]`.
        labels: Name of each class.
        k: At least 1; more than there are classes are as many as there are.

    Returns:
        The shape, `[n, k]`, and the strings as a BYTES tensor has them.
    """
    best = np.argsort(-values, axis=1, kind="stable")[:, :k]
    strings = [
        f"{values[row, index]:f}:{index}:{labels[index]}"
        for row, indices in enumerate(best.tolist())
        for index in indices
    ]
    return (best.shape[0], best.shape[1]), to_raw_strings(text.encode() for text in strings)


def to_raw_strings(strings: Iterable[bytes]) -> bytes:
    """Writes strings as a BYTES tensor has them: each behind its length in four bytes, little-endian."""
    return b"".join(struct.pack("<I", len(string)) + string for string in strings)


def _wrong_parameters(tensor: Tensor, field: str) -> list[Violation]:
    violations = []
    for name, value in tensor.parameters.items():
        where = f"{field}.parameters[{shown(name)}]"
        if name != "binary_data_size":
            violations.append(Violation(field=where, description="this server has no such parameter of inputs"))
        elif tensor.raw is None or isinstance(value, bool) or value != len(tensor.raw):  # KServe's client sends it
            violations.append(Violation(field=where, description="must be the number of the input's raw bytes"))
    return violations


def _wrong_shape(
    shape: tuple[int, ...], field: str, *, model: str, image_shape: tuple[int, int, int], limit: int
) -> list[Violation]:
    field = f"{field}.shape"
    if len(shape) != 4 or shape[1:] != image_shape:
        given = ",".join(map(str, shape[:8])) + (",…" if len(shape) > 8 else "")
        expected = ",".join(map(str, (-1, *image_shape)))
        return [
            Violation(
                field=field,
                description=f"unexpected shape for input 'images' for model {model!r}. Expected [{expected}], "
                f"got [{given}]",
            )
        ]
    if shape[0] < 1:
        return [Violation(field=field, description=f"{shape[0]} images, but there must be at least 1")]
    if shape[0] > limit:
        return [
            Violation(
                field=field,
                description=f"{shape[0]} images, but inference request batch-size must be <= {limit} for {model!r}",
            )
        ]
    return []


def _values(tensor: Tensor, field: str, *, expected: int) -> tuple[npt.NDArray[Any], str]:
    """A tensor's values, flat, and the field that they came in."""
    dtype, proper = _DTYPES[tensor.datatype], _CONTENTS[tensor.datatype]
    if tensor.raw is not None:
        if tensor.contents:
            raise InvalidRequest.of(
                f"{field}.contents", "contents field must not be specified when using raw_input_contents"
            )
        if len(tensor.raw) != expected * dtype.itemsize:
            raise InvalidRequest.of(
                tensor.raw_field,
                f"unexpected total byte size {len(tensor.raw)} for input {tensor.name!r}, expecting "
                f"{expected * dtype.itemsize}",
            )
        return np.frombuffer(tensor.raw, dtype), tensor.raw_field
    if not tensor.contents:
        raise InvalidRequest.of(f"{field}.contents", "no values, neither here nor in raw_input_contents")
    wrong = [name for name in tensor.contents if name != proper]
    if wrong:
        raise InvalidRequest(
            *(
                Violation(field=f"{field}.contents.{name}", description=f"{tensor.datatype} goes into {proper}")
                for name in wrong
            )
        )
    source, values = f"{field}.contents.{proper}", tensor.contents[proper]
    if len(values) != expected:
        raise InvalidRequest.of(
            source, f"unexpected number of values {len(values)} for input {tensor.name!r}, expecting {expected}"
        )
    if tensor.datatype == "FP32":
        return np.fromiter(values, dtype, count=expected), source
    numbers = np.fromiter(values, np.uint32, count=expected)
    if numbers.max() > 255:
        raise InvalidRequest.of(source, f"{numbers.max()} does not fit into UINT8")
    return numbers.astype(np.uint8), source


def _to_bytes(values: FloatArray, source: str) -> Uint8Array:
    """Turns float32 `[n, height, width, channels]` back into the bytes that it was before a division by 255."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = values * np.float32(255)
        pixels = np.rint(scaled)
        # So put that NaN and infinity are wrong too.
        wrong = ~((np.abs(scaled - pixels) <= _TOLERANCE) & (pixels >= 0) & (pixels <= 255))
    if wrong.any():
        image, row, column, channel = np.argwhere(wrong)[0].tolist()
        raise InvalidRequest.of(
            source,
            f"the value {values[image, row, column, channel]:g} of images[{image}], row {row}, column {column}, "
            f"channel {channel} is no pixel divided by 255; FP32 must lie between 0 and 1 in steps of 1/255",
        )
    found: Uint8Array = pixels.astype(np.uint8)
    return found
