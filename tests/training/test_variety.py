"""The copies of digits that other hands, pens and cameras would have made, and the pictures of no digit among them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from training.corruption import corrupt
from training.datasets import Dataset, load
from training.non_digits import KINDS, draw_non_digit
from training.recipe import Recipe, recipe_for
from training.sending import sent
from training.styles import add_strokes, enlarge, fit, restyle
from training.synthetic import draw_digits
from training.variety import Variety

ROOT = Path(__file__).parents[2]
ALL = Variety(restyled=0.3, sent=0.2, corrupted=0.3, drawn=0.1, non_digits=0.5)
VARIED = Recipe(name="varied", epochs=4, batch_size=32, learning_rate=3e-3, source="this test", copies=1, variety=ALL)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("synthetic")


def _ink(image: np.ndarray) -> int:
    return int((image > 60).sum())


def test_another_style_keeps_the_digit_in_mnist_s_layout() -> None:
    images, generator = draw_digits(60, seed=3)[0][..., 0], np.random.default_rng(0)
    widths = []
    for image in images:
        changed = fit(restyle(enlarge(image), generator))
        assert changed.shape == (28, 28)
        assert changed.max() >= 250
        rows, columns = (np.flatnonzero((changed > 0).any(axis=axis)) for axis in (1, 0))
        assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
        widths.append(_ink(changed) / _ink(image))
    assert min(widths) < 0.7  # thinner pens
    assert max(widths) > 1.4  # thicker ones


@pytest.mark.parametrize("digit", [1, 7, 9])
def test_flags_feet_bars_and_tails_are_added_where_people_write_them(digit: int) -> None:
    images, labels = draw_digits(100, seed=4)
    generator = np.random.default_rng(0)
    pictures = [enlarge(image) for image in images[labels == digit, :, :, 0]]
    changed = [add_strokes(picture, digit, generator) for picture in pictures]
    more = [_ink(np.asarray(after)) > _ink(np.asarray(before)) for before, after in zip(pictures, changed, strict=True)]
    assert sum(more) >= len(more) / 2
    other = enlarge(images[labels == 8][0, :, :, 0])
    assert np.array_equal(np.asarray(add_strokes(other, 8, generator)), np.asarray(other))


def test_what_is_sent_arrives_prepared() -> None:
    generator = np.random.default_rng(0)
    arrived = [sent(enlarge(image), generator) for image in draw_digits(40, seed=5)[0][..., 0]]
    assert {image.shape for image in arrived} == {(28, 28)}
    assert np.mean([image.max() == 255 and image[:2].max() < 100 for image in arrived]) > 0.8
    assert not sent(Image.new("L", (60, 60)), generator).any()


def test_corruption_changes_every_image_and_keeps_bytes() -> None:
    images = draw_digits(200, seed=6)[0][..., 0]
    changed = corrupt(images, np.random.default_rng(0))
    assert changed.dtype == np.uint8
    assert changed.shape == images.shape
    assert np.mean([not np.array_equal(*pair) for pair in zip(images, changed, strict=True)]) > 0.97
    assert np.array_equal(changed, corrupt(images, np.random.default_rng(0)))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_non_digit_is_drawn_in_many_forms(kind: str) -> None:
    digits, generator = draw_digits(20, seed=7)[0][..., 0], np.random.default_rng(0)
    drawn = [draw_non_digit(kind, digits, generator) for _ in range(24)]
    assert {(image.shape, image.dtype) for image in drawn} == {((28, 28), np.dtype(np.uint8))}
    assert len({image.tobytes() for image in drawn}) > 12


def test_copies_begin_with_the_images_and_end_with_what_is_no_digit(data: Dataset) -> None:
    from training.copies import copies_of

    recipe = dataclasses.replace(VARIED, copies=2)
    copies = copies_of(data, recipe=recipe, limit=222, seed=0)
    assert copies.images.shape == (2, 200 + 20 + 100, 28, 28, 1)
    assert copies.targets.shape == (2, 320, 11)
    labels = copies.targets.argmax(axis=2)
    assert labels[:, :200].tolist() == [data.train_labels[:200].tolist()] * 2
    assert labels[:, 200:220].max() < 10
    assert set(labels[:, 220:].ravel().tolist()) == {10}
    assert not np.array_equal(copies.images[0], copies.images[1])
    again = copies_of(data, recipe=recipe, limit=222, seed=0)
    assert np.array_equal(again.images, copies.images)


def test_processes_that_draw_end_with_their_parent_however_it_ends() -> None:
    script = """if __name__ == "__main__":
        import multiprocessing, os, time
        from training.copies import _end_with_parent
        with multiprocessing.get_context("spawn").Pool(2, initializer=_end_with_parent) as processes:
            print(*[process.pid for process in processes._pool], flush=True)
            processes.map(time.sleep, [60, 60])"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        child.kill()
    assert not alive


def test_data_that_are_no_digits_are_only_augmented(data: Dataset) -> None:
    from training.copies import copies_of

    for other in (
        dataclasses.replace(data, label_names=tuple("abcdefghij")),
        dataclasses.replace(data, preparation="resize"),
    ):
        copies = copies_of(other, recipe=VARIED, limit=55, seed=0)
        assert copies.targets.shape == (1, 50, 10)
        assert np.array_equal(copies.images[0], other.train_images[:50])


@pytest.mark.slow
def test_a_network_learns_what_is_no_digit_without_a_parameter_more(data: Dataset) -> None:
    from training.train import train

    run = train(data, architecture="mnist_convnet", recipe=VARIED, seed=0, limit=900, verbose=0)
    assert run.metrics["knows_no_digit"]
    assert run.model.count_params() == 34_826
    assert run.model.layers[-1].activation.__name__ == "softmax"
    assert run.metrics["test"]["accuracy"] > 0.8
    # The probabilities of the ten classes say nothing of it, the sum of the powers of the logits does.
    last = run.model.layers[-1]
    import keras

    values = keras.Model(run.model.inputs, last.input)
    digits, generator = data.test_images[..., 0], np.random.default_rng(1)
    others = np.stack([draw_non_digit(kind, digits, generator) for kind in KINDS for _ in range(20)])[..., np.newaxis]
    kernel, bias = last.get_weights()
    energies = [
        np.log(np.exp(values.predict(images, verbose=0) @ kernel + bias).sum(axis=1))
        for images in (data.test_images[:200], others)
    ]
    assert np.mean(energies[0][:, None] > energies[1][None]) > 0.9
    assert not recipe_for("fast", "mnist_convnet").variety


def test_impossible_varieties_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        Variety(restyled=0.5, sent=0.4, corrupted=0.2)
    with pytest.raises(ValueError, match="negative"):
        Variety(restyled=-0.1, sent=0, corrupted=0)
    with pytest.raises(ValueError, match="copies"):
        dataclasses.replace(VARIED, copies=0)
    with pytest.raises(ValueError, match="label_smoothing"):
        dataclasses.replace(VARIED, label_smoothing=0.1)
