"""Requests and answers of the Open Inference Protocol over HTTP: JSON, and tensors as bytes behind it, to messages.

https://github.com/kserve/open-inference-protocol and Triton's extension for binary tensor data.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protos.inference import inference_pb2 as pb
from serving.errors import InvalidRequest
from serving.server.http import json_arrays
from serving.server.http.json_arrays import Numbers
from serving.server.services.oip_tensors import shown

# Values that are written at once: a millisecond's work, about.
_PIECE = 2048
_RAW_FIELD = re.compile(r"raw_input_contents\[(\d+)\]")


@dataclass(frozen=True, kw_only=True)
class HttpInference:
    """A request.

    Attributes:
        message: What the service gets.
        binary_output: Whether outputs go back as bytes, where nothing else is said of them.
        binary_outputs: What is said of them, by name.
    """

    message: pb.ModelInferRequest
    binary_output: bool
    binary_outputs: Mapping[str, bool]


def decode(body: bytes, json_length: str | None, *, name: str, version: str) -> HttpInference:
    """Reads a request.

    Args:
        body: JSON, then the bytes of the tensors that are not in it.
        json_length: Length of the JSON as a header says it; None where there is nothing else.
        name: Name of the model.
        version: Its version; empty for the current one.

    Raises:
        InvalidRequest: It is no such request. What a message can hold is not looked at here, but by the service.
    """
    text, binary = _split(body, json_length)
    document = _members(json_arrays.parse(text), "request", {"id", "parameters", "inputs", "outputs"})
    message = pb.ModelInferRequest(model_name=name, model_version=version, id=_text(document.get("id", ""), "id"))
    parameters = dict(_object(document.get("parameters"), "parameters"))
    binary_output = _flag(parameters.pop("binary_data_output", False), "parameters['binary_data_output']")
    set_parameters(message.parameters, parameters, "parameters")
    left = 0
    for index, given in enumerate(_list(document.get("inputs"), "inputs")):
        left = _add_input(message, given, f"inputs[{index}]", binary, left)
    if left != len(binary):
        raise InvalidRequest.of("request", f"{len(binary) - left} bytes behind the JSON belong to no input")
    binary_outputs = {}
    for index, given in enumerate(_list(document.get("outputs"), "outputs")):
        field = f"outputs[{index}]"
        output = _members(given, field, {"name", "parameters"})
        parameters = dict(_object(output.get("parameters"), f"{field}.parameters"))
        added = message.outputs.add(name=_text(output.get("name"), f"{field}.name"))
        if "binary_data" in parameters:
            binary_outputs[added.name] = _flag(parameters.pop("binary_data"), f"{field}.parameters['binary_data']")
        set_parameters(added.parameters, parameters, f"{field}.parameters")
    return HttpInference(message=message, binary_output=binary_output, binary_outputs=binary_outputs)


def encode(response: pb.ModelInferResponse, request: HttpInference) -> tuple[bytes, int | None]:
    """Writes an answer; returns it and the length of its JSON, None where there is nothing else."""
    outputs, binary = [], []
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        told: dict[str, object] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if request.binary_outputs.get(output.name, request.binary_output):
            outputs.append(json.dumps({**told, "parameters": {"binary_data_size": len(raw)}}))
            binary.append(raw)
        else:
            outputs.append(f'{json.dumps(told)[:-1]}, "data": [{",".join(_written(output.datatype, raw))}]}}')
    told = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        told["id"] = response.id
    text = f'{json.dumps(told)[:-1]}, "outputs": [{", ".join(outputs)}]}}'.encode()
    return b"".join((text, *binary)), len(text) if binary else None


def in_words_of_http(error: InvalidRequest) -> InvalidRequest:
    """The same, where the service names a field that is called otherwise here."""
    return InvalidRequest(
        *(replace(found, field=_RAW_FIELD.sub(r"inputs[\1].data", found.field)) for found in error.violations)
    )


def set_parameters(target: Any, given: Mapping[str, object], field: str) -> None:
    """Puts parameters into a message's map of them.

    Raises:
        InvalidRequest: One is neither text nor number nor true or false, or larger than a message can hold.
    """
    for name, value in given.items():
        where = f"{field}[{shown(name)}]"
        parameter = target[_text(name, where)]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            parameter.int64_param = value
        elif isinstance(value, float) and hasattr(parameter, "double_param"):
            parameter.double_param = value
        elif isinstance(value, str):
            parameter.string_param = _text(value, where)
        else:
            raise InvalidRequest.of(where, "must be text, true or false, or a number of at most 64 bits")


def parameters_of(body: bytes) -> dict[str, object]:
    """The parameters of a request that has nothing else; an empty body has none.

    Raises:
        InvalidRequest: It is no such request.
    """
    document = _members(json_arrays.parse(body), "request", {"parameters"}) if body else {}
    return dict(_object(document.get("parameters"), "parameters"))


def only_ready(body: bytes) -> bool:
    """Whether a request for the repository's index, which may be empty, is for what is ready alone.

    Raises:
        InvalidRequest: It is no such request.
    """
    document = _members(json_arrays.parse(body), "request", {"ready"}) if body else {}
    return _flag(document.get("ready", False), "ready")


def _split(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    if json_length is None:
        return body, b""
    if not re.fullmatch(r"[0-9]{1,18}", json_length) or not 0 < int(json_length) <= len(body):
        raise InvalidRequest.of(
            "Inference-Header-Content-Length",
            f"must be the length of the JSON, from 1 to the body's {len(body)} bytes, not {shown(json_length)}",
        )
    return body[: int(json_length)], body[int(json_length) :]


def _add_input(message: pb.ModelInferRequest, given: object, field: str, binary: bytes, start: int) -> int:
    """Takes an input and its bytes; returns where those of the next begin."""
    tensor = _members(given, field, {"name", "datatype", "shape", "parameters", "data"})
    parameters = dict(_object(tensor.get("parameters"), f"{field}.parameters"))
    shape = _shape(tensor.get("shape"), f"{field}.shape")
    datatype = _text(tensor.get("datatype"), f"{field}.datatype")
    size, data, raw = parameters.pop("binary_data_size", None), tensor.get("data"), b""
    if size is not None:
        where = f"{field}.parameters['binary_data_size']"
        if data is not None:
            raise InvalidRequest.of(where, "the values are in 'data' already")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary) - start:
            left = len(binary) - start
            raise InvalidRequest.of(where, f"must be a number of bytes, and {left} are left behind the JSON")
        raw = binary[start : start + size]
        start += size
    elif isinstance(data, Numbers):
        if datatype in ("UINT8", "FP32"):  # of others the service says that they are none of the model's
            raw = data.to_raw(datatype, shape, f"{field}.data")
    elif data is not None or not parameters:  # with others, such as shared memory, they are what is wrong
        raise InvalidRequest.of(f"{field}.data", "must be an array of numbers, or bytes behind the JSON")
    added = message.inputs.add(name=_text(tensor.get("name"), f"{field}.name"), datatype=datatype, shape=shape)
    set_parameters(added.parameters, parameters, f"{field}.parameters")
    message.raw_input_contents.append(raw)
    return start


def _shape(value: object, field: str) -> list[int]:
    shape = _list(value, field)
    if any(not isinstance(size, int) or isinstance(size, bool) or abs(size) >= 2**63 for size in shape):
        raise InvalidRequest.of(field, "must be whole numbers of at most 64 bits")
    return [*shape]


def _members(value: object, field: str, known: set[str]) -> dict[str, Any]:
    members = _object(value, field)
    if value is None:
        raise InvalidRequest.of(field, "must be an object")
    for name in members.keys() - known:
        raise InvalidRequest.of(field, f"this server knows no {shown(name)} there")
    return members


def _object(value: object, field: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest.of(field, "must be an object")
    return value


def _list(value: object, field: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest.of(field, "must be an array")
    return value


def _flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest.of(field, "must be true or false")
    return value


def _text(value: object, field: str) -> str:
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:  # half of a surrogate pair
        pass
    raise InvalidRequest.of(field, "must be text")


def _written(datatype: str, raw: bytes) -> Iterator[str]:
    """A tensor's values as JSON, some at a time."""
    if datatype == "BYTES":
        position = 0
        while position < len(raw):
            (length,) = struct.unpack_from("<I", raw, position)
            position += 4 + length
            yield json.dumps(raw[position - length : position].decode())
        return
    values = np.frombuffer(raw, "<f4")
    if not np.isfinite(values).all():
        raise ValueError("an output holds a value that JSON has not")
    for start in range(0, len(values), _PIECE):
        yield ",".join(map(repr, values[start : start + _PIECE].tolist()))
