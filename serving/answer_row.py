"""One image's answer as a command prints it: a line of a table, of JSON or of CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.classification import Classification
from serving.preparation import PreparedImage


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerRow:
    """What is known of one image.

    Attributes:
        path: Its name.
        error: Why it has no answer; empty where it has one.
        top: Label, name and confidence of the most probable labels, the most probable first.
        model: The model that answered.
        version: Its version.
        prepared: What was made of the image, where that was asked for.
    """

    path: str
    error: str
    top: Sequence[tuple[int, str, float]]
    model: str
    version: int
    prepared: PreparedImage | None

    def text(self, width: int) -> str:
        """A line of a table whose first column has this width."""
        return f"{self.path:<{width}}  " + "  ".join(f"{name}  {confidence:7.2%}" for _, name, confidence in self.top)

    def json(self) -> str:
        """A line of JSON; `top` is there where there is more than one, `steps` where preparation was asked for."""
        if self.error:
            return json.dumps({"path": self.path, "error": self.error})
        label, name, confidence = self.top[0]
        row: dict[str, Any] = {"path": self.path, "label": label, "name": name, "confidence": round(confidence, 6)}
        if len(self.top) > 1:
            row["top"] = [{"label": la, "name": na, "confidence": round(co, 6)} for la, na, co in self.top]
        row |= {"model": self.model, "version": self.version}
        if self.prepared is not None:
            row |= {"width": self.prepared.width, "height": self.prepared.height, "steps": list(self.prepared.steps)}
        return json.dumps(row)

    def csv(self, top: int) -> str:
        """A line of CSV with the columns of `csv_header`."""
        cells: list[Any] = [cell for _, name, confidence in self.top for cell in (name, f"{confidence:.6f}")]
        cells += [""] * (2 * top - len(cells))
        label = self.top[0][0] if self.top else ""
        return _csv_line([self.path, label, *cells, self.model, self.version, self.error])


def csv_header(top: int) -> str:
    """The first line of a CSV with so many labels for each image."""
    more = [column for place in range(2, top + 1) for column in (f"name_{place}", f"confidence_{place}")]
    return _csv_line(["path", "label", "name", "confidence", *more, "model", "version", "error"])


def answer_rows(paths: Sequence[str], answer: Classification, names: Sequence[str], top: int) -> Iterator[AnswerRow]:
    """The rows of a classification with probabilities.

    Args:
        paths: Names of the images.
        answer: Of as many images.
        names: Of the labels.
        top: Labels of each image, at most as many as there are.
    """
    for place, path in enumerate(paths):
        probabilities = np.zeros(0) if answer.probabilities is None else answer.probabilities[place]
        order = np.argsort(-probabilities, kind="stable")[:top]
        error = answer.errors.get(place, "")
        yield AnswerRow(
            path=path,
            error=error,
            top=[] if error else [(int(label), names[label], float(probabilities[label])) for label in order],
            model=answer.model_name,
            version=answer.model_version,
            prepared=answer.preparations.get(place),
        )


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
