"""The report: true figures, and a page that a browser shows whole and without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from training.__main__ import main
from training.comparison import Spread
from training.datasets import load
from training.errors import RecordError
from training.evaluation import Evaluation
from training.run_record import RunRecord

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Runs in a copy of the page and leaves what it saw in the document, which the browser then prints.
PROBE = """<script>
window.addEventListener("load", () => {
  const all = (what) => [...document.querySelectorAll(what)];
  const seen = {
    text: document.body.innerText,
    headings: all("h2").map((heading) => heading.innerText),
    pictures: Object.fromEntries(all("img").map((image) => [image.id, image.complete && image.naturalWidth])),
    cut: all("body, .wide").filter((part) => part.scrollWidth > part.clientWidth).map((part) => part.innerText),
    loaded: performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !/^data:/.test(name)),
    rows: Object.fromEntries(all("table[id]").map((table) => [table.id, [...table.rows].map((row) =>
      [...row.cells].map((cell) => cell.innerText))])),
  };
  const out = document.createElement("pre");
  out.textContent = "SEEN" + JSON.stringify(seen) + "NEES";
  document.body.replaceChildren(out);
});
</script>"""


@pytest.fixture(scope="module")
def record(synthetic_run: Path) -> RunRecord:
    return RunRecord.read(synthetic_run)


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("seeds")
    printed = _digits_train(
        "--data", "synthetic", "--recipe", "published", "--limit", 600, "--epochs", 1,
        "--seed", 4, "--seeds", 2, "--out", out,
    )  # fmt: skip
    (out / "stdout").write_text(printed)
    return out


def _digits_train(*arguments: object) -> str:
    """Runs the command in this process, which has imported TensorFlow already; returns what it printed."""
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def _show(page: Path, scratch: Path) -> dict:
    """Opens the page in a browser that reaches nothing, and returns what is to be seen there."""
    if not BROWSER:
        pytest.skip("no Chromium")
    copy = scratch / "page.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={scratch / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1250,900", "--dump-dom", copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )  # fmt: skip
    return json.loads(html.unescape(re.search("SEEN(.*)NEES", done.stdout, re.DOTALL)[1]))


def test_the_page_of_a_run_shows_every_part(synthetic_run: Path, record: RunRecord, tmp_path: Path) -> None:
    seen = _show(synthetic_run / "report.html", tmp_path)
    assert seen["headings"] == [
        "Figures",
        "Learning",
        "Confusion",
        "Precision and recall",
        "Worst mistakes",
        "Calibration",
        "Parameters of mnist_convnet",
    ]
    assert seen["pictures"].keys() == {"curves", "confusion", "mistakes", "calibration"}
    assert all(width > 400 for width in seen["pictures"].values())
    assert seen["cut"] == []
    assert seen["loaded"] == []
    assert f"{record.metrics['test']['accuracy']:.2%}" in seen["rows"]["figures"][1]
    assert [row[0] for row in seen["rows"]["classes"][1:]] == [*"0123456789"]
    assert "(3·3·32 + 1)·64 = 18,496; valid: 13 − 3 + 1 = 11" in seen["text"]
    for name in seen["pictures"]:
        with Image.open(synthetic_run / f"{name}.png") as picture:
            assert picture.width == seen["pictures"][name]


def test_several_seeds_give_mean_and_spread(two_seeds: Path, tmp_path: Path) -> None:
    accuracies = [RunRecord.read(two_seeds / f"seed-{seed}").metrics["test"]["accuracy"] for seed in (4, 5)]
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    printed = (two_seeds / "stdout").read_text()
    assert f"seeds 4, 5: test accuracy mean {mean:.3%}, lowest {min(accuracies):.2%}" in printed
    assert f"standard deviation {deviation:.3%}" in printed
    seen = _show(two_seeds / "report.html", tmp_path)
    assert [row[0] for row in seen["rows"]["figures"][1:]] == ["seed 4", "seed 5"]
    assert seen["rows"]["spread"][1][1:5] == ["4, 5", f"{mean:.2%}", f"{min(accuracies):.2%}", f"{deviation:.2%}"]
    assert seen["pictures"].keys() == {"curves"}
    assert seen["cut"] == []


def test_a_seed_gives_the_same_network_alone_and_after_another(two_seeds: Path) -> None:
    import keras

    from training.recipe import PUBLISHED
    from training.train import train

    alone = train(
        load("synthetic"),
        architecture="mnist_convnet",
        recipe=PUBLISHED.with_epochs(1),
        seed=5,
        limit=600,
        verbose=0,
    )
    after = keras.models.load_model(two_seeds / "seed-5" / "model.keras")
    for one, other in zip(alone.model.get_weights(), after.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_runs_of_different_networks_are_compared(two_seeds: Path, synthetic_run: Path, tmp_path: Path) -> None:
    printed = _digits_train("report", synthetic_run, two_seeds / "seed-4", two_seeds / "seed-5", "--out", tmp_path)
    assert f"{tmp_path / 'report.html'}" in printed
    seen = _show(tmp_path / "report.html", tmp_path)
    assert [row[0] for row in seen["rows"]["figures"][1:]] == ["synthetic", "seed-4", "seed-5"]
    assert [row[1] for row in seen["rows"]["spread"][1:]] == ["3", "4, 5"]
    assert "different data" not in seen["text"]


def test_names_of_classes_are_shown_as_they_are(tmp_path: Path) -> None:
    """A folder's name may hold anything, so may the page's text, but no name becomes part of the page."""
    names = ["<b id=bold>one", "$x^$ & {{ 7 * 7 }}"]
    generator = np.random.default_rng(0)
    for index, name in enumerate(names):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            picture = generator.integers(0, 100, (28, 28), np.uint8) + np.uint8(100 * index)
            Image.fromarray(picture).save(tmp_path / "data" / name / f"{number}.png")
    data = ("--data", f"folder:{tmp_path / 'data'}", "--image-size", "28x28x1")
    _digits_train(*data, "--epochs", 1, "--out", tmp_path / "run")
    seen = _show(tmp_path / "run" / "report.html", tmp_path)
    assert {row[0] for row in seen["rows"]["classes"][1:]} == set(names)


def test_the_mistakes_shown_are_the_worst(record: RunRecord) -> None:
    evaluation, images = record.evaluation, load("synthetic").test_images
    wrong = np.flatnonzero(evaluation.predictions != evaluation.labels)
    given = evaluation.probabilities[wrong, evaluation.labels[wrong]]
    kept = evaluation.mistakes
    assert len(kept) == min(40, len(wrong)) > 0
    worst = evaluation.probabilities[kept, evaluation.labels[kept]]
    assert worst.tolist() == np.sort(given)[: len(kept)].tolist()
    assert np.array_equal(evaluation.mistake_images, images[kept])


def test_confusion_precision_and_recall_count_the_answers(record: RunRecord) -> None:
    evaluation = record.evaluation
    counts = evaluation.confusion()
    pairs = list(zip(evaluation.labels, evaluation.predictions, strict=True))
    for true in range(10):
        assert [pairs.count((true, answer)) for answer in range(10)] == counts[true].tolist()
    for number, figures in enumerate(evaluation.by_class()):
        said = [true for true, answer in pairs if answer == number]
        assert figures.precision == pytest.approx(said.count(number) / len(said))
        assert figures.recall == pytest.approx(said.count(number) / figures.images)


@pytest.mark.parametrize(("right", "error"), [(80, 0.0), (50, 0.3), (100, 0.2)])
def test_calibration_compares_confidence_with_truth(right: int, error: float) -> None:
    """A hundred answers, each with a confidence of 80 %."""
    evaluation = Evaluation.of(
        np.tile(np.array([0.8, 0.2], np.float32), (100, 1)),
        images=np.zeros((100, 2, 2, 1), np.uint8),
        labels=(np.arange(100) >= right).astype(np.int64),
        label_names=("first", "second"),
    )
    assert evaluation.calibration_error() == pytest.approx(error, abs=1e-6)
    assert sum(row.images for row in evaluation.reliability()) == 100


@pytest.mark.parametrize(
    ("training", "validation", "epoch"),
    [
        ([0.5, 0.3, 0.2, 0.1], [0.4, 0.2, 0.3, 0.4], 2),
        ([0.5, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], None),
        ([0.5, 0.3, 0.2, 0.1], [0.4, 0.2, 0.202, 0.204], None),  # noise
        ([0.5, 0.3, 0.4, 0.5], [0.4, 0.2, 0.3, 0.4], None),  # diverges
    ],
)
def test_overfitting_begins_where_only_the_training_loss_falls(
    record: RunRecord, training: list[float], validation: list[float], epoch: int | None
) -> None:
    metrics = {**record.metrics, "history": {"loss": training, "val_loss": validation}}
    assert RunRecord(metrics=metrics, evaluation=record.evaluation).overfitting_epoch == epoch


@pytest.mark.parametrize(
    ("training", "validation", "images", "said"),
    [
        ([0.4, 0.9, 1.0], [0.58, 0.3, 0.0], 19, "100% correct) and nothing of the 19 held-out ones (0% correct, 58%"),
        ([0.4, 0.9, 1.0], [0.35, 0.33, 0.33], 400, "33% correct, 35% after the first epoch"),
        ([0.4, 0.9, 1.0], [0.4, 0.7, 0.7], 19, None),  # overfits, but learns
        ([0.8, 0.9, 0.97], [0.98, 0.98, 0.98], 6000, None),
        ([0.98, 1.0], [0.86, 0.85], 6000, "85% correct"),
        ([0.9, 1.0], [0.75, 0.75], 20, None),  # 5 of 20 may be chance
    ],
)
def test_a_network_that_learns_nothing_of_the_held_out_images_is_named(
    record: RunRecord, training: list[float], validation: list[float], images: int, said: str | None
) -> None:
    metrics = {"history": {"accuracy": training, "val_accuracy": validation}, "data": {"validation_images": images}}
    drift = RunRecord(metrics=metrics, evaluation=record.evaluation).drift
    assert (said in drift) if said else (drift is None)


def test_one_run_has_no_spread() -> None:
    assert Spread.of([0.5]) == Spread(mean=0.5, minimum=0.5, deviation=None)


def test_a_directory_without_a_whole_record_is_named(synthetic_run: Path, tmp_path: Path, command: Callable) -> None:
    done = command("digits-train", "report", tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path / 'metrics.json'}: No such file or directory\n"
    shutil.copy(synthetic_run / "metrics.json", tmp_path)
    for damage in (b"", (synthetic_run / "evaluation.npz").read_bytes()[:5000], b"\x93NUMPY"):
        (tmp_path / "evaluation.npz").write_bytes(damage)
        with pytest.raises(RecordError, match=r"evaluation\.npz"):
            RunRecord.read(tmp_path)
    shutil.copy(synthetic_run / "evaluation.npz", tmp_path)
    for text, problem in (("{", "not JSON"), ("[]", "not the record")):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(RecordError, match=problem):
            RunRecord.read(tmp_path)
