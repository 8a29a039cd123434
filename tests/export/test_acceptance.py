"""What is published: networks that are better than chance, and no worse than the version that they replace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from scipy import stats

from export.acceptance import binomial_tail
from export.import_command import main
from serving.repository.editor import RepositoryEditor
from serving.repository.labels import Canary, Labels
from serving.repository.repository import Repository

SIZE = 4


@pytest.mark.parametrize(
    ("right", "images", "probability"),
    [(0, 5, 0.2), (5, 5, 0.2), (16, 48, 1 / 3), (30, 48, 1 / 3), (1_200, 10_000, 0.1135), (0, 0, 0.5), (9, 10, 1.0)],
)
def test_luck_is_the_tail_of_the_binomial_distribution(right: int, images: int, probability: float) -> None:
    expected = stats.binom.sf(right - 1, images, probability)
    assert binomial_tail(right, images, probability) == pytest.approx(expected, rel=1e-9)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """200 plain gray pictures, half of them dark; 40 are for the test."""
    for name, darkest in (("bright", 140), ("dark", 20)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(100):
            Image.new("L", (SIZE, SIZE), darkest + number).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture
def models(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


@pytest.fixture
def publish(tmp_path: Path, pictures: Path, models: Repository) -> Callable[..., Result]:
    """Imports a network that calls a picture bright above a gray level."""

    def run(level: int, *options: object, code: int = 0, side: int = SIZE, labels: str = "dark,bright") -> Result:
        weights = np.zeros((side * side, 2), np.float32)
        weights[:, 1] = 0.1 / side**2
        tensors = {"w": weights, "b": np.array([0, -0.1 * (level + 0.5)], np.float32)}
        graph = helper.make_graph(
            [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("Gemm", ["flat", "w", "b"], ["scores"])],
            "levels",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, side, side])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
            [numpy_helper.from_array(values, name) for name, values in tensors.items()],
        )
        path = tmp_path / f"level {level}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        asked = ["--repository", models.root, "--name", "levels", "--scale", 1, "--labels", labels, *options]
        result = CliRunner().invoke(main, [str(path), *map(str, asked)])
        assert result.exit_code == code, result.output
        return result

    return run


def test_a_network_below_the_floor_is_not_published(publish: Callable, pictures: Path, models: Repository) -> None:
    refused = publish(250, "--data", pictures, code=1).stderr
    said = (
        "20 of 40 test images are right, which is not clearly better than chance (20 are of the largest class; p = 0.5"
    )
    assert said in refused
    assert "--min-accuracy 0 publishes it all the same" in refused
    assert models.versions("levels") == []
    assert "less than --min-accuracy 0.6; nothing published" in (
        publish(250, "--data", pictures, "--min-accuracy", 0.6, code=1).stderr
    )
    publish(250, "--data", pictures, "--min-accuracy", 0)
    assert models.versions("levels") == [1]


def test_a_worse_network_does_not_replace_the_version_that_answers(
    publish: Callable, pictures: Path, models: Repository
) -> None:
    data = ("--data", pictures)
    publish(130, *data)
    assert "replaces       version 1, with 100.00% on the same images; 0 only the new one" in publish(125, *data).stdout
    assert models.versions("levels") == [1, 2]
    refused = publish(205, *data, code=1)
    found = "0 only the new one reads, 12 only version 2"
    assert f"replaces       version 2, with 100.00% on the same images; {found}" in refused.stdout
    assert (
        "worse than version 2, which it would replace: 70.00% against 100.00% of the same 40 images" in refused.stderr
    )
    assert f"{found} (McNemar's test, p = 0.00024); nothing published. --label canary" in refused.stderr
    assert models.versions("levels") == [1, 2]
    # On trial it replaces nothing, nor where another version is pinned; as stable it would.
    assert "replaces" not in publish(205, *data, "--label", "canary").stdout
    assert models.read_labels("levels") == Labels(stable=2, canary=Canary(version=3))
    assert "replaces" not in publish(204, *data).stdout
    assert "nothing published" in publish(205, *data, "--label", "stable", code=1).stderr
    assert "stable is version 5" in publish(205, *data, "--label", "stable", "--allow-worse").stdout
    # A difference that may be chance is no reason.
    publish(206, *data, "--label", "stable", "--min-accuracy", 0)
    assert models.read_labels("levels").stable == 6


def test_where_no_comparison_is_possible_the_reason_is_said(
    publish: Callable, pictures: Path, models: Repository
) -> None:
    publish(130)
    assert "replaces       version 1, not compared: the images have no labels; --data names" in publish(131).stdout
    larger = publish(130, "--data", pictures, side=8).stdout
    assert "replaces       version 2, not compared: it takes images of 4x4x1, the new one 8x8x1" in larger
    others = publish(129, "--data", pictures, side=8, labels="night,day", code=1)
    assert "not clearly better than chance" in others.stderr  # the folder has its own order
    others = publish(129, "--data", pictures, "--min-accuracy", 0, side=8, labels="night,day")
    assert "replaces       version 3, not compared: it has other labels" in others.stdout
    RepositoryEditor(models).set_stable("levels", 3)
    assert "version 3, with 100.00%" in publish(130, "--data", pictures, "--label", "stable", side=8).stdout


def test_an_imports_answers_on_the_user_s_images_are_in_its_manifest(
    publish: Callable, pictures: Path, models: Repository
) -> None:
    publish(205, "--data", pictures)
    found = models.load("levels", 1).manifest.validation
    assert (found.images, found.labels, found.no_digit) == (40, (0.8, 0.2), None)
    assert 0.9 < found.confidence < 1
    publish(205, "--labels", "a,b")
    assert models.load("levels", 2).manifest.validation is None
