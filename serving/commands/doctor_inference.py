"""What `digits-doctor` finds when it runs a model: on each provider, and in each batch size of CUDA."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from serving.bench.workload import draw_images
from serving.commands.finding import NOTE, OK, PROBLEM, Finding
from serving.config import EngineConfig
from serving.errors import DigitsError, ProviderUnavailable
from serving.inference.engine import Engine, Prediction
from serving.inference.sessions import CPU, CUDA
from serving.repository.repository import StoredModel

_PROVIDERS = {"cpu": CPU, "cuda": CUDA}
_IMAGES = 1024
# The bound of the parity gate for probabilities, where the manifest has no other.
_LIMIT = 1e-5


def check_inference(stored: StoredModel, config: EngineConfig, *, chosen: str) -> Iterator[Finding]:
    """Runs the sample digits on each available provider, and compares CUDA with the CPU.

    Args:
        stored: The model.
        config: How a server would run it.
        chosen: The execution provider that a server would choose.
    """
    images = draw_images(stored.manifest.input.shape)[:_IMAGES]
    name, answers = f"{stored.name} version {stored.version}", {}
    places = [("cpu", 0), *(("cuda", device) for device in config.devices)]
    for provider, device in places:
        subject = f"{provider} inference"
        try:
            engine = _engine(stored, replace(config, provider=provider, devices=(device,)))
            started = time.perf_counter()
            engine.start()
            ready = time.perf_counter()
            answers[provider] = engine.infer(images)
            ended = time.perf_counter()
        except ProviderUnavailable:
            continue  # if the configuration asks for it, the server's start has failed
        except DigitsError as error:
            yield Finding(subject, PROBLEM if _PROVIDERS[provider] == chosen else NOTE, f"{name}: {error}")
            continue
        unproven = "" if engine.provider in stored.manifest.parity else "; its parity is not proven on this provider"
        text = f"{name}: ready in {ready - started:.2f} s, {len(images)} images in {1000 * (ended - ready):.1f} ms"
        yield Finding(subject, NOTE if unproven else OK, text + unproven)
        if provider == "cuda" and "cpu" in answers:
            yield _agreement(stored, engine, images, answers["cpu"], f"{name} on CUDA device {device}")


def _agreement(stored: StoredModel, engine: Engine, images: np.ndarray, expected: Prediction, where: str) -> Finding:
    """Compares every bucket with the CPU."""
    labels, difference = 0, 0.0
    sizes = [rows for rows in engine.fixed_sizes if rows <= len(images)]
    for rows in sizes:
        found, wanted = engine.infer(images[:rows]).probabilities, expected.probabilities[:rows]
        labels += int((found.argmax(axis=1) != wanted.argmax(axis=1)).sum())
        difference = max(difference, float(np.abs(found - wanted).max()))
    figures = stored.manifest.parity.get(CUDA)
    limit = figures.probabilities_limit if figures else _LIMIT
    text = (
        f"{where}: in batches of {', '.join(map(str, sizes))}, probabilities differ from the CPU's by {difference:.1e}"
    )
    if labels or not np.isfinite(difference):
        return Finding("agreement", PROBLEM, f"{text}, and {labels} labels differ")
    if difference > limit:
        return Finding("agreement", NOTE, f"{text}, above the limit of {limit:.0e}; digits-export --verify proves it")
    return Finding("agreement", OK, text)


def _engine(stored: StoredModel, config: EngineConfig) -> Engine:
    return Engine(
        stored.content,
        image_shape=stored.manifest.input.shape,
        classes=len(stored.manifest.labels),
        no_digit=stored.manifest.no_digit is not None,
        config=config,
    )
