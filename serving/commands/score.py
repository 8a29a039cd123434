"""`digits-score`: classifies many images into one file."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click
import cloup
from click.core import ParameterSource

from serving.commands.cli import FILE, SETTINGS, examples, option, repository_option, version_option
from serving.commands.client_options import credential_options
from serving.commands.score_run import run_merge, run_scoring
from serving.config import PROVIDERS
from serving.errors import DigitsError, install_hint
from serving.score.formats import SUFFIXES
from serving.score.shard import Shard


def _out(_: click.Context, __: click.Parameter, value: Path) -> Path:
    if value.suffix not in SUFFIXES:
        raise click.BadParameter(f"{value.name!r} must end in {', '.join(SUFFIXES)}")
    if not value.parent.is_dir():
        raise click.BadParameter(f"there is no directory {value.parent}")
    return value


def _shard(_: click.Context, __: click.Parameter, value: str | None) -> Shard | None:
    try:
        return None if value is None else Shard.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


# With --merge nothing is scored, so no other option means anything.
_FOR_MERGE = {"merge", "out", "overwrite", "mix_models", "inputs"}


def _check_only_merged(context: click.Context) -> None:
    for param in context.command.params:
        given = context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if given and param.name not in _FOR_MERGE:
            raise click.UsageError(f"{param.opts[0]} can't be combined with --merge, which scores nothing")


@cloup.command(
    context_settings=SETTINGS,
    epilog=examples(
        "digits-score serving/samples --out scores.csv --local --resume",
        "digits-score scans --out part-3.csv --local --shard 3/16 --resume",
        "digits-score --merge 'part-*.csv' --out scores.csv",
    ),
)
@click.argument("inputs", nargs=-1, required=True)
@cloup.option_group(
    "Output",
    option("--out", required=True, callback=_out, type=FILE, help="File to write: .csv, .jsonl or .parquet."),
    option(
        "--columns",
        type=click.Choice(["all", "kaggle"]),
        default="all",
        help="kaggle: ImageId, counted from 1, and Label, as Kaggle's Digit Recognizer takes them.",
    ),
    option("--probabilities", is_flag=True, help="Add a column with the probability of each label."),
    option(
        "--min-confidence",
        type=click.FloatRange(0, 1),
        default=0.0,
        help="Probability, from 0 to 1, below which an answer is 'unsure' with label -1.",
    ),
    option(
        "--only-digits",
        is_flag=True,
        help="Give empty pages, several digits and what is no digit the label -1.",
    ),
    option("--resume", is_flag=True, help="Continue an interrupted run, or start one if there is none."),
    option("--overwrite", is_flag=True, help="Start over and replace existing output."),
    option(
        "--progress/--no-progress",
        default=None,
        show_default="only if stderr is a terminal",
        help="Show a progress bar.",
    ),
)
@cloup.option_group(
    "Shards, for many machines",
    option(
        "--shard",
        metavar="INDEX/COUNT",
        callback=_shard,
        show_default="all images",
        help="Score one of COUNT parts of INPUTS, with an --out of its own. Shards count from 0, as the indices of "
        "Kubernetes, Slurm and Spark do: the first of 16 is 0/16, the last 15/16. A shard without an image that can "
        "be read is no error.",
    ),
    option(
        "--merge",
        is_flag=True,
        help="Join the outputs of all shards, which INPUTS then are, into the file that one run would have written. "
        "Nothing is scored. Refused unless each shard is there once, finished and unchanged.",
    ),
)
@cloup.option_group(
    "Scoring through servers",
    option(
        "--target",
        "targets",
        multiple=True,
        envvar="DIGITS_TARGET",
        show_default="127.0.0.1:50051",
        help="Address of a server, HOST:PORT. Repeat the option for several servers of the same model.",
    ),
    option(
        "--streams",
        type=click.IntRange(1, 64),
        default=3,
        help="Streams to each server. Each has one request in flight.",
    ),
    option(
        "--retry-s",
        type=click.FloatRange(0, 86_400),
        default=120.0,
        help="How long to wait for a server that became unavailable, in seconds.",
    ),
    option(
        "--mix-models", is_flag=True, help="Accept answers of different model versions. Each row names its version."
    ),
)
@cloup.option_group(
    "Scoring without a server",
    option("--local", is_flag=True, help="Run the model in this process. Needs the extra cpu or gpu."),
    repository_option(help="With --local: directory of the model repository."),
    option(
        "--provider",
        type=click.Choice(PROVIDERS),
        default="auto",
        help="With --local: what runs the model. auto: CUDA if it works, else the CPU.",
    ),
    option(
        "--engines",
        type=click.IntRange(0, 1024),
        default=0,
        help="With --local on the CPU: engines, each on a processor of its own; 0: one per processor.",
    ),
    option(
        "--engine",
        type=click.Choice(["threads", "ray"]),
        default="threads",
        help="threads: as --local says. ray: run the model on a Ray cluster. Needs the extra ray.",
    ),
    option(
        "--address",
        show_default="starts a cluster of its own",
        help="With --engine ray: address of the cluster, as ray.init takes it.",
    ),
    option(
        "--actors",
        type=click.IntRange(0, 10_000),
        default=0,
        help="With --engine ray: actors, each with the model; 0: one per processor, minus one for Ray itself.",
    ),
)
@cloup.option_group(
    "Model",
    option("--model", show_default="the only one", help="Name of the model."),
    option(
        "--model-version",
        type=click.IntRange(1),
        show_default="the current one; with --resume the one that the run started with",
        help="Version of the model.",
    ),
)
@cloup.option_group(
    "Columns of the input",
    option(
        "--image-column",
        show_default="image and the like",
        help="Images: a column of a table (bytes, base64 or lists of pixels), or an array of an .npz file.",
    ),
    option(
        "--path-column",
        show_default="path, file, file_name and the like",
        help="Paths of images, relative to the table's folder: a column of a table.",
    ),
    option(
        "--id-column", show_default="the row's number", help="Names of the images in the output: a column of a table."
    ),
)
@cloup.option_group(
    "True labels",
    option("--label-folders", is_flag=True, help="Take the name of an image's folder as its true label."),
    option("--label-file", type=FILE, help="True labels for a file of arrays, .npy or IDX."),
    option("--label-column", help="True labels: a column of a table, or an array of an .npz file."),
)
@cloup.option_group(
    "Batches and parts",
    option("--batch-rows", type=click.IntRange(1, 65_536), default=1024, help="Images scored at a time."),
    option(
        "--part-rows",
        type=click.IntRange(1),
        default=65_536,
        help="Rows after which finished rows are saved as a part. A killed run loses one part at most.",
    ),
    option(
        "--part-seconds",
        type=click.FloatRange(0, 86_400),
        default=30.0,
        help="Time after which a part is saved, however small, in seconds.",
    ),
)
@credential_options
@version_option()
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Classifies all images of INPUTS into one file.

    INPUTS are folders with all images below them, image files, patterns such as 'scans/**/*.png', archives (.zip, .tar
    and compressed ones), arrays (.npy, .npz, IDX) and tables (.parquet, .csv, .tsv, .jsonl). An image that can't be
    read becomes a row that says why; if not one can be read, the exit code is 1. --resume continues a run that was
    killed; the output contains every image exactly once.
    """
    if options["merge"]:
        _check_only_merged(context)
    if options["resume"] and options["overwrite"]:
        raise click.UsageError("--resume and --overwrite exclude each other")
    options["local"] |= options["engine"] == "ray"
    if options["local"] and options["targets"] and "DIGITS_TARGET" not in os.environ:
        raise click.UsageError("--target can't be combined with --local or --engine ray")
    if math.isnan(options["min_confidence"]):
        raise click.UsageError("--min-confidence must lie between 0 and 1")
    if options["columns"] == "kaggle" and options["probabilities"]:
        raise click.UsageError("--probabilities needs --columns all")
    try:
        (run_merge if options["merge"] else run_scoring)(**options)
    except ModuleNotFoundError as error:
        extra = {"onnxruntime": "cpu", "ray": "ray"}.get(error.name or "", "score")
        raise click.ClickException(
            f"{error.name} is not installed; this needs the extra {extra}: {install_hint(extra)}"
        ) from error
    except KeyboardInterrupt:
        advice = "merge again" if options["merge"] else "--resume continues the run"
        raise click.ClickException(f"interrupted; {advice}") from None
    except DigitsError as error:
        raise click.ClickException(str(error)) from error
