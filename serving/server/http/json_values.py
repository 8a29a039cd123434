"""Values of a JSON document, each checked for its type: what is missing, of another type or too long is refused."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

from serving.errors import InvalidRequest
from serving.server.services.message_limits import MAX_OCCURRENCES
from serving.server.services.oip_tensors import quoted


def members_of(value: object, field: str, known: set[str]) -> dict[str, Any]:
    """Returns the members of an object, of which all must be known.

    Raises:
        InvalidRequest: It is something else, or too long. Names `field`.
    """
    members = object_of(value, field)
    if value is None:
        raise InvalidRequest.of(field, "must be an object")
    for name in members.keys() - known:
        raise InvalidRequest.of(field, f"unknown member {quoted(name)}")
    return members


def parameters_of(value: object, field: str) -> dict[str, Any]:
    """Returns the parameters in an object, without those that are null: some clients write every parameter they know.

    Raises:
        InvalidRequest: It is something else, or too long. Names `field`.
    """
    return {name: given for name, given in object_of(value, field).items() if given is not None}


def object_of(value: object, field: str) -> dict[str, Any]:
    """Returns an object; an empty one for null.

    Raises:
        InvalidRequest: It is something else, or too long. Names `field`.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest.of(field, "must be an object")
    _check_length(value, field)
    return value


def list_of(value: object, field: str) -> Sequence[Any]:
    """Returns an array; an empty one for null.

    Raises:
        InvalidRequest: It is something else, or too long. Names `field`.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest.of(field, "must be an array")
    _check_length(value, field)
    return value


def flag_of(value: object, field: str) -> bool:
    """Returns true or false; false for null.

    Raises:
        InvalidRequest: It is something else. Names `field`.
    """
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest.of(field, "must be true or false")
    return value


def text_of(value: object, field: str) -> str:
    """Returns a text that can be sent on.

    Raises:
        InvalidRequest: It is something else. Names `field`.
    """
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:  # an unpaired surrogate
        pass
    raise InvalidRequest.of(field, "must be text")


def _check_length(value: Sized, field: str) -> None:
    if len(value) > MAX_OCCURRENCES:
        raise InvalidRequest.of(field, f"{len(value):,} members, but at most {MAX_OCCURRENCES:,} are read")
