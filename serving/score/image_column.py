"""The images of a column of a batch, however arrays, data frames and Arrow tables hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage
from serving.images.pixel_arrays import ImageShape, Layout
from serving.images.tables.cells import encoded_image
from serving.score.batch import Batch, Encoded, Uint8Array, Unreadable, UnusableInput

_NO_IMAGE = "its row has no image"


def image_batch(column: Any, shape: ImageShape) -> Batch:
    """Returns the images of a column.

    Args:
        column: An array of n images, integers from 0 to 255 or bools; or n cells, each an encoded image, as
            `encoded_image` takes it, or an array or nested list of pixels. A cell without an image becomes an error.
        shape: Height, width and channels that pixels must have.

    Raises:
        UnusableInput: An array is no array of such images.
    """
    if isinstance(column, np.ndarray) and column.dtype.kind in "buif":
        try:
            images = _pixels(column, shape)
        except InvalidImage as error:
            raise UnusableInput(f"the images: {error}") from error
        return Batch(ids=[""] * len(images), images=images, expected=None)
    cells = [None if _is_missing(cell) else cell for cell in column]
    if any(isinstance(cell, list | tuple | np.ndarray) for cell in cells):
        return _batch_of_pixels(cells, shape)
    return Batch(ids=[""] * len(cells), images=[_encoded(cell) for cell in cells], expected=None)


def _batch_of_pixels(cells: Sequence[Any], shape: ImageShape) -> Batch:
    images, errors = np.zeros((len(cells), *shape), np.uint8), {}
    for index, cell in enumerate(cells):
        try:
            if not isinstance(cell, list | tuple | np.ndarray):
                raise InvalidImage(_NO_IMAGE)
            images[index] = _pixels(np.asarray(_nested(cell))[np.newaxis], shape)[0]
        except InvalidImage as error:
            errors[index] = str(error)
        except ValueError:  # lists of several lengths
            errors[index] = "its row has other pixels"
    return Batch(ids=[""] * len(cells), images=images, expected=None, errors=errors)


def _pixels(values: npt.NDArray[Any], shape: ImageShape) -> Uint8Array:
    """Returns n images as uint8 `[n, height, width, channels]`. A batch can't tell what other numbers mean."""
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    elif values.dtype.kind not in "iu":
        raise InvalidImage(f"pixels must be integers from 0 (black) to 255 (white), not {values.dtype}")
    elif values.size and (values.min() < 0 or values.max() > 255):
        raise InvalidImage(f"pixels must lie between 0 (black) and 255 (white), not {values.min()} to {values.max()}")
    layout = Layout.of((2, *values.shape[1:]), shape, may_be_single=False)  # any number of images
    return np.ascontiguousarray(layout.arrange(values.astype(np.uint8, copy=False)))


def _nested(cell: Iterable[Any]) -> Any:
    """Returns nested lists of an array of arrays, which is how Arrow gives lists of lists to numpy."""
    if isinstance(cell, np.ndarray) and cell.dtype != object:
        return cell
    return [_nested(each) if isinstance(each, list | tuple | np.ndarray) else each for each in cell]


def _encoded(cell: Any) -> Encoded:
    try:
        return encoded_image(bytes(cell) if isinstance(cell, bytearray | memoryview) else cell, Path())
    except InvalidImage as error:
        return Unreadable(reason=str(error))


def _is_missing(cell: Any) -> bool:
    """Whether a cell is empty: None, NaN, or what pandas has in their place."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float) and cell != cell  # noqa: PLR0124 - NaN
