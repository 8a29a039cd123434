"""Digits drawn by the project: reproducible, varied, and laid out as MNIST's are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import serving
from training.synthetic import draw_digits


def test_a_seed_draws_the_same_digits_and_another_seed_others() -> None:
    first, labels = draw_digits(40, seed=5)
    again, same_labels = draw_digits(40, seed=5)
    other, _ = draw_digits(40, seed=6)
    assert np.array_equal(first, again)
    assert np.array_equal(labels, same_labels)
    assert not np.array_equal(first, other)
    assert len({image.tobytes() for image in first}) == 40


def test_digits_lie_as_mnist_s_do() -> None:
    images, labels = draw_digits(200, seed=5)
    assert images.shape == (200, 28, 28, 1)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [20] * 10
    grid = np.arange(28) + 0.5
    for image in images[..., 0].astype(float):
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
        assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 19
        assert image.sum(axis=1) @ grid / image.sum() == pytest.approx(14, abs=0.51)
        assert image.sum(axis=0) @ grid / image.sum() == pytest.approx(14, abs=0.51)


def test_the_shipped_samples_are_drawn_here() -> None:
    images, labels = draw_digits(10, seed=9)
    for image, label in zip(images, labels, strict=True):
        with Image.open(Path(serving.__file__).parent / "samples" / f"{label}.png") as shipped:
            # releases of Pillow may differ in the last bits of a blend
            assert np.abs(np.asarray(shipped, dtype=int) - image[..., 0]).mean() < 1
