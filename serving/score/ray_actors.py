"""Scores on a Ray cluster: the model is loaded once in each actor, and batches go to whichever is free.

Reading, order, output and resuming stay with the process that was started, as they are without Ray.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray
import ray.exceptions

from serving.inference.processors import available_processors
from serving.repository.repository import StoredModel
from serving.score.batch import Batch, ScoredBatch
from serving.score.local import LocalScorer, model_of
from serving.score.scorer import Scorer, ScoringStopped

# Batches at each actor: one that is scored and one that waits, so that none is idle.
_AT_EACH = 2
_RETRIES = 5


class RayScorer(Scorer):
    """Actors, each with an engine on a processor or, where the cluster has any, on a GPU.

    An actor that dies is started again, and what it was at is scored again.

    Args:
        stored: The model; actors get it from here, so they need no repository.
        provider: `cpu`, `cuda`, or `auto`, which takes GPUs where the cluster has any.
        address: The cluster, as `ray.init` takes it; None for one of its own on this machine.
        actors: How many; 0 for one on each processor but one, which is left to Ray itself, or on each GPU.

    Raises:
        ScoringStopped: There is no cluster, or no actor can load the model.
    """

    def __init__(self, stored: StoredModel, *, provider: str, address: str | None, actors: int = 0) -> None:
        self.model = model_of(stored)
        here: dict[str, Any] = (
            {}
            if address
            else {
                "num_cpus": available_processors(),
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
            }
        )
        cluster: Any = ray  # its annotations know nothing of actors
        try:
            _connect(address)
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
            resources: dict[str, float] = cluster.cluster_resources()
            on_gpus = provider != "cpu" and resources.get("GPU", 0) >= 1
            processors = int(resources.get("CPU", 1))
            count = actors or (int(resources["GPU"]) if on_gpus else max(1, processors - 1))
            shared = ray.put(stored)
            actor = cluster.remote(_Actor).options(
                num_cpus=0 if on_gpus else 1,
                num_gpus=1 if on_gpus else 0,
                max_restarts=-1,
                max_task_retries=_RETRIES,
            )
            self._actors: list[Any] = [actor.remote(shared, "cuda" if on_gpus else "cpu") for _ in range(count)]
            ray.get([each.ready.remote() for each in self._actors])
        except (ray.exceptions.RayError, OSError, ValueError, RuntimeError) as error:
            ray.shutdown()
            raise ScoringStopped(f"Ray: {_last_line(error)}") from error
        self.parallel = _AT_EACH * count
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(_AT_EACH):
            for each in self._actors:
                self._free.put(each)

    def score(self, batch: Batch) -> ScoredBatch:
        """See `Scorer.score`; image files must be at the same place on every machine of the cluster."""
        if isinstance(batch.images, list):
            # Actors have a working directory of their own.
            images = [image.absolute() if isinstance(image, Path) else image for image in batch.images]
            batch = replace(batch, images=images)
        actor = self._free.get()
        try:
            scored: ScoredBatch = ray.get(actor.score.remote(batch))
        except ray.exceptions.RayError as error:
            raise ScoringStopped(f"Ray: {_last_line(error)}") from error
        finally:
            self._free.put(actor)
        return scored

    def close(self) -> None:
        """See `Scorer.close`; actors end, and so does a cluster of its own."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        ray.shutdown()


def _connect(address: str | None) -> None:
    """Raises OSError where nobody listens: Ray itself would end the process, after a minute."""
    if address is not None and (found := re.fullmatch(r"([^:/]+):(\d+)", address)):
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


class _Actor:
    """What runs in the cluster."""

    def __init__(self, stored: StoredModel, provider: str) -> None:
        self._scorer = LocalScorer(stored, provider=provider, engines=1)

    def ready(self) -> None:
        """Returns once the model is loaded."""

    def score(self, batch: Batch) -> ScoredBatch:
        """See `Scorer.score`."""
        return self._scorer.score(batch)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
