"""One run of `digits-score`: from its options to the output, the progress bar and the summary."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from serving.images.tables.columns import Columns
from serving.score.backends import open_scorer
from serving.score.batch import BatchLimits, ScoringModel
from serving.score.finished_output import check_free
from serving.score.inputs import InputOptions, open_inputs
from serving.score.merge import merge_shards
from serving.score.output import Output, PartLimits
from serving.score.rows import RowLayout
from serving.score.run import Run
from serving.score.shard import Shard, ShardSource
from serving.score.source import Survey
from serving.score.summary import summarise
from serving.score.tally import Tally


def run_scoring(**options: Any) -> None:
    """Scores what the options of `digits-score` say, and prints the summary.

    Raises:
        click.ClickException: Not one image could be read.
        DigitsError: The inputs, the model or the output can't be used.
        ModuleNotFoundError: It needs a package that is not installed.
    """
    out: Path = options["out"]
    if out.suffix == ".parquet":
        import pyarrow.parquet  # noqa: F401  # fails now if it is missing, not when the first part ends
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
    if survey.left_out:
        click.echo(_left_out(survey), err=True)
    shard: Shard = options["shard"] or Shard(index=0, count=1)
    images = shard.images(survey.count)
    scorer = open_scorer(**options)
    try:
        source.check_shape(scorer.model.shape)
        layout = RowLayout(
            labels=scorer.model.labels,
            kaggle=options["columns"] == "kaggle",
            probabilities=options["probabilities"],
            expected=labelled,
            min_confidence=options["min_confidence"],
            only_digits=options["only_digits"],
        )
        output = Output(
            out,
            layout,
            _binding(options, survey, layout, scorer.model),
            limits=PartLimits(rows=options["part_rows"], seconds=options["part_seconds"]),
            first=images.start,
            resume=options["resume"],
            overwrite=options["overwrite"],
            mix_models=options["mix_models"],
        )
        run = Run(
            source=ShardSource(source, images),
            scorer=scorer,
            output=output,
            limits=BatchLimits(rows=options["batch_rows"]),
            mix_models=options["mix_models"],
        )
        with _progress(options["progress"], total=len(images), done=output.rows) as update:
            run.execute(update)
    finally:
        scorer.close()
    click.echo(summarise(output.tally, labelled=labelled))
    click.echo(out)
    if options["shard"] is None:
        _check_readable(output.tally)


@contextlib.contextmanager
def _progress(shown: bool | None, *, total: int, done: int) -> Iterator[Callable[[int], object]]:
    """Shows a progress bar, by default on terminals; yields what takes the number of images of each batch."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:  # as in the container image
        if shown:
            raise
        yield lambda _: None
        return
    with tqdm(
        total=total,
        initial=done,
        unit=" images",
        unit_scale=True,
        dynamic_ncols=True,
        file=sys.stderr,
        disable=None if shown is None else not shown,
    ) as bar:
        yield bar.update


def run_merge(**options: Any) -> None:
    """Merges the shards that the options of `digits-score` name, and prints the summary.

    Raises:
        click.ClickException: Not one image could be read.
        DigitsError: A shard or the output can't be used.
        ModuleNotFoundError: Parquet needs pyarrow.
    """
    merged = merge_shards(
        options["inputs"], options["out"], overwrite=options["overwrite"], mix_models=options["mix_models"]
    )
    click.echo(summarise(merged.tally, labelled=merged.labelled))
    click.echo(options["out"])
    _check_readable(merged.tally)


def _check_readable(tally: Tally) -> None:
    """Raises ClickException if there is no image that could be read."""
    if tally.errors == tally.images:
        raise click.ClickException("not one image could be read; the output says why for each")


def _binding(options: dict[str, Any], survey: Survey, layout: RowLayout, model: ScoringModel) -> dict[str, Any]:
    """Returns what must be the same when a run is resumed, and in all shards of an input."""
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
    return {
        "inputs": survey.fingerprint,
        "copies": survey.copies,
        "count": survey.count,
        "options": {
            "labels": list(layout.labels),
            **{f"--{name.replace('_', '-')}": options[name] for name in names},
            "--label-file": str(options["label_file"]) if options["label_file"] else None,
            # Runs of earlier releases have neither: those for Kaggle can be resumed, others lack the status.
            "--columns": "kaggle" if layout.kaggle else "all, with status",
            **({"--only-digits": True} if layout.only_digits else {}),
        },
        **({"shard": str(options["shard"])} if options["shard"] else {}),
        "model": {
            "name": model.name,
            "version": model.version,
            "sha256": model.sha256,
            **({"precision": model.precision} if model.precision != "float32" else {}),
        },
    }


def _left_out(survey: Survey) -> str:
    names = ", ".join([*survey.examples, *(["…"] if survey.left_out > len(survey.examples) else [])])
    return f"left out {survey.left_out:,} files that are no images by their name ({names})"
