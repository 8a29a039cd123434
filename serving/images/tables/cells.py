"""What the cells of a table hold: encoded images in several spellings, paths, lists of pixels, labels."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage
from serving.images.names import is_image_name

_NO_IMAGE = "its row has no image"
_WHOLE = re.compile(r"[+-]?\d+\.0*")
_URL_SAFE = str.maketrans("-_", "+/")


def encoded_image(value: Any, folder: Path, *, is_path: bool = False) -> bytes | Path:
    """Returns the bytes of an image file, or its path.

    Args:
        value: Bytes; base64, with or without line breaks, padding, URL-safe letters or a `data:` prefix; a path; or a
            struct of `bytes` and `path` as data set libraries write it.
        folder: The folder that paths are relative to.
        is_path: Whether text can only be a path. Otherwise it is one if it ends as names of images do.

    Raises:
        InvalidImage: The cell has neither.
    """
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        if not content and isinstance(path, str) and path:
            return _path(path, folder)
        value = content
    if isinstance(value, str):
        if is_path or _looks_like_path(value.strip()):
            return _path(value, folder)
        return _from_base64(value)
    if is_path:
        raise InvalidImage("its row has no path")
    if not isinstance(value, bytes) or not value:
        raise InvalidImage(_NO_IMAGE)
    return value


def pixels(value: Any) -> npt.NDArray[Any] | None:
    """Returns a list of numbers, nested or not, or text with such a list, as an array; None if it is something else."""
    if isinstance(value, str):
        if not re.fullmatch(r"[\s\d.,;eE+\-\[\]]*", value) or len(value.split()) + value.count(",") < 2:
            return None
        try:
            return np.array(re.split(r"[\s,;\[\]]+", value.strip(" \t\r\n,;[]")), np.float64)
        except ValueError:
            return None
    if not isinstance(value, (list, np.ndarray)):
        return None
    try:
        found = np.asarray(value)
    except ValueError:  # lists of several lengths
        return None
    return found if found.dtype.kind in "buif" and found.size else None


def label_text(value: Any) -> str | None:
    """Returns a label as text, None if there is none. A whole number has no decimals: 7.0 is 7."""
    if value is None or value != value:  # noqa: PLR0124 - NaN, which stands for a missing number
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()
    if _WHOLE.fullmatch(text):
        text = str(int(text.partition(".")[0]))
    return text or None


def class_name(label: str, names: Sequence[str]) -> str:
    """Returns the name of a class whose number a label is; the label itself if it is no such number."""
    return names[int(label)] if label.isdecimal() and int(label) < len(names) else label


def _looks_like_path(text: str) -> bool:
    """Whether text ends as names of images do. Base64 has no dots."""
    return "." in text and not text.startswith("data:") and is_image_name(text)


def _path(value: str, folder: Path) -> Path:
    if not value.strip() or "\0" in value:
        raise InvalidImage("its row has no path")
    path = folder / value
    if not path.exists():
        other = folder / value.strip().replace("\\", "/")  # as Windows writes it
        if other.exists():
            return other
    return path


def _from_base64(text: str) -> bytes:
    if not text.strip():
        raise InvalidImage(_NO_IMAGE)
    if text.startswith("data:"):
        header, _, text = text.partition(",")
        if not header.endswith(";base64"):
            raise InvalidImage("its row has a data: address that is not base64")
    letters = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage("its row has neither bytes nor base64") from None
