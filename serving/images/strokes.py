"""Connected strokes: which belong to the digit, and whether they are several digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Strokes:
    """The connected components of a mask, diagonal connections included.

    Attributes:
        labels: int64 `[h, w]`: 0 outside of the mask, else the number of a component, from 1.
        count: How many components there are.
    """

    labels: Int64Array
    count: int

    def masses(self, weights: FloatArray) -> npt.NDArray[np.float64]:
        """Returns the sum of weights, float `[h, w]`, over each component; index 0 is what is outside."""
        return np.bincount(self.labels.ravel(), weights.ravel(), minlength=self.count + 1)

    def boxes(self) -> Int64Array:
        """Returns top, left, bottom and right of each component, int64 `[count, 4]`, the last two exclusive."""
        y, x = np.nonzero(self.labels)
        of = self.labels[y, x] - 1
        boxes = np.empty((self.count, 4), np.int64)
        boxes[:, :2], boxes[:, 2:] = max(self.labels.shape), 0
        for column, values in ((0, y), (1, x)):
            np.minimum.at(boxes[:, column], of, values)
            np.maximum.at(boxes[:, column + 2], of, values + 1)
        return boxes


def connected(mask: Mask) -> Strokes:
    """Finds connected components by joining the runs of neighbouring rows, in almost linear time."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    row, start, stop = rows.tolist(), starts.tolist(), stops.tolist()
    above = 0
    for run in range(len(row)):
        while row[above] < row[run] - 1 or (row[above] == row[run] - 1 and stop[above] < start[run]):
            above += 1
        touching = above
        while row[touching] == row[run] - 1 and start[touching] <= stop[run]:
            parent[root(touching)] = root(run)
            touching += 1
    numbers, of = np.unique([root(run) for run in range(len(row))], return_inverse=True)
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = np.repeat(of + 1, stops - starts)
    return Strokes(labels=labels, count=len(numbers))
