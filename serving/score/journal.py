"""The journal of a run: its inputs, options and model, and its finished parts. Valid after a kill at any moment."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from serving.errors import DigitsError

FORMAT = 1
FILE, _LOCK = "journal.jsonl", "lock"

# What a difference in each part of the binding means.
_MEANINGS = {
    "inputs": "other inputs, or the inputs have changed",
    "count": "other inputs, or the inputs have changed",
    "copies": "other inputs, or the inputs have changed",
    "options": "other options",
    "shard": "another shard",
    "model": "another model",
}


class OutputConflict(DigitsError):
    """An output that already exists, or belongs to another run."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One finished part: on disk under its name, and in the journal.

    Attributes:
        file: Its name.
        start: Index of its first image.
        rows: Images in it.
        sha256: Digest of the file.
        tally: Its totals.
    """

    file: str
    start: int
    rows: int
    sha256: str
    tally: dict[str, Any]


class Journal:
    """A directory with parts, and the list of those that are finished.

    The first line binds the run to inputs, options and model. Each further line is a part, and is written after the
    part has its name. A line that a crash cut off does not count, and neither does a part without a line.

    Args:
        directory: The directory with the parts.
        binding: What must be the same when the run is resumed: `inputs`, `count`, `options`, `shard`, `model`.
        mix_models: Whether the run may continue with another model.

    Raises:
        OutputConflict: The directory belongs to another run, or another run is writing to it.
        OSError: The directory can't be written.
    """

    def __init__(self, directory: Path, binding: Mapping[str, Any], *, mix_models: bool = False) -> None:
        self.directory = directory
        self.parts: list[Part] = []
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = lock(directory)
        try:
            if (directory / FILE).exists():
                self._read(binding, mix_models)
            else:
                self._create(binding)
        except BaseException:
            self._lock.close()
            raise

    @property
    def rows(self) -> int:
        """Images in finished parts."""
        return sum(part.rows for part in self.parts)

    def path(self, part: Part) -> Path:
        """Returns the path of a part."""
        return self.directory / part.file

    def append(self, part: Part) -> None:
        """Records a part that is on disk under its name."""
        sync(self.directory)
        with (self.directory / FILE).open("ab") as file:
            file.write(_line(asdict(part)))
            file.flush()
            os.fsync(file.fileno())
        self.parts.append(part)

    def remove(self) -> None:
        """Removes the directory."""
        remove(self.directory)
        self._lock.close()

    def close(self) -> None:
        """Releases the directory for other runs."""
        self._lock.close()

    def _create(self, binding: Mapping[str, Any]) -> None:
        for leftover in self.directory.glob("part-*"):
            leftover.unlink()
        scratch = self.directory / f".{FILE}"
        with scratch.open("wb") as file:
            file.write(_line({"format": FORMAT, "binding": binding}))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self.directory / FILE)
        sync(self.directory)

    def _read(self, binding: Mapping[str, Any], mix_models: bool) -> None:
        path = self.directory / FILE
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            first, *others = [json.loads(line) for line in whole.splitlines()]
            if first["format"] != FORMAT:
                raise OutputConflict(f"{path}: from another release of digits-score; --overwrite starts again")
            check_binding(self.directory, first["binding"], binding, mix_models=mix_models)
            self.parts = [Part(**part) for part in others]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputConflict(f"{path}: not a journal of digits-score; --overwrite starts again") from error
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        names = {part.file for part in self.parts}
        for leftover in self.directory.glob("part-*"):
            if leftover.name not in names:
                leftover.unlink()


def started_with(directory: Path) -> tuple[str, int] | None:
    """Returns name and version of the model that an unfinished run started with; None if there is no such run."""
    try:
        with (directory / FILE).open(encoding="utf-8") as file:
            model = json.loads(file.readline())["binding"]["model"]
        return str(model["name"]), int(model["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # if the journal is damaged, resuming it will report that


def check_binding(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], *, mix_models: bool = False) -> None:
    """Raises OutputConflict, with the difference, if a run started with something else."""
    for name in ("inputs", "count", "options", "shard", "model"):
        difference = binding_difference(name, found, wanted)
        if difference and not (name == "model" and mix_models):
            advice = "; --mix-models continues anyway" if name == "model" else ""
            raise OutputConflict(f"{path}: started with {difference}{advice}; --overwrite starts again")


def binding_difference(name: str, found: Mapping[str, Any], wanted: Mapping[str, Any], then: str = "now") -> str:
    """Returns what differs in one part of the bindings of two runs, in words; nothing if they are the same.

    Args:
        name: The part of the binding.
        found: The binding of one run.
        wanted: The binding of the other one.
        then: What comes before a value of the other one.
    """
    # Runs of all images have no shard.
    pair: Iterator[Any] = (each.get(name) if name == "shard" else each[name] for each in (found, wanted))
    old, new = pair
    if old == new:
        return ""
    if name == "options":
        differing = [key for key in {**new, **old} if old.get(key) != new.get(key)]
        values = ", ".join(f"{key} {old.get(key)}, {then} {new.get(key)}" for key in differing)
    elif name == "model":
        values = f"; {then} ".join(_model_text(each) for each in (old, new))
    elif name == "shard":
        values = f"{old or 'all images'}, {then} {new or 'all images'}"
    else:
        return _MEANINGS[name]
    return f"{_MEANINGS[name]} ({values})"


def _model_text(model: Mapping[str, Any]) -> str:
    precision = f" in {model['precision']}" if "precision" in model else ""
    return f"{model['name']} version {model['version']}{precision}, {model['sha256'][:12]}…"


def discard(directory: Path) -> None:
    """Removes the parts and the journal of an abandoned run.

    Raises:
        OutputConflict: Another run is writing there.
    """
    if directory.is_dir():
        with lock(directory):
            remove(directory)


def lock(directory: Path) -> IO[str]:
    """Keeps other runs out until the file is closed or this process ends."""
    file = (directory / _LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OutputConflict(f"{directory}: another run is writing here") from None
    return file


def remove(directory: Path) -> None:
    """Removes a directory, the journal first: parts without one do not count."""
    (directory / FILE).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def sync(path: Path) -> None:
    """Makes a file, or the names in a directory, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
