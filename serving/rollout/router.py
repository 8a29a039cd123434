"""The router: finds the deployment that answers a call."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from serving.errors import InvalidRequest, ModelNotFound
from serving.repository.labels import CANARY, STABLE
from serving.rollout.deployment import Deployment
from serving.rollout.rollout import Rollout

# The most models that an error lists, because clients limit the metadata that carries it.
_MAX_NAMES = 10


class Router:
    """Routes calls by one rollout.

    Args:
        rollout: The rollout.
        deployments: The started deployments of its models, in any order.
    """

    def __init__(self, rollout: Rollout, deployments: Sequence[Deployment]) -> None:
        self.rollout = rollout
        self._deployments = {(each.name, each.version): each for each in deployments}
        self._routes = {
            name: (
                self._deployments[name, route.stable],
                self._deployments[name, route.canary] if route.canary else None,
                route.share,
            )
            for name, route in rollout.routes.items()
        }

    def __iter__(self) -> Iterator[Deployment]:
        return iter(self._deployments.values())

    def find(self, name: str, version: int, label: str, *, lingering: Deployment | None = None) -> Deployment:
        """Finds the deployment that answers a call, or else returns `lingering`; see `Deployments.find`."""
        found = self._routes.get(name or self.rollout.default)
        if found is None:
            raise self._no_model(name or self.rollout.default)
        stable, canary, share = found
        if not version and not label:
            # At random for each call: with a fixed sequence, callers in step would get uneven shares.
            return canary if canary is not None and random.random() < share else stable  # noqa: S311
        if version and label:
            raise InvalidRequest.of("model_label", "the call already names a version")
        if label:
            return _labelled(label, stable, canary)
        deployment = self._deployments.get((stable.name, version)) or lingering
        if deployment is None:
            served = ", ".join(str(known) for model, known in sorted(self._deployments) if model == stable.name)
            raise ModelNotFound(f"no version {version} of {stable.name!r} is served here, only {served}")
        return deployment

    def _no_model(self, name: str) -> Exception:
        served = list(map(repr, self._routes))
        known = ", ".join(served[:_MAX_NAMES]) + (", …" if len(served) > _MAX_NAMES else "")
        if not name and not served:
            return ModelNotFound("no model is served here")
        if not name:
            return InvalidRequest.of("model_name", f"several models are served here; name one of {known}")
        return ModelNotFound(f"no model {name[:128]!r} is served here{', only ' if known else ''}{known}")


def _labelled(label: str, stable: Deployment, canary: Deployment | None) -> Deployment:
    if label == STABLE:
        return stable
    if label == CANARY and canary is not None:
        return canary
    known = STABLE if canary is None else f"{STABLE} and {CANARY}"
    raise ModelNotFound(f"no version of {stable.name!r} has the label {label[:128]!r}, only {known}")
