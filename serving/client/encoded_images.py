"""Encoded images as callers give them, which can be iterated again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage

# A file's bytes; a file to read when it is sent; or why there is no image.
EncodedImage = bytes | bytearray | memoryview | npt.NDArray[np.uint8] | Path | InvalidImage
Content = bytes | Path | InvalidImage

# How much of an iterator is kept, so that its images can be sent again.
_KEPT_BYTES = 64 << 20


class EncodedImages:
    """Encoded images that can be iterated again. The first 64 MiB of an iterator are kept for that.

    Args:
        images: One image, or any number of them.
    """

    def __init__(self, images: EncodedImage | Iterable[EncodedImage]) -> None:
        # An open file would yield lines.
        alone = isinstance(images, Path | InvalidImage) or _view(images) is not None or hasattr(images, "read")
        self._images: Iterable[Any] = (images,) if alone else images  # type: ignore[assignment]
        self._is_iterator = iter(self._images) is self._images
        self._kept: list[Content] = []
        self._kept_bytes = 0

    @property
    def repeatable(self) -> bool:
        """Whether the next iteration starts with the first image again."""
        return self._kept_bytes <= _KEPT_BYTES

    def __iter__(self) -> Iterator[Content]:
        if not self._is_iterator:
            yield from map(_content, self._images)
            return
        yield from tuple(self._kept)
        for image in map(_content, self._images):
            if self.repeatable:
                self._kept_bytes += len(image) if isinstance(image, bytes) else 0
                self._kept.append(image)
            else:
                self._kept.clear()
            yield image


def _content(image: object) -> Content:
    """Returns the bytes of an image, if it has not to be read."""
    if isinstance(image, bytes | Path | InvalidImage):
        return image
    view = _view(image)
    if view is None or view.ndim != 1 or view.itemsize != 1:
        kind = type(image).__name__ if view is None else f"{type(image).__name__} of {view.ndim} dimensions"
        raise TypeError(
            f"an encoded image is the bytes of a file, not {kind}; classify_files takes paths, classify takes pixels"
        )
    return view.tobytes()


def _view(image: object) -> memoryview | None:
    """Returns the memory of an object that has the buffer protocol, or None."""
    try:
        return memoryview(image)  # type: ignore[arg-type]
    except TypeError:
        return None
