"""Variety: how far the copies of a training set of digits differ from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Variety:
    """Shares of a copy of the training set.

    Attributes:
        restyled: Share of the digits that are written in another style; see `training.styles`.
        sent: Share that is sent as a picture and prepared as a server does; see `training.sending`.
        corrupted: Share whose raw pixels are corrupted; see `training.corruption`. The rest is
            augmented only.
        drawn: Digits drawn and printed by this project, relative to the number of digits in the training set.
        non_digits: Pictures of no digit, relative to the number of digits in the training set.
    """

    restyled: float
    sent: float
    corrupted: float
    drawn: float = 0.0
    non_digits: float = 0.0

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0 or self.restyled + self.sent + self.corrupted > 1:
            raise ValueError("the shares of a variety must not be negative, and those of digits be at most 1 in all")
