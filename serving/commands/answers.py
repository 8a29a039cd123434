"""How `digits-classify` prints answers: lines of text, of JSON or of CSV, and pictures."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from serving.client.classification import UNSURE, UNSURE_NAME, Classification
from serving.images.preparation import PreparedImage

# Two rows of an image in one: neither is bright, the lower, the upper, both.
_BLOCKS = " ▄▀█"
_ASCII = " .'#"


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The answer for one image.

    Attributes:
        path: The image's path.
        error: Why there is no answer; empty if there is one.
        label: The most probable label, or -1 if it is below the minimum confidence.
        name: Name of the label, or "unsure".
        confidence: Probability of the most probable label.
        top: Label, name and probability of the candidates, the most probable first.
        model: Name of the model.
        version: Version of the model.
        prepared: The image as the network saw it, if that was requested.
    """

    path: str
    error: str
    label: int
    name: str
    confidence: float
    top: Sequence[tuple[int, str, float]]
    model: str
    version: int
    prepared: PreparedImage | None

    def text(self, width: int) -> str:
        """A line whose first column has this width; an unsure answer precedes its candidates."""
        cells = [(name, confidence) for _, name, confidence in self.top]
        if self.label == UNSURE:
            cells = [(self.name, self.confidence), *(cells if len(cells) > 1 else ())]
        return f"{self.path:<{width}}  " + "  ".join(f"{name}  {confidence:7.2%}" for name, confidence in cells)

    def json(self) -> str:
        """A line of JSON, with `top` if there is more than one candidate and `steps` if preparation was requested."""
        if self.error:
            return json.dumps({"path": self.path, "error": self.error})
        row: dict[str, Any] = {
            "path": self.path,
            "label": self.label,
            "name": self.name,
            "confidence": round(self.confidence, 6),
        }
        if len(self.top) > 1:
            row["top"] = [{"label": la, "name": na, "confidence": round(co, 6)} for la, na, co in self.top]
        row |= {"model": self.model, "version": self.version}
        if self.prepared is not None:
            row |= {"width": self.prepared.width, "height": self.prepared.height, "steps": list(self.prepared.steps)}
        return json.dumps(row)

    def csv(self, top: int) -> str:
        """A line of CSV with the columns of `_csv_header`."""
        answer = ["", "", ""] if self.error else [self.label, self.name, f"{self.confidence:.6f}"]
        candidates = self.top if top > 1 else ()
        cells = [cell for _, name, confidence in candidates for cell in (name, f"{confidence:.6f}")]
        cells += [""] * (2 * top - len(cells) if top > 1 else 0)
        return _csv_line([self.path, *answer, *cells, self.model, self.version, self.error])

    def explanation(self) -> str:
        """What preparation did to the image, and a picture of the result, indented."""
        steps = []
        if self.prepared is not None:
            steps = [f"{self.prepared.width} x {self.prepared.height} pixels", *self.prepared.steps]
        return "\n".join(f"    {line}" for line in [*steps, "", *self.picture(), ""])

    def picture(self) -> list[str]:
        """The image as the network saw it, in lines; none if that was not requested."""
        return [] if self.prepared is None else terminal_picture(self.prepared.pixels, sys.stdout.encoding)


def answers(paths: Sequence[str], classification: Classification, top: int) -> Iterator[Answer]:
    """Yields the answer for each image of a classification with probabilities.

    Args:
        paths: Paths of the images, in the order of the classification.
        classification: The classification.
        top: Candidates per image, at most one per label.
    """
    names = classification.label_names
    for place, path in enumerate(paths):
        probabilities = np.zeros(0) if classification.probabilities is None else classification.probabilities[place]
        order = np.argsort(-probabilities, kind="stable")[:top]
        error, label = classification.errors.get(place, ""), int(classification.labels[place])
        yield Answer(
            path=path,
            error=error,
            label=label,
            name=UNSURE_NAME if label == UNSURE else names[label],
            confidence=float(classification.confidences[place]),
            top=[] if error else [(int(other), names[other], float(probabilities[other])) for other in order],
            model=classification.model_name,
            version=classification.model_version,
            prepared=classification.preparations.get(place),
        )


class AnswerPrinter:
    """Prints answers on stdout as they arrive, errors on stderr, and pictures side by side at the end.

    Args:
        paths: Paths of all images, for the width of the first column.
        style: `text`, `json` or `csv`.
        top: Candidates per image.
        picture: Whether to draw each image in place of its line of text.
        explain: Whether to add to each line of text what preparation did.

    Attributes:
        failed: Images without an answer so far.
    """

    def __init__(self, paths: Sequence[str], *, style: str, top: int, picture: bool, explain: bool) -> None:
        self._width = max(map(len, paths), default=0)
        self._style = style
        self._top = top
        self._picture = picture
        self._explain = explain
        self._pictures: list[list[str]] = []
        self.failed = 0

    def begin(self) -> None:
        """Prints the header of CSV."""
        if self._style == "csv":
            click.echo(_csv_header(self._top))

    def print(self, answer: Answer) -> None:
        """Prints an answer."""
        if answer.error:
            self.failed += 1
            click.echo(f"{answer.path}: {answer.error}", err=True)
        if self._style == "json":
            click.echo(answer.json())
        elif self._style == "csv":
            click.echo(answer.csv(self._top))
        elif not answer.error and self._picture:
            self._pictures.append([*answer.picture(), f"{answer.name}  {answer.confidence:.2%}"])
        elif not answer.error:
            click.echo(answer.text(self._width))
            if self._explain:
                click.echo(answer.explanation())

    def end(self) -> None:
        """Prints the pictures."""
        if self._pictures:
            click.echo(_side_by_side(self._pictures))


def terminal_picture(image: npt.NDArray[np.uint8], encoding: str = "utf-8") -> list[str]:
    """Draws the bright part of an image with characters, each of one column and two rows.

    Args:
        image: uint8 `[height, width, channels]`; channels are averaged.
        encoding: Of the terminal. Unicode blocks, or ASCII if it has no blocks.

    Returns:
        Lines of equal length, half as many as the bright part has rows; none if nothing is bright.
    """
    bright = image.mean(axis=2) >= 96
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if rows.size == 0:
        return []
    bright = bright[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    bright = np.pad(bright, ((0, bright.shape[0] % 2), (0, 0)))
    characters = np.array(list(_BLOCKS if _can_encode(_BLOCKS, encoding) else _ASCII))
    return ["".join(line) for line in characters[bright[0::2] * 2 + bright[1::2] * 1]]


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _side_by_side(cells: list[list[str]], gap: int = 3) -> str:
    """Lays cells out in rows as wide as the terminal, each row aligned at the bottom."""
    text: list[str] = []
    row: list[list[str]] = []
    used = 0
    for cell in cells:
        width = max(map(len, cell))
        if row and used + width > shutil.get_terminal_size().columns:
            text += _joined(row, gap)
            row, used = [], 0
        row.append(cell)
        used += width + gap
    return "\n".join([*text, *_joined(row, gap)])


def _joined(cells: list[list[str]], gap: int) -> list[str]:
    height = max(map(len, cells))
    padded = []
    for cell in cells:
        width = max(map(len, cell))
        padded.append([" " * width] * (height - len(cell)) + [line.ljust(width) for line in cell])
    return ["", *((" " * gap).join(parts).rstrip() for parts in zip(*padded, strict=True))]


def _csv_header(top: int) -> str:
    """The first line of CSV; with a single candidate per image, it is the answer itself."""
    places = range(1, top + 1) if top > 1 else ()
    more = [column for place in places for column in (f"name_{place}", f"confidence_{place}")]
    return _csv_line(["path", "label", "name", "confidence", *more, "model", "version", "error"])


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
