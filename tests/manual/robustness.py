"""Measures how robust a model is; `make robustness` runs it.

Prints the tables of docs/robustness.md: accuracy on the corruptions of MNIST-C and on real digits as files, the share
of pictures without a digit that the model notices, and the share of digits that it takes for none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import click
import numpy as np
from corruptions import corruptions
from non_digits import non_digits
from real_digits import ENLARGED, Pictures, photos, raw, real_digits

from serving.config import PRETRAINED
from serving.inference.sessions import open_untouched
from serving.repository.repository import Repository
from training.datasets import load

SURE = 0.9
PARTS = ("corruptions", "digits", "non-digits", "kept")


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What a model answers for some pictures.

    Attributes:
        labels: int `[n]`.
        confidences: float `[n]`.
        no_digit: float `[n]`; None for a model that has no such output.
    """

    labels: np.ndarray
    confidences: np.ndarray
    no_digit: np.ndarray | None


class Model:
    """An ONNX model of this project.

    Args:
        content: The bytes of the ONNX file.
        threshold: Above which value of `no_digit` a picture is no digit.
    """

    def __init__(self, content: bytes, threshold: float | None) -> None:
        self._session = open_untouched(content)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.threshold = threshold if "no_digit" in self._outputs else None

    def answer(self, pixels: np.ndarray) -> Answers:
        """Answers for uint8 `[n, 28, 28]`."""
        batches = (pixels[start : start + 500, ..., np.newaxis] for start in range(0, len(pixels), 500))
        parts = [dict(zip(self._outputs, self._session.run(None, {"images": batch}), strict=True)) for batch in batches]
        probabilities = np.concatenate([part["probabilities"] for part in parts])
        known = self.threshold is not None
        return Answers(
            labels=probabilities.argmax(axis=1),
            confidences=probabilities.max(axis=1),
            no_digit=np.concatenate([part["no_digit"] for part in parts]) if known else None,
        )


@click.command()
@click.option("--repository", type=click.Path(path_type=Path), default=PRETRAINED, help="Where the model is.")
@click.option("--model", help="Its name; needed where the repository has several.")
@click.option("--version", type=int, help="Its version, by default the newest.")
@click.option("--onnx", type=click.Path(path_type=Path), help="An ONNX file, instead of a repository.")
@click.option("--no-digit-threshold", type=float, help="By default the manifest's.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="MNIST_DIR", help="Directory with MNIST's files.")
@click.option("--fashion-mnist", type=click.Path(path_type=Path), help="Directory with Fashion-MNIST's files.")
@click.option("--images", type=int, default=10_000, show_default=True, help="Test images for each corruption.")
@click.option("--count", type=int, default=1000, show_default=True, help="Pictures of each other kind.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Only this part.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is random.")
def main(
    repository: Path,
    model: str | None,
    version: int | None,
    onnx: Path | None,
    no_digit_threshold: float | None,
    data_dir: Path | None,
    fashion_mnist: Path | None,
    images: int,
    count: int,
    only: tuple[str, ...],
    seed: int,
) -> None:
    """Measures a model for 28 x 28 gray digits."""
    began = time.perf_counter()
    measured = _open(repository, model, version, onnx, no_digit_threshold)
    data = load("mnist", data_dir=data_dir)
    test, labels = data.test_images[..., 0], data.test_labels
    if fashion_mnist is not None and not (fashion_mnist / "t10k-images-idx3-ubyte.gz").is_file():
        fashion_mnist = None
    figures: dict[str, float] = {}
    parts = only or PARTS
    real = list(real_digits(seed=seed)) if {"digits", "kept"} & set(parts) else []
    if "corruptions" in parts:
        figures |= _corrupted(measured, test[:images], labels[:images], seed)
    if "digits" in parts:
        figures |= _real(measured, real)
    if "non-digits" in parts:
        kinds = non_digits(count, digits=test, labels=labels, fashion_mnist=fashion_mnist, seed=seed)
        figures |= _caught(measured, kinds, measured.answer(test).no_digit)
    if "kept" in parts:
        clean = [raw("MNIST test, raw pixels", test, labels)]
        figures |= _thrown_away(measured, chain(clean, photos(test[:count], labels[:count], seed=seed), real))
    click.echo("\n| figure | |\n|---|---|")
    for name, value in figures.items():
        click.echo(f"| {name} | {value:.2%} |")
    click.echo(f"\n{time.perf_counter() - began:.0f} s")


def _open(repository: Path, name: str | None, version: int | None, onnx: Path | None, threshold: float | None) -> Model:
    if onnx is not None:
        if threshold is None:
            threshold = 0.5
        click.echo(f"{onnx.name}, threshold of no_digit {threshold:g}")
        return Model(onnx.read_bytes(), threshold)
    models = Repository(repository)
    stored = models.load(*models.choose(name, version))
    if threshold is None and stored.manifest.no_digit is not None:
        threshold = stored.manifest.no_digit.threshold
    told = "no output no_digit" if threshold is None else f"threshold of no_digit {threshold:g}"
    click.echo(f"{stored.name} version {stored.version}, {stored.manifest.sha256[:12]}…, {told}")
    return Model(stored.content, threshold)


def _corrupted(model: Model, images: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    click.echo(f"\n| MNIST-C, {len(images):,} test images | accuracy | sure of the wrong label |\n|---|---|---|")
    clean = model.answer(images)
    click.echo(f"| as they are | {_mean(clean.labels == labels)} | {_mean(_sure(clean) & (clean.labels != labels))} |")
    accuracies = []
    for name, pixels in corruptions(images, seed=seed):
        answers = model.answer(pixels)
        right = answers.labels == labels
        accuracies.append(right.mean())
        click.echo(f"| {name} | {_mean(right)} | {_mean(_sure(answers) & ~right)} |")
    return {"MNIST test": (clean.labels == labels).mean(), f"MNIST-C, mean of {len(accuracies)}": np.mean(accuracies)}


def _real(model: Model, sources: Iterable[Pictures]) -> dict[str, float]:
    click.echo(
        "\n| real digits, as files | accuracy | " + " | ".join(map(str, range(10))) + " |\n|---" + "|---" * 11 + "|"
    )
    enlarged = []
    for pictures in sources:
        right = model.answer(pictures.pixels).labels == pictures.labels
        each = [_mean(right[pictures.labels == digit], places=1) for digit in range(10)]
        click.echo(f"| {pictures.name} | {_mean(right)} | {' | '.join(each)} |")
        if pictures.name.startswith(ENLARGED):
            enlarged.append(right.mean())
    return {ENLARGED: np.mean(enlarged)}


def _caught(model: Model, kinds: Iterable[Pictures | str], digits: np.ndarray | None) -> dict[str, float]:
    """Prints which share of non-digits is noticed; `digits` is `no_digit` of MNIST's test images."""
    from sklearn.metrics import roc_auc_score

    if digits is None:
        click.echo("\nThis model has no output no_digit.")
    click.echo(
        f"\n| no single digit | pictures | caught | or by the preparation | AUROC | {SURE} or more sure |\n"
        "|---|---|---|---|---|---|"
    )
    shares: dict[str, list[float]] = {}
    for pictures in kinds:
        if isinstance(pictures, str):
            click.echo(f"| {pictures} | | | | | |")
            continue
        answers = model.answer(pictures.pixels)
        caught, area = None, ""
        noticed = pictures.statuses != 0
        if answers.no_digit is not None and digits is not None:
            caught = answers.no_digit > model.threshold
            truth = np.repeat([0, 1], [len(digits), len(caught)])
            area = f"{roc_auc_score(truth, np.concatenate([digits, answers.no_digit])):.4f}"
            noticed |= caught
        cells = ["" if caught is None else _mean(caught), _mean(noticed), area, _mean(_sure(answers))]
        click.echo(f"| {pictures.name} | {len(noticed):,} | {' | '.join(cells)} |")
        shares.setdefault(pictures.name.partition(",")[0].partition(" (")[0], []).append(noticed.mean())
    if digits is None:
        return {}
    return {f"caught: {name}, mean of its rows": float(np.mean(values)) for name, values in shares.items()}


def _thrown_away(model: Model, sources: Iterable[Pictures]) -> dict[str, float]:
    if model.threshold is None:
        click.echo("\nThis model has no output no_digit, so it throws no digit away.")
        return {}
    click.echo("\n| digits thrown away | pictures | by the network | or by the preparation |\n|---|---|---|---|")
    shares: dict[str, list[float]] = {}
    groups: list[tuple[str, Callable[[str], bool]]] = [
        ("MNIST test, raw pixels", lambda name: name == "MNIST test, raw pixels"),
        ("MNIST test, as photos", lambda name: name.startswith("MNIST test, ") and "raw" not in name),
        (ENLARGED, lambda name: name.startswith(ENLARGED)),
    ]
    for pictures in sources:
        lost = np.zeros(len(pictures.pixels), bool)
        answers = model.answer(pictures.pixels)
        if answers.no_digit is not None:
            lost = answers.no_digit > model.threshold
        either = lost | (pictures.statuses != 0)
        click.echo(f"| {pictures.name} | {len(lost):,} | {_mean(lost)} | {_mean(either)} |")
        for group, holds in groups:
            if holds(pictures.name):
                shares.setdefault(group, []).append(either.mean())
    return {f"thrown away: {name}": float(np.mean(values)) for name, values in shares.items()}


def _sure(answers: Answers) -> np.ndarray:
    return answers.confidences >= SURE


def _mean(flags: np.ndarray, places: int = 2) -> str:
    return f"{flags.mean():.{places}%}"


if __name__ == "__main__":
    main()
