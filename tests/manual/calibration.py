"""Measures how far a model's confidences can be trusted; `make calibration` runs it.

Prints the tables of docs/calibration.md: the expected calibration error on MNIST's test images with a temperature of 1
and with the model's own, and the share of unsure images at several values of `min_confidence`, for digits and for
images that show no digit.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from serving.config import PRETRAINED, EngineConfig
from serving.images.geometry import centre_by_mass
from serving.inference.engine import Engine
from serving.repository.repository import Repository
from training.datasets import load
from training.evaluation import calibration_error

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
COUNT = 2000
# Letters that look like digits, or nearly so, in many handwritings.
ALIKE = "BIOQSZbgiloqsz"


@click.command()
@click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=PRETRAINED,
    help="The newest model in it.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="MNIST_DIR", help="Directory with MNIST's files.")
def main(repository: Path, data_dir: Path | None) -> None:
    """Measures a model for 28 x 28 gray digits."""
    from export.calibration import softmax  # brings TensorFlow, which takes seconds

    models = Repository(repository)
    stored = models.load(*models.choose())
    engine = Engine(stored.content, image_shape=(28, 28, 1), classes=10, config=EngineConfig(provider="cpu"))
    engine.start()
    data = load("mnist", data_dir=data_dir)
    answers = engine.infer(data.test_images)
    temperature = stored.manifest.calibration.temperature
    click.echo(
        f"{stored.name} version {stored.version}, {stored.manifest.sha256[:12]}…, temperature {temperature:.3f} "
        f"fitted on {stored.manifest.calibration.images:,} validation images\n\n"
        "| MNIST's test images | before | after |\n|---|---|---|\n"
        f"| expected calibration error | {calibration_error(softmax(answers.logits), data.test_labels):.2%} "
        f"| {calibration_error(answers.probabilities, data.test_labels):.2%} |\n"
        f"| mean confidence | {softmax(answers.logits).max(axis=1).mean():.2%} "
        f"| {answers.probabilities.max(axis=1).mean():.2%} |\n"
        f"| accuracy | {_accuracy(answers.probabilities, data.test_labels):.2%} | the same |\n"
    )
    sure = answers.probabilities.max(axis=1)
    right = answers.probabilities.argmax(axis=1) == data.test_labels
    click.echo("| `min_confidence` | " + " | ".join(map(str, THRESHOLDS)) + " |\n|---|" + "---|" * len(THRESHOLDS))
    _row("MNIST's test images, unsure", [(sure < threshold).mean() for threshold in THRESHOLDS])
    _row("correct among the others", [right[sure >= threshold].mean() for threshold in THRESHOLDS])
    generator = np.random.default_rng(0)
    for name, images in (
        ("blank pages", blank_pages(generator)),
        ("random noise", generator.integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)),
        ("letters unlike digits", letters(generator, alike=False)),
        ("letters like digits", letters(generator, alike=True)),
        ("textures as in photos", textures(generator)),
    ):
        confidences = engine.infer(images[..., np.newaxis]).probabilities.max(axis=1)
        _row(f"{name}, unsure", [(confidences < threshold).mean() for threshold in THRESHOLDS])


def blank_pages(generator: np.random.Generator) -> np.ndarray:
    """Draws black pages with the faint noise of a camera; uint8 `[n, 28, 28]`."""
    noise = generator.normal(0, generator.uniform(0, 12, (COUNT, 1, 1)), (COUNT, 28, 28))
    return noise.clip(0, 255).astype(np.uint8)


def letters(generator: np.random.Generator, *, alike: bool) -> np.ndarray:
    """Draws letters in Pillow's font, slightly rotated, laid out like MNIST's digits; uint8 `[n, 28, 28]`."""
    alphabet = [chr(code) for code in (*range(65, 91), *range(97, 123)) if (chr(code) in ALIKE) == alike]
    drawn = []
    for number in range(COUNT):
        page = Image.new("L", (120, 120))
        font = ImageFont.load_default(size=float(generator.uniform(50, 80)))
        ImageDraw.Draw(page).text(
            (60, 60),
            alphabet[number % len(alphabet)],
            fill=255,
            font=font,
            anchor="mm",
            stroke_width=int(generator.integers(0, 4)),
        )
        page = page.rotate(float(generator.normal(0, 8)), Image.Resampling.BILINEAR)
        drawn.append(centre_by_mass(np.asarray(page)))
    return np.stack(drawn)


def textures(generator: np.random.Generator) -> np.ndarray:
    """Makes noise with the spectrum of nature photos, over the full range of brightness; uint8 `[n, 28, 28]`.

    Source: D. J. Field, "Relations between the statistics of natural images and the response properties of cortical
    cells", 1987: amplitudes fall about as 1 / frequency.
    """
    frequency = np.hypot(np.fft.fftfreq(64)[:, np.newaxis], np.fft.rfftfreq(64))
    frequency[0, 0] = np.inf
    phases = np.exp(2j * np.pi * generator.uniform(size=(COUNT, *frequency.shape)))
    scenes = np.fft.irfft2(phases / frequency, s=(64, 64))[:, :28, :28]
    low, high = scenes.min(axis=(1, 2), keepdims=True), scenes.max(axis=(1, 2), keepdims=True)
    return ((scenes - low) / (high - low) * 255).astype(np.uint8)


def _accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


def _row(name: str, shares: list[float]) -> None:
    click.echo(f"| {name} | " + " | ".join(f"{share:.2%}" for share in shares) + " |")


if __name__ == "__main__":
    main()
