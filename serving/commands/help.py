"""How the help of every command looks: options in sections, ranges left out, examples at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import cloup

import serving
from serving.config import PRETRAINED

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS = {"show_default": True, "max_content_width": 110}

FILE = click.Path(path_type=Path, dir_okay=False)


class _Option(cloup.Option):
    """An option whose range is enforced but not part of the help: there the text says what a reader needs to know."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra

    def make_metavar(self, ctx: click.Context) -> str:
        return super().make_metavar(ctx).replace(" RANGE", "")


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Like `click.option`, without ranges in the help."""
    return cloup.option(*names, cls=_Option, **settings)


def repository_option(text: str = "Directory of the model repository.", **settings: Any) -> Callable[[F], F]:
    """`--repository`, by default the one that comes with the package."""
    return option(
        "--repository",
        type=click.Path(path_type=Path, file_okay=False),
        default=PRETRAINED,
        show_default="the repository that comes with the package",
        help=text,
        **settings,
    )


def version_option() -> Callable[[F], F]:
    """`--version`, which prints the product's version."""
    # DIGITS_VERSION in a container's environment must not make a server print its version and end.
    return click.version_option(serving.__version__, allow_from_autoenv=False)


def examples(*commands: str, note: str = "") -> str:
    """The end of a command's help: a note, then commands that work as typed."""
    return "\n".join([*([note, ""] if note else []), "\b", "Examples:", *(f"  {command}" for command in commands)])
