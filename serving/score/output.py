"""The output file, and its parts while the run is unfinished."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.score.batch import ScoredBatch
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
from serving.score.formats import PartWriter, open_part
from serving.score.journal import Journal, OutputConflict, Part, check_binding, discard, sync
from serving.score.rows import RowLayout
from serving.score.tally import Tally


@dataclass(frozen=True, kw_only=True)
class PartLimits:
    """The size of a part. A run that is killed loses at most one part. Parts end with a batch.

    Attributes:
        rows: Number of rows after which a part ends.
        seconds: Time after which a part ends, in seconds.
    """

    rows: int = 65_536
    seconds: float = 30.0


class Output:
    """One file, for example `out.csv`. Until the run is finished, its parts are in `out.csv.parts`.

    The totals of a finished run are in `out.csv.summary.json`.

    Args:
        path: The file; .csv, .jsonl or .parquet.
        layout: The columns of a row.
        binding: What must be the same when a run is resumed; see `Journal`.
        limits: The size of a part.
        first: Index of the run's first image in the whole input.
        resume: Whether to continue an unfinished run.
        overwrite: Whether to replace what is there.
        mix_models: Whether an unfinished run may continue with another model.

    Raises:
        OutputConflict: The output exists and neither option is given, or it belongs to another run.
        OutputFailed: The output can't be written.
    """

    def __init__(
        self,
        path: Path,
        layout: RowLayout,
        binding: Mapping[str, Any],
        *,
        limits: PartLimits,
        first: int = 0,
        resume: bool = False,
        overwrite: bool = False,
        mix_models: bool = False,
    ) -> None:
        self._path = path
        self._layout = layout
        self._binding = binding
        self._limits = limits
        self._first = first
        self._journal: Journal | None = None
        self._writer: PartWriter | None = None
        self._writing = False
        self.tally = Tally(labels=layout.labels)
        parts = parts_directory(path)
        check_free(path, resume=resume, overwrite=overwrite)
        try:
            if overwrite:
                discard(parts)
                summary_path(path).unlink(missing_ok=True)
            elif path.exists() and not is_unfinished(path):
                self._read_finished(mix_models)
                return
            self._journal = Journal(parts, binding, mix_models=mix_models)
        except OSError as error:
            raise output_failed(error) from error
        for part in self._journal.parts:
            self.tally.merge(Tally.from_document(layout.labels, part.tally))

    @property
    def rows(self) -> int:
        """Rows in finished parts."""
        return self._journal.rows if self._journal else self.tally.images

    @property
    def finished(self) -> bool:
        """Whether the run was already finished."""
        return self._journal is None

    def add(self, batch: ScoredBatch) -> None:
        """Appends the rows of a batch, and ends the part if it reached a limit.

        Raises:
            OutputFailed: The output can't be written. Finished parts stay valid.
        """
        self._writing = True
        try:
            if self._writer is None:
                self._begin_part()
            assert self._writer is not None  # noqa: S101
            kept = self._layout.kept(batch)
            first = self._first + self._start + self._tally.images
            self._writer.write(self._layout.values(batch, kept, first=first))
            self._tally.add(batch, kept)
            if self._tally.images >= self._limits.rows or time.monotonic() >= self._deadline:
                self._end_part()
        except OSError as error:
            raise output_failed(error) from error
        self._writing = False

    def stop(self) -> None:
        """Keeps what was scored as a shorter part, unless writing failed, and releases the output for other runs."""
        if self._journal is None:
            return
        try:
            if self._writer is not None and not self._writing:
                self._end_part()
        except OSError:
            pass  # the part has no line in the journal, so it will be scored again
        finally:
            self._journal.close()

    def finish(self) -> None:
        """Joins the parts into the file, which appears complete or not at all, and removes the parts.

        Raises:
            OutputFailed: The output can't be written. The parts stay.
        """
        if self._journal is None:
            return
        try:
            if self._writer is not None:
                self._end_part()
            parts = self._journal.parts
            for part in parts:
                _check(self._journal.path(part), part)
            publish(
                self._path,
                [self._journal.path(part) for part in parts],
                self._journal.directory,
                layout=self._layout,
                binding=self._binding,
                tally=self.tally.to_document(),
            )
            self._journal.remove()
        except OSError as error:
            self._journal.close()
            raise output_failed(error) from error

    def _begin_part(self) -> None:
        assert self._journal is not None  # noqa: S101
        self._start = self._journal.rows
        self._scratch = self._journal.directory / "part-being-written"
        self._writer = open_part(self._scratch, self._path.suffix, self._layout.columns)
        self._tally = Tally(labels=self._layout.labels)
        self._deadline = time.monotonic() + self._limits.seconds

    def _end_part(self) -> None:
        """Gives the part its name and then its line in the journal, each on disk before the next step."""
        assert self._journal is not None and self._writer is not None  # noqa: S101, PT018
        self._writer.close()
        self._writer = None
        sync(self._scratch)
        part = Part(
            file=f"part-{self._start:012d}{self._path.suffix}",
            start=self._start,
            rows=self._tally.images,
            sha256=digest_of(self._scratch),
            tally=self._tally.to_document(),
        )
        self._scratch.replace(self._journal.path(part))
        self._journal.append(part)
        self.tally.merge(self._tally)

    def _read_finished(self, mix_models: bool) -> None:
        """Reads the totals of a run that was already finished."""
        try:
            found = Summary.read(self._path)
        except OutputConflict as error:
            raise OutputConflict(f"{error}; --overwrite replaces it") from error
        try:
            check_binding(self._path, found.binding, self._binding, mix_models=mix_models)
            self.tally = Tally.from_document(self._layout.labels, found.tally)
        except (ValueError, KeyError, TypeError) as error:
            raise OutputConflict(f"{self._path}: its summary is damaged; --overwrite replaces it") from error


def _check(path: Path, part: Part) -> None:
    if not path.is_file() or digest_of(path) != part.sha256:
        raise OutputConflict(f"{path}: missing or changed since it was written; --overwrite starts again")
