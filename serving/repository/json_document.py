"""JSON files as dataclasses: checks that every field is present and has its type, and names the one that is wrong.

We wrote this ourselves because the base install has no pydantic, and manifests and labels are all it has to read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from serving.errors import ModelRejected

T = TypeVar("T")

# Metadata of a dataclass field that the file may leave out.
OPTIONAL = {"optional": True}

_MAX_NUMBER = 2**62
# For each type of field: the parsed JSON that it accepts, and what errors call it.
_JSON: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (int, "an integer"),
    float: ((int, float), "a number"),
    str: (str, "a string"),
    tuple: (list, "a list"),
    Mapping: (dict, "an object"),
}


def parse_json(cls: type[T], text: str, name: str) -> T:
    """Makes a dataclass from JSON.

    Args:
        cls: A dataclass whose fields are numbers, strings, lists, mappings or dataclasses, or one of these or None.
        text: The JSON.
        name: What errors call the whole document.

    Raises:
        ModelRejected: The text is not JSON, or a field is missing, unknown or of the wrong type; the message names it.
    """
    try:
        document = json.loads(text)
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ModelRejected("contains half of a surrogate pair, which is not text") from error
    except (ValueError, RecursionError) as error:
        raise ModelRejected("not JSON", detail=str(error)) from error
    parsed: T = _build(cls, document, name)
    return parsed


def _build(cls: Any, document: Any, where: str) -> Any:
    if not isinstance(document, dict):
        raise ModelRejected(f"{where}: must be an object")
    types = get_type_hints(cls)
    for field in fields(cls):
        if field.name not in document and not field.metadata.get("optional"):
            raise ModelRejected(f"{where}: {field.name} is missing")
    for name in document.keys() - types.keys():
        raise ModelRejected(f"{where}: {name} is not a known field")
    return cls(**{name: _value(types[name], value, f"{where}: {name}") for name, value in document.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, UnionType):  # such as `int | None`
        return None if value is None else _value(get_args(kind)[0], value, where)
    if is_dataclass(kind):
        return _build(kind, value, where)
    kind, items = get_origin(kind) or kind, get_args(kind)
    accepted, described = _JSON[kind]
    # bool is a subclass of int, but true is not a number in JSON
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ModelRejected(f"{where} must be {described}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ModelRejected(f"{where} must be finite")
    if isinstance(value, int | float) and not abs(value) <= _MAX_NUMBER:
        raise ModelRejected(f"{where} is too large")
    if kind is tuple:
        return tuple(_value(items[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if kind is Mapping and is_dataclass(items[1]):
        return {name: _build(items[1], item, f"{where}.{name}") for name, item in value.items()}
    return value
