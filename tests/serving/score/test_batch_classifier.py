"""The picklable classifier: every kind of batch in and out, in another process too, with a model or a server."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image

from serving.client import Client
from serving.score import BatchClassifier
from serving.score.batch import UnusableInput

COUNT = 20


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pixels(digits: tuple) -> np.ndarray:
    return digits[0][:COUNT, :, :, 0]


@pytest.fixture(scope="module")
def of_pixels(pixels: np.ndarray, server) -> list[int]:
    """The labels that a server gives pixels."""
    with Client(server.address) as client:
        return client.classify(pixels).labels.tolist()


@pytest.fixture(scope="module")
def of_files(pixels: np.ndarray, server) -> list[int]:
    """The labels that a server gives the same images as files, which are prepared."""
    with Client(server.address) as client:
        return client.classify_encoded([_png(each) for each in pixels]).labels.tolist()


@pytest.fixture
def classifier() -> BatchClassifier:
    """As it comes out of a pickle."""
    return pickle.loads(pickle.dumps(BatchClassifier()))


def _objects(cells: list[Any]) -> np.ndarray:
    column = np.empty(len(cells), object)
    column[:] = cells
    return column


FORMS: dict[str, tuple[bool, Callable[[np.ndarray], Any]]] = {
    "array": (True, lambda pixels: pixels),
    "array with channels": (True, lambda pixels: pixels[..., np.newaxis]),
    "rows of values": (True, lambda pixels: pixels.reshape(len(pixels), -1).astype(np.int64)),
    "arrays in cells": (True, lambda pixels: _objects(list(pixels))),
    "lists in cells": (True, lambda pixels: pixels.tolist()),
    "files": (False, lambda pixels: [_png(each) for each in pixels]),
    "structs": (False, lambda pixels: [{"bytes": _png(each), "path": None} for each in pixels]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_dict_of_arrays_gives_a_dict_of_arrays(
    form: str, classifier: BatchClassifier, pixels: np.ndarray, of_pixels: list[int], of_files: list[int]
) -> None:
    are_pixels, make = FORMS[form]
    found = classifier({"image": make(pixels), "id": np.arange(COUNT)})
    assert found.keys() == {"id", *classifier.columns}
    assert found["label"].dtype == np.int64
    assert found["label"].tolist() == (of_pixels if are_pixels else of_files)
    assert found["name"].tolist() == [str(label) for label in found["label"]]
    assert found["confidence"].dtype == np.float32
    assert set(found["error"]) == {None}
    assert found["id"].tolist() == list(range(COUNT))


ARROW: dict[str, Callable[[np.ndarray], Any]] = {
    "binary": lambda pixels: pyarrow.array([_png(each) for each in pixels]),
    "lists": lambda pixels: pyarrow.array(pixels.reshape(len(pixels), -1).tolist(), pyarrow.list_(pyarrow.uint8())),
    "nested lists": lambda pixels: pyarrow.array(pixels.tolist()),
    "tensors": pyarrow.FixedShapeTensorArray.from_numpy_ndarray,
}


@pytest.mark.parametrize("kind", [pyarrow.table, pyarrow.RecordBatch.from_pydict], ids=["table", "record batch"])
@pytest.mark.parametrize("form", ARROW)
def test_an_arrow_table_gives_an_arrow_table(
    form: str,
    kind: Callable,
    classifier: BatchClassifier,
    pixels: np.ndarray,
    of_pixels: list[int],
    of_files: list[int],
) -> None:
    batch = kind({"id": pyarrow.array(range(COUNT), pyarrow.int16()), "image": ARROW[form](pixels)})
    found = classifier(batch)
    assert type(found) is type(batch)
    assert found.schema.names == ["id", *classifier.columns]
    assert found.schema.field("id").type == pyarrow.int16()
    types = {"text": pyarrow.string(), "integer": pyarrow.int64(), "real": pyarrow.float32()}
    assert {name: types[kind] for name, kind in classifier.columns.items()} == {
        name: found.schema.field(name).type for name in classifier.columns
    }
    assert found.column("label").to_pylist() == (of_files if form == "binary" else of_pixels)


def test_a_data_frame_gives_a_data_frame_and_an_iterator_an_iterator(
    classifier: BatchClassifier, pixels: np.ndarray, of_files: list[int]
) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": [_png(each) for each in pixels], "id": range(COUNT)}, index=range(5, COUNT + 5))
    found = classifier(iter([frame[:7], frame[7:]]))
    assert isinstance(found, Iterator)
    joined = pandas.concat(found)
    assert list(joined.columns) == ["id", *classifier.columns]
    assert list(joined.index) == list(frame.index)
    assert joined["label"].tolist() == of_files


def test_iterators_batches_without_rows_and_probabilities(pixels: np.ndarray, of_pixels: list[int]) -> None:
    classifier = BatchClassifier(probabilities=True, prefix="answer_", image_column="pixels")
    batches = [{"pixels": pixels[start:stop]} for start, stop in ((0, 7), (7, 7), (7, COUNT))]
    found = list(classifier(iter(batches)))
    assert [len(each["answer_label"]) for each in found] == [7, 0, COUNT - 7]
    joined = {name: np.concatenate([each[name] for each in found]) for name in classifier.columns}
    assert joined["answer_label"].tolist() == of_pixels
    shares = np.stack([joined[f"answer_probability_{label}"] for label in range(10)], axis=1)
    assert shares.argmax(axis=1).tolist() == of_pixels
    np.testing.assert_array_equal(shares.max(axis=1), joined["answer_confidence"])


def test_what_can_not_be_read_says_why(classifier: BatchClassifier, pixels: np.ndarray) -> None:
    files = classifier({"image": [None, b"junk", _png(pixels[0]), float("nan"), "nowhere.png"]})
    assert files["label"].tolist()[:2] == [-1, -1]
    assert files["label"][2] >= 0
    assert np.isnan(files["confidence"]).tolist() == [True, True, False, True, True]
    assert files["error"].tolist() == [
        "its row has no image",
        "not an image in a supported format (PNG, JPEG, WebP, BMP, TIFF, GIF)",
        None,
        "its row has no image",
        "No such file or directory",
    ]
    cells = classifier({"image": [pixels[0].tolist(), None, [[1, 2], [3]], (pixels[0] / 255).tolist(), pixels[0][:5]]})
    assert (cells["label"] >= 0).tolist() == [True, False, False, False, False]
    assert cells["error"].tolist() == [
        None,
        "its row has no image",
        "its row has other pixels",
        "pixels must be integers from 0 (black) to 255 (white), not float64",
        "images of 5 x 28 x 1, but the model takes 28 x 28 x 1",
    ]


def test_a_large_batch_is_classified_in_order(
    classifier: BatchClassifier, pixels: np.ndarray, of_pixels: list[int]
) -> None:
    cells: list[Any] = [*pixels] * 110
    wanted = of_pixels * 110
    for index in (0, 1023, 1024, 2000):
        cells[index], wanted[index] = None, -1
    found = classifier({"image": cells})
    assert found["label"].tolist() == wanted
    assert np.flatnonzero(found["error"]).tolist() == [0, 1023, 1024, 2000]


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"picture": []}, "there is no column 'image'; image_column names it"),
        ({"image": [], "label": []}, "there already is a column 'label'; prefix='answer_' avoids it"),
        ([1, 2], "a batch is a dict of arrays, a DataFrame or an Arrow table, not list"),
        ({"image": np.zeros((2, 28, 28), np.float32)}, "the images: pixels must be integers from 0"),
        ({"image": np.full((2, 28, 28), 256)}, "the images: pixels must lie between 0 (black) and 255"),
        ({"image": np.zeros((2, 5, 5), np.uint8)}, "the images: images of 5 x 5 x 1, but the model takes 28 x 28 x 1"),
    ],
)
def test_a_batch_that_can_not_be_classified_is_refused(classifier: BatchClassifier, batch: Any, said: str) -> None:
    with pytest.raises(UnusableInput) as error:
        classifier(batch)
    assert str(error.value).startswith(said)


def test_a_worker_needs_no_repository_and_ends_whatever_it_used(
    tmp_path: Path, shades: Path, server, pixels: np.ndarray, of_pixels: list[int]
) -> None:
    """A repository that is gone, and a server; each classifier is used twice, as two tasks of one worker do."""
    gone = tmp_path / "models"
    gone.symlink_to(shades)
    here = BatchClassifier(repository=gone, model_version=1)
    wanted = here({"image": pixels})["name"].tolist()
    content = pickle.dumps([here, BatchClassifier(address=server.address), pixels])
    gone.unlink()
    program = """
import pickle, sys, threading
content = sys.stdin.buffer.read()
engines = set()
for _ in range(2):
    *classifiers, pixels = pickle.loads(content)
    found = [classifier({"image": pixels}) for classifier in classifiers]
    engines |= {thread for thread in threading.enumerate() if thread.name.startswith("engine")}
assert len(engines) == 1, engines
print(found[0]["name"].tolist())
print(found[1]["label"].tolist())
"""
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == [str(wanted), str(of_pixels)]
