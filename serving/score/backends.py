"""Chooses what scores: an engine in this process, servers, or Ray. Imports only what is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving.client.credentials import Credentials
from serving.errors import ModelNotFound
from serving.score.finished_output import started_with
from serving.score.journal import OutputConflict
from serving.score.scorer import Scorer, VersionGone


def open_scorer(**options: Any) -> Scorer:
    """Makes the scorer for the options of `digits-score`. A resumed run keeps its version unless one is named.

    Raises:
        DigitsError: It can't be started or reached.
        ModuleNotFoundError: It needs a package that is not installed.
    """
    out: Path = options["out"]
    started = started_with(out) if options["resume"] and not options["mix_models"] else None
    if started is None or options["model_version"] or options["model"] not in (None, started[0]):
        return _open(**options)
    try:
        return _open(**{**options, "model": started[0], "model_version": started[1]})
    except (VersionGone, ModelNotFound) as error:
        raise OutputConflict(
            f"{out}: started with {started[0]} version {started[1]}, which is not available ({error}); "
            "--mix-models continues with another version, --overwrite starts again"
        ) from error


def _open(**options: Any) -> Scorer:
    if options["local"]:
        from serving.score.local import LocalScorer, load_model

        stored = load_model(options["repository"], options["model"], options["model_version"])
        if options["engine"] == "ray":  # which is local too
            from serving.score.ray_actors import RayScorer

            return RayScorer(stored, provider=options["provider"], address=options["address"], actors=options["actors"])
        return LocalScorer(stored, provider=options["provider"], engines=options["engines"])
    from serving.score.remote import RemoteConfig, RemoteScorer

    credentials: Credentials = options["credentials"]
    return RemoteScorer(
        RemoteConfig(
            targets=options["targets"] or ("127.0.0.1:50051",),
            credentials=credentials,
            model_name=options["model"] or "",
            model_version=options["model_version"] or 0,
            mix_models=options["mix_models"],
            streams=options["streams"],
            retry_s=options["retry_s"],
            probabilities=options["probabilities"],
        )
    )
