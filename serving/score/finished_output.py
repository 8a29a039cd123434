"""A finished output: the file, and beside it `out.csv.summary.json` with totals, binding and the file's digest."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.errors import DigitsError
from serving.score import journal
from serving.score.formats import join_parts
from serving.score.journal import OutputConflict, sync
from serving.score.rows import RowLayout


class OutputFailed(DigitsError):
    """The output can't be written: the disk is full, or the directory is not writable."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is known of a finished output.

    Attributes:
        binding: What it was made of; see `Journal`.
        tally: Its totals; see `Tally.to_document`.
        sha256: Digest of the file; empty if an earlier release wrote it.
    """

    binding: dict[str, Any]
    tally: dict[str, Any]
    sha256: str = ""

    @classmethod
    def read(cls, path: Path) -> Summary:
        """Reads the summary of the output `path`.

        Raises:
            OutputConflict: There is none, or it is damaged.
        """
        summary = summary_path(path)
        try:
            found = cls(**json.loads(summary.read_text(encoding="utf-8")))
            if not isinstance(found.binding, dict) or not isinstance(found.tally, dict):
                raise TypeError
        except FileNotFoundError as error:
            raise OutputConflict(f"{path}: not made by digits-score: there is no {summary.name}") from error
        except (OSError, ValueError, TypeError) as error:
            raise OutputConflict(f"{summary}: not a summary of digits-score") from error
        return found


def publish(
    path: Path,
    parts: Sequence[Path],
    scratch: Path,
    *,
    layout: RowLayout,
    binding: Mapping[str, Any],
    tally: Mapping[str, Any],
    are_whole_files: bool = False,
) -> None:
    """Joins parts into an output, which appears complete, after its summary, or not at all.

    Args:
        path: The output.
        parts: The parts, in order.
        scratch: A directory in the same file system, for files that are not complete yet.
        layout: The columns.
        binding: The binding for the summary.
        tally: The totals for the summary.
        are_whole_files: Whether the parts are finished outputs themselves.

    Raises:
        OSError: It can't be written.
    """
    joined, summary = scratch / "joined", scratch / "summary"
    try:
        join_parts(parts, joined, path.suffix, layout.columns, are_whole_files=are_whole_files)
        sync(joined)
        document = asdict(Summary(binding=dict(binding), tally=dict(tally), sha256=digest_of(joined)))
        summary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        sync(summary)
        summary.replace(summary_path(path))
        joined.replace(path)
        sync(path.parent)
    except OSError:
        joined.unlink(missing_ok=True)
        raise


def check_free(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises OutputConflict if an output or an unfinished run exists and neither option is given."""
    if resume or overwrite:
        return
    if is_unfinished(path):
        raise OutputConflict(
            f"{parts_directory(path)}: has an unfinished run; --resume continues it, --overwrite starts again"
        )
    if path.exists():
        raise OutputConflict(f"{path}: already exists; --overwrite replaces it")


def is_unfinished(path: Path) -> bool:
    """Whether an output has a journal."""
    return (parts_directory(path) / journal.FILE).exists()


def started_with(path: Path) -> tuple[str, int] | None:
    """Returns name and version of the model that a run started with, finished or not; None if there is no such run."""
    if is_unfinished(path) or not path.exists():
        return journal.started_with(parts_directory(path))
    try:
        model = Summary.read(path).binding["model"]
        return str(model["name"]), int(model["version"])
    except (OutputConflict, ValueError, KeyError, TypeError):
        return None  # resuming it will report that


def summary_path(path: Path) -> Path:
    """Returns the path of an output's summary."""
    return path.with_name(f"{path.name}.summary.json")


def parts_directory(path: Path) -> Path:
    """Returns the directory of an output's parts and journal, while it is unfinished."""
    return path.with_name(f"{path.name}.parts")


def digest_of(path: Path) -> str:
    """Returns the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def output_failed(error: OSError, advice: str = "--resume continues") -> OutputFailed:
    """Makes the error for an output that can't be written."""
    reason = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return OutputFailed(f"{error.filename or 'the output'}: {reason}; once this is fixed, {advice}")
