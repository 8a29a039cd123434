"""Textures: stripes, checkers, gradients, clouds, wood, cloth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Generator = np.random.Generator


def texture(name: str, side: int, generator: Generator) -> np.ndarray:
    """Draws one texture over a random part of the range of grays, at least a third of it; uint8 `[side, side]`."""
    values = TEXTURES[name](side, generator)
    values = (values - values.min()) / max(np.ptp(values), 1e-9)
    low, high = generator.uniform(0, 85), generator.uniform(170, 255)
    return (low + (high - low) * values).astype(np.uint8)


def _across(side: int, generator: Generator) -> np.ndarray:
    """Distances along a random direction, from 0 to about 1; float `[side, side]`."""
    angle = generator.uniform(0, np.pi)
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    return x * np.cos(angle) + y * np.sin(angle)


def _stripes(side: int, generator: Generator) -> np.ndarray:
    wave = np.sin(2 * np.pi * (generator.uniform(3, 10) * _across(side, generator) + generator.uniform()))
    return wave if generator.integers(2) else (wave > generator.uniform(-0.5, 0.5)).astype(float)


def _checkers(side: int, generator: Generator) -> np.ndarray:
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j] * generator.uniform(3, 9) + generator.uniform(0, 1, (2, 1, 1))
    return (np.floor(x) + np.floor(y)) % 2


def _gradient(side: int, generator: Generator) -> np.ndarray:
    if generator.integers(2):
        return _across(side, generator)
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j] - generator.uniform(-0.2, 1.2, (2, 1, 1))
    return np.hypot(x, y) * generator.choice([-1, 1])


def _cloud(side: int, generator: Generator) -> np.ndarray:
    """Makes noise with the spectrum of nature photos: amplitudes fall as 1 / frequency (Field, 1987), or faster."""
    frequency = np.hypot(np.fft.fftfreq(2 * side)[:, np.newaxis], np.fft.rfftfreq(2 * side))
    frequency[0, 0] = np.inf
    phases = np.exp(2j * np.pi * generator.uniform(size=frequency.shape))
    cloud = np.fft.irfft2(phases / frequency ** generator.uniform(1, 2))[:side, :side]
    return cloud / cloud.std()


def _wood(side: int, generator: Generator) -> np.ndarray:
    """Draws rings around a far centre, bent, with grain along them."""
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    bent = x + 0.3 * generator.uniform(0.5, 1) * (y - generator.uniform()) ** 2 + 0.03 * _cloud(side, generator)
    rings = np.sin(2 * np.pi * generator.uniform(4, 9) * bent)
    wood = rings + 0.4 * ndimage.gaussian_filter(generator.normal(0, 2, (side, side)), (side / 12, 0.5))
    return wood if generator.integers(2) else wood.T


def _cloth(side: int, generator: Generator) -> np.ndarray:
    """Draws threads over and under each other, with some unevenness."""
    turns = generator.uniform(5, 12)
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j] * turns
    over = (np.floor(x) + np.floor(y)) % 2 == 0
    threads = np.where(over, np.abs(np.sin(np.pi * x)), np.abs(np.sin(np.pi * y)))
    return threads + 0.15 * _cloud(side, generator) + generator.normal(0, 0.1, (side, side))


TEXTURES: dict[str, Callable[[int, Generator], np.ndarray]] = {
    "stripes": _stripes,
    "checkers": _checkers,
    "gradients": _gradient,
    "clouds": _cloud,
    "wood": _wood,
    "cloth": _cloth,
}
