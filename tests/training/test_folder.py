"""Your own images: a folder with a sub-folder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.datasets import load
from training.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten 8 x 6 colour images each, in several formats, every image of a colour of its own."""
    for label, name in enumerate(("birds", "cats")):
        (tmp_path / name).mkdir()
        for number in range(10):
            suffix = ("png", "bmp", "tiff")[number % 3]
            colour = (number * 20, label * 200, 30)
            Image.new("RGB", (6, 8), colour).save(tmp_path / name / f"{number}.{suffix}")
    return tmp_path


def _reds(images: np.ndarray) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def test_classes_are_the_sub_folders_and_every_image_is_used_once(folder: Path) -> None:
    data = load(f"folder:{folder}")
    assert data.label_names == ("birds", "cats")
    assert data.image_shape == (8, 6, 3)
    assert data.preparation == "resize"
    assert (len(data.train_images), len(data.test_images)) == (16, 4)
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    assert (images[:, 0, 0, 1] == labels * 200).all()
    assert sorted(_reds(images[labels == 0])) == sorted(_reds(images[labels == 1])) == [20 * i for i in range(10)]
    assert np.bincount(data.test_labels).tolist() == [2, 2]


def test_the_split_depends_on_the_files_alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("moved") / "copy"
    (folder).rename(elsewhere)
    moved = load(f"folder:{elsewhere}")
    elsewhere.rename(folder)
    assert moved.sha256 == load(f"folder:{folder}").sha256


def test_the_end_of_the_training_images_has_every_class_in_proportion(shapes_folder: Path) -> None:
    """It validates; a tenth of 192 images once held none of one class."""
    labels = load(f"folder:{shapes_folder}").train_labels
    assert np.bincount(labels).tolist() == [64, 64, 64]
    assert sorted(np.bincount(labels[-19:]).tolist()) == [6, 6, 7]


def test_images_are_brought_to_the_size_asked_for(folder: Path) -> None:
    Image.new("L", (100, 40), 50).save(folder / "cats" / "10.png")
    data = load(f"folder:{folder}", image_shape=(16, 12, 1))
    assert data.train_images.shape == (17, 16, 12, 1)
    assert data.options == {"image_shape": (16, 12, 1), "skip_unreadable": False}


def test_16_bits_are_scaled_and_not_clipped(folder: Path) -> None:
    Image.fromarray(np.full((8, 6), 128 * 256, np.uint16)).save(folder / "cats" / "10.png")
    data = load(f"folder:{folder}", image_shape=(8, 6, 1))
    assert 128 in _reds(np.concatenate([data.train_images, data.test_images]))


def _clashing(folder: Path) -> str:
    Image.new("RGB", (7, 8)).save(folder / "cats" / "10.png")
    return r"images of different sizes: .* has 8 x 6 x 3, cats/10\.png has 8 x 7 x 3; --image-size"


def _unreadable(folder: Path) -> str:
    (folder / "cats" / "notes.png").write_text("no image")
    (folder / "birds" / "9.png").write_bytes(b"")
    return r"2 files are not readable images \(--skip-unreadable.*(?s:.)*9\.png(?s:.)*notes\.png"


def _one_class(folder: Path) -> str:
    for file in (folder / "cats").iterdir():
        file.unlink()
    (folder / "cats").rmdir()
    return "1 sub-folders, but a data set needs at least two"


def _no_images(folder: Path) -> str:
    for file in (folder / "cats").iterdir():
        file.unlink()
    return "cats: 0 images, but a class needs at least two"


@pytest.mark.parametrize("damage", [_clashing, _unreadable, _one_class, _no_images])
def test_what_is_wrong_with_a_folder_is_named(folder: Path, damage) -> None:
    said = damage(folder)
    with pytest.raises(DatasetError, match=said):
        load(f"folder:{folder}")


def test_unreadable_files_can_be_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = load(f"folder:{folder}").sha256
    (folder / "cats" / "notes.png").write_text("no image")
    assert load(f"folder:{folder}", skip_unreadable=True).sha256 == whole
    assert "notes.png" in caplog.text


def test_what_systems_leave_in_folders_is_left_out_and_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = load(f"folder:{folder}").sha256
    for name in ("__MACOSX/cats/._1.png", ".DS_Store", "cats/.DS_Store", "cats/Thumbs.db", "birds/README.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no image")
    assert load(str(folder)).sha256 == whole
    assert "left out 2 files that are no images by their name (birds/README.txt, cats/Thumbs.db)" in caplog.text


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "val"), ("train", "test", "valid")])
def test_a_folder_that_is_split_keeps_its_splits(folder: Path, tmp_path_factory, names: tuple[str, ...]) -> None:
    root = tmp_path_factory.mktemp("split")
    for label in ("birds", "cats"):
        for number, file in enumerate(sorted((folder / label).iterdir())):
            place = root / names[number % len(names)] / label
            place.mkdir(parents=True, exist_ok=True)
            file.rename(place / file.name)
    data = load(f"folder:{root}")
    assert data.label_names == ("birds", "cats")
    held = {name: [20 * number for number in range(10) if number % len(names) == n] for n, name in enumerate(names)}
    for label in (0, 1):
        assert sorted(_reds(data.test_images[data.test_labels == label])) == held[names[1]]
        trained = sorted(red for name, reds in held.items() if name != names[1] for red in reds)
        assert sorted(_reds(data.train_images[data.train_labels == label])) == trained
    assert data.train_labels.tolist() != sorted(data.train_labels)  # or its end would validate on one class


def _unlabelled_test(root: Path) -> str:
    (root / "test").mkdir()
    (root / "test" / "1.png").touch()
    return "splits do not hold the same classes.*test: none; train: birds, cats.*name one of them: folder:.*train"


def _writers(root: Path) -> str:
    (root / "train").rename(root / "anne")
    for label in ("birds", "cats"):
        (root / "bob" / label).mkdir(parents=True)
    return "each sub-folder holds the same sub-folders, so which of them are the classes.*anne: birds, cats; bob"


def _wrapped(_: Path) -> str:
    return "1 sub-folders, but a data set needs at least two.*the classes may be in .*train"


@pytest.mark.parametrize("make", [_unlabelled_test, _writers, _wrapped])
def test_sub_folders_that_are_no_classes_are_refused(folder: Path, tmp_path_factory, make) -> None:
    root = tmp_path_factory.mktemp("split")
    (root / "train").mkdir()
    for label in ("birds", "cats"):
        (folder / label).rename(root / "train" / label)
    with pytest.raises(DatasetError, match=make(root)):
        load(f"folder:{root}")
