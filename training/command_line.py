"""What `digits-train` and `digits-export` share: options, errors in one line, and TensorFlow without its messages."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import cloup

from serving import __version__
from serving.commands.cli import prepare_terminal
from serving.errors import DigitsError, install_hint

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS = {"show_default": True, "max_content_width": 110}


class _Option(cloup.Option):
    """An option whose range is enforced but not shown: the help text says what a reader needs to know."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra

    def make_metavar(self, ctx: click.Context) -> str:
        return super().make_metavar(ctx).replace(" RANGE", "")


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Declares an option whose range is left out of the help."""
    return cloup.option(*names, cls=_Option, **settings)


def data_dir_option() -> Callable[[F], F]:
    """Declares `--data-dir`."""
    return option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        envvar="MNIST_DIR",
        show_envvar=True,
        help="Directory with MNIST's four IDX files, plain or .gz. By default they are downloaded once.",
    )


def version_option() -> Callable[[F], F]:
    """Declares `--version`."""
    return click.version_option(__version__)


def parse_image_size(text: str) -> tuple[int, int, int] | None:
    """Returns height, width and channels of a text like 28x28x1; None if it is not like that."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})x([13])", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def examples(*commands: str) -> str:
    """The end of a help text: commands that work as typed."""
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the command with one line and exit code 1 on missing packages, bad data and files that can't be written.

    Lets it print any text, whatever the terminal's encoding is.
    """
    prepare_terminal()
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed; training and exporting need the extras train and cpu (or gpu): "
            f"{install_hint('train,cpu')}"
        ) from error
    except ImportError as error:
        raise click.ClickException(f"an installed package can't be imported: {error}") from error
    except DigitsError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'while writing'}: {error.strerror or error}") from error


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow and looks for GPUs; shows what TensorFlow writes to stderr only if that fails.

    TensorFlow writes a dozen lines about processors and missing GPUs at every start, whatever its log level is.

    Raises:
        ImportError: TensorFlow is not installed or can't be loaded.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)  # its C++ parts write there directly
        try:
            import tensorflow

            tensorflow.config.list_physical_devices("GPU")
            tensorflow.get_logger().setLevel("ERROR")  # warnings on retracing mean nothing to who reads a report
        except Exception:
            log.seek(0)
            with os.fdopen(os.dup(stderr), "wb") as shown:
                shutil.copyfileobj(log, shown)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
