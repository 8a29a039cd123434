"""What the commands share: help in sections that ends with examples, and errors in one line."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import cloup
from click.core import ParameterSource

import serving
from serving.commands.variables import is_service_link, variables_of
from serving.config import PRETRAINED
from serving.errors import DigitsError, install_hint

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS = {"show_default": True, "max_content_width": 110}

FILE = click.Path(path_type=Path, dir_okay=False)


class _Option(cloup.Option):
    """An option that enforces its range without showing it; its text says what a user needs to know.

    It ignores variables that Kubernetes sets, and errors name the variable if the value comes from one.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        set_by_kubernetes = value is not None and any(is_service_link(name, value) for name in variables_of(self))
        return None if set_by_kubernetes else value

    def get_error_hint(self, ctx: click.Context | None) -> str:
        return super().get_error_hint(ctx) if ctx is None else origin(self, ctx)

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


def origin(param: click.Parameter, ctx: click.Context) -> str:
    """Returns where the value of an option comes from: `the variable DIGITS_PORT`, or `--port`."""
    if isinstance(param, click.Option) and ctx.get_parameter_source(param.name or "") is ParameterSource.ENVIRONMENT:
        return f"the variable {next((name for name in variables_of(param) if name in os.environ), param.name)}"
    return param.opts[0]


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Like `click.option`, but the help shows environment variables and no ranges."""
    settings.setdefault("show_envvar", "envvar" in settings)
    if isinstance(settings.get("type"), click.IntRange | click.FloatRange):
        settings["type"].name = settings["type"].name.removesuffix(" range")  # in metavars and errors
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


def prepare_terminal() -> None:
    """Lets stdout take any text: what its encoding lacks becomes escapes, not a traceback.

    Bytes of file names that are not UTF-8 are printed to UTF-8 as they are, so that other programs find the files.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


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
            f"{error.name} is not installed; {what} needs the extra cpu or gpu: {install_hint('cpu')}"
        ) from error
    except ImportError as error:
        raise click.ClickException(f"an installed package can't be imported: {error}") from error
    except DigitsError as error:
        raise click.ClickException(str(error)) from error
