"""Augmentation: random shifts, rotations and sizes of the training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Bounds of the random changes; each change is drawn uniformly between minus and plus its bound.

    Attributes:
        shift_px: Up, down, left and right, in whole pixels.
        rotation_deg: Around the centre, in degrees.
        scale: Relative size: 0.1 for 90 to 110 %.
    """

    shift_px: int = 0
    rotation_deg: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        if self.shift_px < 0 or self.rotation_deg < 0 or not 0 <= self.scale < 1:
            raise ValueError("the bounds of an augmentation must not be negative, and scale must be below 1")

    def apply(self, images: npt.NDArray[np.uint8], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Changes each image by a random affine map of its own; what moves in from outside is 0, the background.

        Args:
            images: uint8 `[n, height, width, channels]`.
            generator: Source of the random maps.

        Returns:
            uint8 of the same shape.
        """
        if self == Augmentation():
            return images
        import tensorflow as tf

        count, height, width = images.shape[:3]
        angle = np.radians(generator.uniform(-self.rotation_deg, self.rotation_deg, count))
        size = 1 + generator.uniform(-self.scale, self.scale, count)
        shift = generator.integers(-self.shift_px, self.shift_px, (2, count), endpoint=True)
        cosine, sine = np.cos(angle) / size, np.sin(angle) / size
        # The map takes a pixel of the result to its place in the original: undo the shift, then turn around the centre.
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        x, y = centre_x + shift[0], centre_y + shift[1]
        left, top, zero = centre_x - cosine * x + sine * y, centre_y - sine * x - cosine * y, np.zeros(count)
        maps = np.stack([cosine, -sine, left, sine, cosine, top, zero, zero], axis=1)
        changed: npt.NDArray[np.float32] = tf.raw_ops.ImageProjectiveTransformV3(
            images=images.astype(np.float32),  # on bytes the operation truncates instead of rounding
            transforms=tf.constant(maps, tf.float32),
            output_shape=tf.constant([height, width]),
            fill_value=tf.constant(0.0),
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        ).numpy()
        return np.rint(changed).astype(np.uint8)
