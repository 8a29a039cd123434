"""Where an HTTP request is decoded to the message that gRPC carries, and the response message encoded.

JSON, with tensors in it or as bytes after it: https://github.com/kserve/open-inference-protocol, and Triton's extension
for binary tensor data.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protos.inference import inference_pb2 as pb
from serving.errors import InvalidRequest
from serving.server.http import json_arrays
from serving.server.http.json_arrays import Numbers
from serving.server.http.json_values import flag_of, list_of, members_of, parameters_of, text_of
from serving.server.services.oip_tensors import RAW_FIELD, quoted

# Triton's header with the length of the JSON, in requests and responses that have bytes after it.
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"

# How many values are written at once: about a millisecond's work.
_PIECE = 2048


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    """An inference request.

    Attributes:
        message: The message for the service.
        binary_output: Whether outputs are sent as bytes by default.
        binary_outputs: Whether the outputs of these names are.
    """

    message: pb.ModelInferRequest
    binary_output: bool
    binary_outputs: Mapping[str, bool]


def decode_request(body: bytes, json_length: str | None, *, name: str, version: str, max_values: int) -> HttpRequest:
    """Decodes an inference request.

    Args:
        body: JSON, then the bytes of the tensors that are not in it.
        json_length: The header with the length of the JSON; None if the body is only JSON.
        name: Name of the model.
        version: Its version; empty for the current one.
        max_values: How many numbers an array may have.

    Raises:
        InvalidRequest: The body can't be decoded. The service checks what is in the message.
    """
    text, binary = _split(body, json_length)
    document = members_of(json_arrays.parse(text), "request", {"id", "parameters", "inputs", "outputs"})
    message = pb.ModelInferRequest(model_name=name, model_version=version)
    if document.get("id") is not None:
        message.id = text_of(document["id"], "id")
    parameters = parameters_of(document.get("parameters"), "parameters")
    binary_output = flag_of(parameters.pop("binary_data_output", False), "parameters['binary_data_output']")
    _set_parameters(message.parameters, parameters, "parameters")
    taken = 0
    for index, given in enumerate(list_of(document.get("inputs"), "inputs")):
        taken = _add_input(message, given, f"inputs[{index}]", binary, taken, max_values)
    if taken != len(binary):
        raise InvalidRequest.of("request", f"{len(binary) - taken} bytes after the JSON belong to no input")
    binary_outputs = {}
    for index, given in enumerate(list_of(document.get("outputs"), "outputs")):
        field = f"outputs[{index}]"
        output = members_of(given, field, {"name", "parameters"})
        parameters = parameters_of(output.get("parameters"), f"{field}.parameters")
        added = message.outputs.add(name=text_of(output.get("name"), f"{field}.name"))
        if "binary_data" in parameters:
            binary_outputs[added.name] = flag_of(parameters.pop("binary_data"), f"{field}.parameters['binary_data']")
        _set_parameters(added.parameters, parameters, f"{field}.parameters")
    return HttpRequest(message=message, binary_output=binary_output, binary_outputs=binary_outputs)


def encode_response(response: pb.ModelInferResponse, request: HttpRequest) -> tuple[bytes, int | None]:
    """Encodes a response; returns the body and the length of its JSON, None if the body is only JSON."""
    outputs, binary = [], []
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        members: dict[str, object] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if request.binary_outputs.get(output.name, request.binary_output):
            outputs.append(json.dumps({**members, "parameters": {"binary_data_size": len(raw)}}))
            binary.append(raw)
        else:
            outputs.append(f'{json.dumps(members)[:-1]}, "data": [{",".join(_values(output.datatype, raw))}]}}')
    members = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        members["id"] = response.id
    text = f'{json.dumps(members)[:-1]}, "outputs": [{", ".join(outputs)}]}}'.encode()
    return b"".join((text, *binary)), len(text) if binary else None


def with_json_fields(error: InvalidRequest) -> InvalidRequest:
    """Replaces the one field name in the service's errors that JSON requests do not have."""
    return InvalidRequest(
        *(replace(each, field="inputs[0].data") if each.field == RAW_FIELD else each for each in error.violations)
    )


def decode_parameters(body: bytes, target: Any) -> None:
    """Decodes a request that has only parameters, or an empty body, into a message's parameters.

    Raises:
        InvalidRequest: The body can't be decoded.
    """
    document = members_of(json_arrays.parse(body), "request", {"parameters"}) if body else {}
    _set_parameters(target, parameters_of(document.get("parameters"), "parameters"), "parameters")


def only_ready(body: bytes) -> bool:
    """Decodes a request for the repository's index, which may have an empty body: whether it wants only ready models.

    Raises:
        InvalidRequest: The body can't be decoded.
    """
    document = members_of(json_arrays.parse(body), "request", {"ready"}) if body else {}
    return flag_of(document.get("ready", False), "ready")


def _set_parameters(target: Any, given: Mapping[str, object], field: str) -> None:
    """Copies parameters from JSON into a message.

    Raises:
        InvalidRequest: A value is not text, true, false, or a number that a message can hold.
    """
    for name, value in given.items():
        where = f"{field}[{quoted(name)}]"
        parameter = target[text_of(name, where)]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            parameter.int64_param = value
        elif isinstance(value, float) and hasattr(parameter, "double_param"):
            parameter.double_param = value
        elif isinstance(value, str):
            parameter.string_param = text_of(value, where)
        else:
            raise InvalidRequest.of(where, "must be text, true or false, or a number of at most 64 bits")


def _split(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    if json_length is None:
        return body, b""
    if not re.fullmatch(r"[0-9]{1,18}", json_length) or not 0 < int(json_length) <= len(body):
        raise InvalidRequest.of(
            JSON_LENGTH_HEADER,
            f"must be the length of the JSON, from 1 to the body's {len(body)} bytes, not {quoted(json_length)}",
        )
    return body[: int(json_length)], body[int(json_length) :]


def _add_input(
    message: pb.ModelInferRequest, given: object, field: str, binary: bytes, start: int, max_values: int
) -> int:
    """Adds an input and its bytes to the message; returns where the bytes of the next input start."""
    tensor = members_of(given, field, {"name", "datatype", "shape", "parameters", "data"})
    parameters = parameters_of(tensor.get("parameters"), f"{field}.parameters")
    shape = _shape(tensor.get("shape"), f"{field}.shape")
    datatype = text_of(tensor.get("datatype"), f"{field}.datatype")
    size, data, raw = parameters.pop("binary_data_size", None), tensor.get("data"), b""
    if size is not None:
        where = f"{field}.parameters['binary_data_size']"
        if data is not None:
            raise InvalidRequest.of(where, "the values are already in 'data'")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary) - start:
            left = len(binary) - start
            raise InvalidRequest.of(where, f"must be a number of bytes, and {left} are left after the JSON")
        raw = binary[start : start + size]
        start += size
    elif isinstance(data, Numbers):
        if datatype in ("UINT8", "FP32"):  # the service refuses other datatypes
            raw = data.to_raw(datatype, shape, f"{field}.data", max_values=max_values)
    elif data is not None or not parameters:  # else the service refuses the parameters, such as shared memory
        raise InvalidRequest.of(f"{field}.data", "must be an array of numbers, or bytes after the JSON")
    added = message.inputs.add(name=text_of(tensor.get("name"), f"{field}.name"), datatype=datatype, shape=shape)
    _set_parameters(added.parameters, parameters, f"{field}.parameters")
    message.raw_input_contents.append(raw)
    return start


def _shape(value: object, field: str) -> list[int]:
    shape = list_of(value, field)
    if any(not isinstance(size, int) or isinstance(size, bool) or abs(size) >= 2**63 for size in shape):
        raise InvalidRequest.of(field, "must be whole numbers of at most 64 bits")
    return [*shape]


def _values(datatype: str, raw: bytes) -> Iterator[str]:
    """Writes the values of a tensor as JSON, in pieces, so that other threads get their turn."""
    if datatype == "BYTES":
        position = 0
        while position < len(raw):
            (length,) = struct.unpack_from("<I", raw, position)
            position += 4 + length
            yield json.dumps(raw[position - length : position].decode())
        return
    values = np.frombuffer(raw, "<f4")
    if not np.isfinite(values).all():
        raise ValueError("an output contains NaN or infinity, which JSON does not have")
    for start in range(0, len(values), _PIECE):
        yield ",".join(map(repr, values[start : start + _PIECE].tolist()))
