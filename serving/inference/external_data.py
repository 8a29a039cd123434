"""Detects whether an ONNX file refers to other files, before ONNX Runtime loads it.

When ONNX Runtime loads a model from bytes, it takes external data from the working directory, and no digest covers
that data. This module walks the wire format of protocol buffers itself, because a server has no `onnx` package and the
core does not import protobuf. The field numbers come from onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

from serving.errors import ModelRejected

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14

# Where tensors can be: for each message type, the fields to follow and the message type of each.
_TENSORS_WITHIN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
}


def uses_external_data(content: bytes) -> bool:
    """Returns whether any tensor of the model is stored in another file.

    Args:
        content: A serialised `ModelProto`.

    Raises:
        ModelRejected: The bytes are not a protocol buffer.
    """
    try:
        return _has_external_tensor(memoryview(content), "Model")
    except (IndexError, ValueError, RecursionError) as error:
        raise ModelRejected("model.onnx: not an ONNX file, or truncated") from error


def _has_external_tensor(message: memoryview, kind: str) -> bool:
    for number, value in _fields(message):
        if kind == "Tensor":
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
                return True
        elif number in _TENSORS_WITHIN[kind]:
            if not isinstance(value, memoryview):
                raise ValueError("a number where a message belongs")
            if _has_external_tensor(value, _TENSORS_WITHIN[kind][number]):
                return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(message, position)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + length > len(message):
            raise ValueError("truncated")
        yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
