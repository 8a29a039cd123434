"""`digits-import` as a command: what it measures, prints, publishes and refuses before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export.import_command import main
from serving.errors import ModelRejected
from serving.repository.labels import Canary, Labels
from serving.repository.manifest import Accuracy
from serving.repository.repository import Repository

SIZE = 8


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    """A network that calls an image dark or bright by its mean: logits 0 and mean - 0.5, of pixels from 0 to 1."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]),
    ]
    weights = np.zeros((SIZE * SIZE, 2), np.float32)
    weights[:, 1] = 20 / SIZE**2
    tensors = {"w": weights, "b": np.array([0, -10], np.float32)}
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    path = tmp_path / "bright or dark.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 25 pictures of each class, five of which test; they are larger than the network's."""
    generator = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 20)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(25):
            pixels = generator.integers(level, level + 40, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture
def run(bright: Path, tmp_path: Path) -> Callable[..., Result]:
    def call(*options: object, code: int = 0) -> Result:
        arguments = [bright, "--repository", tmp_path / "models", "--scale", "1/255", *options]
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result

    return call


def test_accuracy_is_measured_on_the_user_s_own_pictures(
    run: Callable, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's classes are sorted by name; the network's are in its own order, which --labels gives."""
    printed = run("--data", f"folder:{pictures}", "--labels", "dark,bright").stdout
    assert "accuracy       untouched 100.00%  ONNX Runtime 100.00%" in printed
    manifest = Repository(tmp_path / "models").load("bright_or_dark", 1).manifest
    assert "chance" not in printed
    assert manifest.accuracy == Accuracy(keras=1.0, onnx=1.0)
    assert manifest.labels == ("dark", "bright")
    assert manifest.input.preparation == "resize"
    assert manifest.training["data"]["source"] == "folder"
    assert manifest.training["data"]["test_images"] == 10
    assert str(tmp_path) not in manifest.to_json()
    # In the folder's order every answer would be wrong: it is that order which is guessed without --labels.
    monkeypatch.chdir(tmp_path)
    Path("mnist_of_mine").symlink_to(pictures)  # the prefix may be left out, and the name is not MNIST's
    refused = run("--data", "mnist_of_mine", code=1)
    assert "labels         bright, dark, from the data; --labels overrides" in refused.stdout
    assert "accuracy       untouched 0.00%  ONNX Runtime 0.00%" in refused.stdout
    assert "not clearly better than chance (5 are of the largest class; p = 1); nothing published" in refused.stderr
    assert "Are --labels in the order of the outputs" in refused.stderr


def test_without_data_drawn_images_prove_the_file_and_nothing_is_claimed(run: Callable, tmp_path: Path) -> None:
    printed = run().stdout
    assert "images         260 at batch sizes 1, 7, 64, 256, 260" in printed
    assert "accuracy       not measured" in printed
    stored = Repository(tmp_path / "models").load("bright_or_dark", 1)
    assert stored.manifest.accuracy is None
    assert stored.manifest.training["data"]["source"] == "drawn"
    assert json.loads(stored.manifest.to_json())["accuracy"] is None
    properties = {entry.key: entry.value for entry in onnx.load_from_string(stored.content).metadata_props}
    assert json.loads(properties["labels"]) == ["0", "1"]


def test_data_of_other_classes_are_refused(run: Callable, pictures: Path, tmp_path: Path) -> None:
    (pictures / "grey").mkdir()
    for number in range(2):
        Image.new("L", (16, 16), 128).save(pictures / "grey" / f"{number}.png")
    refused = run("--data", f"folder:{pictures}", code=1)
    assert "it has 2 classes, but the data have 3: bright, dark, grey" in refused.stderr
    assert "/nowhere: No such file" in run("--data", "folder:/nowhere", code=1).stderr
    assert not (tmp_path / "models").exists()


def test_the_same_file_is_not_published_twice_but_with_other_options_it_is(run: Callable, tmp_path: Path) -> None:
    published = tmp_path / "models" / "bright_or_dark"
    assert f"published {published / '1'}\n" in run().stdout
    assert run().stdout.endswith(f"already published as {published / '1'}\n")
    assert f"published {published / '2'}\n" in run("--mean", "0.1").stdout
    assert f"published {published / '3'}\n" in run("--labels", "night,day").stdout
    assert Repository(tmp_path / "models").versions("bright_or_dark") == [1, 2, 3]


def test_labels_are_given_and_a_version_that_stays_stable_is_named(run: Callable, tmp_path: Path) -> None:
    models = Repository(tmp_path / "models")
    run("--name", "levels")
    assert "canary is version 2 with 25 %" in run("--name", "levels", "--label", "canary", "--share", "0.25").stdout
    assert models.read_labels("levels") == Labels(stable=1, canary=Canary(version=2, share=0.25))
    assert "levels: stable stays at version 1; to answer with version 3: digits-models label levels stable 3" in (
        run("--name", "levels", "--labels", "night,day").stdout
    )
    assert "no other version can be served" in run("--name", "new", "--label", "canary", code=1).stderr


def test_a_file_in_a_repository_without_a_manifest_says_who_makes_one(bright: Path, tmp_path: Path) -> None:
    version = tmp_path / "models" / "bright" / "1"
    version.mkdir(parents=True)
    bright.rename(version / "model.onnx")
    with pytest.raises(ModelRejected, match="digits-export and digits-import write it beside"):
        Repository(tmp_path / "models").load("bright", 1)


def test_names_of_classes_come_from_a_file_too(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffnight \n day\n\n", encoding="utf-8")
    run("--labels", tmp_path / "names.txt")
    assert Repository(tmp_path / "models").load("bright_or_dark", 1).manifest.labels == ("night", "day")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scale", "dark"), "'dark' is neither a number nor like 1/255"),
        (("--scale", "0"), "must not be 0"),
        (("--scale", "1,2"), "'1,2' is not one number"),
        (("--std", "1/0"), "'1/0' is neither a number"),
        (("--image-size", "28x28"), "'28x28' is not like 28x28x1"),
        (("--labels", "nowhere.txt"), "'nowhere.txt' is neither names separated by commas nor a text file"),
        (("--share", "0.1"), "--share needs --label canary"),
        (("--min-accuracy", "0.9"), "--min-accuracy needs --data"),
        (("--architecture", "none"), "'none' is not one of"),
        (("--preparation", "none"), "'none' is not one of"),
    ],
)
def test_wrong_options_are_refused_before_any_work(run: Callable, options: tuple[str, ...], said: str) -> None:
    assert said in run(*options, code=2).stderr


def test_an_onnx_file_needs_no_tensorflow(bright: Path, tmp_path: Path) -> None:
    """Nor anything else of the extra `train` but onnx."""
    program = """
import sys
for absent in ("tensorflow", "keras", "tf2onnx", "sklearn", "matplotlib", "jinja2", "pooch", "tqdm"):
    sys.modules[absent] = None
from export.import_command import main
main()
"""
    arguments = [bright, "--repository", tmp_path / "models", "--scale", "1/255"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"published {tmp_path / 'models' / 'bright_or_dark' / '1'}" in done.stdout


def test_a_model_of_keras_without_tensorflow_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    program = """
import sys
sys.modules["tensorflow"] = None
from export.import_command import main
main()
"""
    arguments = [tmp_path / "m.h5", "--repository", tmp_path / "models"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: tensorflow is not installed; ")
