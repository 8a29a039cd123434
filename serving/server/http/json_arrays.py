"""JSON with long arrays of numbers under `data`, parsed in pieces.

Ours instead of `json.loads` because that one holds the interpreter for 40 ms to parse the largest batch, in any thread.
The arrays are cut out, the small rest is parsed at once, and each array in pieces, directly to the bytes of a tensor.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from serving.errors import InvalidRequest
from serving.server.services.oip_tensors import quoted

# About a millisecond's work. Then other threads get the interpreter; without the pause it would be every 5 ms.
_PIECE_BYTES = 64 << 10
_PAUSE_S = 1e-4
# The rest is parsed at once, in a few milliseconds.
_MAX_REST_BYTES = 256 << 10
_MAX_ARRAYS = 64
_MAX_DIMENSIONS = 16

_SPACE = rb"[ \t\r\n]*"
_OPENING = re.compile(rb'"data"' + _SPACE + b":" + _SPACE + rb"(?=\[)")
_BRACKETS_TO_SPACES = bytes.maketrans(b"[]", b"  ")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
_NUMBERS_TO_ZEROS = bytes.maketrans(_NOT_STRUCTURE, b"0" * len(_NOT_STRUCTURE))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


class Numbers:
    """An array of numbers that is not parsed yet.

    Args:
        text: The array, from its first bracket to its last. It contains no string and no object.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text

    def to_raw(self, datatype: str, shape: Sequence[int], field: str, *, max_values: int) -> bytes:
        """Parses the array.

        Args:
            datatype: `UINT8` or `FP32`.
            shape: The tensor's shape. A nested array must have it; a flat one may have any length.
            field: Where the array is in its request, for errors.
            max_values: A longer array is refused before it is parsed.

        Returns:
            The values in row-major order, little-endian.

        Raises:
            InvalidRequest: The array is too long, not JSON, has another nesting, or has values of another datatype.
        """
        if self._text.count(b",") >= max_values:
            raise InvalidRequest.of(field, f"more than {max_values:,} numbers, the most in a request for this model")
        nested = self._text.count(b"[") > 1
        if self._text.count(b"]") != self._text.count(b"[") or (nested and not self._is_nested_like(shape)):
            raise InvalidRequest.of(field, "must be flat, or nested like the shape")
        if self._text == b"[]":
            return b""
        return b"".join(_raw(piece, datatype, field) for piece in _pieces(self._text))

    def _is_nested_like(self, shape: Sequence[int]) -> bool:
        for piece in _pieces(self._text):
            seen = piece.translate(_NUMBERS_TO_ZEROS, b" \t\r\n")
            if b"0[" in seen or b"]0" in seen:  # a number next to the wrong side of a bracket
                return False
        return b",".join(piece.translate(None, _NOT_STRUCTURE) for piece in _pieces(self._text)) == _structure(
            shape, len(self._text)
        )


def parse(text: bytes) -> Any:
    """Parses a JSON document.

    Args:
        text: The document, in UTF-8.

    Returns:
        What `json.loads` returns, but with `Numbers` for arrays under `data`.

    Raises:
        InvalidRequest: It is not JSON, an array under `data` contains something other than numbers, or the rest is too
            long for a request.
    """
    rest, arrays = _cut(text)
    waiting = iter(arrays)
    constants = 0

    def put_back(name: str) -> Numbers | None:
        nonlocal constants
        constants += 1
        return next(waiting, None)

    try:
        document = json.loads(rest.decode(), parse_constant=put_back)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.of("request", "not JSON in UTF-8, or nested too deeply") from error
    if constants != len(arrays):
        raise InvalidRequest.of("request", "NaN and Infinity are not JSON")
    return document


def _cut(text: bytes) -> tuple[bytes, list[Numbers]]:
    """Replaces the arrays under `data` by NaN, which is not JSON.

    A quotation mark in a string has a backslash before it, so `"data"` is never part of a longer string. An array of
    numbers ends before the next quotation mark or brace.
    """
    kept: list[bytes] = []
    arrays: list[Numbers] = []
    position = kept_bytes = 0
    while (found := text.find(b'"data"', position)) >= 0:
        opening = _OPENING.match(text, found)
        start = opening.end() if opening else found + len(b'"data"')
        kept.append(text[position:start])
        kept_bytes += start - position
        position = start
        if kept_bytes > _MAX_REST_BYTES or len(arrays) == _MAX_ARRAYS:
            break
        if opening:
            end = len(text)
            for mark in (b'"', b"{", b"}"):
                found = text.find(mark, start, end)
                end = found if found >= 0 else end
            array = text[start:end].rstrip(b" \t\r\n,")
            if not array.endswith(b"]"):
                raise InvalidRequest.of("request", "an array under 'data' must contain only numbers, and end")
            kept.append(b"NaN")
            arrays.append(Numbers(array))
            position = start + len(array)
    kept.append(text[position:])
    rest = b"".join(kept)
    if len(rest) > _MAX_REST_BYTES:
        raise InvalidRequest.of(
            "request", f"more than {_MAX_REST_BYTES} bytes of JSON without the numbers of its inputs"
        )
    return rest, arrays


def _pieces(text: bytes) -> Iterator[bytes]:
    """Splits at commas, which are left out. Sleeps between pieces, so long arrays must not be on the event loop."""
    start = 0
    while (cut := text.find(b",", start + _PIECE_BYTES)) >= 0:
        yield text[start:cut]
        time.sleep(_PAUSE_S)
        start = cut + 1
    yield text[start:]


def _raw(piece: bytes, datatype: str, field: str) -> bytes:
    text = piece.translate(_BRACKETS_TO_SPACES)
    try:
        values = _DECODER.decode(f"[{text.decode()}]")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.of(field, "must be numbers separated by commas") from error
    if len(values) != piece.count(b",") + 1:  # a missing number at the end of a piece
        raise InvalidRequest.of(field, "must be numbers separated by commas")
    types = set(map(type, values))
    if datatype == "UINT8":
        if types != {int}:
            raise InvalidRequest.of(field, "UINT8 takes only whole numbers")
        try:
            return bytes(values)
        except (ValueError, OverflowError) as error:
            wrong = next(value for value in values if not 0 <= value <= 255)
            raise InvalidRequest.of(field, f"{quoted(str(wrong))} does not fit into UINT8") from error
    if not types <= {int, float}:
        raise InvalidRequest.of(field, "FP32 takes only numbers")
    try:
        with np.errstate(over="ignore"):
            return np.array(values, "<f4").tobytes()
    except OverflowError as error:
        raise InvalidRequest.of(field, "a number is too large for FP32") from error


def _structure(shape: Sequence[int], longest: int) -> bytes | None:
    """Returns the brackets and commas of an array of a shape; None if they would be longer than `longest` bytes."""
    if not 1 <= len(shape) <= _MAX_DIMENSIONS or min(shape) < 1:
        return None
    length = 0
    for size in reversed(shape):
        length = size * (length + 1) + 1
        if length > longest:
            return None
    made = b""
    for size in reversed(shape):
        made = b"[" + b",".join([made] * size) + b"]"
    return made
