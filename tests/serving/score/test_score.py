"""`digits-score`: every kind of input and output, bad images as rows, and the summary."""

from __future__ import annotations

import base64
import csv
import fcntl
import gzip
import io
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import tarfile
import termios
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from serving.client import Client
from serving.images.preparation import Preparation
from serving.score.batch import Batch, BatchLimits, ScoringModel
from serving.score.classifier import decode_batch
from serving.score.run import Run
from serving.score.scorer import ScoringStopped

BIN = Path(sys.executable).parent
COUNT = 60

Score = Callable[..., list[dict[str, str]]]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _large_png(width: int) -> bytes:
    """An image that claims to be 1,000 pixels high, but has no pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, 1000, 8, 0, 0, 0, 0), b"IDAT")
    packed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.fixture
def score(command: Callable, tmp_path: Path) -> Score:
    """Scores with --local in a directory of its own, and returns the rows."""

    def run(*arguments: object) -> list[dict[str, str]]:
        done = command("digits-score", *arguments, "--local", "--out", "scores.csv", "--overwrite", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "scores.csv.parts").exists()
        return _rows(tmp_path / "scores.csv")

    return run


@pytest.fixture(scope="module")
def pixels(digits: tuple) -> np.ndarray:
    return digits[0][:COUNT, :, :, 0]


@pytest.fixture(scope="module")
def truth(digits: tuple) -> list[str]:
    return [str(label) for label in digits[1][:COUNT]]


@pytest.fixture(scope="module")
def expected(pixels: np.ndarray, server) -> list[str]:
    """The labels that a server answers with, which every way of scoring must give."""
    with Client(server.address) as client:
        return [str(label) for label in client.classify(pixels).labels]


def _npy(folder: Path, pixels: np.ndarray, _: list[str]) -> list[str]:
    np.save(folder / "digits.npy", pixels)
    return ["digits.npy"]


def _npz(folder: Path, pixels: np.ndarray, truth: list[str]) -> list[str]:
    np.savez(folder / "digits.npz", pixels=pixels, truth=np.array(truth, np.uint8))
    return ["digits.npz", "--label-column", "truth"]


def _npz_compressed(folder: Path, pixels: np.ndarray, _: list[str]) -> list[str]:
    np.savez_compressed(folder / "digits.npz", images=pixels[..., np.newaxis], other=pixels[:5])
    return ["digits.npz"]


def _idx(folder: Path, pixels: np.ndarray, truth: list[str]) -> list[str]:
    (folder / "t-images-idx3-ubyte").write_bytes(struct.pack(">HBBIII", 0, 8, 3, *pixels.shape) + pixels.tobytes())
    labels = np.array(truth, np.uint8)
    (folder / "t-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, len(labels)) + labels.tobytes())
    return ["t-images-idx3-ubyte", "--label-file", "t-labels-idx1-ubyte"]


def _idx_gz(folder: Path, pixels: np.ndarray, truth: list[str]) -> list[str]:
    for name in _idx(folder, pixels, truth)[::2]:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    return ["t-images-idx3-ubyte.gz", "--label-file", "t-labels-idx1-ubyte.gz"]


def _folder(folder: Path, pixels: np.ndarray, _: list[str]) -> list[str]:
    for number, image in enumerate(pixels):
        place = folder / "scans" / f"{number // 20}" / "deep"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03d}.png").write_bytes(_png(image))
        (place / ".hidden").write_bytes(b"not an image")
    return ["scans"]


def _glob(folder: Path, pixels: np.ndarray, truth: list[str]) -> list[str]:
    _folder(folder, pixels, truth)
    (folder / "scans" / "note.txt").write_text("not scored")
    return ["scans/**/*.png"]


def _zip(folder: Path, pixels: np.ndarray, _: list[str]) -> list[str]:
    with zipfile.ZipFile(folder / "scans.zip", "w") as archive:
        for number, image in enumerate(pixels):
            archive.writestr(f"a/{number}.png", _png(image))
    return ["scans.zip"]


def _tar(folder: Path, pixels: np.ndarray, _: list[str]) -> list[str]:
    with tarfile.open(folder / "scans.tar.gz", "w:gz") as archive:
        for number, image in enumerate(pixels):
            info = tarfile.TarInfo(f"a/{number}.png")
            content = _png(image)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return ["scans.tar.gz"]


def _parquet(folder: Path, pixels: np.ndarray, truth: list[str]) -> list[str]:
    table = pyarrow.table({"image": [{"bytes": _png(image), "path": None} for image in pixels], "label": truth})
    pyarrow.parquet.write_table(table, folder / "scans.parquet", row_group_size=7)
    return ["scans.parquet", "--label-column", "label"]


def _parquet_of_paths(folder: Path, pixels: np.ndarray, truth: list[str]) -> list[str]:
    _folder(folder, pixels, truth)
    files = sorted(str(path.relative_to(folder)) for path in (folder / "scans").rglob("*.png"))
    pyarrow.parquet.write_table(pyarrow.table({"where": files, "key": range(COUNT)}), folder / "scans.parquet")
    return ["scans.parquet", "--path-column", "where", "--id-column", "key"]


def _csv(folder: Path, pixels: np.ndarray, truth: list[str]) -> list[str]:
    lines = [f"{label},{base64.b64encode(_png(image)).decode()}" for image, label in zip(pixels, truth, strict=True)]
    (folder / "scans.csv").write_text("digit,image\n" + "\n".join(lines) + "\n")
    return ["scans.csv", "--label-column", "digit"]


INPUTS = [_npy, _npz, _npz_compressed, _idx, _idx_gz, _folder, _glob, _zip, _tar, _parquet, _parquet_of_paths, _csv]


@pytest.mark.parametrize("make", INPUTS)
def test_every_kind_of_input_is_scored_in_its_order(
    make: Callable, score: Score, tmp_path: Path, pixels: np.ndarray, truth: list[str], expected: list[str]
) -> None:
    arguments = make(tmp_path, pixels, truth)
    rows = score(*arguments, "--batch-rows", 7)
    assert [row["label"] for row in rows] == expected
    assert len({row["id"] for row in rows}) == COUNT
    assert {row["error"] for row in rows} == {""}
    if any(option.startswith("--label") for option in arguments):
        assert [row["expected"] for row in rows] == truth


@pytest.mark.parametrize("make", INPUTS)
def test_every_kind_of_input_resumes_where_a_run_ended(
    make: Callable, score: Score, command: Callable, tmp_path: Path, pixels: np.ndarray, truth: list[str]
) -> None:
    """The run is killed after two parts; the rest is scored after it is resumed."""
    arguments = [*make(tmp_path, pixels, truth), "--batch-rows", 7, "--part-rows", 14]
    undisturbed = score(*arguments)
    begun = [*map(str, arguments), "--local", "--out", "cut.csv"]
    _stop_after(2, begun, tmp_path)
    assert len((tmp_path / "cut.csv.parts" / "journal.jsonl").read_text().splitlines()) == 3
    refused = command("digits-score", *begun, cwd=tmp_path)
    assert refused.returncode == 1
    assert "--resume continues it" in refused.stderr
    done = command("digits-score", *begun, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert _rows(tmp_path / "cut.csv") == undisturbed


def _stop_after(parts: int, arguments: list[str], folder: Path) -> None:
    """Runs the command in a process that exits once this number of parts is in the journal."""
    program = f"""
import os, sys
from serving.score import journal
append = journal.Journal.append
def counted(self, part):
    append(self, part)
    if len(self.parts) == {parts}:
        os._exit(9)
journal.Journal.append = counted
sys.argv = ["digits-score", *{arguments!r}]
from serving.__main__ import score
score()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 9, done.stderr


def test_all_formats_hold_the_same_rows(score: Score, command: Callable, tmp_path: Path, pixels: np.ndarray) -> None:
    np.save(tmp_path / "digits.npy", pixels)
    wanted = ["digits.npy", "--probabilities", "--batch-rows", 16, "--part-rows", 32]
    rows = score(*wanted)
    for name in ("scores.jsonl", "scores.parquet"):
        done = command("digits-score", *wanted, "--local", "--out", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    objects = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    for row, same in zip(rows, objects, strict=True):
        for name in ("id", "label", "name", "error", "model_version", "model_sha256"):
            assert row[name] == ("" if same[name] is None else str(same[name]))
    table = pyarrow.parquet.read_table(tmp_path / "scores.parquet")
    assert table.column_names == list(rows[0]) == list(objects[0])
    assert table.num_rows == COUNT
    for name in ("confidence", *(f"probability_{digit}" for digit in range(10))):
        as_text = [float(row[name]) for row in rows]
        np.testing.assert_allclose([row[name] for row in objects], as_text, atol=1e-6)
        np.testing.assert_allclose(table[name].to_pylist(), as_text, atol=1e-6)
    assert table["model_sha256"].unique().to_pylist() == [rows[0]["model_sha256"]]
    assert len(rows[0]["model_sha256"]) == 64
    assert {row["model_version"] for row in rows} == {"1"}


def test_through_a_server_gives_what_the_process_gives(
    score: Score, command: Callable, tmp_path: Path, pixels: np.ndarray, server
) -> None:
    np.save(tmp_path / "digits.npy", np.tile(pixels, (40, 1, 1)))
    local = score("digits.npy", "--probabilities")
    options = ("--target", server.address, "--target", server.address, "--batch-rows", "100", "--probabilities")
    done = command("digits-score", "digits.npy", *options, "--out", "served.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert _rows(tmp_path / "served.csv") == local


def test_scans_are_prepared_as_servers_prepare_them(
    score: Score, command: Callable, tmp_path: Path, pixels: np.ndarray, expected: list[str], server
) -> None:
    """Dark ink on pages of many sizes, in files, in an archive and as rows of a table."""
    (tmp_path / "scans").mkdir()
    sizes = np.random.default_rng(0).integers(20, 120, (20, 4))
    for number, (image, margins) in enumerate(zip(pixels, sizes.reshape(20, 2, 2), strict=False)):
        page = np.pad(255 - image.repeat(4, 0).repeat(4, 1), margins, constant_values=255)
        Image.fromarray(page).convert("RGB").save(tmp_path / "scans" / f"{number:02d}.jpg")
    files = sorted((tmp_path / "scans").iterdir())
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    table = pyarrow.table({"image": [file.read_bytes() for file in files]})
    pyarrow.parquet.write_table(table, tmp_path / "scans.parquet")
    inputs = ("scans", "scans.zip", "scans.parquet")
    rows = score(*inputs, "--probabilities", "--min-confidence", 0.9)
    assert [row["label"] for row in score(*inputs)] == expected[:20] * 3
    with Client(server.address) as client:
        served = client.classify_files(files, probabilities=True, min_confidence=0.9)
    assert [int(row["label"]) for row in rows] == served.labels.tolist() * 3
    found = [[float(row[f"probability_{digit}"]) for digit in range(10)] for row in rows]
    np.testing.assert_allclose(found, np.tile(served.probabilities, (3, 1)), atol=1e-5)
    options = ("--target", server.address, "--probabilities", "--min-confidence", 0.9)
    done = command("digits-score", *inputs, *options, "--out", "served.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert _rows(tmp_path / "served.csv") == rows


def test_colour_networks_get_images_of_their_size(tmp_path: Path) -> None:
    """This model needs images that are only resized."""
    Image.new("L", (40, 20), 200).save(tmp_path / "wide.png")
    images = [tmp_path / "wide.png", (tmp_path / "wide.png").read_bytes(), b""]
    batch = Batch(ids=["a", "b", "c"], images=images, expected=None)
    preparation = Preparation(kind="resize", height=16, width=12, channels=3)
    decoded = decode_batch(batch, preparation)
    assert decoded.images.shape == (2, 16, 12, 3)
    assert set(decoded.images.ravel().tolist()) == {200}
    assert decoded.indices.tolist() == [0, 1]
    assert decoded.errors == {2: "no bytes"}


def test_a_model_with_another_preparation_stops_a_run_even_if_models_are_mixed() -> None:
    preparation = Preparation(kind="mnist", height=28, width=28, channels=1)
    begun = ScoringModel(name="m", version=1, sha256="a", labels=("0",), preparation=preparation)
    other = replace(begun, version=2, sha256="b", preparation=replace(preparation, kind="resize"))
    run = Run(source=Mock(), scorer=Mock(model=begun), output=Mock(), limits=BatchLimits(), mix_models=True)
    run._check_model(replace(begun, version=2, sha256="b"))
    with pytest.raises(
        ScoringStopped, match=r"m version 2 \(b…\) came up, with labels, image size or preparation that differ"
    ):
        run._check_model(other)


def test_bad_images_become_rows_and_a_summary(
    score: Score, command: Callable, tmp_path: Path, pixels: np.ndarray
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, image in enumerate(pixels[:5]):
        (folder / f"{number}.png").write_bytes(_png(image))
    (folder / "a.png").write_bytes(_png(pixels[0])[:60])
    (folder / "b.png").write_bytes(b"")
    (folder / "c.png").write_bytes(_large_png(50_000))
    (folder / 'd "quoted", and\nbroken.png').write_text("no image")
    (folder / "e.png").symlink_to("nowhere.png")
    (folder / "f").symlink_to(".")
    os.mkfifo(folder / "pipe")
    rows = {row["id"]: row for row in score("scans")}
    assert len(rows) == 10
    bad = [row for row in rows.values() if row["error"]]
    assert len(bad) == 5
    assert all(row["label"] == row["name"] == row["confidence"] == "" for row in bad)
    assert rows["scans/c.png"]["error"] == "50000 x 1000 pixels are more than 40,000,000"
    assert rows["scans/e.png"]["error"] == "No such file or directory"
    assert 'scans/d "quoted", and\nbroken.png' in rows
    done = command("digits-score", "scans", "--local", "--out", "scores.csv", "--overwrite", cwd=tmp_path)
    assert done.returncode == 0
    assert "10 images, 5 without an answer" in done.stdout
    assert "50000 x 1000 pixels" in done.stdout


def test_many_different_reasons_are_summed_up(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for more in range(1, 26):
        (tmp_path / "scans" / f"{more:02d}.png").write_bytes(_large_png(50_000 + more))
    options = ("--batch-rows", 3, "--part-rows", 6, "--local", "--out", "s.csv")
    done = command("digits-score", "scans", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "Error: not one image could be read; the output says why for each\n"
    assert len(_rows(tmp_path / "s.csv")) == 25
    assert "25 images, 25 without an answer" in done.stdout
    reasons = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert " ".join(reasons[0][1:]) == "something else"
    assert len(reasons) == 11
    assert sum(int(words[0]) for words in reasons) == 25


def test_bad_members_and_rows_do_not_end_a_run(score: Score, tmp_path: Path, pixels: np.ndarray) -> None:
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.writestr("good.png", _png(pixels[0]))
        archive.writestr("damaged.png", _png(pixels[1]))
        place = archive.getinfo("damaged.png").header_offset + 60
    content = bytearray((tmp_path / "scans.zip").read_bytes())
    content[place] ^= 0xFF
    (tmp_path / "scans.zip").write_bytes(content)
    images = [_png(pixels[0]), None, b"junk"]
    pyarrow.parquet.write_table(pyarrow.table({"image": images}), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("path,more\nnowhere.png,1\n,2\n")
    rows = score("scans.zip", "t.parquet", "t.csv")
    formats = "(PNG, JPEG, WebP, BMP, TIFF, GIF)"
    assert [row["error"] for row in rows] == [
        *("", "damaged or encrypted in its archive"),
        *("", "its row has no image", f"not an image in a supported format {formats}"),
        *("No such file or directory", "its row has no path"),
    ]


def test_labels_in_folder_names_give_accuracy_confusion_and_worst_mistakes(
    command: Callable, tmp_path: Path, pixels: np.ndarray, truth: list[str], expected: list[str]
) -> None:
    for number, (image, label) in enumerate(zip(pixels, truth, strict=True)):
        wrong = {0: "not-a-digit", 1: str((int(expected[1]) + 1) % 10)}.get(number, label)
        (tmp_path / "scans" / wrong).mkdir(parents=True, exist_ok=True)
        (tmp_path / "scans" / wrong / f"{number}.png").write_bytes(_png(image))
    done = command("digits-score", "scans", "--label-folders", "--local", "--out", "s.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    right = sum(a == b for a, b in list(zip(truth, expected, strict=True))[2:])
    assert f"{right:,} right of 59 answers to 59 images" in done.stdout
    assert "1 have an unknown true label" in done.stdout
    assert f"1.png  is {(int(expected[1]) + 1) % 10}, called {expected[1]}" in done.stdout
    table = [line.split() for line in done.stdout.splitlines() if line[:1].isdigit() and len(line.split()) == 11]
    assert sum(int(row[1 + int(row[0])]) for row in table) == right


def test_below_min_confidence_a_row_is_unsure(
    score: Score, command: Callable, tmp_path: Path, pixels: np.ndarray
) -> None:
    np.save(tmp_path / "digits.npy", np.concatenate([pixels, np.zeros((4, 28, 28), np.uint8)]))
    plain = score("digits.npy")
    threshold = max(confidence for row in plain if (confidence := float(row["confidence"])) < 0.9999)
    rows = score("digits.npy", "--min-confidence", threshold + 1e-6)
    for before, row in zip(plain, rows, strict=True):
        unsure = float(row["confidence"]) <= threshold
        refused = "-1", row["status"] or "unsure"
        assert (row["label"], row["name"]) == (refused if unsure else (before["label"], before["name"]))
        assert row["confidence"] == before["confidence"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: None, "nowhere: no such file or folder"),
        (lambda f: (f / "nowhere").mkdir(), "nowhere: an empty folder"),
        (lambda f: np.save(f / "nowhere", np.zeros((2, 9, 9), np.uint8)), "no such file"),
    ],
)
def test_absent_and_empty_inputs_are_named(command: Callable, tmp_path: Path, make: Callable, said: str) -> None:
    make(tmp_path)
    done = command("digits-score", "nowhere", "--local", "--out", "s.csv", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_files_that_are_too_large_are_not_read(score: Score, tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "large.png", "large.png")
    with tarfile.open(tmp_path / "large.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "large.png", "large.png")
    Image.new("L", (28, 28)).save(tmp_path / "small.png")
    rows = score("small.png", "large.png", "large.zip", "large.tar.gz")
    assert [row["error"] for row in rows] == ["", *["more than the 67,108,864 bytes that digits-score takes"] * 3]


def _tar_of_noise() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo("noise.png")
        info.size = 10_000
        archive.addfile(info, io.BytesIO(np.random.default_rng(0).bytes(info.size)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "arguments", "said"),
    [
        ("x.npy", np.zeros((2, 9, 9), np.uint8), (), "images of 9 x 9 x 1, but the model takes 28 x 28 x 1"),
        ("x.npy", np.full((2, 28, 28), 0.5), (), "x.npy: values from 0 to 1, of which 0.5 is not a multiple of 1/255"),
        ("x.npy", np.ones((2, 28, 28, 4), np.uint8), (), "x.npy: has the dimensions [2, 28, 28, 4], but images are"),
        ("x.npy", np.zeros((0, 28, 28), np.uint8), (), "has no images"),
        ("x.npy", b"nonsense", (), "not a .npy, .npz or IDX file"),
        ("x.npz", b"nonsense", (), "not a .npy, .npz or IDX file"),
        ("x-ubyte", b"\0\0\x0d\x03", (), "not a .npy, .npz or IDX file"),
        ("x-ubyte", struct.pack(">HBBIII", 0, 8, 3, 9, 28, 28), (), "truncated: the header promises 7072 bytes"),
        ("x.zip", b"PK", (), "not a complete zip or tar archive"),
        ("x.tar.gz", _tar_of_noise()[:5000], (), "not a complete zip or tar archive"),
        ("x.parquet", b"PAR1", (), "not a Parquet file"),
        ("x.csv", b"a,b\n1,2\n", (), "which of the columns a, b has the images?"),
        ("x.csv", b"a,b\n1,2\n", ("--path-column", "c"), "has no column 'c', only a, b"),
        ("x.csv", b"path\n", (), "has no rows"),
        ("x.csv", b"path\n\xff\n", (), "not text in UTF-8"),
        ("x.npy", np.zeros((2, 28, 28), np.uint8), ("--label-file", "x.npy"), "but there are 2 images to label"),
        ("x.csv", b"path\na\n", ("--label-file", "x.npy"), "a label file needs exactly one .npy, .npz or IDX file"),
    ],
)
def test_inputs_that_are_not_what_they_should_be_are_named(
    command: Callable, tmp_path: Path, name: str, content: bytes | np.ndarray, arguments: tuple[str, ...], said: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content)
    done = command("digits-score", name, *arguments, "--local", "--out", "s.csv", cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "s.csv").exists()


def test_an_output_that_exists_is_kept_by_default(command: Callable, tmp_path: Path, pixels: np.ndarray) -> None:
    np.save(tmp_path / "digits.npy", pixels)
    (tmp_path / "s.csv").write_text("precious")
    arguments = ("digits-score", "digits.npy", "--local", "--out", "s.csv")
    refused = command(*arguments, cwd=tmp_path)
    assert refused.returncode == 1
    assert "s.csv: already exists; --overwrite replaces it" in refused.stderr
    assert "not made by digits-score" in command(*arguments, "--resume", cwd=tmp_path).stderr
    assert (tmp_path / "s.csv").read_text() == "precious"
    assert command(*arguments, "--overwrite", cwd=tmp_path).returncode == 0
    whole = (tmp_path / "s.csv").read_bytes()
    again = command(*arguments, "--resume", cwd=tmp_path)
    assert again.returncode == 0
    assert "60 images" in again.stdout
    assert (tmp_path / "s.csv").read_bytes() == whole
    other = command(*arguments, "--resume", "--min-confidence", 0.5, cwd=tmp_path)
    assert "started with other options (--min-confidence 0.0, now 0.5)" in other.stderr
    np.save(tmp_path / "digits.npy", pixels[:30])
    assert "started with other inputs" in command(*arguments, "--resume", cwd=tmp_path).stderr


def test_wrong_usage_is_reported(command: Callable, tmp_path: Path) -> None:
    for arguments, said in (
        (("x", "--out", "s.txt"), "must end in .csv, .jsonl, .parquet"),
        (("x", "--out", "nowhere/s.csv"), "there is no directory nowhere"),
        (("x", "--out", "s.csv", "--resume", "--overwrite"), "exclude each other"),
        (("x", "--out", "s.csv", "--engine", "ray", "--target", "h:1"), "--target can't be combined"),
        (("x", "--out", "s.csv", "--min-confidence", "nan"), "must lie between 0 and 1"),
        (("--out", "s.csv"), "Missing argument"),
    ):
        done = command("digits-score", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr


def test_a_terminal_gets_a_progress_bar(tmp_path: Path, pixels: np.ndarray) -> None:
    np.save(tmp_path / "digits.npy", np.tile(pixels, (100, 1, 1)))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    run = subprocess.Popen(
        [BIN / "digits-score", "digits.npy", "--local", "--out", "s.csv"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    try:
        while piece := os.read(leader, 1 << 16):
            shown += piece
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(leader)
    assert run.wait(60) == 0
    assert b"images/s" in shown
    assert b"6.00k/6.00k" in shown


def test_finished_parts_survive_a_full_disk(command: Callable, tmp_path: Path, pixels: np.ndarray) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(small, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        np.save(tmp_path / "digits.npy", np.tile(pixels, (50, 1, 1)))
        arguments = ("digits-score", "digits.npy", "--local", "--batch-rows", "50", "--part-rows", "500", "--out")
        full = command(*arguments, "disk/s.csv", cwd=tmp_path)
        assert full.returncode == 1
        assert "no space left on the disk; once this is fixed, --resume continues" in full.stderr
        assert len(full.stderr.splitlines()) == 1
        kept = (disk / "s.csv.parts" / "journal.jsonl").read_text().splitlines()
        assert len(kept) > 1
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert command(*arguments, "disk/s.csv", "--resume", cwd=tmp_path).returncode == 0
        assert command(*arguments, "s.csv", cwd=tmp_path).returncode == 0
        assert (disk / "s.csv").read_bytes() == (tmp_path / "s.csv").read_bytes()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
