"""The output file, and the parts that it is made of while a run goes on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import DigitsError
from serving.score import journal
from serving.score.batch import ScoredBatch
from serving.score.formats import PartWriter, join_parts, open_part
from serving.score.journal import Journal, OutputConflict, Part, check_binding, discard, sync_directory
from serving.score.rows import RowLayout
from serving.score.tally import Tally


class OutputFailed(DigitsError):
    """The output can't be written: a disk that is full, a directory that may not be written."""


@dataclass(frozen=True, kw_only=True)
class PartLimits:
    """When a part ends, at the end of a batch; what is lost when a run is killed is one part at most.

    Attributes:
        rows: After so many rows.
        seconds: After so much time, in seconds.
    """

    rows: int = 65_536
    seconds: float = 30.0


class Output:
    """One file. While the run goes on its parts are in a directory beside it, with `.parts` behind its name.

    Beside the finished file a summary stays, with `.summary.json` behind its name.

    Args:
        path: The file; .csv, .jsonl or .parquet.
        layout: What a row holds.
        binding: What must be the same when a run goes on; see `Journal`.
        limits: When a part ends.
        resume: Whether to go on with what is there.
        overwrite: Whether to begin anew over what is there.
        mix_models: Whether another model may go on with what is there.

    Raises:
        OutputConflict: Something is there and neither was asked for, or it is another run's.
        OutputFailed: It can't be written.
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
                self._take_finished(mix_models)
                return
            self._journal = Journal(parts, binding, mix_models=mix_models)
        except OSError as error:
            raise _failed(error) from error
        for part in self._journal.parts:
            self.tally.merge(Tally.of_document(layout.labels, part.tally))

    @property
    def rows(self) -> int:
        """Rows that are safe on disk."""
        return self._journal.rows if self._journal else self.tally.images

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self._journal is None

    def add(self, batch: ScoredBatch) -> None:
        """Appends a batch's rows; now and then ends a part.

        Raises:
            OutputFailed: It can't be written. Parts that were whole stay so.
        """
        self._writing = True
        try:
            if self._writer is None:
                self._begin()
            assert self._writer is not None  # noqa: S101
            sure = self._layout.sure(batch)
            self._writer.write(self._layout.values(batch, sure))
            self._tally.add(batch, sure)
            if self._tally.images >= self._limits.rows or time.monotonic() >= self._deadline:
                self._end()
        except OSError as error:
            raise _failed(error) from error
        self._writing = False

    def stop(self) -> None:
        """Keeps what was scored, as a shorter part, and lets others write; unless writing was what failed."""
        if self._journal is None:
            return
        try:
            if self._writer is not None and not self._writing:
                self._end()
        except OSError:
            pass  # the part has no line in the journal: it is scored again
        finally:
            self._journal.close()

    def finish(self) -> None:
        """Joins the parts to the file, which appears whole or not at all, and removes them.

        Raises:
            OutputFailed: It can't be written; the parts stay.
        """
        if self._journal is None:
            return
        scratch = self._journal.directory / "joined"
        try:
            if self._writer is not None:
                self._end()
            parts = self._journal.parts
            for part in parts:
                _check(self._journal.path(part), part)
            paths = [self._journal.path(part) for part in parts]
            join_parts(paths, scratch, self._path.suffix, self._layout.columns)
            _sync(scratch)
            scratch.replace(self._path)
            document = {"binding": self._binding, "tally": self.tally.to_document()}
            scratch.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            _sync(scratch)
            scratch.replace(self._summary)
            sync_directory(self._path.parent)
            self._journal.remove()
        except OSError as error:
            scratch.unlink(missing_ok=True)
            self._journal.close()
            raise _failed(error) from error

    def _begin(self) -> None:
        assert self._journal is not None  # noqa: S101
        self._start = self._journal.rows
        self._scratch = self._journal.directory / "part-being-written"
        self._writer = open_part(self._scratch, self._path.suffix, self._layout.columns)
        self._tally = Tally(labels=self._layout.labels)
        self._deadline = time.monotonic() + self._limits.seconds

    def _end(self) -> None:
        """Gives the part its name and its line, in this order, each safe on disk before the next."""
        assert self._journal is not None and self._writer is not None  # noqa: S101, PT018
        self._writer.close()
        self._writer = None
        _sync(self._scratch)
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

    def _take_finished(self, mix_models: bool) -> None:
        """Resumes a run that had finished: only to say so."""
        try:
            document = json.loads(self._summary.read_text(encoding="utf-8"))
            check_binding(self._path, document["binding"], self._binding, mix_models=mix_models)
            self.tally = Tally.of_document(self._layout.labels, document["tally"])
        except FileNotFoundError as error:
            raise OutputConflict(f"{self._path}: not made by digits-score; --overwrite replaces it") from error
        except (ValueError, KeyError, TypeError) as error:
            raise OutputConflict(f"{self._summary}: no summary of digits-score; --overwrite replaces it") from error


def check_free(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises OutputConflict where something is there and neither going on nor beginning anew was asked for."""
    parts = _parts(path)
    if resume or overwrite:
        return
    if (parts / "journal.jsonl").exists():
        raise OutputConflict(f"{parts}: a run was begun; --resume goes on with it, --overwrite begins anew")
    if path.exists():
        raise OutputConflict(f"{path}: exists; --overwrite replaces it")


def begun_model(path: Path) -> tuple[str, int] | None:
    """Name and version of the model that a run which can go on was begun with; None where there is no such run."""
    return journal.begun_model(_parts(path))


def _parts(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


def _check(path: Path, part: Part) -> None:
    if not path.is_file() or _digest(path) != part.sha256:
        raise OutputConflict(f"{path}: missing or changed since it was written; --overwrite begins anew")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(error: OSError) -> OutputFailed:
    reason = "no space is left" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return OutputFailed(f"{error.filename or 'the output'}: {reason}; with room made, --resume goes on")
