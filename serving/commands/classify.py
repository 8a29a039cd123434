"""`digits-classify`: images in, labels out, over gRPC."""

from __future__ import annotations

import shutil
import time

import click

from serving.client import CallFailed, Client, Place
from serving.client.credentials import Credentials
from serving.commands.answer_row import AnswerRow, answer_rows, csv_header
from serving.commands.client_options import credential_options, target_option
from serving.commands.terminal_picture import terminal_picture
from serving.errors import DigitsError
from serving.images.files import find_images, read_images

# Images of one call to the client: their answers are printed before the next are read.
_IMAGES = 256


@click.command(context_settings={"show_default": True, "max_content_width": 110})
@click.argument("images", nargs=-1, required=True)
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
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header in place of the table.")
@click.option("--top", default=1, type=click.IntRange(1), help="Labels of each image, the most probable first.")
@click.option("--picture", is_flag=True, help="Draw each image, as the network saw it, beside its label.")
@click.option("--explain", is_flag=True, help="Say what was made of each image, and draw what the network saw.")
@click.option(
    "--prepare",
    default="server",
    type=click.Choice(["server", "client"]),
    help="Who decodes and prepares: the client sends fewer bytes.",
)
def main(
    *,
    images: tuple[str, ...],
    target: str,
    timeout_s: float,
    min_confidence: float | None,
    credentials: Credentials,
    as_json: bool,
    as_csv: bool,
    top: int,
    picture: bool,
    explain: bool,
    prepare: Place,
) -> None:
    """Classifies images: files, folders, globs, or - for one on standard input.

    PNG, JPEG, WebP, BMP, TIFF and GIF of any size. An image that can't be read is named on stderr, the others are
    answered, and the exit code is 1.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    sources = list(find_images(images))
    listing = _Listing(as_json=as_json, as_csv=as_csv, top=top, picture=picture, explain=explain)
    listing.begin([name for name, _ in sources])
    try:
        with Client(target, credentials=credentials) as client:
            deadline = time.monotonic() + timeout_s
            model = client.get_model(timeout_s)
            for start in range(0, len(sources), _IMAGES):
                part = sources[start : start + _IMAGES]
                answer = client.classify_encoded(
                    read_images(part, model.max_message_bytes),
                    prepare=prepare,
                    probabilities=True,
                    min_confidence=min_confidence,
                    explain=picture or explain,
                    timeout_s=max(0.0, deadline - time.monotonic()),
                )
                for row in answer_rows([name for name, _ in part], answer, top):
                    listing.add(row)
    except DigitsError as error:
        raise click.ClickException(str(error)) from error
    except CallFailed as error:
        raise click.ClickException(f"{target}: {error}") from error
    finally:
        listing.end()
    if listing.failed:
        raise click.exceptions.Exit(1)


class _Listing:
    """What is printed, row by row."""

    def __init__(self, *, as_json: bool, as_csv: bool, top: int, picture: bool, explain: bool) -> None:
        self._as_json = as_json
        self._as_csv = as_csv
        self._top = top
        self._picture = picture and not (as_json or as_csv)
        self._explain = explain
        self._width = 0
        self._pictures: list[tuple[list[str], str]] = []
        self.failed = 0

    def begin(self, paths: list[str]) -> None:
        self._width = max((len(path) for path in paths), default=0)
        if self._as_csv:
            click.echo(csv_header(self._top))

    def add(self, row: AnswerRow) -> None:
        if row.error:
            self.failed += 1
            click.echo(f"{row.path}: {row.error}", err=True)
        if self._as_json:
            click.echo(row.json())
        elif self._as_csv:
            click.echo(row.csv(self._top))
        elif not row.error and self._picture:
            self._pictures.append((_drawn(row), f"{row.name}  {row.confidence:.2%}"))
        elif not row.error:
            click.echo(row.text(self._width))
            if self._explain:
                click.echo(_explained(row))

    def end(self) -> None:
        if self._pictures:
            click.echo(_side_by_side(self._pictures))


def _drawn(row: AnswerRow) -> list[str]:
    return [] if row.prepared is None else terminal_picture(row.prepared.pixels)


def _explained(row: AnswerRow) -> str:
    steps = []
    if row.prepared is not None:
        steps = [f"{row.prepared.height} x {row.prepared.width} pixels", *row.prepared.steps]
    return "\n".join(f"    {line}" for line in [*steps, "", *_drawn(row), ""])


def _side_by_side(pictures: list[tuple[list[str], str]], gap: int = 3) -> str:
    """Lays pictures with their captions out in rows as wide as the terminal."""
    cells = []
    for picture, caption in pictures:
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
