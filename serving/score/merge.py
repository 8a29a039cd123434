"""Joins the outputs of all shards of an input into the output that one run would have written."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import DigitsError
from serving.score.finished_output import (
    Summary,
    check_free,
    digest_of,
    is_unfinished,
    output_failed,
    parts_directory,
    publish,
    summary_path,
)
from serving.score.journal import OutputConflict, binding_difference, discard, lock, remove
from serving.score.rows import RowLayout
from serving.score.shard import Shard
from serving.score.tally import Tally

_NAMED = 10


class MergeRefused(DigitsError):
    """Outputs that are not all shards of one input, or not as they were written. The message names one."""


@dataclass(frozen=True, kw_only=True)
class ShardOutput:
    """The finished output of a shard.

    Attributes:
        path: The file.
        shard: Which shard it is.
        binding: What it was made of; see `Journal`.
        tally: Its totals.
        sha256: Digest of the file when it was written.
    """

    path: Path
    shard: Shard
    binding: dict[str, Any]
    tally: Tally
    sha256: str

    @classmethod
    def read(cls, path: Path) -> ShardOutput:
        """Reads what the summary of a shard says.

        Raises:
            MergeRefused: The file is not the finished output of a shard.
        """
        if is_unfinished(path):
            raise MergeRefused(f"{path}: the shard is unfinished; --resume continues it")
        if not path.is_file():
            raise MergeRefused(f"{path}: no such file")
        try:
            summary = Summary.read(path)
            if "shard" not in summary.binding:
                raise MergeRefused(f"{path}: the output of a run without --shard")
            shard = Shard.parse(summary.binding["shard"])
            tally = Tally.from_document(tuple(summary.binding["options"]["labels"]), summary.tally)
            expected = len(shard.images(summary.binding["count"]))
        except OutputConflict as error:
            raise MergeRefused(str(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise MergeRefused(f"{summary_path(path)}: not a summary of digits-score") from error
        if tally.images != expected:
            raise MergeRefused(f"{path}: has {tally.images:,} of the {expected:,} images of shard {shard}")
        return cls(path=path, shard=shard, binding=summary.binding, tally=tally, sha256=summary.sha256)

    def check_unchanged(self) -> None:
        """Raises MergeRefused if the file is not what the shard wrote."""
        if digest_of(self.path) != self.sha256:
            raise MergeRefused(f"{self.path}: changed since shard {self.shard} was finished; score the shard again")


@dataclass(frozen=True, kw_only=True)
class MergedOutput:
    """What was merged.

    Attributes:
        tally: Its totals.
        labelled: Whether true labels were asked for.
    """

    tally: Tally
    labelled: bool


def merge_shards(
    inputs: Sequence[str], out: Path, *, overwrite: bool = False, mix_models: bool = False
) -> MergedOutput:
    """Writes one output of the outputs of all shards, byte for byte what one run writes.

    It appears complete or not at all. Reads a block at a time, so memory does not grow with the outputs.

    Args:
        inputs: The outputs, or patterns that match them, in any order.
        out: The file to write.
        overwrite: Whether to replace an output that exists.
        mix_models: Whether shards may come from different models.

    Raises:
        MergeRefused: A shard is missing, unfinished, there twice, changed, or of another input, model or other options.
            Nothing is written.
        OutputConflict: The output exists, or another run writes there.
        ModuleNotFoundError: Parquet needs pyarrow.
        OutputFailed: The output can't be written.
    """
    check_free(out, resume=False, overwrite=overwrite)
    paths = _named(inputs, out.suffix)
    if any(path.resolve() == out.resolve() for path in paths):
        raise MergeRefused(f"{out}: is named both as a shard and as the output")
    shards = sorted(map(ShardOutput.read, paths), key=lambda each: each.shard.index)
    first = shards[0]
    for each in shards[1:]:
        _check_same(each, first, mix_models)
    _check_complete(shards)
    total = Tally(labels=first.tally.labels)
    binding = {name: value for name, value in first.binding.items() if name != "shard"}
    scratch = parts_directory(out)
    try:
        for each in shards:
            each.check_unchanged()
            total.merge(each.tally)
        if overwrite:
            discard(scratch)
        scratch.mkdir(exist_ok=True)
        with lock(scratch):
            try:
                publish(
                    out,
                    [each.path for each in shards],
                    scratch,
                    layout=_layout(first),
                    binding=binding,
                    tally=total.to_document(),
                    are_whole_files=True,
                )
            finally:
                remove(scratch)
    except OSError as error:
        raise output_failed(error, "merge again") from error
    return MergedOutput(tally=total, labelled=_is_labelled(binding))


def _named(inputs: Sequence[str], suffix: str) -> list[Path]:
    """Returns the outputs that are named or matched."""
    found: list[Path] = []
    for given in inputs:
        matched = [given]
        if not os.path.lexists(given) and glob.has_magic(given):
            matched = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
            if not matched:
                raise MergeRefused(f"{given}: no file matches this pattern")
        found += map(Path, matched)
    for path in found:
        if path.is_dir():
            raise MergeRefused(f"{path}: a folder; name the outputs in it, such as '{path / f'part-*{suffix}'}'")
    if other := next((path for path in found if path.suffix != suffix), None):
        raise MergeRefused(f"{other}: does not end in {suffix}, as the merged output does")
    return found


def _check_same(each: ShardOutput, first: ShardOutput, mix_models: bool) -> None:
    """Checks that two shards are parts of one whole."""
    if each.shard.count != first.shard.count:
        raise MergeRefused(f"{each.path}: is shard {each.shard}, but {first.path} is shard {first.shard}")
    for name in ("copies", "count", "options", "model"):
        difference = binding_difference(name, each.binding, first.binding, f"{first.path}:")
        if difference and not (name == "model" and mix_models):
            raise MergeRefused(f"{each.path}: scored with {difference}")


def _check_complete(shards: Sequence[ShardOutput]) -> None:
    """Checks that each shard is there once; they are sorted."""
    for each, following in itertools.pairwise(shards):
        if each.shard == following.shard:
            raise MergeRefused(f"{following.path}: is shard {each.shard}, and so is {each.path}")
    count = shards[0].shard.count
    missing = sorted(set(range(count)) - {each.shard.index for each in shards})
    if missing:
        names = ", ".join(f"{index}/{count}" for index in missing[:_NAMED])
        others = f" and {len(missing) - _NAMED} others" if len(missing) > _NAMED else ""
        raise MergeRefused(f"missing: shard {names}{others}")


def _layout(shard: ShardOutput) -> RowLayout:
    options = shard.binding["options"]
    return RowLayout(
        labels=shard.tally.labels,
        kaggle=options["--columns"] == "kaggle",
        probabilities=options["--probabilities"],
        expected=_is_labelled(shard.binding),
    )


def _is_labelled(binding: dict[str, Any]) -> bool:
    """Whether true labels were asked for."""
    return any(binding["options"][name] for name in ("--label-folders", "--label-file", "--label-column"))
