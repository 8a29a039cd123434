"""What is noticed about an image besides its label."""

from __future__ import annotations

from enum import IntEnum


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
