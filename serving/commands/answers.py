"""How `digits-classify` prints answers: lines of text, of JSON or of CSV, and pictures."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from serving.client.classification import UNSURE, Classification
from serving.commands.pictures import side_by_side, terminal_picture
from serving.images.image_status import ImageStatus
from serving.images.preparation import PreparedImage

# What a line of text says of an image with a status. {} is the best candidate, which may mean nothing.
_SEEN = {
    ImageStatus.NO_INK: "no ink found",
    ImageStatus.SEVERAL_DIGITS: "several digits side by side; as one: {}",
    ImageStatus.NO_DIGIT: "no digit; most like {}",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The answer for one image.

    Attributes:
        path: The image's path.
        error: Why there is no answer; empty if there is one.
        label: The most probable label, or -1 if it does not count.
        name: Name of the label; that of -1 is the words of the status, or "unsure".
        status: Why the label may mean nothing.
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
    status: ImageStatus
    confidence: float
    top: Sequence[tuple[int, str, float]]
    model: str
    version: int
    prepared: PreparedImage | None

    def text(self, width: int) -> str:
        """A line whose first column has this width; an unsure answer, and what was seen, precede the candidates."""
        candidates = [f"{name}  {confidence:7.2%}" for _, name, confidence in self.top]
        said = _SEEN.get(self.status, "{}")
        if self.label == UNSURE or "{}" not in said:
            answer = f"{self.name}  {self.confidence:7.2%}"
            cells = [said.partition(";")[0].format(answer), *(candidates if len(candidates) > 1 else ())]
        else:
            cells = [said.format(candidates[0]), *candidates[1:]]
        return f"{self.path:<{width}}  " + "  ".join(cells)

    def json(self) -> str:
        """A line of JSON; `status` is in it only if there is one, `top` and `steps` only if they were requested."""
        if self.error:
            return json.dumps({"path": self.path, "error": self.error})
        row: dict[str, Any] = {
            "path": self.path,
            "label": self.label,
            "name": self.name,
            "confidence": round(self.confidence, 6),
        }
        if self.status is not ImageStatus.DIGIT:
            row["status"] = self.status.words
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
        return _csv_line([self.path, *answer, *cells, self.model, self.version, self.error, self.status.words])

    def explanation(self) -> str:
        """What preparation did to the image, and a picture of the result, indented."""
        steps = []
        if self.prepared is not None:
            steps = [f"{self.prepared.width} x {self.prepared.height} pixels", *self.prepared.steps]
        return "\n".join(f"    {line}" for line in [*steps, "", *self.picture(), ""])

    def caption(self) -> str:
        """What stands below the picture: the name and the confidence, or what was seen instead."""
        if self.status is ImageStatus.NO_INK or (self.status is not ImageStatus.DIGIT and self.label == UNSURE):
            return self.status.words
        answer = f"{self.name}  {self.confidence:.2%}"
        return f"{self.status.words}: {answer}" if self.status is not ImageStatus.DIGIT else answer

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
    names, answer_names = classification.label_names, classification.names
    for place, path in enumerate(paths):
        probabilities = np.zeros(0) if classification.probabilities is None else classification.probabilities[place]
        order = np.argsort(-probabilities, kind="stable")[:top]
        error, label = classification.errors.get(place, ""), int(classification.labels[place])
        yield Answer(
            path=path,
            error=error,
            label=label,
            name=answer_names[place],
            status=classification.statuses[place],
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
            self._pictures.append([*answer.picture(), answer.caption()])
        elif not answer.error:
            click.echo(answer.text(self._width))
            if self._explain:
                click.echo(answer.explanation())

    def end(self) -> None:
        """Prints the pictures."""
        if self._pictures:
            click.echo(side_by_side(self._pictures))


def _csv_header(top: int) -> str:
    """The first line of CSV; with a single candidate per image, it is the answer itself."""
    places = range(1, top + 1) if top > 1 else ()
    more = [column for place in places for column in (f"name_{place}", f"confidence_{place}")]
    return _csv_line(["path", "label", "name", "confidence", *more, "model", "version", "error", "status"])


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
