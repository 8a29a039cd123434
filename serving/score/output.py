"""The output file, and its parts while the run is unfinished."""

from __future__ import annotations

import errno
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import DigitsError
from serving.score import journal
from serving.score.batch import ScoredBatch
from serving.score.formats import PartWriter, join_parts, open_part
from serving.score.journal import Journal, OutputConflict, Part, check_binding, discard, sync
from serving.score.rows import RowLayout
from serving.score.tally import Tally


class OutputFailed(DigitsError):
    """The output can't be written: the disk is full, or the directory is not writable."""


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
        resume: bool = False,
        overwrite: bool = False,
        mix_models: bool = False,
    ) -> None:
        self._path = path
        self._layout = layout
        self._binding = binding
        self._limits = limits
        self._summary = path.with_name(f"{path.name}.summary.json")
        self._journal: Journal | None = None
        self._writer: PartWriter | None = None
        self._writing = False
        self.tally = Tally(labels=layout.labels)
        parts = _parts(path)
        check_free(path, resume=resume, overwrite=overwrite)
        try:
            if overwrite:
                discard(parts)
                self._summary.unlink(missing_ok=True)
            elif path.exists() and not (parts / "journal.jsonl").exists():
                self._read_finished(mix_models)
                return
            self._journal = Journal(parts, binding, mix_models=mix_models)
        except OSError as error:
            raise _failed(error) from error
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
            self._writer.write(self._layout.values(batch, kept, first=self._start + self._tally.images))
            self._tally.add(batch, kept)
            if self._tally.images >= self._limits.rows or time.monotonic() >= self._deadline:
                self._end_part()
        except OSError as error:
            raise _failed(error) from error
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
        scratch = self._journal.directory / "joined"
        try:
            if self._writer is not None:
                self._end_part()
            parts = self._journal.parts
            for part in parts:
                _check(self._journal.path(part), part)
            paths = [self._journal.path(part) for part in parts]
            join_parts(paths, scratch, self._path.suffix, self._layout.columns)
            sync(scratch)
            scratch.replace(self._path)
            document = {"binding": self._binding, "tally": self.tally.to_document()}
            scratch.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            sync(scratch)
            scratch.replace(self._summary)
            sync(self._path.parent)
            self._journal.remove()
        except OSError as error:
            scratch.unlink(missing_ok=True)
            self._journal.close()
            raise _failed(error) from error

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
            sha256=_digest(self._scratch),
            tally=self._tally.to_document(),
        )
        self._scratch.replace(self._journal.path(part))
        self._journal.append(part)
        self.tally.merge(self._tally)

    def _read_finished(self, mix_models: bool) -> None:
        """Reads the totals of a run that was already finished."""
        try:
            document = json.loads(self._summary.read_text(encoding="utf-8"))
            check_binding(self._path, document["binding"], self._binding, mix_models=mix_models)
            self.tally = Tally.from_document(self._layout.labels, document["tally"])
        except FileNotFoundError as error:
            raise OutputConflict(f"{self._path}: not made by digits-score; --overwrite replaces it") from error
        except (ValueError, KeyError, TypeError) as error:
            raise OutputConflict(f"{self._summary}: not a summary of digits-score; --overwrite replaces it") from error


def check_free(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises OutputConflict if an output or an unfinished run exists and neither option is given."""
    parts = _parts(path)
    if resume or overwrite:
        return
    if (parts / "journal.jsonl").exists():
        raise OutputConflict(f"{parts}: has an unfinished run; --resume continues it, --overwrite starts again")
    if path.exists():
        raise OutputConflict(f"{path}: already exists; --overwrite replaces it")


def started_with(path: Path) -> tuple[str, int] | None:
    """Returns name and version of the model that an unfinished run started with; None if there is no such run."""
    return journal.started_with(_parts(path))


def _parts(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


def _check(path: Path, part: Part) -> None:
    if not path.is_file() or _digest(path) != part.sha256:
        raise OutputConflict(f"{path}: missing or changed since it was written; --overwrite starts again")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _failed(error: OSError) -> OutputFailed:
    reason = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return OutputFailed(f"{error.filename or 'the output'}: {reason}; once this is fixed, --resume continues")
