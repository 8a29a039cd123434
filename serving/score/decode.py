"""From what an input holds to what a model takes. Images that can't be decoded are told apart, not raised."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage
from serving.images import read_image
from serving.score.batch import Batch, Encoded, Uint8Array, Unreadable


def decode_image(image: Encoded, shape: tuple[int, int, int]) -> Uint8Array:
    """Decodes one image file.

    Args:
        image: The file, or its bytes.
        shape: Height, width and channels that the model takes.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        InvalidImage: It can't be had, or is no image of this size; the message does not name it.
    """
    if isinstance(image, Unreadable):
        raise InvalidImage(image.reason)
    source: Any = io.BytesIO(image) if isinstance(image, bytes) else image
    height, width, channels = shape
    try:
        return read_image(source, height=height, width=width, channels=channels)
    except InvalidImage as error:
        # A row of the output has the image's name already.
        raise InvalidImage(str(error).removeprefix(f"{source}: ")) from error


def decode_batch(batch: Batch, shape: tuple[int, int, int]) -> tuple[Uint8Array, npt.NDArray[np.int64], dict[int, str]]:
    """Decodes a batch.

    Args:
        batch: n images.
        shape: Height, width and channels that the model takes.

    Returns:
        The m images that could be decoded, uint8 `[m, height, width, channels]`; their places among the n, int64
        `[m]`; and for each other place what is wrong.
    """
    if isinstance(batch.images, np.ndarray):
        return batch.images, np.arange(len(batch)), {}
    pixels, places, errors = [], [], {}
    for place, image in enumerate(batch.images):
        try:
            pixels.append(decode_image(image, shape))
            places.append(place)
        except InvalidImage as error:
            errors[place] = str(error)
        except Exception as error:  # noqa: BLE001 - whatever a decoder trips over, the other images are scored
            errors[place] = f"damaged image ({type(error).__name__})"
    return np.stack(pixels) if pixels else np.empty((0, *shape), np.uint8), np.array(places, np.int64), errors
