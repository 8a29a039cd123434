"""What a message may hold: its fields are counted on the wire, before anything is built from it.

Parsing multiplies: 16 MB hold eight million empty tensors, which take gigabytes and a minute as objects. So this walks
over the tags of a message and skips what they enclose, and gives up at the first field that occurs too often. Its cost
is that of the fields that are allowed, however many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from serving.errors import InvalidRequest

# How often one field may occur in a message, in all places together. The services then say what is wrong with each.
MAX_OCCURRENCES = 1024
# Size of a text or a packed list of numbers, in bytes, added up over its occurrences.
MAX_FIELD_BYTES = 1 << 20
# Pixels as packed lists. Floats are as large in memory as on the wire. A whole number of one byte takes up to eleven
# while it is parsed, so these lists may fill half a message.
_FLOATS, _WHOLE_NUMBERS = "inference.InferTensorContents.fp32_contents", "inference.InferTensorContents.uint_contents"
# Files: as many as a request may have. A few more pass, and the service says how many there were.
_FILES = "digits.v1.EncodedImages.images"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LARGEST_TAG = 2**32


@dataclass(frozen=True, kw_only=True, eq=False)
class _Field:
    """What is known of a field.

    Attributes:
        name: Its name.
        max_occurrences: How often it may occur in a message.
        max_bytes: How long its contents may be, added up; None for no limit but the message's.
        fields: The fields of the message that it holds, by number; None if it holds none.
    """

    name: str
    max_occurrences: int
    max_bytes: int | None
    fields: Mapping[int, _Field] | None


_UNKNOWN = _Field(name="", max_occurrences=MAX_OCCURRENCES, max_bytes=None, fields=None)


class MessageLimits:
    """Checks messages of any type.

    Args:
        max_images: How many images a request may hold.
        max_message_bytes: The largest message that the front end accepts.
    """

    def __init__(self, *, max_images: int, max_message_bytes: int) -> None:
        self._max_files = max_images + MAX_OCCURRENCES
        self._max_list_bytes = max(max_message_bytes // 2, MAX_FIELD_BYTES)
        self._types: dict[str, dict[int, _Field]] = {}

    def check(self, message: type[Message], content: bytes) -> None:
        """Checks a message that has not been parsed.

        Args:
            message: Its type, from a generated module.
            content: Its bytes.

        Raises:
            InvalidRequest: A field occurs too often or is too long.
            DecodeError: The bytes are no message at all.
        """
        _Check(content).fields(self._fields_of(message.DESCRIPTOR), 0, len(content), "")

    def _fields_of(self, message: Any) -> Mapping[int, _Field]:
        known = self._types.get(message.full_name)
        if known is None:
            known = self._types[message.full_name] = {}  # before its fields, since a message may hold its own type
            known.update((field.number, self._field(field)) for field in message.fields)
        return known

    def _field(self, field: FieldDescriptor) -> _Field:
        message = field.message_type
        max_bytes: int | None = MAX_FIELD_BYTES
        if message is not None or field.type == FieldDescriptor.TYPE_BYTES or field.full_name == _FLOATS:
            max_bytes = None
        elif field.full_name == _WHOLE_NUMBERS:
            max_bytes = self._max_list_bytes
        return _Field(
            name=field.name,
            max_occurrences=self._max_files if field.full_name == _FILES else MAX_OCCURRENCES,
            max_bytes=max_bytes,
            fields=None if message is None else self._fields_of(message),
        )


class _Check:
    """The check of one message, with what it has counted so far."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._occurrences: Counter[_Field] = Counter()
        self._bytes: Counter[_Field] = Counter()

    def fields(self, known: Mapping[int, _Field], position: int, end: int, where: str) -> None:
        """Checks the fields from one position to another, which are those of the message at the path `where`."""
        content = self._content
        while position < end:
            tag, position = _varint(content, position, end)
            number, kind = tag >> 3, tag & 7
            if not number or tag >= _LARGEST_TAG:
                raise DecodeError("no field has this number")
            field = known.get(number, _UNKNOWN)
            self._count(field, where)
            if kind == _BYTES:
                size, position = _varint(content, position, end)
                if size > end - position:
                    raise DecodeError("a field ends after its message")
                if field.fields is not None:
                    self.fields(field.fields, position, position + size, f"{where}{field.name}.")
                elif field.max_bytes is not None:
                    self._bytes[field] += size
                    if self._bytes[field] > field.max_bytes:
                        raise InvalidRequest.of(where + field.name, f"more than {field.max_bytes:,} bytes in a message")
                position += size
            elif kind == _VARINT:
                _, position = _varint(content, position, end)
            elif kind in (_FIXED64, _FIXED32):
                position += 8 if kind == _FIXED64 else 4
            else:
                raise DecodeError("a group, which these interfaces do not have")
        if position > end:
            raise DecodeError("a field ends after its message")

    def _count(self, field: _Field, where: str) -> None:
        self._occurrences[field] += 1
        if self._occurrences[field] <= field.max_occurrences:
            return
        if field is _UNKNOWN:
            raise InvalidRequest.of(
                where.removesuffix(".") or "request",
                f"more than {MAX_OCCURRENCES:,} fields in a message that this server does not know",
            )
        raise InvalidRequest.of(where + field.name, f"more than {field.max_occurrences:,} in a message")


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    """Reads a number of at most 64 bits; returns it and the position after it."""
    value = shift = 0
    while position < end and shift < 64:
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise DecodeError("a number has no end")
