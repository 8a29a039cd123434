"""Augmentation and the one-cycle schedule."""

from __future__ import annotations

import numpy as np
import pytest

from training.augmentation import Augmentation
from training.batches import AugmentedBatches
from training.compilation import OneCycle
from training.synthetic import draw_digits


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Drawn digits with a margin that nothing is moved out of."""
    return np.pad(draw_digits(40, seed=1)[0], ((0, 0), (6, 6), (6, 6), (0, 0)))


def test_shifts_move_whole_pixels_by_no_more_than_asked(images: np.ndarray) -> None:
    shifted = Augmentation(shift_px=2).apply(images, np.random.default_rng(0))
    seen = set()
    for before, after in zip(images[..., 0], shifted[..., 0], strict=True):
        moves = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if (np.roll(before, (y, x), (0, 1)) == after).all()]
        assert len(moves) == 1
        seen.update(moves)
    assert len(seen) > 12


def test_rotation_and_scale_keep_the_middle_and_most_of_the_ink(images: np.ndarray) -> None:
    changed = Augmentation(rotation_deg=10, scale=0.1).apply(images, np.random.default_rng(0))
    assert changed.dtype == np.uint8
    grid = np.arange(40)
    for before, after in zip(images[..., 0].astype(float), changed[..., 0].astype(float), strict=True):
        assert not np.array_equal(before, after)
        assert after.sum() == pytest.approx(before.sum(), rel=0.35)
        for axis in (0, 1):
            centre = [picture.sum(axis=1 - axis) @ grid / picture.sum() for picture in (before, after)]
            assert centre[0] == pytest.approx(centre[1], abs=0.8)


def test_no_augmentation_changes_nothing(images: np.ndarray) -> None:
    assert Augmentation().apply(images, np.random.default_rng(0)) is images


def test_an_epoch_has_every_image_once_in_an_order_of_its_own(images: np.ndarray) -> None:
    def epoch(batches: AugmentedBatches) -> list[int]:
        return [int(label) for index in range(len(batches)) for label in batches[index][1]]

    def make(seed: int) -> AugmentedBatches:
        return AugmentedBatches(images, np.arange(40), augmentation=Augmentation(shift_px=1), batch_size=16, seed=seed)

    batches = make(seed=1)
    first = epoch(batches)
    batches.on_epoch_end()
    second = epoch(batches)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert epoch(make(seed=1)) == first
    assert epoch(make(seed=2)) != first


def test_one_cycle_rises_to_its_peak_and_falls_to_nothing() -> None:
    schedule = OneCycle(0.01, 100)
    rates = [float(schedule(step)) for step in range(101)]
    assert rates[0] == pytest.approx(0.01 / 25)
    assert max(rates) == rates[30] == pytest.approx(0.01)
    assert rates[100] == pytest.approx(0, abs=1e-9)
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)
