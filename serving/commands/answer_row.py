"""One image's answer as a command prints it: a line of a table, of JSON or of CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.client.classification import UNSURE, UNSURE_NAME, Classification
from serving.images.preparation import PreparedImage


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerRow:
    """What is known of one image.

    Attributes:
        path: Its name.
        error: Why it has no answer; empty where it has one.
        label: The most probable label, -1 where it is too improbable to be one.
        name: Its name, or "unsure".
        confidence: The probability of the most probable label.
        top: Label, name and confidence of the candidates, the most probable first.
        model: The model that answered.
        version: Its version.
        prepared: What was made of the image, where that was asked for.
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
        """A line of a table whose first column has this width; an unsure answer stands before its candidates."""
        cells = [(name, confidence) for _, name, confidence in self.top]
        if self.label == UNSURE:
            cells = [(self.name, self.confidence), *(cells if len(cells) > 1 else ())]
        return f"{self.path:<{width}}  " + "  ".join(f"{name}  {confidence:7.2%}" for name, confidence in cells)

    def json(self) -> str:
        """A line of JSON; `top` is there where there is more than one, `steps` where preparation was asked for."""
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
        """A line of CSV with the columns of `csv_header`."""
        answer = ["", "", ""] if self.error else [self.label, self.name, f"{self.confidence:.6f}"]
        candidates = self.top if top > 1 else ()
        cells = [cell for _, name, confidence in candidates for cell in (name, f"{confidence:.6f}")]
        cells += [""] * (2 * top - len(cells) if top > 1 else 0)
        return _csv_line([self.path, *answer, *cells, self.model, self.version, self.error])


def csv_header(top: int) -> str:
    """The first line of a CSV with so many candidates for each image; a single one is the answer."""
    places = range(1, top + 1) if top > 1 else ()
    more = [column for place in places for column in (f"name_{place}", f"confidence_{place}")]
    return _csv_line(["path", "label", "name", "confidence", *more, "model", "version", "error"])


def answer_rows(paths: Sequence[str], answer: Classification, top: int) -> Iterator[AnswerRow]:
    """The rows of a classification with probabilities.

    Args:
        paths: Names of the images.
        answer: Of as many images.
        top: Candidates of each image, at most as many as there are labels.
    """
    names = answer.label_names
    for place, path in enumerate(paths):
        probabilities = np.zeros(0) if answer.probabilities is None else answer.probabilities[place]
        order = np.argsort(-probabilities, kind="stable")[:top]
        error, label = answer.errors.get(place, ""), int(answer.labels[place])
        yield AnswerRow(
            path=path,
            error=error,
            label=label,
            name=UNSURE_NAME if label == UNSURE else names[label],
            confidence=float(answer.confidences[place]),
            top=[] if error else [(int(other), names[other], float(probabilities[other])) for other in order],
            model=answer.model_name,
            version=answer.model_version,
            prepared=answer.preparations.get(place),
        )


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
