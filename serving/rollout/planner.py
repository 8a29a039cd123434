"""The planner: decides from the repository's files what to serve next. It knows no engines and no processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from serving.config import ServerConfig
from serving.errors import InvalidConfig, ModelNotFound, ModelRejected, RepositoryError
from serving.repository.labels import CANARY, LABELS_FILE, STABLE, Labels
from serving.repository.repository import Repository, StoredModel
from serving.rollout.message_size import ENVELOPE_BYTES, max_request_bytes
from serving.rollout.rollout import Refusal, Rollout, Route
from serving.rollout.version_cache import VersionCache

_PINNED = "--model-version"

_logger = logging.getLogger(__name__)


class RolloutPlanner:
    """Plans the next rollout from the repository.

    An accepted version stays in memory while it is part of the rollout, whatever happens to its files. A refused one is
    read again when its files change. If the repository can't be read, the rollout stays as it is.

    Args:
        config: The repository, the models, the versions and the limits.

    Attributes:
        accepted: The current rollout; None before the first.
        max_request_bytes: Size of the largest request. The first rollout sets it, and later models must fit into it.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._repository = Repository(config.repository, trusted_keys=config.trusted_keys)
        self._number = 0
        self._excluded: set[str] = set()
        self._cache = VersionCache(self._repository, check=self._check_size)
        self._label_refusals: dict[str, Refusal] = {}
        self._last_error = ""
        self._reported: frozenset[Refusal] = frozenset()
        self._pinned_names: tuple[str, ...] = ()
        self.accepted: Rollout | None = None
        self.max_request_bytes = 0

    def plan(self) -> Rollout | None:
        """Reads the repository. This blocks.

        Returns:
            The next rollout; None if nothing has changed or the repository can't be read.

        Raises:
            DigitsError: Nothing was accepted yet and nothing can be served; the message says why.
        """
        try:
            names = self._names_to_serve()
            found = [self._plan_model(name) for name in names if name not in self._excluded]
        except RepositoryError as error:
            if self.accepted is None:
                raise
            if str(error) != self._last_error:
                self._last_error = str(error)
                _logger.error("%s; the served versions stay the same", error)
            return None
        self._last_error = ""
        rollout = self._make_rollout(names, [model for model in found if model is not None])
        before = self.accepted
        for refusal in rollout.refusals:
            if refusal not in self._reported:
                _logger.error("not served: %s", refusal)
        self._reported = frozenset(rollout.refusals)
        if before is not None and replace(rollout, number=before.number) == before:
            return None
        return rollout

    def accept(self, rollout: Rollout) -> None:
        """Records that every worker serves this rollout now."""
        self.accepted = rollout
        self._cache.keep_only(rollout.models)

    def refuse(self, refusal: Refusal) -> None:
        """Records that a worker could not load a version."""
        self._cache.refuse(refusal)

    def exclude(self, name: str) -> None:
        """Leaves a model out of the next rollouts.

        Raises:
            ModelNotFound: It is not in the current one.
        """
        if self.accepted is None or name not in self.accepted.routes:
            raise ModelNotFound(f"no model {name[:128]!r} is served here")
        self._excluded.add(name)

    def include(self, name: str) -> None:
        """Takes a model into the next rollouts again.

        Raises:
            ModelNotFound: The repository has no model of that name.
        """
        if name not in self._names_to_serve():
            raise ModelNotFound(f"no model {name[:128]!r} is in the repository")
        self._excluded.discard(name)

    def check_served(self, name: str) -> None:
        """Checks that a model is part of the current rollout.

        Raises:
            ModelNotFound: None of its versions can be served.
        """
        if self.accepted is None or name not in self.accepted.routes:
            raise ModelNotFound(f"no version of {name[:128]!r} can be served; the server's log says why")

    def _names_to_serve(self) -> list[str]:
        """Returns the configured models that exist, or all models.

        Raises:
            RepositoryError: There are none.
            ModelNotFound: At the start, a configured model does not exist.
            InvalidConfig: A version is configured, but there are several models.
        """
        names, wanted = self._repository.names(), tuple(dict.fromkeys(self._config.models)) or self._pinned_names
        if self.accepted is None:
            for name in wanted:
                self._repository.choose(name)  # the error lists the models that exist
        chosen = [name for name in wanted if name in names] if wanted else names
        if not chosen:
            self._repository.choose()  # raises if there are no models at all
            raise RepositoryError(f"{self._config.repository}: no longer contains {', '.join(wanted)}")
        if self._config.model_version:
            if len(chosen) > 1:
                raise InvalidConfig(f"model_version: of which model? Name one of {', '.join(chosen)}")
            self._pinned_names = tuple(chosen)  # stays the same if other models appear, or if it is unloaded
        return chosen

    def _plan_model(self, name: str) -> tuple[str, Route, list[StoredModel]] | None:
        """Returns one model's part of the rollout; None if none of its versions can be served."""
        before = self.accepted.routes.get(name) if self.accepted else None
        try:
            versions = self._repository.versions(name)
        except RepositoryError as error:  # what is served of it stays, and other models may change
            self._label_refusals[name] = self._cache.make_refusal(name, 0, ModelRejected(str(error)))
            kept = [stored for stored in self.accepted.models if stored.name == name] if self.accepted else []
            return None if before is None else (name, before, kept)
        self._cache.forget_removed(name, versions)
        self._label_refusals.pop(name, None)
        try:
            route, extra = self._route(name, versions)
        except ModelRejected as error:
            self._label_refusals[name] = self._cache.make_refusal(name, 0, error)
            if before is None:
                return None
            route, extra = before, []
        wanted = [route.stable, *([route.canary] if route.canary else []), *extra]
        return name, route, [self._cache[name, version] for version in wanted]

    def _route(self, name: str, versions: Sequence[int]) -> tuple[Route, list[int]]:
        """Chooses versions by labels and options; leaves out a canary that can't be served.

        Returns:
            The route of calls that name no version, and the extra versions to load.

        Raises:
            ModelRejected: The labels are damaged, or no version can be served as stable.
        """
        pinned = self._config.model_version
        labels = Labels(stable=pinned) if pinned else self._repository.read_labels(name)
        canary = labels.canary
        if canary is not None:
            try:
                self._require_servable(name, canary.version, versions, f"{LABELS_FILE}: {CANARY}")
            except ModelRejected as error:
                self._label_refusals[name] = self._cache.make_refusal(name, 0, error)
                canary = None
        servable = self._servable(name, versions, without=labels.canary.version if labels.canary else 0)
        stable = labels.stable
        if stable is not None:
            self._require_servable(name, stable, versions, _PINNED if pinned else f"{LABELS_FILE}: {STABLE}")
        else:
            stable = next(servable, None)
            if stable is None:
                raise ModelRejected("none of its versions can be served")
        extra: list[int] = []
        while len(extra) < self._config.extra_versions and (version := next(servable, None)) is not None:
            if version != stable:
                extra.append(version)
        if canary is None:
            return Route(stable=stable), extra
        return Route(stable=stable, canary=canary.version, share=canary.share), extra

    def _require_servable(self, name: str, version: int, versions: Sequence[int], label: str) -> None:
        """Checks that a label points to a version that can be served.

        Raises:
            ModelRejected: It does not.
        """
        if version not in versions:
            raise ModelRejected(f"{label}: no version {version}; available: {', '.join(map(str, versions))}")
        if self._cache.try_load(name, version) is not None:  # which is reported by itself
            advice = (
                "choose another" if label == _PINNED else "move the label with digits-models, or restore the version"
            )
            raise ModelRejected(f"{label}: version {version} can't be served; {advice}")

    def _servable(self, name: str, versions: Sequence[int], *, without: int) -> Iterator[int]:
        """Yields the versions that can be served, newest first. Loads each one only when it is asked for."""
        others = (version for version in reversed(versions) if version != without)
        return (version for version in others if self._cache.try_load(name, version) is None)

    def _check_size(self, stored: StoredModel) -> None:
        image_bytes = stored.manifest.input.image_bytes
        if self.max_request_bytes and image_bytes > self.max_request_bytes - ENVELOPE_BYTES:
            raise ModelRejected(f"an image of {image_bytes} bytes does not fit into this server's messages")

    def _make_rollout(self, names: Sequence[str], found: Sequence[tuple[str, Route, list[StoredModel]]]) -> Rollout:
        models = [stored for _, _, several in found for stored in several]
        refused = *self._label_refusals.values(), *self._cache.refusals()
        refusals = tuple(refusal for refusal in refused if refusal.name in names)
        served = {name for name, _, _ in found}
        if self.accepted is None and (not models or any(name not in served for name in self._config.models)):
            raise ModelRejected(f"{self._config.repository}: {'; '.join(map(str, refusals))}")
        if not self.max_request_bytes:
            self.max_request_bytes = max_request_bytes(self._config, models)
        self._number += 1
        routes = {name: route for name, route, _ in found}
        default = next(iter(self._config.models), "")
        if not default and len(candidates := list(routes) or names) == 1:  # a model that is refused answers no calls
            default = candidates[0]
        return Rollout(
            number=self._number,
            default=default,
            models=tuple(models),
            routes=routes,
            refusals=refusals,
            max_request_bytes=self.max_request_bytes,
        )
