"""What `digits-export` and `digits-import` share: options of publishing, and checked values of options."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import cloup

from serving.repository.labels import CANARY, CANARY_SHARE, STABLE
from training.command_line import option, parse_image_size


def numbers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Numbers separated by commas, each also as a fraction: `1/255`, `0.485,0.456,0.406`."""
    if value is None:
        return None
    try:
        return tuple(float(Fraction(part.strip())) for part in value.split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise click.BadParameter(f"{value!r} is neither a number nor like 1/255 or 0.5,0.5,0.5") from error


def nonzero(context: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """The same, but without 0."""
    found = numbers(context, param, value)
    if found and 0 in found:
        raise click.BadParameter("must not be 0")
    return found


def one_number(context: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """One such number, not 0."""
    found = nonzero(context, param, value)
    if found and len(found) > 1:
        raise click.BadParameter(f"{value!r} is not one number")
    return found[0] if found else None


def image_size_value(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int, int] | None:
    """Height, width and channels, like 28x28x1."""
    if value is None:
        return None
    size = parse_image_size(value)
    if size is None:
        raise click.BadParameter(f"{value!r} is not like 28x28x1 (height, width, 1 or 3 channels)")
    return size


def class_names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Names separated by commas, or the lines of a file."""
    if value is None:
        return None
    path = Path(value)
    if "," in value and not path.is_file():
        names = value.split(",")
    else:
        try:
            names = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"{value!r} is neither names separated by commas nor a text file") from error
    stripped = tuple(name.strip() for name in names)
    return stripped[: -1 if stripped and not stripped[-1] else None]


def publishing_options(*, name_default: str) -> Callable[[Any], Any]:
    """Makes the options of commands that publish.

    Args:
        name_default: What the help says of the name that a model has by default.
    """
    return cloup.option_group(
        "Publishing",
        option(
            "--repository",
            required=True,
            type=click.Path(path_type=Path, file_okay=False),
            help="The model repository.",
        ),
        option("--name", show_default=name_default, help="Name of the model in the repository."),
        option(
            "--label",
            type=click.Choice([STABLE, CANARY]),
            show_default="labels stay as they are",
            help="Give the new version this label.",
        ),
        option(
            "--share",
            type=click.FloatRange(0, 1),
            show_default=f"{CANARY_SHARE}",
            help="Share of the canary in the calls that name no version, 0 to 1; with 0, only calls that name it "
            "reach it.",
        ),
        option(
            "--sign",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="KEY",
            show_default="no signature",
            help="Sign the version, for servers with --trusted-key. A private key on P-256, P-384 or P-521, PEM, "
            "without a password.",
        ),
        option(
            "--min-accuracy",
            type=click.FloatRange(0, 1),
            show_default="clearly better than chance",
            help="Publish nothing that is right on a smaller share of the test images, 0 to 1.",
        ),
        option(
            "--allow-worse",
            is_flag=True,
            help="Let it replace the version that answers calls, though that one is clearly better on the same images.",
        ),
    )
