"""Planning: from what lies in the repository to the next rollout. Knows nothing of engines or processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from serving.config import ServerConfig
from serving.errors import InvalidConfig, ModelNotFound, ModelRejected, RepositoryError
from serving.repository.labels import CANARY, LABELS_FILE, STABLE, Labels
from serving.repository.repository import Repository, StoredModel
from serving.rollout.rollout import Refusal, Rollout, Route
from serving.rollout.version_cache import VersionCache

# Room in a message for everything but pixels: names, options, tags.
_ENVELOPE_BYTES = 64 * 1024
# Tag and length of each encoded image.
_FIELD_BYTES = 8
_LARGEST_MESSAGE = 2**31

_logger = logging.getLogger(__name__)


class RolloutPlanner:
    """Reads the repository again and again, and says what is to be served.

    A version that was accepted is served from memory for as long as it is part of the rollout, whatever becomes of its
    files. One that was refused is looked at again when its files change. What can't be read is no reason to serve less:
    then everything stays as it was.

    Args:
        config: Repository, models, versions and limits.

    Attributes:
        accepted: The rollout that is served; None before the first.
        max_request_bytes: Of the largest request, once the first rollout was planned; later models have to fit.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._repository = Repository(config.repository)
        self._number = 0
        self._withdrawn: set[str] = set()
        self._shelf = VersionCache(self._repository, check=self._check_size)
        self._labels: dict[str, Refusal] = {}
        self._trouble = ""
        self._pinned: tuple[str, ...] = ()
        self.accepted: Rollout | None = None
        self.max_request_bytes = 0

    def plan(self) -> Rollout | None:
        """Reads the repository; blocks.

        Returns:
            The next rollout; None where there is nothing new, or the repository can't be read.

        Raises:
            DigitsError: Nothing was accepted yet, and there is nothing that may be served; says why.
        """
        try:
            names = self._names()
            found = [self._plan_model(name) for name in names if name not in self._withdrawn]
        except RepositoryError as error:
            self._report(str(error))
            return None
        self._trouble = ""
        rollout = self._rollout(names, [model for model in found if model is not None])
        before = self.accepted
        known = frozenset(before.refusals) if before else ()
        for refusal in rollout.refusals:
            if refusal not in known:
                _logger.error("not served: %s", refusal)
        if before is not None and replace(rollout, number=before.number) == before:
            return None
        return rollout

    def accept(self, rollout: Rollout) -> None:
        """The rollout is what every process serves from now on."""
        self.accepted = rollout
        self._shelf.keep_only(rollout.models)

    def refuse(self, refusal: Refusal) -> None:
        """A version turned out not to be one that can be served, when it was loaded."""
        self._shelf.refuse(refusal)

    def withdraw(self, name: str) -> None:
        """Takes a model out of the rollouts to come.

        Raises:
            ModelNotFound: It is in none.
        """
        if self.accepted is None or name not in self.accepted.routes:
            raise ModelNotFound(f"no model {name[:128]!r} is served here")
        self._withdrawn.add(name)

    def restore(self, name: str) -> None:
        """Takes a model into the rollouts to come.

        Raises:
            ModelNotFound: There is none of that name.
        """
        if name not in self._names():
            raise ModelNotFound(f"no model {name[:128]!r} is in the repository")
        self._withdrawn.discard(name)

    def check_served(self, name: str) -> None:
        """Checks that a model is part of the rollout.

        Raises:
            ModelNotFound: None of its versions can be served.
        """
        if self.accepted is None or name not in self.accepted.routes:
            raise ModelNotFound(f"no version of {name[:128]!r} can be served; the server's log says why")

    def _report(self, trouble: str) -> None:
        if self.accepted is None:
            raise RepositoryError(trouble)
        if trouble != self._trouble:
            self._trouble = trouble
            _logger.error("%s; what is served stays as it is", trouble)

    def _names(self) -> list[str]:
        """The models to serve, as far as they are there.

        Raises:
            RepositoryError: There are none.
            ModelNotFound: At the start, one that was asked for is not there.
            InvalidConfig: A version was asked for, but not of which model.
        """
        names, wanted = self._repository.names(), tuple(dict.fromkeys(self._config.models)) or self._pinned
        if self.accepted is None:
            for name in wanted:
                self._repository.choose(name)  # says what there is instead
        chosen = [name for name in wanted if name in names] if wanted else names
        if not chosen:
            self._repository.choose()
            raise RepositoryError(f"{self._config.repository}: none of {', '.join(wanted)} is here any more")
        if self._config.model_version:
            if len(chosen) > 1:
                raise InvalidConfig(f"model_version: of which model? There are {', '.join(chosen)}")
            self._pinned = tuple(chosen)  # whatever else appears, and whether it is unloaded meanwhile
        return chosen

    def _plan_model(self, name: str) -> tuple[str, Route, list[StoredModel]] | None:
        """One model's part of the rollout; None where none of its versions can be served."""
        versions = self._repository.versions(name)
        self._shelf.forget_all_but(name, versions)
        self._labels.pop(name, None)
        before = self.accepted.routes.get(name) if self.accepted else None
        try:
            route, extra = self._route(name, versions)
        except ModelRejected as error:
            self._labels[name] = self._shelf.refusal(name, 0, error)
            if before is None:
                return None
            route, extra = before, []
        wanted = [route.stable, *([route.canary] if route.canary else []), *extra]
        return name, route, [self._shelf[name, version] for version in wanted]

    def _route(self, name: str, versions: Sequence[int]) -> tuple[Route, list[int]]:
        """Decides by labels and options; without a canary where that can't be served.

        Raises:
            ModelRejected: The labels are damaged, or no version can be served as stable.
        """
        pinned = self._config.model_version
        labels = Labels(stable=pinned) if pinned else self._repository.read_labels(name)
        canary = labels.canary
        if canary is not None:
            try:
                self._demand(name, canary.version, versions, f"{LABELS_FILE}: {CANARY}")
            except ModelRejected as error:
                self._labels[name] = self._shelf.refusal(name, 0, error)
                canary = None
        usable = self._usable(name, versions, but=labels.canary.version if labels.canary else 0)
        stable = labels.stable
        if stable is not None:
            self._demand(name, stable, versions, "--model-version" if pinned else f"{LABELS_FILE}: {STABLE}")
        else:
            stable = next(usable, None)
            if stable is None:
                raise ModelRejected("none of its versions can be served")
        extra: list[int] = []
        while len(extra) < self._config.extra_versions and (version := next(usable, None)) is not None:
            if version != stable:
                extra.append(version)
        if canary is None:
            return Route(stable=stable), extra
        return Route(stable=stable, canary=canary.version, share=canary.share), extra

    def _demand(self, name: str, version: int, versions: Sequence[int], label: str) -> None:
        """Checks that a label points to a version that may be served.

        Raises:
            ModelRejected: It does not.
        """
        if version not in versions:
            raise ModelRejected(f"{label}: no version {version}; there are {', '.join(map(str, versions))}")
        refusal = self._shelf.examine(name, version)
        if refusal is not None:
            raise ModelRejected(f"{label}: version {version}: {refusal.reason}", detail=refusal.detail)

    def _usable(self, name: str, versions: Sequence[int], *, but: int) -> Iterator[int]:
        """The versions that may be served, the newest first; looks at no more than are asked for."""
        others = (version for version in reversed(versions) if version != but)
        return (version for version in others if self._shelf.examine(name, version) is None)

    def _check_size(self, stored: StoredModel) -> None:
        image_bytes = stored.manifest.input.image_bytes
        if self.max_request_bytes and image_bytes > self.max_request_bytes - _ENVELOPE_BYTES:
            raise ModelRejected(
                f"an image of {image_bytes} bytes is more than the messages that this server was started for hold"
            )

    def _rollout(self, names: Sequence[str], found: Sequence[tuple[str, Route, list[StoredModel]]]) -> Rollout:
        models = [stored for _, _, several in found for stored in several]
        refusals = tuple(each for each in (*self._labels.values(), *self._shelf.refusals()) if each.name in names)
        served = {name for name, _, _ in found}
        if self.accepted is None and (not models or any(name not in served for name in self._config.models)):
            raise ModelRejected(f"{self._config.repository}: {'; '.join(map(str, refusals))}")
        if not self.max_request_bytes:
            self.max_request_bytes = _max_request_bytes(self._config, models)
        self._number += 1
        routes = {name: route for name, route, _ in found}
        default = self._config.models[0] if self._config.models else names[0] if len(names) == 1 else ""
        return Rollout(
            number=self._number,
            default=default,
            models=tuple(models),
            routes=routes,
            refusals=refusals,
            max_request_bytes=self.max_request_bytes,
        )


def max_request_images(config: ServerConfig, rollout: Rollout, stored: StoredModel) -> int:
    """Images that one request for a model may hold."""
    room = (rollout.max_request_bytes - _ENVELOPE_BYTES) // stored.manifest.input.image_bytes
    return max(1, min(config.batcher.max_batch_rows, room))


def _max_request_bytes(config: ServerConfig, models: Sequence[StoredModel]) -> int:
    rows = config.batcher.max_batch_rows
    image_bytes = max(stored.manifest.input.image_bytes for stored in models)
    largest = max(image_bytes * rows, config.decoder.max_encoded_bytes + _FIELD_BYTES * rows) + _ENVELOPE_BYTES
    if largest >= _LARGEST_MESSAGE:
        raise InvalidConfig(
            f"max_batch_rows: {rows} images of {image_bytes} bytes, or max_encoded_bytes: "
            f"{config.decoder.max_encoded_bytes}, are more than gRPC's largest message, 2 GiB"
        )
    return largest
