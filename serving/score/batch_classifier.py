"""A classifier of batches for engines that spread work over machines: Ray Data, Spark, Dask and others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.client.credentials import Credentials
from serving.config import PRETRAINED
from serving.repository.repository import Repository, StoredModel
from serving.score.batch import Batch, BatchLimits, ScoredBatch, ScoringModel, UnusableInput
from serving.score.formats import parquet_schema
from serving.score.image_column import image_batch
from serving.score.rows import RowLayout


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What classifies, in this process; any number of threads may call it."""

    model: ScoringModel
    classify: Callable[[Batch], ScoredBatch]


# Engines and connections are expensive, and frameworks make a new copy of the classifier for each of their tasks.
_opened: dict[object, _Opened] = {}
_lock = threading.Lock()

# Images that are classified at a time.
_ROWS = BatchLimits().rows


class BatchClassifier:
    """Classifies the images of a column, and replaces it by the answers.

    It can be pickled. What it is made of travels with it: workers need this package but no repository, and all of them
    use the same version. Engine or connections are made by the first call in each process, and shared there.

    A batch is a dict of arrays, a pandas DataFrame or an Arrow table, and the result is of the same kind; of an
    iterator of them, the result is an iterator. It has the other columns of the batch and those of `digits-score`:
    `label`, `name`, `confidence`, `status`, `error`, `model_version`, `model_sha256`, and one per probability if
    requested. Without an answer, `error` says why, the label is -1, and confidence and probabilities are NaN.

    Args:
        repository: The directory of a model repository, which is read now; by default the one that comes with the
            package. Needs the extra cpu or gpu in the workers.
        address: A server in place of a repository, `host:port`, or several of the same model.
        model: Name of the model; by default the only one, or the server's default.
        model_version: Its version; by default the newest, or the one that the server has current at the first call of
            each process.
        provider: With a repository: `cpu`, `cuda`, or `auto`.
        credentials: With an address: TLS and token.
        image_column: The column of the images: encoded, or pixels as integers from 0 to 255.
        prefix: What the names of the new columns begin with.
        probabilities: Whether to add a column with the probability of each label.
        min_confidence: Less probable answers get the label -1, "unsure".
        only_digits: Whether images with a status get the label -1.

    Raises:
        DigitsError: There is no such model, or it must not be served.
    """

    def __init__(
        self,
        *,
        repository: Path | str | None = None,
        address: str | Sequence[str] | None = None,
        model: str | None = None,
        model_version: int | None = None,
        provider: str = "auto",
        credentials: Credentials | None = None,
        image_column: str = "image",
        prefix: str = "",
        probabilities: bool = False,
        min_confidence: float = 0.0,
        only_digits: bool = False,
    ) -> None:
        if address is not None and repository is not None:
            raise UnusableInput("give a repository or an address, not both")
        self._stored: StoredModel | None = None
        if address is None:
            models = Repository(Path(repository or PRETRAINED))
            self._stored = models.load(*models.choose(model, model_version))
        self._targets = (address,) if isinstance(address, str) else tuple(address or ())
        self._model = (model or "", model_version or 0)
        self._provider = provider
        self._credentials = credentials or Credentials()
        self._image_column = image_column
        self._prefix = prefix
        self._probabilities = probabilities
        self._min_confidence = min_confidence
        self._only_digits = only_digits

    def __call__(self, batch: Any) -> Any:
        """Classifies a batch, or each batch of an iterator.

        Raises:
            UnusableInput: The batch is of another kind, has no such column or no such pixels, or already has a column
                of the answers.
            ScoringStopped: There is no answer, even after retries.
        """
        if isinstance(batch, Iterator):
            return map(self, batch)
        package = type(batch).__module__.partition(".")[0]
        if isinstance(batch, Mapping):
            column, others = self._split(batch, list(batch))
            return {**{name: batch[name] for name in others}, **self._answers(column)}
        if package == "pandas":
            column, others = self._split(batch, list(batch.columns))
            return batch[others].assign(**self._answers(column))
        if package == "pyarrow":
            column, others = self._split(batch, batch.column_names)
            return self._arrow(batch, column, others)
        raise UnusableInput(f"a batch is a dict of arrays, a DataFrame or an Arrow table, not {type(batch).__name__}")

    @property
    def columns(self) -> dict[str, str]:
        """Name and type of each new column: `text`, `integer` (64 bits) or `real` (32 bits).

        With probabilities and an address, this asks the server for the names of the labels.
        """
        labels = self._open().model.labels if self._probabilities else ()
        _, *columns = self._layout(labels).columns  # without the name of the image
        return {f"{self._prefix}{name}": kind for name, kind in columns}

    def _split(self, batch: Any, names: list[str]) -> tuple[Any, list[str]]:
        """Returns the column of the images, and the names of the others."""
        if self._image_column not in names:
            raise UnusableInput(f"there is no column {self._image_column!r}; image_column names it")
        others = [name for name in names if name != self._image_column]
        if taken := next((name for name in others if name in self.columns), None):
            raise UnusableInput(f"there already is a column {taken!r}; prefix='answer_' avoids it")
        return batch[self._image_column], others

    def _answers(self, column: Any) -> dict[str, npt.NDArray[Any]]:
        opened = self._open()
        layout = self._layout(opened.model.labels)
        batch = image_batch(column, opened.model.shape)
        columns: list[list[Any]] = [[] for _ in layout.columns]
        for start in range(0, len(batch), _ROWS):  # whole partitions of a table would take gigabytes
            scored = opened.classify(batch.part(start, start + _ROWS))
            for found, values in zip(columns, layout.values(scored, layout.kept(scored), first=start), strict=True):
                found.extend(values)
        _, *columns = columns  # without the name of the image
        return {name: _array(kind, found) for (name, kind), found in zip(self.columns.items(), columns, strict=True)}

    def _arrow(self, batch: Any, column: Any, others: list[str]) -> Any:
        import pyarrow

        schema = pyarrow.schema(
            [*(batch.schema.field(name) for name in others), *parquet_schema([*self.columns.items()])]
        )
        arrays = [batch.column(name) for name in others]
        for name, values in self._answers(_arrow_cells(column)).items():
            arrays.append(pyarrow.array(values, schema.field(name).type))
        return type(batch).from_arrays(arrays, schema=schema)

    def _layout(self, labels: tuple[str, ...]) -> RowLayout:
        return RowLayout(
            labels=labels,
            probabilities=self._probabilities,
            min_confidence=self._min_confidence,
            only_digits=self._only_digits,
        )

    def _open(self) -> _Opened:
        """Returns what classifies in this process."""
        digest = self._stored.manifest.sha256 if self._stored else ""
        key = (os.getpid(), digest, self._provider, self._targets, self._credentials, *self._model, self._probabilities)
        with _lock:
            if key not in _opened:
                _opened[key] = self._start()
            return _opened[key]

    def _start(self) -> _Opened:
        if self._stored is not None:
            from serving.score.local import LocalClassifier

            local = LocalClassifier(self._stored, provider=self._provider)
            return _Opened(model=local.model, classify=local.classify)
        from serving.score.remote import RemoteConfig, RemoteScorer

        name, version = self._model
        remote = RemoteScorer(
            RemoteConfig(
                targets=self._targets,
                credentials=self._credentials,
                model_name=name,
                model_version=version,
                probabilities=self._probabilities,
            )
        )
        return _Opened(model=remote.model, classify=remote.score)


def _array(kind: str, values: Sequence[Any]) -> npt.NDArray[Any]:
    """Returns a column as int64, float32 or objects. The first two have no value for a missing one."""
    if kind == "text":
        return np.array(values, object)
    dtype, missing = (np.int64, -1) if kind == "integer" else (np.float32, np.nan)
    return np.array([missing if value is None else value for value in values], dtype)


def _arrow_cells(column: Any) -> npt.NDArray[Any]:
    """Returns a column of Arrow as an array of cells or, of an extension type for tensors, as an array of pixels."""
    chunks = column.chunks if hasattr(column, "chunks") else [column]
    arrays = [
        chunk.to_numpy_ndarray() if hasattr(chunk, "to_numpy_ndarray") else chunk.to_numpy(zero_copy_only=False)
        for chunk in chunks
    ]
    return np.concatenate(arrays) if arrays else np.empty(0, object)
