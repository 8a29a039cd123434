"""From options to a scorer. What only one kind needs is imported only when that kind is asked for."""

from __future__ import annotations

from typing import Any

from serving.credentials import Credentials
from serving.score.scorer import Scorer


def open_scorer(**options: Any) -> Scorer:
    """Makes what the options of `digits-score` ask for.

    Raises:
        DigitsError: It can't be started or reached.
        ModuleNotFoundError: It needs a package that is not installed.
    """
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
            streams=options["streams"],
            retry_s=options["retry_s"],
            probabilities=options["probabilities"],
        )
    )
