"""Runs batches in a few fixed sizes, each as one CUDA graph on buffers that never move.

The caller passes the objects of ONNX Runtime in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import InferenceFailed

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

# In the largest batch, unless a limit of memory says what fits: 1,024 images of 28 x 28, or 64 of 128 x 128. The first
# convolutions keep about 300 bytes for each pixel.
_MAX_PIXELS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _Bucket:
    """Buffers of one batch size.

    Attributes:
        binding: Binds the session to the buffers.
        options: Options of every run.
        images: uint8 `[rows, height, width, channels]`.
        outputs: float32 `[rows, …]` for each output.
    """

    binding: Any
    options: Any
    images: Uint8Array
    outputs: tuple[FloatArray, ...]


class Buckets:
    """Runs batches in power-of-two sizes.

    ONNX Runtime keeps only one plan for each convolution, that of the last shape, and makes another one whenever the
    batch size changes (its issue 23006). A CUDA graph of each size keeps them all. It replays what the session did in
    `warm_up`: on the same buffers, in the same thread. So the session must run nothing else.

    The device reads images from host memory and writes outputs there, so a run is one launch and one synchronisation.

    Args:
        session: A session of ONNX Runtime with one input, which only these buckets use.
        allocate: Allocates an array of a shape and a NumPy type that the session's device can use.
        run_options: Returns the options of runs in the graph of a number.
        device: Type of the session's device, such as `cuda`, and its index.
        input_name: The input of the session, uint8 `[batch, height, width, channels]`.
        outputs: Its outputs, float32, each with the shape of one row: `(classes,)`, or `()` for one number per image.
        image_shape: Height, width and channels.
        max_rows: Images of the largest batch that runs at once; a power of two.

    Attributes:
        max_rows: The same.
    """

    def __init__(
        self,
        session: Any,
        allocate: Callable[[Sequence[int], type], npt.NDArray[Any]],
        run_options: Callable[[int], Any],
        *,
        device: tuple[str, int],
        input_name: str,
        outputs: Mapping[str, tuple[int, ...]],
        image_shape: tuple[int, int, int],
        max_rows: int,
    ) -> None:
        self.max_rows = max_rows
        self._session = session
        self._thread = threading.get_ident()
        self._buckets: dict[int, _Bucket] = {}
        for rows in bucket_sizes(max_rows):
            images = allocate([rows, *image_shape], np.uint8)
            images[:] = 0
            results = {name: allocate([rows, *row_shape], np.float32) for name, row_shape in outputs.items()}
            binding = session.io_binding()
            binding.bind_input(input_name, *device, np.uint8, list(images.shape), images.ctypes.data)
            for name, array in results.items():
                binding.bind_output(name, *device, np.float32, list(array.shape), array.ctypes.data)
            self._buckets[rows] = _Bucket(
                binding=binding, options=run_options(rows), images=images, outputs=tuple(results.values())
            )

    @property
    def sizes(self) -> list[int]:
        """The sizes, in rows, in ascending order."""
        return sorted(self._buckets)

    def warm_up(self) -> None:
        """Runs each size once, the largest first, so that the others find the memory that they need."""
        for rows in reversed(self.sizes):
            bucket = self._buckets[rows]
            self._session.run_with_iobinding(bucket.binding, bucket.options)

    def run(self, images: Uint8Array) -> list[FloatArray]:
        """Runs n images in the smallest bucket that fits them, or in several runs of the largest.

        Returns:
            float32 `[n, …]` for each output.

        Raises:
            InferenceFailed: It is called from another thread than the one that made the buckets.
        """
        if threading.get_ident() != self._thread:  # it would capture all graphs again, and keep their memory
            raise InferenceFailed("on CUDA, an engine runs only in the thread that started it")
        parts = [self._run_one(images[start : start + self.max_rows]) for start in range(0, len(images), self.max_rows)]
        return parts[0] if len(parts) == 1 else [np.concatenate(output) for output in zip(*parts, strict=True)]

    def _run_one(self, images: Uint8Array) -> list[FloatArray]:
        rows = len(images)
        bucket = self._buckets[min(size for size in self._buckets if size >= rows)]
        bucket.images[:rows] = images  # later rows keep stale images, which affect no other row
        self._session.run_with_iobinding(bucket.binding, bucket.options)
        return [output[:rows].copy() for output in bucket.outputs]


def bucket_sizes(max_rows: int) -> list[int]:
    """Returns the powers of two from 1 to the first that is at least `max_rows`."""
    return [1 << exponent for exponent in range((max_rows - 1).bit_length() + 1)]


def largest_bucket(max_rows: int, image_shape: tuple[int, int, int], *, any_size: bool) -> int:
    """Returns the first power of two that is at least `max_rows`, or a smaller one if such a batch has many pixels.

    Args:
        max_rows: The largest batch.
        image_shape: Height, width and channels.
        any_size: Whether a batch may have any number of pixels.
    """
    largest = bucket_sizes(max_rows)[-1]
    if any_size:
        return largest
    height, width, _ = image_shape
    fitting = max(1, _MAX_PIXELS // (height * width))
    return min(largest, 1 << (fitting.bit_length() - 1))
