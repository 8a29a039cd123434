"""The command `digits-train`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from training.datasets import SOURCES, DatasetError, load


@click.command(context_settings={"show_default": True, "max_content_width": 110})
@click.option("--architecture", default="mnist_convnet", help="Network of the catalogue.")
@click.option("--data", "source", type=click.Choice(SOURCES), default="mnist", help="What to learn.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="MNIST_DIR",
    show_envvar=True,
    help="Directory with MNIST's four IDX files, plain or .gz; without it they are downloaded once.",
)
@click.option("--recipe", "recipe_name", default="published", help="Epochs, batch size and optimizer.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of weights, dropout and order.")
@click.option("--epochs", type=click.IntRange(1), default=None, help="Epochs, in place of the recipe's.")
@click.option("--limit", type=click.IntRange(1), default=None, help="Train on the first so many images only.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="[default: runs/ARCHITECTURE-seed-SEED]")
def main(
    architecture: str,
    source: str,
    data_dir: Path | None,
    recipe_name: str,
    seed: int,
    epochs: int | None,
    limit: int | None,
    out: Path | None,
) -> None:
    """Trains a network and writes model.keras and metrics.json."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the import: TensorFlow's start-up chatter
    try:
        from training.architectures import ARCHITECTURES
        from training.recipe import RECIPES
        from training.train import TrainingError, train
    except ImportError as error:
        raise click.ClickException(
            f"{error.name} is not installed; training needs the extra train: pip install 'digits-serving[train,cpu]'"
        ) from error
    if architecture not in ARCHITECTURES:
        raise click.BadParameter(
            f"no {architecture!r}; known are {', '.join(ARCHITECTURES)}", param_hint="--architecture"
        )
    if recipe_name not in RECIPES:
        known = ", ".join(RECIPES)
        raise click.BadParameter(f"no {recipe_name!r}; known are {known}", param_hint="--recipe")
    recipe = RECIPES[recipe_name].with_epochs(epochs)
    try:
        dataset = load(source, data_dir=data_dir)
        run = train(
            dataset,
            architecture=architecture,
            recipe=recipe,
            seed=seed,
            limit=limit,
            verbose=1 if sys.stdout.isatty() else 2,
        )
        path = run.save(out or Path("runs") / f"{architecture}-seed-{seed}")
    except (DatasetError, TrainingError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    test, validation = run.metrics["test"], run.metrics["validation"]
    click.echo(
        f"{architecture}, {run.metrics['parameters']:,} parameters, seed {seed}: "
        f"validation accuracy {validation['accuracy']:.2%}, "
        f"test accuracy {test['accuracy']:.2%} (loss {test['loss']:.4f}) after {run.metrics['seconds']:.0f} s\n{path}"
    )


if __name__ == "__main__":
    main(prog_name="digits-train")
