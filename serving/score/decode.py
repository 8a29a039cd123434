"""From what an input holds to what a model takes. Images that can't be decoded are told apart, not raised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage
from serving.images.files import read_image_file
from serving.images.preparation import Preparation
from serving.score.batch import MAX_IMAGE_BYTES, Batch, Encoded, Uint8Array, Unreadable


def decode_image(image: Encoded, preparation: Preparation) -> Uint8Array:
    """Decodes and prepares one image file, as servers do.

    Args:
        image: The file, or its bytes.
        preparation: What the model takes.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        InvalidImage: It can't be had, or is no image; the message does not name it.
    """
    if isinstance(image, Unreadable):
        raise InvalidImage(image.reason)
    content = read_image_file(image, MAX_IMAGE_BYTES, recipient="digits-score") if isinstance(image, Path) else image
    if isinstance(content, InvalidImage):
        raise content
    return preparation.decode(content).pixels


def decode_batch(batch: Batch, preparation: Preparation) -> tuple[Uint8Array, npt.NDArray[np.int64], dict[int, str]]:
    """Decodes and prepares a batch; raw pixels stay as they are.

    Args:
        batch: n images.
        preparation: What the model takes.

    Returns:
        The m images that could be decoded, uint8 `[m, height, width, channels]`; their places among the n, int64
        `[m]`; and for each other place what is wrong.
    """
    if isinstance(batch.images, np.ndarray):
        return batch.images, np.arange(len(batch)), {}
    pixels, places, errors = [], [], {}
    for place, image in enumerate(batch.images):
        try:
            pixels.append(decode_image(image, preparation))
            places.append(place)
        except InvalidImage as error:
            errors[place] = str(error)
        except Exception as error:  # noqa: BLE001 - whatever one image trips, the others are scored
            errors[place] = f"damaged image ({type(error).__name__})"
    shape = (preparation.height, preparation.width, preparation.channels)
    return np.stack(pixels) if pixels else np.empty((0, *shape), np.uint8), np.array(places, np.int64), errors
