"""What the commands share: help in sections that ends with examples, and errors in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import cloup

import serving
from serving.config import PRETRAINED
from serving.errors import DigitsError

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS = {"show_default": True, "max_content_width": 110}

FILE = click.Path(path_type=Path, dir_okay=False)


class _Option(cloup.Option):
    """An option that enforces its range without showing it; its text says what a user needs to know."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Like `click.option`, but the help shows environment variables and no ranges."""
    settings.setdefault("show_envvar", "envvar" in settings)
    if isinstance(settings.get("type"), click.IntRange | click.FloatRange):
        settings.setdefault("metavar", settings["type"].name.removesuffix(" range").upper())
    return cloup.option(*names, cls=_Option, **settings)


def repository_option(**settings: Any) -> Callable[[F], F]:
    """`--repository`, by default the one that comes with the package."""
    return option(
        "--repository",
        type=click.Path(path_type=Path, file_okay=False),
        default=PRETRAINED,
        show_default="the repository that comes with the package",
        **{"help": "Directory of the model repository.", **settings},
    )


def version_option() -> Callable[[F], F]:
    """`--version`, which prints the product's version."""
    # DIGITS_VERSION in a container's environment must not make a server print its version and exit.
    return click.version_option(serving.__version__, allow_from_autoenv=False)


def examples(*commands: str, note: str = "") -> str:
    """The end of a command's help: a note, then commands that work as typed."""
    return "\n".join([*([note, ""] if note else []), "\b", "Examples:", *(f"  {command}" for command in commands)])


@contextlib.contextmanager
def errors_in_one_line(what: str) -> Iterator[None]:
    """Turns errors that a user can act on into one line on stderr and exit code 1.

    Args:
        what: What needs ONNX Runtime, for the advice if it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed; {what} needs the extra cpu or gpu: pip install '.[cpu]'"
        ) from error
    except ImportError as error:
        raise click.ClickException(f"an installed package can't be imported: {error}") from error
    except DigitsError as error:
        raise click.ClickException(str(error)) from error
