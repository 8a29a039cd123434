"""`digits-score` takes tables, arrays, folders and archives as people have them, and says what it does not take."""

from __future__ import annotations

import base64
import bz2
import csv
import gzip
import io
import json
import lzma
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from serving.errors import DigitsError
from serving.images.preparation import Preparation
from serving.images.tables.columns import Columns
from serving.score.batch import BatchLimits
from serving.score.classifier import decode_batch
from serving.score.inputs import InputOptions, open_inputs

COUNT = 6
SHAPE = (28, 28, 1)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Six gray images, each of one byte and a frame, so that a change of order or scale shows."""
    images = np.full((COUNT, 28, 28), 0, np.uint8)
    for number, image in enumerate(images):
        image[0, 1:5] = (255, 254, 1, 2)
        image[3, :] = number
        image[5:9, 7] = 40 * number
    return images


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _read(*inputs: object, start: int = 0, rows: int = 4, **options: object) -> list[tuple]:
    """Name, pixels, true label and error of each image of the inputs; of files, the pixels in the file."""
    labelled = options.pop("labelled_folders", False)
    columns = Columns(**options)
    source = open_inputs([str(each) for each in inputs], InputOptions(labelled_folders=labelled, columns=columns))
    count = source.survey().count
    source.check_shape(SHAPE)
    found = []
    for batch in source.batches(start, BatchLimits(rows=rows)):
        # Sizes other than the model's are kept: what counts here is which file or bytes are meant.
        decoded = decode_batch(batch, Preparation(kind="resize", height=28, width=28, channels=1))
        indices = decoded.indices.tolist()
        for index, name in enumerate(batch.ids):
            image = decoded.images[indices.index(index)] if index in indices else None
            found.append((name, image, batch.expected[index] if batch.expected else None, decoded.errors.get(index)))
    assert len(found) == count - start
    return found


def _text(header: str | None, rows: list[str]) -> bytes:
    return "\n".join([*([header] if header else []), *rows, ""]).encode()


def _pixel_rows(pixels: np.ndarray, *, label: bool = False, delimiter: str = ",") -> list[str]:
    return [
        delimiter.join(map(str, [*([number] if label else []), *image.ravel()])) for number, image in enumerate(pixels)
    ]


NAMES = [f"pixel{number}" for number in range(784)]
SHUFFLED = sorted(range(784), key=str)


def _kaggle_test(pixels: np.ndarray) -> dict[str, bytes]:
    return {"x.csv": _text(",".join(NAMES), _pixel_rows(pixels))}


def _kaggle_train(pixels: np.ndarray) -> dict[str, bytes]:
    return {"x.csv": _text(",".join(["label", *NAMES]), _pixel_rows(pixels, label=True))}


def _from_one(pixels: np.ndarray) -> dict[str, bytes]:
    rows = [f"{row},{number}" for number, row in enumerate(_pixel_rows(pixels))]
    return {"x.csv": _text(",".join([*(f"pixel{n}" for n in range(1, 785)), "label"]), rows)}


def _by_row_and_column(pixels: np.ndarray) -> dict[str, bytes]:
    names = [f"{row}x{column}" for row in range(1, 29) for column in range(1, 29)]
    return {"x.csv": _text(",".join(["label", *names]), _pixel_rows(pixels, label=True))}


def _sorted_as_text(pixels: np.ndarray) -> dict[str, bytes]:
    rows = [",".join(map(str, [*image.ravel()[SHUFFLED], number])) for number, image in enumerate(pixels)]
    return {"x.csv": _text(",".join([*(NAMES[n] for n in SHUFFLED), "label"]), rows)}


def _pandas_frame(pixels: np.ndarray) -> dict[str, bytes]:
    rows = [f"{number},{row},{number}.0" for number, row in enumerate(_pixel_rows(pixels))]
    return {"x.csv": _text(f",{','.join(map(str, range(784)))},label", rows)}


def _no_header(pixels: np.ndarray) -> dict[str, bytes]:
    return {"x.csv": _text(None, _pixel_rows(pixels, label=True))}


def _no_header_label_last(pixels: np.ndarray) -> dict[str, bytes]:
    return {"x.csv": _text(None, [f"{row},{number}" for number, row in enumerate(_pixel_rows(pixels))])}


def _x_before_y(pixels: np.ndarray) -> dict[str, bytes]:
    names = [f"x{column}y{row}" for row in range(28) for column in range(28)]
    return {"x.csv": _text(",".join(["label", *names]), _pixel_rows(pixels, label=True))}


def _no_header_no_label(pixels: np.ndarray) -> dict[str, bytes]:
    return {"x.csv": _text(None, _pixel_rows(pixels))}


def _quoted_floats(pixels: np.ndarray) -> dict[str, bytes]:
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerows([["label", *NAMES], *([f"{n}.0", *(image.ravel() / 255)] for n, image in enumerate(pixels))])
    return {"x.csv": file.getvalue().encode()}


def _tabs(pixels: np.ndarray) -> dict[str, bytes]:
    return {"x.tsv": _text("\t".join(["label", *NAMES]), _pixel_rows(pixels, label=True, delimiter="\t"))}


def _text_of_pixels(pixels: np.ndarray) -> dict[str, bytes]:
    rows = [f"{number},{' '.join(map(str, image.ravel()))},Training" for number, image in enumerate(pixels)]
    return {"x.csv": _text("label,pixels,Usage", rows)}


def _json_of_pixels(pixels: np.ndarray) -> dict[str, bytes]:
    rows = [json.dumps({"label": float(number), "image": image.tolist()}) for number, image in enumerate(pixels)]
    return {"x.jsonl": _text(None, rows)}


def _json_list(pixels: np.ndarray) -> dict[str, bytes]:
    return {
        "x.json": json.dumps([{"y": n, "label": n, "image": i.ravel().tolist()} for n, i in enumerate(pixels)]).encode()
    }


def _parquet(table: dict, metadata: dict | None = None) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(table).replace_schema_metadata(metadata), file, row_group_size=4)
    return file.getvalue()


def _parquet_of_columns(pixels: np.ndarray) -> dict[str, bytes]:
    columns = dict(zip(NAMES, pixels.reshape(COUNT, -1).T.astype(np.int64), strict=True))
    return {"x.parquet": _parquet({"label": range(COUNT), **columns})}


def _parquet_of_lists(pixels: np.ndarray) -> dict[str, bytes]:
    return {"x.parquet": _parquet({"label": range(COUNT), "image": list(pixels.reshape(COUNT, -1))})}


def _parquet_of_floats(pixels: np.ndarray) -> dict[str, bytes]:
    table = {"label": range(COUNT), "features": [list(map(list, image / np.float32(255))) for image in pixels]}
    return {"x.parquet": _parquet(table)}


PIXELS = [
    *(_kaggle_test, _kaggle_train, _from_one, _by_row_and_column, _sorted_as_text, _pandas_frame, _no_header),
    *(_no_header_no_label, _quoted_floats, _tabs, _text_of_pixels, _json_of_pixels, _json_list, _parquet_of_columns),
    *(_parquet_of_lists, _parquet_of_floats, _no_header_label_last, _x_before_y),
]


@pytest.mark.parametrize("make", PIXELS)
def test_tables_of_pixels_are_taken_as_they_are(make: Callable, pixels: np.ndarray, tmp_path: Path) -> None:
    ((name, content),) = make(pixels).items()
    (tmp_path / name).write_bytes(content)
    labelled = {} if make in (_kaggle_test, _no_header_no_label) else {"label": "label"}
    for start in (0, 5):
        found = _read(tmp_path / name, start=start, **labelled)
        assert [row[0] for row in found] == [f"{tmp_path / name}:{number}" for number in range(start, COUNT)]
        assert np.array_equal([row[1][..., 0] for row in found], pixels[start:])
        assert [row[2] for row in found] == [str(n) if labelled else None for n in range(start, COUNT)]
        assert {row[3] for row in found} == {None}


def test_numbered_features_beside_an_image_are_not_its_pixels(pixels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "d0.png").write_bytes(_png(pixels[0]))
    names = ",".join(["file_name", *(f"embedding_{number}" for number in range(784))])
    (tmp_path / "x.csv").write_bytes(_text(names, ["d0.png," + ",".join(["0"] * 784)]))
    ((_, image, _, _),) = _read(tmp_path / "x.csv")
    assert np.array_equal(image[..., 0], pixels[0])


def _spellings(pixels: np.ndarray) -> dict[str, str]:
    """Cells that hold the first image in base64 as people write it."""
    plain = base64.b64encode(_png(pixels[0])).decode()
    safe = base64.urlsafe_b64encode(_png(pixels[0])).decode()
    return {
        "plain": plain,
        "padding missing": plain.rstrip("="),
        "URL-safe": safe.rstrip("="),
        "line breaks": base64.encodebytes(_png(pixels[0])).decode(),
        "Windows line breaks": base64.encodebytes(_png(pixels[0])).decode().replace("\n", "\r\n"),
        "data address": f"data:image/png;base64,{plain}",
        "path": "d0.png",
        "path with spaces": " d0.png ",
        "path of Windows": "deep\\d0.png",
    }


def test_base64_and_paths_are_read_as_people_write_them(pixels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for place in (tmp_path, tmp_path / "deep"):
        (place / "d0.png").write_bytes(_png(pixels[0]))
    cells = _spellings(pixels)
    file = io.StringIO()
    csv.writer(file).writerows([["Image", "truth"], *([cell, "7.0"] for cell in cells.values())])
    (tmp_path / "x.csv").write_text(file.getvalue())
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"img": c, "truth": 7.0}) for c in cells.values()))
    for name in ("x.csv", "x.jsonl"):
        found = _read(tmp_path / name, label="truth", rows=3)
        for spelling, row in zip(cells, found, strict=True):
            assert np.array_equal(row[1][..., 0], pixels[0]), f"{spelling}: {row[3]}"
            assert row[2] == "7"


PATHS = b"path,label\nd0.png,7\nd1.png,2\n"
TEXTS = {
    "x.csv": PATHS,
    "semicolons.csv": PATHS.replace(b",", b";"),
    "tabs.csv": PATHS.replace(b",", b"\t"),
    "bars.csv": PATHS.replace(b",", b"|"),
    "hint.csv": b"sep=;\n" + PATHS.replace(b",", b";"),
    "mark.csv": b"\xef\xbb\xbf" + PATHS,
    "utf16.csv": PATHS.decode().encode("utf-16"),
    "spaces.csv": PATHS.replace(b",", b", "),
    "blank lines.csv": b"\n" + PATHS.replace(b"\n", b"\r\n\r\n") + b",\r\n",
    "old_mac.csv": PATHS.replace(b"\n", b"\r"),
    "x.csv.gz": gzip.compress(PATHS),
    "x.tsv.bz2": bz2.compress(PATHS.replace(b",", b"\t")),
    "x.csv.xz": lzma.compress(PATHS),
    "plain, though called.csv.gz": PATHS,
    "x.jsonl": b'{"file_name": "d0.png", "label": 7}\n\n{"label": 2.0, "file_name": "d1.png"}\n',
    "x.ndjson.gz": gzip.compress(b'{"filename": "d0.png", "label": "7"}\n{"filename": "d1.png", "label": 2}\n'),
    "mark.jsonl": b'\xef\xbb\xbf{"file": "d0.png", "label": 7}\n{"file": "d1.png", "label": 2}',
}


@pytest.mark.parametrize("name", TEXTS)
def test_tables_as_text_come_in_many_forms(name: str, pixels: np.ndarray, tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / f"d{number}.png").write_bytes(_png(pixels[number]))
    (tmp_path / name).write_bytes(TEXTS[name])
    found = _read(tmp_path / name, label="label")
    assert [row[2] for row in found] == ["7", "2"]
    assert np.array_equal([row[1][..., 0] for row in found], pixels[:2])


def test_parquet_is_read_as_data_set_libraries_write_it(pixels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "d1.png").write_bytes(_png(pixels[1]))
    cells = [{"bytes": _png(pixels[0]), "path": "gone.png"}, {"bytes": None, "path": "d1.png"}]
    features = {"digit": {"names": ["zero", "one"], "_type": "ClassLabel"}, "scan": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (tmp_path / "x.parquet").write_bytes(_parquet({"scan": cells, "digit": [1, 0]}, metadata))
    found = _read(tmp_path / "x.parquet", label="digit")
    assert np.array_equal([row[1][..., 0] for row in found], pixels[:2])
    assert [row[2] for row in found] == ["one", "zero"]


def _save(folder: Path, array: np.ndarray, *, fortran: bool = False) -> Path:
    np.save(folder / "x.npy", np.asfortranarray(array) if fortran else array)
    return folder / "x.npy"


ARRAYS = {
    "float": lambda f, a: _save(f, (a / 255).astype(np.float32)),
    "whole floats": lambda f, a: _save(f, a.astype(np.float64)),
    "big-endian": lambda f, a: _save(f, a.astype(">i2")),
    "rows of values": lambda f, a: _save(f, a.reshape(COUNT, -1)),
    "channels first": lambda f, a: _save(f, a[:, np.newaxis]),
    "Fortran order": lambda f, a: _save(f, a, fortran=True),
    "Fortran order of floats": lambda f, a: _save(f, a / 255, fortran=True),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_taken_where_there_is_no_doubt(name: str, pixels: np.ndarray, tmp_path: Path) -> None:
    path = ARRAYS[name](tmp_path, pixels)
    for start in (0, 5):
        assert np.array_equal([row[1][..., 0] for row in _read(path, start=start)], pixels[start:])
    packed = tmp_path / "x.npy.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal([row[1][..., 0] for row in _read(packed, start=2)], pixels[2:])


def test_one_image_bools_and_arrays_beside_labels_are_taken(pixels: np.ndarray, tmp_path: Path) -> None:
    ((_, image, _, _),) = _read(_save(tmp_path, pixels[1]))
    assert np.array_equal(image[..., 0], pixels[1])
    assert set(_read(_save(tmp_path, pixels > 0))[1][1].ravel().tolist()) == {0, 255}
    np.savez(tmp_path / "x.npz", x=pixels / 255, y=np.arange(COUNT, dtype=np.float32).reshape(-1, 1))
    found = _read(tmp_path / "x.npz", label="y")
    assert np.array_equal([row[1][..., 0] for row in found], pixels)
    assert [row[2] for row in found] == [str(number) for number in range(COUNT)]
    header = struct.pack(">HBBIII", 0, 13, 3, *pixels.shape)  # IDX has types other than bytes
    (tmp_path / "x-idx3-ubyte").write_bytes(header + (pixels / 255).astype(">f4").tobytes())
    assert np.array_equal([row[1][..., 0] for row in _read(tmp_path / "x-idx3-ubyte")], pixels)


LITTER = ("__MACOSX/7/._d0.png", "digits/.DS_Store", "digits/7/Thumbs.db", "digits/desktop.ini", "README.txt", "l.csv")


def test_what_is_no_image_by_its_name_is_left_out_and_counted(pixels: np.ndarray, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "mac.zip", "w") as mac,
        zipfile.ZipFile(tmp_path / "windows.zip", "w") as windows,
    ):
        for number in (0, 1):
            mac.writestr(f"digits/{number}/d.PNG", _png(pixels[number]))
            windows.writestr(f"digits\\{number}\\d.PNG", _png(pixels[number]))
        for name in LITTER:
            mac.writestr(name, b"no image")
            windows.writestr(name.replace("/", "\\"), b"no image")
        mac.extractall(tmp_path / "folder")
        windows.writestr("digits\\empty\\", b"")
    for name in ("mac.zip", "windows.zip", "folder"):
        survey = open_inputs([str(tmp_path / name)], InputOptions()).survey()
        assert (survey.count, survey.left_out) == (2, 4)
        assert any("Thumbs.db" in example for example in survey.examples)
        found = _read(tmp_path / name, labelled_folders=True)
        assert [row[2] for row in found] == ["0", "1"]
        assert np.array_equal([row[1][..., 0] for row in found], pixels[:2])
        assert [Path(row[0]).parts[-3:] for row in found] == [("digits", str(n), "d.PNG") for n in (0, 1)]


def test_a_row_of_true_and_false_beside_rows_of_numbers_is_black_and_white(tmp_path: Path) -> None:
    rows = [np.eye(28, dtype=bool), np.full((28, 28), 200)]
    lines = [json.dumps({"image": row.tolist()}) for row in rows]
    (tmp_path / "x.jsonl").write_bytes(_text(None, lines))
    assert [row[1].max() for row in _read(tmp_path / "x.jsonl")] == [255, 200]


def test_one_row_without_pixels_does_not_end_a_run(pixels: np.ndarray, tmp_path: Path) -> None:
    rows = _pixel_rows(pixels)
    rows[1] = rows[1].replace("255", "many")
    rows[2] = rows[2].rpartition(",")[0]
    (tmp_path / "x.csv").write_bytes(_text(",".join(NAMES), rows))
    found = _read(tmp_path / "x.csv")
    assert [row[3] for row in found] == [None, *["its row has a pixel that is not a number"] * 2, None, None, None]
    assert np.array_equal(found[5][1][..., 0], pixels[5])
    lists = [image.tolist() for image in pixels]
    lists[1], lists[4] = None, lists[4][:5]
    (tmp_path / "x.parquet").write_bytes(_parquet({"image": lists}))
    found = _read(tmp_path / "x.parquet")
    assert [row[3] for row in found] == [
        None,
        "its row has no list of pixels",
        None,
        None,
        "its row has other pixels",
        None,
    ]


def _damaged(content: bytes, place: int, by: bytes) -> bytes:
    return content[:place] + by + content[place + len(by) :]


def test_damaged_files_are_refused_as_such(pixels: np.ndarray, tmp_path: Path) -> None:
    dictionary = pyarrow.array(["a", "b"] * 3).dictionary_encode()
    whole = _parquet({"image": [_png(image) for image in pixels], "näme": dictionary})
    (tmp_path / "x.parquet").write_bytes(whole.replace("näme".encode(), b"n\xff\xffme"))
    with pytest.raises(DigitsError, match="damaged"):
        _read(tmp_path / "x.parquet")
    np.save(tmp_path / "x.npy", pixels)
    content = (tmp_path / "x.npy").read_bytes()
    for by in (b"(((", b"'\n]", b"{{{"):
        (tmp_path / "x.npy").write_bytes(_damaged(content, content.index(b"shape") + 8, by))
        with pytest.raises(DigitsError, match=r"not a \.npy"):
            _read(tmp_path / "x.npy")
    rows = _pixel_rows(np.full((2, 28, 28), 300))
    (tmp_path / "x.csv").write_bytes(_text(",".join(NAMES), [row.replace("300,", "?,", 1) for row in rows]))
    assert [row[3] for row in _read(tmp_path / "x.csv")] == ["its row has a pixel that is not a number"] * 2


REFUSED = {
    "x.csv": {
        "in UTF-8": b"path\n\xff\n",
        "only a, b, c, d, e and 2 more": (b"a,b,c,d,e,f,g\n1\n", {"label": "label"}),
        "which of the columns a, b, c, d, e and 2 more has the images?": b"a,b,c,d,e,f,g\n1\n",
        "some before pixel700 are missing": _text(",".join(NAMES[:650] + NAMES[700:]), ["0"]),
        "two columns are pixel pixel3": _text(",".join([*NAMES, "pixel3"]), ["0"]),
        "values from 0 to 256": _text(",".join(NAMES), [",".join(["0"] * 783 + ["256"])]),
        "of which 0.5 is not a multiple": _text(",".join(NAMES), [",".join(["0"] * 783 + ["0.5"])]),
        "row 1 has 785 cells, but there are 784 columns": _text(
            ",".join(NAMES),
            [",".join(["0"] * 784), ",".join(["1"] * 785)],  # R writes names of rows without a header
        ),
        "rows of 100 values, but the model takes images of 28 x 28 x 1": _text(
            ",".join(NAMES[:100]), [",".join(["0"] * 100)]
        ),
    },
    "x.jsonl": {
        "not JSON lines after row 1": b'{"image": ""}\n{',
        "not JSON lines after row 0": b'{"image": ' + b"1" * 5000 + b"}",
        "row 1 is not a JSON object": b"7\n",
    },
    "x.csv.gz": {"truncated or damaged compressed file": gzip.compress(PATHS)[:-9]},
    "x.xlsx": {"files of this kind are not read; save the table as .csv or .parquet": b"PK"},
    "x.pkl": {"save the images as .npy or .npz": b"\x80"},
    "x.feather": {"save the table as .csv or .parquet": b"ARROW1"},
    "x.rar": {"pack the images as .zip or .tar": b"Rar!"},
    "x.txt": {"by its name neither an image nor anything else that is read": b"d0.png"},
}


@pytest.mark.parametrize(("name", "said"), [(name, said) for name, cases in REFUSED.items() for said in cases])
def test_what_is_refused_is_named_in_a_short_line(name: str, said: str, tmp_path: Path) -> None:
    content, options = REFUSED[name][said], {}
    if isinstance(content, tuple):
        content, options = content
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DigitsError) as refusal:
        _read(tmp_path / name, **options)
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path / name}: ")
    assert said in message
    assert len(message) < 400
    assert "\n" not in message


def test_a_folder_of_tables_names_the_pattern_that_reads_them(pixels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "shards" / "more").mkdir(parents=True)
    for name in ("shards/a.parquet", "shards/b.parquet"):
        (tmp_path / name).write_bytes(_parquet_of_lists(pixels)["x.parquet"])
    pattern = tmp_path / "shards" / "*.parquet"
    with pytest.raises(
        DigitsError, match=r"none of 2 files is an image \(a\.parquet, b\.parquet\); for tables, give"
    ) as refusal:
        _read(tmp_path / "shards")
    assert str(pattern) in str(refusal.value)
    assert len(_read(pattern)) == 2 * COUNT


def test_a_pattern_leaves_out_what_lies_beside_its_images(pixels: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes(_png(pixels[0]))
    np.save(tmp_path / "b.npy", pixels)
    for name in ("a.json", "labels.csv", "notes.xlsx", "README.txt"):
        (tmp_path / name).write_bytes(b"about the images")
    source = open_inputs([str(tmp_path / "*")], InputOptions())
    assert (source.survey().count, source.survey().left_out) == (2 + COUNT, 4)
    assert len(_read(tmp_path / "b.npy", tmp_path / "README.txt")) == COUNT
    assert len(_read(tmp_path / "*")) == 2 + COUNT


def test_kaggle_s_table_becomes_a_submission_in_one_command(
    command: Callable, tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, truth = digits[0][:40], digits[1][:40]
    (tmp_path / "test.csv").write_bytes(_text(",".join(NAMES), _pixel_rows(images)))
    options = ("--local", "--batch-rows", 7, "--part-rows", 14)
    done = command("digits-score", "test.csv", "--out", "submission.csv", "--columns", "kaggle", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "submission.csv").read_text().splitlines()
    assert lines[0] == "ImageId,Label"
    rows = [tuple(map(int, line.split(","))) for line in lines[1:]]
    assert [number for number, _ in rows] == list(range(1, 41))
    assert np.mean([label for _, label in rows] == truth) > 0.9
    refused = command("digits-score", "x", "--out", "s.csv", "--columns", "kaggle", "--probabilities", cwd=tmp_path)
    assert (refused.returncode, "--probabilities needs --columns all" in refused.stderr) == (2, True)


def test_what_was_left_out_and_labels_that_were_not_found_are_said(
    command: Callable, tmp_path: Path, pixels: np.ndarray
) -> None:
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.writestr("d.png", _png(pixels[0]))
        archive.writestr("README.txt", "no image")
    done = command("digits-score", "flat.zip", "--label-folders", "--local", "--out", "s.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "left out 1 files that are no images by their name (README.txt)\n"
    assert "no image has a true label: --label-folders takes the name of the folder" in done.stdout
