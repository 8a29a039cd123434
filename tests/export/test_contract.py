"""What docs/models.md says about bringing a model and about the contract, done as it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from pages import PAGES, blocks, lines
from PIL import Image

from serving.client import Client
from serving.repository.manifest import InputSpec, Manifest, ParityFigures
from serving.repository.precision import Precision, PrecisionFigures
from serving.repository.repository import Repository
from training.architectures import ARCHITECTURES

pytestmark = pytest.mark.slow

PAGE = PAGES["docs/models.md"]


def _network(classes: int, shape: tuple[int, int, int] = (28, 28, 1)) -> keras.Sequential:
    body = [keras.layers.Conv2D(3, 3, strides=3), keras.layers.Flatten()]
    head = keras.layers.Dense(classes, activation="softmax")
    return keras.Sequential([keras.Input(shape, dtype="uint8"), keras.layers.Rescaling(1 / 255), *body, head])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the page's commands name."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    _network(10).save("my_model.keras")
    _network(2, (16, 16, 3)).export("saved_model", verbose=False)
    ARCHITECTURES["mnist_convnet"].build().save_weights("my.weights.h5")
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 28, 28])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])]
    weights = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(0, 0.1, (784, 3)).astype(np.float32), "w")
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "convnet.onnx")
    Path("names.txt").write_text("red\ngreen\nblue\n")
    for name in ("circle", "square"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 20), (number, 50, 200)).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path


@pytest.mark.mnist
def test_the_imports_on_the_page_work(files: Path, mnist_dir: Path) -> None:
    """The commands of docs/models.md, in this process."""
    from export.import_command import main

    typed = [line for language, block in blocks(PAGE) if language == "bash" for line in lines(block)]
    assert len(typed) == 4
    for line in typed:
        name, *arguments = line.split()
        assert name == "digits-import"
        # These networks are not trained, so they are at chance level.
        result = CliRunner().invoke(main, [*arguments, "--min-accuracy", "0"], env={"MNIST_DIR": str(mnist_dir)})
        assert result.exit_code == 0, f"{line}: {result.output}"
    assert Repository(files / "models").names() == ["convnet", "my", "my_model", "shapes"]


def test_a_model_made_by_hand_as_the_page_says_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable, start_server: Callable
) -> None:
    """The code of docs/models.md."""
    monkeypatch.chdir(tmp_path)
    (made,) = [block for language, block in blocks(PAGE) if language == "python"]
    exec(made, {})
    verified = command("digits-models", "verify", "brightness", "--repository", "models", cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    listed = command("digits-models", "list", "--repository", "models", cwd=tmp_path)
    assert re.search(r"^brightness +1 +stable \(latest\) .* ok on CPU$", listed.stdout, re.MULTILINE)
    with start_server("--repository", str(tmp_path / "models")) as server, Client(server.address) as client:
        answer = client.classify(np.array([[[0]], [[255]]], np.uint8).repeat(4, axis=1).repeat(4, axis=2))
        assert [client.get_model().labels[label] for label in answer.labels] == ["dark", "bright"]


def test_the_page_has_every_field_of_the_manifest() -> None:
    named = {
        name for cell in re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE) for name in re.findall(r"`([\w.]+)`", cell)
    }
    of_input = {f"input.{field.name}" for field in fields(InputSpec)}
    expected = {field.name for field in fields(Manifest)} - {"input"} | of_input
    for part in (ParityFigures, Precision, PrecisionFigures):
        expected |= {field.name for field in fields(part)}
    others = {"images", "logits", "probabilities"}  # of the graph
    assert {name for name in named if name not in ("stable", "canary")} == expected | others
