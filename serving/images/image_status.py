"""What is noticed about an image besides its label."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt


class ImageStatus(IntEnum):
    """Why the label of an image may mean nothing. The numbers are those of the API.

    Attributes:
        DIGIT: Nothing speaks against the label. Also for images of networks that are for other things than digits.
        NO_INK: The preparation found no ink: an empty page.
        SEVERAL_DIGITS: The preparation found strokes of similar size side by side.
        NO_DIGIT: The network says that this is no digit.
    """

    DIGIT = 0
    NO_INK = 1
    SEVERAL_DIGITS = 2
    NO_DIGIT = 3

    @property
    def words(self) -> str:
        """What users read: `no ink`, `several digits`, `no digit`; empty for `DIGIT`."""
        return "" if self is ImageStatus.DIGIT else self.name.lower().replace("_", " ")


def statuses_of(
    prepared: Sequence[ImageStatus] | None, no_digit: npt.NDArray[np.float32] | None, threshold: float
) -> npt.NDArray[np.int64] | None:
    """Joins what preparation and network noticed. Where both noticed something, the preparation's counts.

    Args:
        prepared: What the preparation noticed about each of n images; None for raw pixels.
        no_digit: float32 `[n]`, the network's output; None for a model without it.
        threshold: The network says "no digit" above this. Compared in float32.

    Returns:
        int64 `[n]`, numbers of `ImageStatus`; None if nothing was noticed about any image, as is the rule.
    """
    if not prepared and no_digit is not None and len(no_digit) == 1 and no_digit[0] <= np.float32(threshold):
        return None  # the most frequent case, for which NumPy's functions cost more than they save
    noticed = np.array(prepared, np.int64) if prepared and any(prepared) else None
    if no_digit is not None and (refused := no_digit > np.float32(threshold)).any():
        noticed = np.zeros(len(no_digit), np.int64) if noticed is None else noticed
        noticed[refused & (noticed == ImageStatus.DIGIT)] = ImageStatus.NO_DIGIT
    return noticed
