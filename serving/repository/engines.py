"""Starts the engine of a version in the precision that is asked for, or in the fastest that was proven here."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from serving.config import EngineConfig
from serving.errors import ModelRejected, ProviderUnavailable
from serving.inference.engine import Engine
from serving.inference.processors import int8_kernels
from serving.inference.sessions import CPU
from serving.repository.precision import FLOAT32, INT8
from serving.repository.repository import StoredModel

_logger = logging.getLogger(__name__)


def start_engine(stored: StoredModel, config: EngineConfig) -> tuple[Engine, str]:
    """Makes an engine for a version, starts it and has it answer once.

    Args:
        stored: The version.
        config: How to run it. With the precision `int8` it runs on the CPU. With `auto` it runs in int8 if that was
            proven for this processor and CUDA does not run it.

    Returns:
        The engine and its precision, `float32` or `int8`.

    Raises:
        ModelRejected: The engine can't load it, it has no int8, or that was not proven for this processor.
        ProviderUnavailable: The provider can't run it on this machine.
    """
    try:
        engine, precision = _in_precision(stored, config)
        blank = engine.infer(np.zeros((1, *stored.manifest.input.shape), np.uint8))
    except (ModelRejected, ProviderUnavailable):
        raise
    except Exception as error:
        raise ModelRejected("model.onnx: warm-up failed", detail=str(error)) from error
    if not np.isfinite(blank.probabilities).all():
        raise ModelRejected("model.onnx: its probabilities in the warm-up are not finite")
    return engine, precision


def _in_precision(stored: StoredModel, config: EngineConfig) -> tuple[Engine, str]:
    unproven = _unproven(stored)
    if config.precision == INT8:
        if unproven:
            raise ModelRejected(unproven)
        return _started(stored, stored.precisions[INT8], replace(config, provider="cpu")), INT8
    engine = _started(stored, stored.content, config)
    if config.precision == FLOAT32 or engine.provider != CPU:
        return engine, FLOAT32
    if unproven:
        _logger.info("%s version %d: precision auto runs in float32: %s", stored.name, stored.version, unproven)
        return engine, FLOAT32
    return _started(stored, stored.precisions[INT8], replace(config, provider="cpu")), INT8


def _started(stored: StoredModel, content: bytes, config: EngineConfig) -> Engine:
    engine = Engine(
        content,
        image_shape=stored.manifest.input.shape,
        classes=len(stored.manifest.labels),
        no_digit=stored.manifest.no_digit is not None,
        config=config,
    )
    engine.start()
    return engine


def _unproven(stored: StoredModel) -> str | None:
    """Why a version must not run in int8 on this processor; None if it may."""
    described = stored.manifest.precisions.get(INT8)
    if described is None:
        return "it has no int8; digits-export --precision int8 makes one"
    kernels, passed = int8_kernels(), [name for name, figures in described.proven.items() if figures.passed]
    if set(kernels) & set(passed):
        return None
    return (
        f"int8 was proven on {', '.join(passed) or 'no processor'}, and this one has {', '.join(kernels)}; "
        "digits-export --verify with --precision int8 proves it here"
    )
