"""The command `digits-score`."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import click

from serving.commands.client_options import credential_options
from serving.config import PRETRAINED
from serving.errors import DigitsError
from serving.score.backends import open_scorer
from serving.score.batch import BatchLimits
from serving.score.formats import SUFFIXES
from serving.score.inputs import InputOptions, open_inputs
from serving.score.output import Output, PartLimits, check_free
from serving.score.rows import RowLayout
from serving.score.run import Run
from serving.score.summary import summarise
from serving.score.tables import Columns


def _out(_: click.Context, __: click.Parameter, value: Path) -> Path:
    if value.suffix not in SUFFIXES:
        raise click.BadParameter(f"{value.name!r} must end in {', '.join(SUFFIXES)}")
    if not value.parent.is_dir():
        raise click.BadParameter(f"there is no directory {value.parent}")
    return value


@click.command(context_settings={"show_default": True, "max_content_width": 110})
@click.argument("inputs", nargs=-1, required=True)
@click.option(
    "--out",
    required=True,
    callback=_out,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: .csv, .jsonl or .parquet.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    envvar="DIGITS_TARGET",
    show_envvar=True,
    show_default="127.0.0.1:50051",
    help="Server, HOST:PORT; several times for several servers of one model.",
)
@click.option("--local", is_flag=True, help="Score in this process, without a server; needs the extra cpu or gpu.")
@click.option(
    "--engine",
    type=click.Choice(["threads", "ray"]),
    default="threads",
    help="ray: without a server, on a Ray cluster; needs the extra ray.",
)
@click.option("--address", show_default="a cluster of its own", help="Ray cluster, as ray.init takes it.")
@click.option(
    "--actors",
    type=click.IntRange(0, 10_000),
    default=0,
    help="Ray actors, each with the model; 0: one a processor, one kept for Ray.",
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=PRETRAINED,
    show_default="the shipped model",
    help="With --local: directory of the model repository.",
)
@click.option("--model", show_default="the only one", help="Name of the model.")
@click.option(
    "--model-version",
    type=click.IntRange(1),
    show_default="the current one; with --resume that of the run",
    help="Version of the model, named in every request.",
)
@click.option(
    "--provider", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", help="With --local: what runs the model."
)
@click.option(
    "--engines",
    type=click.IntRange(0, 1024),
    default=0,
    help="With --local on the CPU: engines, each on a processor; 0: as many as there are.",
)
@click.option(
    "--streams", type=click.IntRange(1, 64), default=3, help="Streams to each server, each with one request on its way."
)
@click.option(
    "--retry-s",
    type=click.FloatRange(0, 86_400),
    default=120.0,
    help="How long a server that went away is waited for, in seconds.",
)
@click.option("--mix-models", is_flag=True, help="Take any version's answers; every row says which one it is of.")
@click.option("--probabilities", is_flag=True, help="A column for the probability of each label.")
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Answers less probable than this get the label -1, 'unsure'.",
)
@click.option("--label-folders", is_flag=True, help="The folder that an image is in is its true label.")
@click.option(
    "--label-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="True labels of a file of arrays, .npy or IDX.",
)
@click.option("--label-column", help="True labels: a column of a table, or an array of an .npz file.")
@click.option(
    "--image-column",
    show_default="image",
    help="Images: a column of a table (bytes; in CSV base64), or an array of an .npz file.",
)
@click.option(
    "--path-column",
    show_default="path, file or file_name",
    help="Paths of images: a column of a table; from the table's folder on.",
)
@click.option(
    "--id-column", show_default="the row's number", help="Names of the images in the output: a column of a table."
)
@click.option("--resume", is_flag=True, help="Go on with a run that was interrupted; begin where there is none.")
@click.option("--overwrite", is_flag=True, help="Begin anew over what is there.")
@click.option("--batch-rows", type=click.IntRange(1, 65_536), default=1024, help="Images scored at a time.")
@click.option(
    "--part-rows",
    type=click.IntRange(1),
    default=65_536,
    help="Rows of a part; a run that is killed loses one part at most.",
)
@click.option(
    "--part-seconds", type=click.FloatRange(0, 86_400), default=30.0, help="When a part ends at the latest, in seconds."
)
@click.option(
    "--progress/--no-progress", default=None, show_default="where stderr is a terminal", help="The progress bar."
)
@credential_options
def main(**options: Any) -> None:
    """Classifies every image of INPUTS into one file.

    INPUTS are folders (with all that is below them), image files, patterns such as 'scans/**/*.png', archives (.zip,
    .tar and compressed ones), arrays (.npy, .npz, IDX) and tables (.parquet, .csv). Images that can't be read become
    rows that say why. A run that was killed goes on with --resume, and every image is in the output exactly once.
    """
    if options["resume"] and options["overwrite"]:
        raise click.UsageError("--resume and --overwrite exclude each other")
    options["local"] |= options["engine"] == "ray"
    if options["local"] and options["targets"] and "DIGITS_TARGET" not in os.environ:
        raise click.UsageError("without a server, --local or --engine ray, there is no --target")
    if math.isnan(options["min_confidence"]):
        raise click.UsageError("--min-confidence must lie between 0 and 1")
    try:
        _score(**options)
    except ModuleNotFoundError as error:
        extra = {"onnxruntime": "cpu", "ray": "ray"}.get(error.name or "", "score")
        raise click.ClickException(
            f"{error.name} is not installed; this needs the extra {extra}: pip install 'digits-serving[{extra}]'"
        ) from error
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; --resume goes on") from None
    except DigitsError as error:
        raise click.ClickException(str(error)) from error


def _score(**options: Any) -> None:
    from tqdm import tqdm

    out: Path = options["out"]
    if out.suffix == ".parquet":
        import pyarrow.parquet  # noqa: F401  # missed now, not when the first part ends
    check_free(out, resume=options["resume"], overwrite=options["overwrite"])
    labelled = bool(options["label_folders"] or options["label_file"] or options["label_column"])
    columns = Columns(
        image=options["image_column"],
        path=options["path_column"],
        id=options["id_column"],
        label=options["label_column"],
    )
    source = open_inputs(
        options["inputs"],
        InputOptions(labelled_folders=options["label_folders"], label_file=options["label_file"], columns=columns),
    )
    survey = source.survey()
    scorer = open_scorer(**options)
    try:
        source.check_shape(scorer.model.shape)
        layout = RowLayout(
            labels=scorer.model.labels,
            probabilities=options["probabilities"],
            expected=labelled,
            min_confidence=options["min_confidence"],
        )
        names = (
            "probabilities",
            "min_confidence",
            "batch_rows",
            "label_folders",
            "label_column",
            "image_column",
            "path_column",
            "id_column",
        )
        binding = {
            "inputs": survey.fingerprint,
            "count": survey.count,
            "options": {
                "labels": list(scorer.model.labels),
                **{f"--{name.replace('_', '-')}": options[name] for name in names},
                "--label-file": str(options["label_file"]) if options["label_file"] else None,
            },
            "model": {"name": scorer.model.name, "version": scorer.model.version, "sha256": scorer.model.sha256},
        }
        output = Output(
            out,
            layout,
            binding,
            limits=PartLimits(rows=options["part_rows"], seconds=options["part_seconds"]),
            resume=options["resume"],
            overwrite=options["overwrite"],
            mix_models=options["mix_models"],
        )
        run = Run(
            source=source,
            scorer=scorer,
            output=output,
            limits=BatchLimits(rows=options["batch_rows"]),
            mix_models=options["mix_models"],
        )
        shown = options["progress"]
        with tqdm(
            total=survey.count,
            initial=output.rows,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
            file=sys.stderr,
            disable=None if shown is None else not shown,
        ) as bar:
            run.execute(bar.update)
    finally:
        scorer.close()
    click.echo(summarise(output.tally))
    click.echo(out)
