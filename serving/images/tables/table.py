"""A table: named columns and rows, in a file of any kind."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import DigitsError

_LISTED = 5

Numbers = npt.NDArray[Any]  # int64 or float64


class UnusableTable(DigitsError):
    """The table can't be read, or its columns leave a doubt. The message names the file."""


class Table(ABC):
    """A table; sub-classes read its file. Keeps nothing open between calls.

    Args:
        path: The file.

    Raises:
        UnusableTable: From every method: the file can't be read, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The names of all columns."""

    @abstractmethod
    def count(self) -> int:
        """Returns the number of rows."""

    @abstractmethod
    def rows(self, start: int, columns: Sequence[str]) -> Iterator[Sequence[Any]]:
        """Yields the given columns of the rows from `start` on; None for a cell that is missing."""

    def numbers(self, start: int, columns: Sequence[str], rows: int) -> Iterator[Numbers]:
        """Yields up to `rows` rows at a time from `start` on, as `to_numbers` returns them."""
        cells = self.rows(start, columns)
        while block := list(itertools.islice(cells, rows)):
            yield to_numbers(block, len(columns))

    def image_columns(self) -> Sequence[str]:
        """Returns the columns whose type says that they hold images."""
        return ()

    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Returns the names of the classes, for each column whose values are their numbers."""
        return {}


def to_numbers(cells: Sequence[Sequence[Any]], width: int) -> Numbers:
    """Returns cells of text or numbers as int64 or float64 `[rows, width]`, NaN where there is no number."""
    try:
        if all(isinstance(cell, str) for cell in cells[0]):
            # Much faster than float() of every cell, and with whole numbers ten times as fast again.
            lines = [",".join(row) for row in cells]
            whole = not any(mark in line for line in lines for mark in ".eE")
            found: Numbers = np.loadtxt(lines, np.int64 if whole else np.float64, delimiter=",", comments=None, ndmin=2)
        else:
            found = np.array(cells, np.float64)
        if found.shape == (len(cells), width):
            return found
    except (TypeError, ValueError):  # at least one cell is no number
        pass
    return np.array([[_to_number(cell) for cell in row] for row in cells], np.float64).reshape(len(cells), width)


def list_names(names: Iterable[str]) -> str:
    """Returns the first names and how many more there are, so that a message stays short."""
    found = list(names)
    more = len(found) - _LISTED
    return ", ".join(found[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _to_number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return float("nan")
