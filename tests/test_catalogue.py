"""Every network of the catalogue from training to answers with its own labels, briefly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

from serving.client import Client
from training import datasets
from training.architectures import ARCHITECTURES

pytestmark = pytest.mark.slow

SHAPES = ("ellipse", "rectangle", "triangle")
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "yellow": (230, 220, 40)}
CLASSES = sorted([f"{colour} {shape}" for colour in COLOURS for shape in SHAPES] + ["nothing"])


@pytest.fixture(scope="module")
def drawn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 classes of eight colour images each: a shape of a colour, somewhere on noise, of various sizes."""
    root, generator = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir()
        for number in range(8):
            side = int(generator.integers(100, 200))
            picture = Image.fromarray(generator.integers(0, 60, (side, side, 3), dtype=np.uint8))
            if name != "nothing":
                colour, shape = name.split()
                x, y = generator.integers(5, side // 3, 2).tolist()
                box = (x, y, x + side // 2, y + side // 2)
                pencil = ImageDraw.Draw(picture)
                if shape == "triangle":
                    pencil.polygon(
                        [(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])], COLOURS[colour]
                    )
                else:
                    getattr(pencil, shape)(box, COLOURS[colour])
            picture.save(root / name / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def few_digits() -> Iterator[None]:
    """Makes the set of drawn digits small; its test part still fills every batch size of the parity gate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "_SYNTHETIC_TRAIN", 400)
        patch.setattr(datasets, "_SYNTHETIC_TEST", 260)
        datasets._synthetic.cache_clear()
        yield
    datasets._synthetic.cache_clear()


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_trains_exports_and_answers_with_its_own_labels(
    name: str, drawn_folder: Path, tmp_path: Path, start_server: Callable
) -> None:
    from export.acceptance import Demands
    from export.exporter import Exporter
    from export.trained_model import load_trained
    from serving.repository.repository import Repository
    from training.recipe import recipe_for
    from training.train import train

    architecture = ARCHITECTURES[name]
    kind = {10: "synthetic", 2: "synthetic-odd-even", 13: f"folder:{drawn_folder}"}[architecture.classes]
    data = datasets.load(kind, image_shape=architecture.image_shape)
    recipe = recipe_for("published", name).with_epochs(1)
    run = train(data, architecture=name, recipe=recipe, seed=0, normalisation="standardise", verbose=0)
    assert run.metrics["parameters"] == architecture.parameters
    model = run.save(tmp_path / "run")
    any_accuracy = Demands(min_accuracy=0)
    export = Exporter(model, data_dir=None).publish(Repository(tmp_path / "models"), demands=any_accuracy)
    assert export.report.problems == ()
    images = data.test_images[:200]
    logits, _ = load_trained(model).predict(images)
    with start_server("--repository", str(tmp_path / "models")) as server:
        with Client(server.address, max_message_bytes=1 << 20) as client:
            described = client.get_model()
            answer = client.classify(images, probabilities=True)
        assert server.stop()[0] == 0
    assert tuple(described.labels) == data.label_names
    assert len(described.labels) == architecture.classes
    assert (described.height, described.width, described.channels) == architecture.image_shape
    exponentials = np.exp((logits - logits.max(axis=1, keepdims=True)) / described.temperature)
    np.testing.assert_allclose(answer.probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-5)
    assert np.array_equal(answer.labels, logits.argmax(axis=1))


def test_a_folder_that_moved_is_named_at_export(drawn_folder: Path, tmp_path: Path) -> None:
    """The commands for a folder: train, move the folder, export with its new place."""
    import shutil

    from export.__main__ import main as digits_export
    from training.__main__ import main as digits_train

    def run(command: click.Command, *arguments: object) -> Result:
        return CliRunner().invoke(command, [*map(str, arguments)])

    first, moved = tmp_path / "first", tmp_path / "moved"
    for name in ("red ellipse", "nothing"):
        shutil.copytree(drawn_folder / name, first / name)
    options = ("--data", f"folder:{first}", "--image-size", "32x32x3", "--epochs", 1, "--out", tmp_path / "run")
    trained = run(digits_train, *options)
    assert trained.exit_code == 0, trained.output
    first.rename(moved)
    arguments = (tmp_path / "run" / "model.keras", "--repository", tmp_path / "models")
    refused = run(digits_export, *arguments)
    assert refused.exit_code == 1
    assert f"{first}: No such file" in refused.output
    refused = run(digits_export, *arguments, "--data", f"folder:{moved}")
    assert "of 4 test images are right, which is not clearly better than chance" in refused.stderr
    exported = run(digits_export, *arguments, "--data", f"folder:{moved}", "--min-accuracy", 0)
    assert exported.exit_code == 0, exported.output
    # A network for a folder's classes is named after the folder that it was trained on, not after its architecture.
    manifest = (tmp_path / "models" / "first" / "1" / "manifest.json").read_text()
    assert '"source": "folder"' in manifest
    assert str(tmp_path) not in manifest
