"""Your own data in files: tables and arrays with labels, as Kaggle, Keras, pandas and Hugging Face leave them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from training.datasets import Dataset, load
from training.errors import DatasetError
from training.run_record import RunRecord

COUNT = 200
NAMES = [f"pixel{number}" for number in range(784)]


@pytest.fixture(scope="module")
def drawn(digits: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Drawn digits, uint8 [200, 28, 28], and their labels."""
    return digits[0][:COUNT, :, :, 0], digits[1][:COUNT]


def _csv(images: np.ndarray, labels: np.ndarray | None) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*(["label"] if labels is not None else []), *NAMES])
    rows = images.reshape(len(images), -1).tolist()
    writer.writerows(rows if labels is None else [[label, *row] for label, row in zip(labels, rows, strict=True)])
    return file.getvalue().encode()


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _kaggle(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    (folder / "train.csv").write_bytes(_csv(images, labels))
    return "train.csv"


def _gzipped_without_header(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    content = _csv(images, labels).partition(b"\n")[2]
    (folder / "mnist_train.csv.gz").write_bytes(gzip.compress(content))
    return "mnist_train.csv.gz"


def _npz(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    np.savez(folder / "a.npz", images=images / 255, labels=labels.astype(np.float32).reshape(-1, 1))
    return "a.npz"


def _npz_one_hot(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    np.savez(folder / "a.npz", X=images[:, np.newaxis], y=np.eye(10)[labels])
    return "file:a.npz"


def _parquet_lists(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    table = pyarrow.table({"image": list(images.reshape(COUNT, -1)), "class": labels})
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    return "a.parquet"


def _shards(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    (folder / "shards").mkdir()
    for number, part in enumerate(np.array_split(np.arange(COUNT), 3)):
        table = pyarrow.table(
            {"image": [{"bytes": _png(images[i]), "path": None} for i in part], "label": labels[part]}
        )
        pyarrow.parquet.write_table(table, folder / "shards" / f"{number}.parquet")
    return "shards"


def _pattern(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    return f"{_shards(folder, images, labels)}/*.parquet"


def _paths_in_jsonl(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    lines = []
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        (folder / f"{number}.png").write_bytes(_png(image))
        lines.append(json.dumps({"file_name": f"{number}.png", "label": float(label)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return "metadata.jsonl"


@pytest.mark.parametrize(
    "make", [_kaggle, _gzipped_without_header, _npz, _npz_one_hot, _parquet_lists, _shards, _pattern, _paths_in_jsonl]
)
def test_a_file_without_a_split_is_split_the_same_way_everywhere(
    make: Callable, drawn: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = drawn
    monkeypatch.chdir(tmp_path)
    source = make(tmp_path, images, labels)
    data = load(source, image_shape=(28, 28, 1))
    assert data.source == f"file:{source.removeprefix('file:')}"
    assert data.label_names == tuple("0123456789")
    assert data.preparation == "mnist"
    assert data.image_shape == (28, 28, 1)
    assert np.allclose(np.bincount(data.test_labels), np.bincount(labels) / 5, atol=0.6)
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    found = np.concatenate([data.train_images, data.test_images])
    assert [label_of.pop(image.tobytes()) for image in found] == [*data.train_labels, *data.test_labels]
    assert not label_of
    # All forms hold the same rows, so they make the same data set.
    assert data.sha256 == _expected(drawn, tmp_path).sha256
    assert load(data.source, **data.options).sha256 == data.sha256


def _expected(drawn: tuple, folder: Path) -> Dataset:
    np.savez(folder / "expected.npz", images=drawn[0], labels=drawn[1])
    return load(str(folder / "expected.npz"))


def _keras(folder: Path, train: tuple, test: tuple) -> str:
    np.savez(folder / "mnist.npz", x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    return "mnist.npz"


def _hugging_face(folder: Path, train: tuple, test: tuple) -> str:
    (folder / "data").mkdir()
    names = [*"1234567890"]  # not in the order of their numbers
    info = {"info": {"features": {"digit": {"names": names, "_type": "ClassLabel"}, "img": {"_type": "Image"}}}}
    for name, (images, labels) in {"train": train, "test": test}.items():
        cells = [{"bytes": _png(image), "path": f"{number}.png"} for number, image in enumerate(images)]
        table = pyarrow.table({"img": cells, "digit": labels}).replace_schema_metadata(
            {"huggingface": json.dumps(info)}
        )
        pyarrow.parquet.write_table(table, folder / "data" / f"{name}-00000-of-00001.parquet")
    return "."


def _two_tables(folder: Path, train: tuple, test: tuple) -> str:
    (folder / "mnist_train.csv").write_bytes(_csv(*train))
    (folder / "mnist_test.csv").write_bytes(_csv(*test))
    return "mnist_*.csv"


def _two_folders(folder: Path, train: tuple, test: tuple) -> str:
    for name, split in {"train": train, "test": test}.items():
        (folder / name).mkdir()
        (folder / name / "digits.csv").write_bytes(_csv(*split))
    return "*/digits.csv"


@pytest.mark.parametrize("make", [_keras, _hugging_face, _two_tables, _two_folders])
def test_a_split_that_the_names_say_is_kept(
    make: Callable, drawn: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Every class is among the last tenth of the first 150, so that they keep their order.
    last = [np.flatnonzero(drawn[1][:150] == digit)[0] for digit in range(10)]
    order = np.concatenate([np.setdiff1d(np.arange(150), last), last, np.arange(150, COUNT)])
    images, labels = drawn[0][order], drawn[1][order]
    data = load(make(tmp_path, (images[:150], labels[:150]), (images[150:], labels[150:])))
    assert np.array_equal(data.train_images[..., 0], images[:150])
    assert np.array_equal(data.test_images[..., 0], images[150:])
    assert np.array_equal(data.test_labels, labels[150:])
    assert data.label_names == tuple("1234567890" if make is _hugging_face else "0123456789")


def test_a_training_set_sorted_by_class_still_validates_on_every_class(drawn: tuple, tmp_path: Path) -> None:
    order = np.argsort(drawn[1], kind="stable")
    images, labels = drawn[0][order], drawn[1][order]
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])
    data = load(str(tmp_path / "a.npz"))
    assert len({*data.train_labels[-40:]}) == 10
    assert len(data.test_labels) == 20


def test_photos_are_resized_and_other_images_are_not_laid_out_as_mnist(drawn: tuple, tmp_path: Path) -> None:
    colour = np.stack([255 - drawn[0]] * 3, axis=-1)
    np.savez(tmp_path / "a.npz", images=colour, labels=np.array(["odd", "even"])[drawn[1] % 2])
    data = load(str(tmp_path / "a.npz"))
    assert (data.image_shape, data.preparation, data.label_names) == ((28, 28, 3), "resize", ("even", "odd"))
    gray = load(str(tmp_path / "a.npz"), image_shape=(28, 28, 1))
    assert (gray.image_shape, gray.preparation) == ((28, 28, 1), "resize")
    assert np.array_equal(gray.test_images[..., 0], data.test_images[..., 0])
    assert load(str(tmp_path / "a.npz"), image_shape=(14, 12, 3)).image_shape == (14, 12, 3)


def test_rows_that_can_t_be_read_can_be_left_out(
    drawn: tuple, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = _csv(*drawn).splitlines()
    lines[3] = lines[3].replace(b",0", b",?", 1)
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines))
    with pytest.raises(DatasetError, match=r"1 rows are not readable images.*(?s:.)*row 2: its row has a pixel"):
        load(str(tmp_path / "a.csv"))
    data = load(str(tmp_path / "a.csv"), skip_unreadable=True)
    assert len(data.train_labels) + len(data.test_labels) == COUNT - 1
    assert "row 2: its row has a pixel that is not a number" in caplog.text


REFUSED = {
    "test.csv": (_csv(np.zeros((2, 28, 28), int), None), "which of the columns pixel0, .*and 779 more has the labels"),
    "blank.csv": (b"label,path\n,a.png\n", "not one image can be read: .*No such file"),
    "one.csv": (_csv(np.zeros((3, 28, 28), int), np.zeros(3, int)), "1 classes, but a data set needs at least two"),
    "few.csv": (_csv(np.zeros((3, 28, 28), int), np.array([3, 4, 3])), "one image of 4, but a class needs two"),
    "nolabel.csv": (_csv(np.zeros((1, 28, 28), int), np.array([""])), "row 0 has no label in the column label"),
    "a.npy": (b"", "neither a table .* nor an .npz file"),
    "a.npz": (b"PK", "not an .npz file of numbers, or a damaged one"),
    "nothing.csv": (None, "no such file, and no file matches it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_data_set_is_refused_in_a_short_line(name: str, tmp_path: Path) -> None:
    content, said = REFUSED[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=said) as refusal:
        load(str(tmp_path / name))
    assert len(str(refusal.value)) < 400


def test_files_of_different_sizes_are_refused_with_both(tmp_path: Path) -> None:
    for size in (28, 32):
        np.savez(tmp_path / f"{size}.npz", images=np.zeros((4, size, size), np.uint8), labels=[0, 0, 1, 1])
    with pytest.raises(DatasetError, match="images of different sizes: 28 x 28 x 1, 32 x 32 x 1; --image-size"):
        load(str(tmp_path / "*.npz"))
    assert load(str(tmp_path / "*.npz"), image_shape=(28, 28, 1)).image_shape == (28, 28, 1)


def test_the_name_of_a_file_says_its_split_before_its_folder_does(drawn: tuple, tmp_path: Path) -> None:
    (tmp_path / "no-test-here").mkdir()
    for name, part in {"no-test-here/train.csv": slice(150), "val.csv": slice(150, COUNT)}.items():
        (tmp_path / name).write_bytes(_csv(drawn[0][part], drawn[1][part]))
    data = load(str(tmp_path / "**" / "*.csv"))
    assert (len(data.train_labels), len(data.test_labels)) == (150, COUNT - 150)


def test_a_folder_with_a_table_names_the_table(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    with pytest.raises(DatasetError, match=r"0 sub-folders, .*for a table or arrays, name the file: .*train\.csv"):
        load(str(tmp_path))


def test_arrays_whose_meaning_is_a_guess_are_refused(drawn: tuple, tmp_path: Path) -> None:
    for arrays, said in (
        ({"a": drawn[0], "b": drawn[1]}, "which of the arrays a, b are images"),
        ({"x": drawn[0] / 255 - 0.5, "y": drawn[1]}, "x: values from -0.5 to 0.5"),
        ({"x": drawn[0], "y": drawn[1][:5]}, "200 images in x, but 5 labels in y"),
        ({"x": drawn[0], "y": np.ones((COUNT, 10))}, r"y is float64 \[200, 10\], but labels are one for each image"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(DatasetError, match=said):
            load(str(tmp_path / "a.npz"))


def test_parquet_without_pyarrow_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="reading Parquet needs pyarrow, of the extra score: pip install"):
        load(str(tmp_path / "a.parquet"))


@pytest.fixture
def competition(digits: tuple, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A directory with the two files of Kaggle's Digit Recognizer, and the labels of its test images.

    Made from MNIST where it is present, else from drawn digits.
    """
    if not os.environ.get("MNIST_DIR"):
        train, test = (digits[0][:400], digits[1][:400]), (digits[0][400:], digits[1][400:])
    else:
        data = load("mnist", data_dir=Path(os.environ["MNIST_DIR"]))
        train = (data.train_images[:2000], data.train_labels[:2000])
        test = (data.test_images[:300], data.test_labels[:300])
    (tmp_path / "train.csv").write_bytes(_csv(*train))
    (tmp_path / "test.csv").write_bytes(_csv(test[0], None))
    return tmp_path, test[1]


def test_kaggle_s_two_files_train_and_score_in_one_command_each(
    competition: tuple[Path, np.ndarray], command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder, truth = competition
    options = ("--recipe", "published", "--epochs", 1)
    done = command("digits-train", "--data", "train.csv", *options, "--out", "runs/kaggle", cwd=folder)
    assert done.returncode == 0, done.stderr
    record = RunRecord.read(folder / "runs" / "kaggle").metrics
    assert record["data"]["source"] == "file:train.csv"
    assert record["labels"] == list("0123456789")
    assert record["input"] == {"height": 28, "width": 28, "channels": 1, "preparation": "mnist"}
    # What digits-export does with the record.
    again = load(str(folder / "train.csv"), **record["data"]["options"])
    assert again.sha256 == record["data"]["sha256"]
    options = ("--columns", "kaggle", "--local", "--batch-rows", 64, "--part-rows", 64)
    done = command("digits-score", "test.csv", "--out", "submission.csv", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = (folder / "submission.csv").read_text().splitlines()
    assert lines[0] == "ImageId,Label"
    rows = [tuple(map(int, line.split(","))) for line in lines[1:]]
    assert [number for number, _ in rows] == list(range(1, len(truth) + 1))
    assert np.mean([label for _, label in rows] == truth) > 0.95
