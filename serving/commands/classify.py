"""`digits-classify`: classifies images through a server."""

from __future__ import annotations

import time

import click
import cloup

from serving.client import Client, Place
from serving.client.credentials import Credentials
from serving.commands.answers import AnswerPrinter, answers
from serving.commands.cli import SETTINGS, examples, option, version_option
from serving.commands.client_options import call_errors_in_one_line, credential_options, target_option
from serving.images.files import find_images, read_images

# Images per call to the client: their answers are printed before the next images are read.
_IMAGES = 256


@cloup.command(
    context_settings=SETTINGS,
    epilog=examples(
        "digits-classify serving/samples/*.png",
        "digits-classify --explain serving/samples/3.png",
        "digits-classify --json --top 3 - < serving/samples/3.png",
    ),
)
@click.argument("images", nargs=-1, required=True)
@cloup.option_group(
    "Server",
    target_option,
    option(
        "--timeout-s",
        default=30.0,
        type=click.FloatRange(0, 86_400, min_open=True),
        help="How long all images may take together, in seconds.",
    ),
    option("--model", default="", show_default="the server's default model", help="Name of the model."),
    option(
        "--model-version",
        type=click.IntRange(1),
        show_default="the current one, or the canary",
        help="Version of the model.",
    ),
    option(
        "--prepare",
        default="server",
        type=click.Choice(["server", "client"]),
        help="Where images are decoded and prepared. On the client, fewer bytes are sent.",
    ),
)
@cloup.option_group(
    "Answers",
    option(
        "--min-confidence",
        type=click.FloatRange(0, 1),
        show_default="every answer counts",
        help="Probability, from 0 to 1, below which an answer is 'unsure' with label -1.",
    ),
    option(
        "--only-digits",
        is_flag=True,
        help="Give empty pages, several digits and what is no digit the label -1.",
    ),
    option("--top", default=1, type=click.IntRange(1), help="Candidates per image, the most probable first."),
    option("--picture", is_flag=True, help="Draw each image as the network saw it, with its label."),
    option("--explain", is_flag=True, help="Show how each image was prepared, and draw what the network saw."),
    option("--json", "as_json", is_flag=True, help="Print one JSON object per line."),
    option("--csv", "as_csv", is_flag=True, help="Print CSV with a header."),
)
@credential_options
@version_option()
def main(
    *,
    images: tuple[str, ...],
    target: str,
    model: str,
    model_version: int | None,
    timeout_s: float,
    min_confidence: float | None,
    only_digits: bool,
    credentials: Credentials,
    as_json: bool,
    as_csv: bool,
    top: int,
    picture: bool,
    explain: bool,
    prepare: Place,
) -> None:
    """Classifies images: files, folders, patterns, or - for one image on standard input.

    Reads PNG, JPEG, WebP, BMP, TIFF and GIF of any size. If an image can't be read, it is reported on stderr, the
    others are classified, and the exit code is 1.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    sources = list(find_images(images))
    style = "json" if as_json else "csv" if as_csv else "text"
    printer = AnswerPrinter([name for name, _ in sources], style=style, top=top, picture=picture, explain=explain)
    printer.begin()
    try:
        with (
            call_errors_in_one_line(target),
            Client(target, credentials=credentials, model_name=model, model_version=model_version or 0) as client,
        ):
            deadline = time.monotonic() + timeout_s
            max_bytes = client.get_model(timeout_s).max_message_bytes
            for start in range(0, len(sources), _IMAGES):
                part = sources[start : start + _IMAGES]
                classification = client.classify_encoded(
                    read_images(part, max_bytes),
                    prepare=prepare,
                    probabilities=True,
                    min_confidence=min_confidence,
                    only_digits=only_digits,
                    explain=picture or explain,
                    timeout_s=max(0.0, deadline - time.monotonic()),
                )
                for answer in answers([name for name, _ in part], classification, top):
                    printer.print(answer)
    finally:
        printer.end()
    if printer.failed:
        raise click.exceptions.Exit(1)
