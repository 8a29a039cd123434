"""The images that the gate compares a network from elsewhere on: the user's own, or drawn ones where there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.errors import UnusableModel
from export.foreign.pixels import ImageShape
from training import datasets
from training.synthetic import draw_digits

DRAWN = "drawn"

# More than the largest batch that the gate compares.
_DRAWN_IMAGES = 260


@dataclass(frozen=True, kw_only=True, eq=False)
class GateImages:
    """Test images.

    Attributes:
        source: Kind of the data for the manifest, without a path: `mnist`, `folder`, or `drawn`.
        images: uint8 `[n, height, width, channels]`.
        labels: int64 `[n]`, indices into `label_names`; None if they are unknown.
        label_names: Names of the data's classes; None if they are unknown.
        preparation: How a server prepares images for such data; None if that is unknown.
    """

    source: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None = None
    label_names: tuple[str, ...] | None = None
    preparation: str | None = None

    def describe(self) -> Mapping[str, Any]:
        """What the manifest says about them."""
        digest = hashlib.sha256(f"{self.images.shape}".encode())
        digest.update(np.ascontiguousarray(self.images).data)
        return {"source": self.source, "sha256": digest.hexdigest(), "test_images": len(self.images)}

    def labels_among(self, names: tuple[str, ...]) -> npt.NDArray[np.int64] | None:
        """The true labels as indices into the network's classes.

        Args:
            names: The network's classes. Where they are the data's in another order, names decide; else the order does.

        Raises:
            UnusableModel: The data have another number of classes.
        """
        if self.labels is None or self.label_names is None:
            return None
        if len(names) != len(self.label_names):
            raise UnusableModel(
                f"it has {len(names)} classes, but the data have {len(self.label_names)}: "
                f"{', '.join(self.label_names[:10])}{'…' if len(self.label_names) > 10 else ''}"
            )
        if {*names} != {*self.label_names}:
            return self.labels
        position = np.array([names.index(name) for name in self.label_names])
        return np.asarray(position[self.labels], dtype=np.int64)


def load_images(source: str, *, data_dir: Path | None, image_shape: ImageShape) -> GateImages:
    """Loads the test part of a data set.

    Args:
        source: Its name or path, as for `training.datasets.load`.
        data_dir: Directory with MNIST's files.
        image_shape: Size to which somebody's own images are resized; other data must have it.

    Raises:
        DatasetError: The data can't be read.
        UnusableModel: Their images have another size.
    """
    own = datasets.own_source(source) is not None
    data = datasets.load(source, data_dir=data_dir, image_shape=image_shape if own else None)
    if data.image_shape != image_shape:
        raise UnusableModel(
            f"it takes images of {'x'.join(map(str, image_shape))}, but those of {source} are "
            f"{'x'.join(map(str, data.image_shape))}"
        )
    return GateImages(
        # Without a path, which is private.
        source=data.source.partition(":")[0] if ":" in data.source else Path(data.source).name,
        images=data.test_images,
        labels=data.test_labels,
        label_names=data.label_names,
        preparation=data.preparation,
    )


def draw_images(image_shape: ImageShape) -> GateImages:
    """Draws images of any size: digits where they fit, else coloured rectangles on noise; always the same."""
    if image_shape == (28, 28, 1):
        return GateImages(source=DRAWN, images=draw_digits(_DRAWN_IMAGES, seed=5)[0])
    height, width, channels = image_shape
    generator = np.random.default_rng(5)
    images = generator.integers(0, 64, (_DRAWN_IMAGES, *image_shape), dtype=np.uint8)
    for image in images:
        for _ in range(3):
            top, left = generator.integers(0, height), generator.integers(0, width)
            bottom, right = generator.integers(top, height) + 1, generator.integers(left, width) + 1
            image[top:bottom, left:right] = generator.integers(0, 256, channels)
    return GateImages(source=DRAWN, images=images)
