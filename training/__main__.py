"""The command `digits-train` and its sub-commands `summary` and `report`."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training.datasets import SOURCES, DatasetError, load
from training.tensorflow_log import import_tensorflow_quietly

if TYPE_CHECKING:
    from training.record import RunRecord

_RECIPES = ("published", "fast", "accurate")
_NORMALISATIONS = ("rescale", "standardise", "none")


def _source(_: click.Context, __: click.Parameter, value: str) -> str:
    if value in SOURCES or value.startswith("folder:"):
        return value
    raise click.BadParameter(f"{value!r} is none of {', '.join(SOURCES)}")


def _image_shape(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | str | None:
    if value in (None, "own"):
        return value
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})x([13])", value)
    if not found:
        raise click.BadParameter(f"{value!r} is neither 'own' nor like 128x128x3 (height, width, 1 or 3 channels)")
    return tuple(int(part) for part in found.groups())


@contextlib.contextmanager
def _errors_in_a_line(*, tensorflow: bool = True) -> Iterator[None]:
    """Missing extras, bad data and files that can't be written end the command with one line and exit code 1."""
    try:
        if tensorflow:
            import_tensorflow_quietly()
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed; training needs the extra train: pip install 'digits-serving[train,cpu]'"
        ) from error
    except ImportError as error:
        raise click.ClickException(f"an installed package can't be imported: {error}") from error
    except DatasetError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'while writing'}: {error.strerror or error}") from error


@click.group(invoke_without_command=True, context_settings={"show_default": True, "max_content_width": 110})
@click.option("--architecture", default="mnist_convnet", help="Network of the catalogue.")
@click.option("--list", "list_all", is_flag=True, help="List the catalogue and stop.")
@click.option(
    "--data",
    "source",
    callback=_source,
    default="mnist",
    help=f"What to learn: {', '.join(SOURCES)}; a folder has a sub-folder of images for each class.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="MNIST_DIR",
    show_envvar=True,
    help="Directory with MNIST's four IDX files, plain or .gz; without it they are downloaded once.",
)
@click.option(
    "--image-size",
    callback=_image_shape,
    show_default="the architecture's",
    help="Size that a folder's images are brought to, HEIGHTxWIDTHxCHANNELS, or 'own'.",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave out a folder's files that are no images.")
@click.option("--normalisation", type=click.Choice(_NORMALISATIONS), default="rescale", help="First layer.")
@click.option(
    "--recipe",
    type=click.Choice(_RECIPES),
    show_default="fast for mnist_convnet, else published",
    help="Epochs, batch size, optimizer.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of weights, dropout and order.")
@click.option("--seeds", type=click.IntRange(1), default=1, help="Train so many times, from --seed on upwards.")
@click.option(
    "--teacher",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    show_default="is trained first",
    help="model.keras to learn from, for recipes that have a teacher, as accurate for mnist_convnet.",
)
@click.option("--epochs", type=click.IntRange(1), default=None, help="Epochs, in place of the recipe's.")
@click.option("--limit", type=click.IntRange(1), default=None, help="Train on the first so many images only.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="runs/ARCHITECTURE-seed-SEED, of several runs/ARCHITECTURE-RECIPE-seeds-FROM-TO",
    help="Directory for the run; of several, for a directory of each.",
)
@click.pass_context
def main(context: click.Context, /, *, list_all: bool, **options: Any) -> None:
    """Trains a network and writes model.keras, its record and a report."""
    if context.invoked_subcommand is not None:
        return
    with _errors_in_a_line():
        if list_all:
            _list()
        else:
            _train(**options)


def _list() -> None:
    from training.architectures import ARCHITECTURES

    for name, architecture in ARCHITECTURES.items():
        size = " x ".join(map(str, architecture.image_shape))
        click.echo(f"{name:<20} {architecture.parameters:>8,}  {size:<14} {architecture.summary}")


def _train(
    *,
    architecture: str,
    source: str,
    data_dir: Path | None,
    image_size: tuple[int, int, int] | str | None,
    skip_unreadable: bool,
    normalisation: str,
    recipe: str | None,
    seed: int,
    seeds: int,
    teacher: Path | None,
    epochs: int | None,
    limit: int | None,
    out: Path | None,
) -> None:
    from training.architectures import ARCHITECTURES
    from training.recipe import recipe_for
    from training.report import write_report
    from training.teacher import teacher_for
    from training.train import TrainingError, train

    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise click.BadParameter(f"no {architecture!r}; known are {known}", param_hint="--architecture")
    chosen = recipe_for(recipe, architecture).with_epochs(epochs)
    if teacher and chosen.distillation is None:
        raise click.BadParameter(f"the recipe {chosen.name} has no teacher", param_hint="--teacher")
    shape = None if isinstance(image_size, str) else image_size or ARCHITECTURES[architecture].image_shape
    dataset = load(source, data_dir=data_dir, image_shape=shape, skip_unreadable=skip_unreadable)
    last = seed + seeds - 1
    several = None if seeds == 1 else out or Path("runs") / f"{architecture}-{chosen.name}-seeds-{seed}-{last}"
    options: dict[str, Any] = {
        "normalisation": normalisation,
        "limit": limit,
        "verbose": 1 if sys.stdout.isatty() else 2,
    }
    base = several or out or Path("runs") / f"{architecture}-seed-{seed}"
    try:
        taught_by = teacher_for(
            chosen, teacher, dataset, base / "teacher", seed=seed, epochs=epochs, say=click.echo, **options
        )
    except TrainingError as error:
        raise click.ClickException(str(error)) from error
    records = {}
    for each in range(seed, last + 1):
        directory = several / f"seed-{each}" if several else out or Path("runs") / f"{architecture}-seed-{each}"
        try:
            run = train(
                dataset,
                architecture=architecture,
                recipe=chosen,
                seed=each,
                teacher=taught_by,
                **options,
            )
        except TrainingError as error:
            raise click.ClickException(str(error)) from error
        path = run.save(directory)
        records[f"seed {each}"] = run.record
        test, validation = run.metrics["test"], run.metrics["validation"]
        click.echo(
            f"{architecture}, {run.metrics['parameters']:,} parameters, seed {each}: "
            f"validation accuracy {validation['accuracy']:.2%}, "
            f"test accuracy {test['accuracy']:.2%} (loss {test['loss']:.4f}) after {run.metrics['seconds']:.0f} s\n"
            f"{path}\n{write_report({directory.name: run.record}, directory)}"
        )
        if run.metrics["stopped"]:
            raise click.ClickException(f"{run.metrics['stopped']}; the best weights so far are in {path}")
    if several:
        _compare(records, several)


def _compare(records: dict[str, RunRecord], directory: Path) -> None:
    """Prints mean and spread of runs that differ in their seed, and writes the report that compares all."""
    from training.comparison import group
    from training.report import write_report

    for each in group(list(records.values())):
        if len(each.runs) > 1:
            click.echo(
                f"{each.title}, seeds {', '.join(map(str, each.seeds))}: test accuracy mean {each.test.mean:.3%}, "
                f"lowest {each.test.minimum:.2%}, standard deviation {each.test.deviation:.3%}; "
                f"validation mean {each.validation.mean:.3%}; {each.seconds.mean:.0f} s each"
            )
    click.echo(write_report(records, directory))


@main.command()
@click.argument("network", metavar="NAME|MODEL.keras")
def summary(network: str) -> None:
    """Explains a network: where its shapes, its parameters and its work come from."""
    with _errors_in_a_line():
        import keras

        from training.architectures import ARCHITECTURES
        from training.summary import render, summarise

        if network in ARCHITECTURES:
            model = ARCHITECTURES[network].build()
        elif Path(network).is_file():
            try:
                model = keras.models.load_model(network, compile=False)
            except ValueError as error:
                raise click.ClickException(f"{network}: no .keras file that Keras can load") from error
        else:
            raise click.ClickException(f"{network}: neither a file nor one of {', '.join(ARCHITECTURES)}")
        try:
            click.echo(render(summarise(model)))
        except TypeError as error:
            raise click.ClickException(f"{network}: {error}") from error


@main.command()
@click.argument(
    "directories", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False)
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="the run's own directory; of several: comparison",
    help="Directory for report.html and its pictures.",
)
def report(directories: tuple[Path, ...], out: Path | None) -> None:
    """Writes the report of a run again, or one that compares several."""
    with _errors_in_a_line(tensorflow=False):
        from training.record import RecordError, RunRecord
        from training.report import write_report

        unique = len({directory.name for directory in directories}) == len(directories)
        try:
            records = {
                directory.name if unique else str(directory): RunRecord.read(directory) for directory in directories
            }
        except RecordError as error:
            raise click.ClickException(str(error)) from error
        if len(directories) == 1:
            click.echo(write_report(records, out or directories[0]))
        else:
            _compare(records, out or Path("comparison"))


if __name__ == "__main__":
    main(prog_name="digits-train")
