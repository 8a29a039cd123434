"""Scores on a Ray cluster: each actor loads the model once, and batches go to idle actors.

Reading, order, output and resuming stay in this process, as without Ray.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray
import ray.exceptions

from serving.inference.processors import available_processors
from serving.repository.repository import StoredModel
from serving.score.batch import Batch, ScoredBatch
from serving.score.local import LocalClassifier, scoring_model
from serving.score.scorer import Scorer, ScoringStopped

# One batch that an actor scores and one that waits for it, so that no actor is idle.
_BATCHES_PER_ACTOR = 2
_RETRIES = 5


class RayScorer(Scorer):
    """Actors, each with an engine on a processor or, if the cluster has any, on a GPU.

    Ray restarts an actor that dies, and its batches are scored again.

    Args:
        stored: The model, which is sent to the actors; they need no repository.
        provider: `cpu`, `cuda`, or `auto`, which uses GPUs if the cluster has any.
        address: The cluster, as `ray.init` takes it; None to start one on this machine.
        actors: Number of actors; 0 for one per GPU, or one per processor except one, which is left to Ray itself.

    Raises:
        ScoringStopped: There is no cluster, or no actor can load the model.
    """

    def __init__(self, stored: StoredModel, *, provider: str, address: str | None, actors: int = 0) -> None:
        own_cluster: dict[str, Any] = {
            "num_cpus": available_processors(),
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
        cluster: Any = ray  # its annotations do not cover actors
        try:
            _check_reachable(address)
            options = {} if address else own_cluster
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
            resources: dict[str, float] = cluster.cluster_resources()
            on_gpus = provider != "cpu" and resources.get("GPU", 0) >= 1
            processors = int(resources.get("CPU", 1))
            count = actors or (int(resources["GPU"]) if on_gpus else max(1, processors - 1))
            self._stored = ray.put(stored)  # kept, since an actor that restarts reads it again
            actor = cluster.remote(LocalClassifier).options(
                num_cpus=0 if on_gpus else 1,
                num_gpus=1 if on_gpus else 0,
                max_restarts=-1,
                max_task_retries=_RETRIES,
            )
            self._actors: list[Any] = [
                actor.remote(self._stored, provider="cuda" if on_gpus else "cpu") for _ in range(count)
            ]
            ray.get([each.__ray_ready__.remote() for each in self._actors])
        except (ray.exceptions.RayError, OSError, ValueError, RuntimeError) as error:
            ray.shutdown()
            raise ScoringStopped(f"Ray: {_last_line(error)}") from error
        super().__init__(
            scoring_model(stored), [partial(_classify, each) for each in self._actors * _BATCHES_PER_ACTOR]
        )

    def close(self) -> None:
        """See `Scorer.close`; ends the actors, and the cluster if it was started here."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        ray.shutdown()


def _classify(actor: Any, batch: Batch) -> ScoredBatch:
    """Classifies a batch in an actor; image files must have the same path on every machine of the cluster."""
    if isinstance(batch.images, list):
        # Actors have working directories of their own.
        images = [image.absolute() if isinstance(image, Path) else image for image in batch.images]
        batch = replace(batch, images=images)
    try:
        scored: ScoredBatch = ray.get(actor.classify.remote(batch))
    except ray.exceptions.RayError as error:
        raise ScoringStopped(f"Ray: {_last_line(error)}") from error
    return scored


def _check_reachable(address: str | None) -> None:
    """Raises OSError if nothing listens at the address: Ray itself would end the process, after a minute."""
    if address is not None and (found := re.fullmatch(r"([^:/]+):(\d+)", address)):
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
