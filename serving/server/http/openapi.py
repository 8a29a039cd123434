"""`/openapi.json`: the OpenAPI 3.1 description of the HTTP interface, made from the routes and from what they decode.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from starlette.routing import Route

from protos.digits.v1 import digits_pb2
from serving import __version__
from serving.server.http.answer import Answer
from serving.server.http.classify import CLASSIFY_OPTIONS, DEFAULTS, MODEL_OPTIONS
from serving.server.http.documents import schema_of
from serving.server.http.uploads import FORM, IMAGE, JSON, EncodedImages

Schema = dict[str, Any]

_FIELD_TYPES: Mapping[int, Schema] = {
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_INT64: {"type": "integer"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
}
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_BINARY: Schema = {}  # as OpenAPI 3.1 describes bytes


def describe(routes: Iterable[Route]) -> Schema:
    """Returns the description of an application.

    Args:
        routes: Its routes. The first line of an endpoint's docstring becomes its summary.
    """
    paths: dict[str, Any] = {}
    for route in routes:
        if route.include_in_schema:
            for method in (route.methods or set()) - {"HEAD"}:
                paths.setdefault(route.path, {})[method.lower()] = _operation(method, route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "digits-serving", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],  # a token only where the server requires one
    }


def _operation(method: str, route: Route) -> Schema:
    summary = (route.endpoint.__doc__ or "").partition("\n")[0]
    found: Schema = {"summary": summary, "responses": {"200": {"description": "the answer"}}}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    options = _OPTIONS.get((method, route.path))
    if options is not None:
        parameters += _query(*options)
    if parameters:
        found["parameters"] = parameters
    if (method, route.path) in _ANSWERS:
        found["responses"]["200"]["content"] = _content(_ANSWERS[method, route.path])
        found["responses"]["default"] = {"description": "what is wrong", "content": _content(_ERROR)}
    if (method, route.path) in _BODIES:
        found["requestBody"] = {"required": True, "content": _BODIES[method, route.path]}
    return found


def _query(message: Any, options: Mapping[str, str]) -> list[Schema]:
    """Describes parameters of the URL, which are fields of a message."""
    return [
        {
            "name": name,
            "in": "query",
            "description": text,
            "schema": _field(message.fields_by_name[name]) | ({"default": DEFAULTS[name]} if name in DEFAULTS else {}),
        }
        for name, text in options.items()
    ]


def _message(message: Any) -> Schema:
    """Describes what `to_json` makes of a message."""
    fields = message.fields
    return {
        "type": "object",
        "properties": {field.name: _field(field) for field in fields},
        "required": [field.name for field in fields if not field.has_presence],
    }


def _field(field: Any) -> Schema:
    one = dict(_FIELD_TYPES[field.cpp_type]) if field.message_type is None else _message(field.message_type)
    return {"type": "array", "items": one} if field.is_repeated else one


def _content(schema: Schema) -> Schema:
    return {JSON: {"schema": schema}}


_CLASSIFY, _MODEL = ("POST", "/v1/classify"), ("GET", "/v1/model")
_OPTIONS = {
    _CLASSIFY: (digits_pb2.ClassifyRequest.DESCRIPTOR, CLASSIFY_OPTIONS),
    _MODEL: (digits_pb2.GetModelRequest.DESCRIPTOR, MODEL_OPTIONS),
}
_BODIES = {
    _CLASSIFY: {
        IMAGE: {"schema": _BINARY},
        FORM: {"schema": {"type": "object", "additionalProperties": {"type": "array", "items": _BINARY}}},
        **_content(schema_of(EncodedImages)),
    }
}
_ANSWERS = {_CLASSIFY: schema_of(Answer), _MODEL: _message(digits_pb2.GetModelResponse.DESCRIPTOR)}
