"""The command `digits-train` and its sub-commands `summary` and `report`.

Options and data are checked before Keras is imported, which takes seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import cloup

from training.architectures import ARCHITECTURES
from training.command_line import (
    SETTINGS,
    data_dir_option,
    errors_in_one_line,
    examples,
    import_tensorflow_quietly,
    option,
    parse_image_size,
    version_option,
)
from training.datasets import SOURCES, load, own_source
from training.normalisation import NORMALISATIONS
from training.recipe import NAMES, recipe_for
from training.run_record import TEACHER, refuse_earlier_run, run_directories
from training.summary import render, summarise, summarise_file

_DIRECTORY = click.Path(path_type=Path, file_okay=False)


def _source(_: click.Context, __: click.Parameter, value: str) -> str:
    if value in SOURCES:
        return value
    if own := own_source(value):
        return own
    raise click.BadParameter(f"{value!r} is not one of {', '.join(SOURCES)}")


def _image_shape(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | str | None:
    if value in (None, "own"):
        return value
    size = parse_image_size(value)
    if size is None:
        raise click.BadParameter(f"{value!r} is neither 'own' nor like 128x128x3 (height, width, 1 or 3 channels)")
    return size


@cloup.group(
    invoke_without_command=True,
    context_settings=SETTINGS,
    epilog=examples(
        "digits-train --list",
        "digits-train --data synthetic --epochs 2 --out runs/first",
        "digits-train --architecture kaggle_stacked --seeds 3",
    ),
)
@cloup.option_group(
    "Network",
    option(
        "--architecture",
        type=click.Choice(list(ARCHITECTURES)),
        metavar="NAME",
        default="mnist_convnet",
        help="Network of the catalogue.",
    ),
    option("--list", "list_all", is_flag=True, help="List the catalogue and exit."),
    option("--normalisation", type=click.Choice(NORMALISATIONS), default="rescale", help="First layer."),
)
@cloup.option_group(
    "Data",
    option(
        "--data",
        "source",
        callback=_source,
        metavar="SOURCE",
        default="mnist",
        help=f"One of {', '.join(SOURCES)}; the prefix may be left out. A folder contains a sub-folder of images for "
        "each class; a file is a table (CSV, JSON lines, Parquet) or .npz with images and labels.",
    ),
    data_dir_option(),
    option(
        "--image-size",
        callback=_image_shape,
        metavar="SIZE",
        show_default="the architecture's",
        help="Size to which your own images are resized: HEIGHTxWIDTHxCHANNELS, or 'own' to keep theirs.",
    ),
    option("--skip-unreadable", is_flag=True, help="Leave out images of yours that can't be read."),
    option("--limit", type=click.IntRange(1), help="Number of training images, the first ones.", show_default="all"),
)
@cloup.option_group(
    "Training",
    option(
        "--recipe",
        type=click.Choice(NAMES),
        show_default="fast for mnist_convnet, else published",
        help="Epochs, batch size, optimizer, augmentation.",
    ),
    option("--epochs", type=click.IntRange(1), help="Number of epochs.", show_default="the recipe's"),
    option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of weights, dropout and order."),
    option("--seeds", type=click.IntRange(1), default=1, help="Number of runs; their seeds count up from --seed."),
    option(
        "--teacher",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        show_default="trained first",
        help="model.keras of the teacher, for a recipe with distillation: accurate for mnist_convnet.",
    ),
)
@option(
    "--out",
    type=_DIRECTORY,
    show_default="runs/ARCHITECTURE-seed-SEED; for several runs, runs/ARCHITECTURE-RECIPE-seeds-FROM-TO",
    help="Directory of the run; for several runs, the directory that contains theirs.",
)
@option("--overwrite", is_flag=True, help="Replace a run that the directory holds already.")
@version_option()
@click.pass_context
def main(context: click.Context, /, *, list_all: bool, **options: Any) -> None:
    """Trains a network and writes model.keras, its record and a report."""
    if context.invoked_subcommand is not None:
        return
    if not list_all:
        with errors_in_one_line():
            _train(**options)
        return
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
    overwrite: bool,
) -> None:
    chosen = recipe_for(recipe, architecture).with_epochs(epochs)
    if teacher and chosen.distillation is None:
        raise click.BadParameter(f"the recipe {chosen.name} has no teacher", param_hint="--teacher")
    last = seed + seeds - 1
    name = f"{architecture}-seed-{seed}" if seeds == 1 else f"{architecture}-{chosen.name}-seeds-{seed}-{last}"
    directory = out or Path("runs") / name
    if not overwrite:
        for place in [*run_directories(directory, range(seed, last + 1)), directory / TEACHER]:
            refuse_earlier_run(place)
    shape = None if isinstance(image_size, str) else image_size or ARCHITECTURES[architecture].image_shape
    dataset = load(source, data_dir=data_dir, image_shape=shape, skip_unreadable=skip_unreadable)
    fitted = chosen.fitted_images(len(dataset.train_images[:limit]))
    epochs_each = "1 epoch" if chosen.epochs == 1 else f"{chosen.epochs} epochs"
    times = f", {seeds} times" if seeds > 1 else ""
    click.echo(f"training {architecture} on {fitted:,} images of {source}, {epochs_each}{times}")

    import_tensorflow_quietly()
    from training.runs import train_seeds

    train_seeds(
        dataset,
        architecture=architecture,
        recipe=chosen,
        seeds=range(seed, last + 1),
        teacher=teacher,
        teacher_epochs=epochs,
        directory=directory,
        echo=click.echo,
        normalisation=normalisation,
        limit=limit,
        verbose=1 if sys.stdout.isatty() else 2,
    )


@main.command(
    context_settings=SETTINGS,
    epilog=examples("digits-train summary mnist_convnet", "digits-train summary runs/first/model.keras"),
)
@cloup.argument("network", metavar="NAME|MODEL.keras")
@errors_in_one_line()
def summary(network: str) -> None:
    """Explains a network: where its shapes, its parameters and its work come from."""
    try:
        if network in ARCHITECTURES:
            architecture = ARCHITECTURES[network]
            rows = summarise(architecture.layers(), architecture.image_shape)
        elif Path(network).is_file():
            rows = summarise_file(Path(network))
        else:
            raise click.ClickException(f"{network}: neither a file nor one of {', '.join(ARCHITECTURES)}")
    except ValueError as error:
        raise click.ClickException(f"{network}: {error}") from error
    click.echo(render(rows))


@main.command(
    context_settings=SETTINGS,
    epilog=examples("digits-train report runs/first", "digits-train report runs/first runs/second --out comparison"),
)
@cloup.argument("directories", metavar="RUN...", nargs=-1, required=True, type=_DIRECTORY)
@option(
    "--out",
    type=_DIRECTORY,
    show_default="the directory of the run; for several runs, comparison",
    help="Directory for report.html and its charts.",
)
@errors_in_one_line()
def report(directories: tuple[Path, ...], out: Path | None) -> None:
    """Writes the report of a run again, or a report that compares several runs."""
    from training.report import write_comparison, write_report
    from training.run_record import RunRecord

    unique = len({directory.name for directory in directories}) == len(directories)
    records = {directory.name if unique else str(directory): RunRecord.read(directory) for directory in directories}
    if len(directories) == 1:
        click.echo(write_report(records, out or directories[0]))
    else:
        write_comparison(records, out or Path("comparison"), click.echo)


if __name__ == "__main__":
    main(prog_name="digits-train")
