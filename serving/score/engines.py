"""From options to a scorer. What only one kind needs is imported only when that kind is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving.client.credentials import Credentials
from serving.errors import ModelNotFound
from serving.score.journal import OutputConflict
from serving.score.output import begun_model
from serving.score.scorer import Scorer, VersionGone


def open_scorer(**options: Any) -> Scorer:
    """Makes what the options of `digits-score` ask for; a run that goes on keeps its version where none is named.

    Raises:
        DigitsError: It can't be started or reached.
        ModuleNotFoundError: It needs a package that is not installed.
    """
    out: Path = options["out"]
    begun = begun_model(out) if options["resume"] and not options["mix_models"] else None
    if begun is None or options["model_version"] or options["model"] not in (None, begun[0]):
        return _open(**options)
    try:
        return _open(**{**options, "model": begun[0], "model_version": begun[1]})
    except (VersionGone, ModelNotFound) as error:
        raise OutputConflict(
            f"{out}: begun with {begun[0]} version {begun[1]}, which is not there ({error}); "
            "--mix-models goes on with another, --overwrite begins anew"
        ) from error


def _open(**options: Any) -> Scorer:
    if options["local"]:
        from serving.score.local import LocalScorer, load_model

        stored = load_model(options["repository"], options["model"], options["model_version"])
        if options["engine"] == "ray":  # which is local too
            from serving.score.ray_actors import RayScorer

            return RayScorer(stored, provider=options["provider"], address=options["address"], actors=options["actors"])
        return LocalScorer(stored, provider=options["provider"], engines=options["engines"])
    from serving.score.remote import Remote, RemoteScorer

    credentials: Credentials = options["credentials"]
    return RemoteScorer(
        Remote(
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
