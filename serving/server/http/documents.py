"""JSON documents that are declared as dataclasses: each is written, and described by a schema, from its fields."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import MISSING, field
from types import NoneType
from typing import Any

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}


def member(text: str, *, optional: bool = False, choices: tuple[str, ...] = ()) -> Any:
    """A field of a document that describes itself.

    Args:
        text: What it holds, with its unit.
        optional: Whether the document leaves it out where it is None.
        choices: The texts that it may hold; empty for any.
    """
    declared = {"text": text, "choices": choices}
    return field(default=None, metadata=declared) if optional else field(metadata=declared)


def to_document(value: Any) -> Any:
    """Converts a dataclass, or a list of them, for `json.dumps`. Leaves out optional members that are None."""
    if isinstance(value, list):
        return [to_document(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    members = {each: getattr(value, each.name) for each in dataclasses.fields(value)}
    return {
        each.name: to_document(content)
        for each, content in members.items()
        if content is not None or each.default is MISSING
    }


def schema_of(kind: Any) -> dict[str, Any]:
    """Returns the JSON schema of a dataclass whose fields are `member`s, or of a type that such a field has."""
    if kind in _TYPES:
        return {"type": _TYPES[kind]}
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": schema_of(typing.get_args(kind)[0])}
    if not dataclasses.is_dataclass(kind):  # a type or None
        return {"type": [_TYPES[each] for each in typing.get_args(kind)]}
    hints = typing.get_type_hints(kind)
    properties, required = {}, []
    for each in dataclasses.fields(kind):
        hint = hints[each.name]
        if each.default is MISSING:
            required.append(each.name)
        else:
            hint = next(other for other in typing.get_args(hint) if other is not NoneType)
        properties[each.name] = schema_of(hint) | {"description": each.metadata["text"]}
        if each.metadata["choices"]:
            properties[each.name]["enum"] = [*each.metadata["choices"], *([None] if each.default is MISSING else [])]
    return {"type": "object", "properties": properties, "required": required}
