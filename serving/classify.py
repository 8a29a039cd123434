"""`digits-classify`: image files in, labels out, over gRPC."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import click
import numpy as np

from serving.classification import UNSURE_NAME
from serving.client import CallFailed, Client
from serving.client_options import credential_options, target_option
from serving.credentials import Credentials
from serving.errors import DigitsError
from serving.images import read_image, terminal_picture


@click.command(context_settings={"show_default": True, "max_content_width": 110})
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@target_option
@click.option(
    "--timeout-s", default=30.0, type=click.FloatRange(0, 86_400, min_open=True), help="For everything, in seconds."
)
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    show_default="any answer is one",
    help="Answers less probable than this are 'unsure', label -1.",
)
@credential_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line in place of the table.")
@click.option("--picture", is_flag=True, help="Draw each image beside its label.")
def main(
    *,
    paths: tuple[Path, ...],
    target: str,
    timeout_s: float,
    min_confidence: float | None,
    credentials: Credentials,
    as_json: bool,
    picture: bool,
) -> None:
    """Classifies image files that have the model's size already."""
    try:
        with Client(target, credentials=credentials) as client:
            deadline = time.monotonic() + timeout_s
            model = client.get_model(timeout_s)
            size = {"height": model.height, "width": model.width, "channels": model.channels}
            images = np.stack([read_image(path, **size) for path in paths])
            answer = client.classify(
                images, min_confidence=min_confidence, timeout_s=max(0.0, deadline - time.monotonic())
            )
    except DigitsError as error:
        raise click.ClickException(str(error)) from error
    except CallFailed as error:
        raise click.ClickException(f"{target}: {error}") from error
    names = (*model.labels, UNSURE_NAME)  # the label -1 is the last
    answers = [
        {
            "path": str(path),
            "label": int(label),
            "name": names[label],
            "confidence": round(float(confidence), 6),
            "model": answer.model_name,
            "version": answer.model_version,
        }
        for path, label, confidence in zip(paths, answer.labels, answer.confidences, strict=True)
    ]
    if as_json:
        click.echo("\n".join(json.dumps(row) for row in answers))
        return
    if picture:
        captions = [f"{row['name']}  {row['confidence']:.2%}" for row in answers]
        click.echo(_side_by_side([terminal_picture(image) for image in images], captions))
        return
    width = max(len(row["path"]) for row in answers)
    for row in answers:
        click.echo(f"{row['path']:<{width}}  {row['name']}  {row['confidence']:7.2%}")


def _side_by_side(pictures: list[list[str]], captions: list[str], gap: int = 3) -> str:
    """Lays pictures with their captions out in rows as wide as the terminal."""
    cells = []
    for picture, caption in zip(pictures, captions, strict=True):
        width = max(len(caption), *(len(line) for line in picture)) if picture else len(caption)
        cells.append((width, [*picture, caption]))
    terminal_width = shutil.get_terminal_size().columns
    text: list[str] = []
    row: list[tuple[int, list[str]]] = []
    used = 0
    for width, lines in cells:
        if row and used + width > terminal_width:
            text += _joined_row(row, gap)
            row, used = [], 0
        row.append((width, lines))
        used += width + gap
    return "\n".join([*text, *_joined_row(row, gap)])


def _joined_row(cells: list[tuple[int, list[str]]], gap: int) -> list[str]:
    height = max(len(lines) for _, lines in cells)
    padded = [[" " * width] * (height - len(lines)) + [f"{line:<{width}}" for line in lines] for width, lines in cells]
    return ["", *((" " * gap).join(parts).rstrip() for parts in zip(*padded, strict=True))]


@click.command(context_settings={"show_default": True})
@target_option
@click.option(
    "--timeout-s", default=3.0, type=click.FloatRange(0, 86_400, min_open=True), help="How long to wait, in seconds."
)
@credential_options
def health(*, target: str, timeout_s: float, credentials: Credentials) -> None:
    """Waits until the server reports SERVING; exit code 1 where it does not in time."""
    try:
        with Client(target, credentials=credentials) as client:
            client.wait_until_serving(timeout_s)
    except DigitsError as error:
        raise click.ClickException(str(error)) from error
    except CallFailed as error:
        raise click.ClickException(f"{target}: {error}") from error
    click.echo("SERVING")
