"""Runs batches in a few fixed sizes from buffers on the device, which is what CUDA runs fast.

The caller passes the objects of ONNX Runtime in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


class Buckets:
    """Runs batches in power-of-two sizes, each with buffers of its own on the device.

    Every new shape costs CUDA an algorithm search and more memory, so there are few shapes and all are warmed up.

    Args:
        session: A session of ONNX Runtime with one input.
        allocate: Allocates an OrtValue of a shape and a NumPy type on the session's device.
        input_name: The input of the session, uint8 `[batch, height, width, channels]`.
        outputs: Its outputs, float32, each with the shape of one row: `(classes,)`, or `()` for one number per image.
        image_shape: Height, width and channels.
        max_rows: Images of the largest batch that runs at once.
    """

    def __init__(
        self,
        session: Any,
        allocate: Callable[[Sequence[int], type], Any],
        *,
        input_name: str,
        outputs: Mapping[str, tuple[int, ...]],
        image_shape: tuple[int, int, int],
        max_rows: int,
    ) -> None:
        self._session = session
        self._bindings: dict[int, tuple[Any, Any, Uint8Array]] = {}
        for rows in bucket_sizes(max_rows):
            images = allocate([rows, *image_shape], np.uint8)
            binding = session.io_binding()
            binding.bind_ortvalue_input(input_name, images)
            for name, row_shape in outputs.items():
                binding.bind_ortvalue_output(name, allocate([rows, *row_shape], np.float32))
            self._bindings[rows] = binding, images, np.zeros((rows, *image_shape), np.uint8)

    def warm_up(self) -> None:
        """Runs each size once."""
        for _, _, staging in self._bindings.values():
            self.run(staging)

    def run(self, images: Uint8Array) -> list[FloatArray]:
        """Runs n images in the smallest bucket that fits them, or in several runs of the largest.

        Returns:
            float32 `[n, …]` for each output.
        """
        largest = max(self._bindings)
        parts = [self._run_one(images[start : start + largest]) for start in range(0, len(images), largest)]
        return [np.concatenate(output) for output in zip(*parts, strict=True)]

    def _run_one(self, images: Uint8Array) -> list[FloatArray]:
        rows = len(images)
        binding, device_images, staging = self._bindings[min(size for size in self._bindings if size >= rows)]
        staging[:rows] = images  # later rows keep stale images, which affect no other row
        device_images.update_inplace(staging)
        self._session.run_with_iobinding(binding)
        return [output[:rows] for output in binding.copy_outputs_to_cpu()]


def bucket_sizes(max_rows: int) -> list[int]:
    """Returns the powers of two from 1 to the first that is at least `max_rows`."""
    return [1 << exponent for exponent in range((max_rows - 1).bit_length() + 1)]
