"""Messages as JSON, as Triton writes it: original field names, every field, and integers as numbers.

Ours instead of protobuf's `json_format` because that one writes large 64-bit integers as strings.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message


def to_json(message: Message) -> dict[str, Any]:
    """Converts a message for `json.dumps`. Unset messages and unset members of a oneof are left out."""
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of = field.message_type.fields_by_name["value"]
        return {key: _single(of, each) for key, each in value.items()}
    if field.is_repeated:
        return [_single(field, each) for each in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return to_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
