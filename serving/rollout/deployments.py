"""The deployments of one process: loads, routes to, and unloads model versions while calls are being answered."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from serving.config import ServerConfig
from serving.errors import ModelRejected, NotReady, ProviderUnavailable
from serving.inference.statistics import AnswerObserver, Counts
from serving.repository.labels import STABLE
from serving.repository.repository import StoredModel
from serving.rollout.deployment import Deployment
from serving.rollout.message_size import max_request_images
from serving.rollout.rollout import Refusal, Rollout
from serving.rollout.router import Router

_logger = logging.getLogger(__name__)

_Key = tuple[str, int, str]


class RolloutObserver(Protocol):
    """Observes what is served, such as metrics."""

    def answers_of(self, stored: StoredModel) -> AnswerObserver:
        """Makes the observer of one version's batches and answers."""

    def rolled_out(self, served: Sequence[Deployment], refusals: Sequence[Refusal]) -> None:
        """Called after a rollout with what is served now and what was refused."""


class Deployments:
    """The model versions that this process serves.

    A rollout has three steps. `prepare` loads what is new. Then the number of the current rollout changes, in all
    processes at once if they share it. Last, `release` unloads old versions once they have answered their calls.

    Args:
        config: How models are run.
        observer: Observes what is served.
        number: Returns the number of the current rollout.

    Attributes:
        loading: The versions still to be loaded for the next rollout.
    """

    def __init__(self, config: ServerConfig, observer: RolloutObserver, *, number: Callable[[], int]) -> None:
        self._config = config
        self._observer = observer
        self._number = number
        self._live: dict[_Key, Deployment] = {}
        self._routers: dict[int, Router] = {}
        self._retiring: dict[asyncio.Task[None], Deployment] = {}
        self._lingering: dict[tuple[str, int], Deployment] = {}
        self.loading: list[StoredModel] = []

    def __iter__(self) -> Iterator[Deployment]:
        """Iterates over the deployments of the current rollout."""
        router = self._routers.get(self._number())
        return iter(router if router else ())

    @property
    def ready(self) -> bool:
        """Whether there is a current rollout."""
        return self._number() in self._routers

    @property
    def rollout(self) -> Rollout:
        """The current rollout.

        Raises:
            NotReady: There is none yet.
        """
        return self._router().rollout

    @property
    def batch_age_s(self) -> float:
        """The longest time that an engine has been running its current batch, in seconds. Safe from any thread."""
        every = (*self._live.values(), *self._retiring.values())
        return max((deployment.batch_age_s for deployment in every), default=0.0)

    def device_error(self) -> str | None:
        """Returns why a GPU that runs a model can't be used any more, or None. Safe from any thread."""
        every = (*self._live.values(), *self._retiring.values())
        return next((error for deployment in every if (error := deployment.device_error())), None)

    def find(self, name: str = "", version: int = 0, label: str = "") -> Deployment:
        """Finds the deployment that answers a call.

        Args:
            name: Name of the model; empty for the default one.
            version: Its version; 0 for the stable version, or for the canary with the probability of its share.
            label: `stable` or `canary`, instead of a version.

        Raises:
            ModelNotFound: No such model or version is served here.
            InvalidRequest: The call names no model and there is no default, or names both a version and a label.
            NotReady: Nothing is served yet.
        """
        router = self._router()
        lingering = self._lingering.get((name or router.rollout.default, version)) if version and not label else None
        return router.find(name, version, label, lingering=lingering)

    def find_for_metadata(self, name: str = "", version: int = 0, label: str = "") -> Deployment:
        """Finds the deployment that a question about a model refers to: without a version, always the stable one.

        Raises:
            DigitsError: As for `find`.
        """
        return self.find(name, version, label if version or label else STABLE)

    async def prepare(self, rollout: Rollout) -> list[Refusal]:
        """Loads and warms the new versions of a rollout. Calls are not routed by it yet.

        Returns:
            The versions that can't be served. If there are any, the rollout can't become current.

        Raises:
            ProviderUnavailable: The requested provider can't run any model on this machine.
        """
        refusals = []
        self.loading = [stored for stored in rollout.models if _key(stored) not in self._live]
        try:
            while self.loading:
                stored = self.loading[0]
                try:
                    self._live[_key(stored)] = await self._start(rollout, stored)
                except ModelRejected as error:
                    refusals.append(_refusal(stored, error.message, error.detail))
                except ProviderUnavailable as error:
                    if not self._live:
                        raise
                    refusals.append(_refusal(stored, "the execution provider can't run it", str(error)))
                del self.loading[0]
        finally:
            self.loading = []
        if not refusals:
            deployments = [self._live[_key(stored)] for stored in rollout.models]
            self._routers[rollout.number] = Router(rollout, deployments)
        return refusals

    def release(self, number: int) -> None:
        """Unloads, after `linger_s`, what is not part of the current rollout, which has this number."""
        self._routers = {each: router for each, router in self._routers.items() if each == number}
        rollout = self._routers[number].rollout
        kept = {_key(stored) for stored in rollout.models}
        for key in self._live.keys() - kept:
            deployment = self._live.pop(key)
            self._lingering[key[:2]] = deployment
            task = asyncio.create_task(self._retire(deployment))
            self._retiring[task] = deployment
            task.add_done_callback(self._retiring.pop)
        self._observer.rolled_out(list(self._live.values()), rollout.refusals)

    async def counts(self) -> dict[tuple[str, int], Counts]:
        """Returns the counts of each served version, by model name and version."""
        return {(each.name, each.version): each.statistics.counts for each in self}

    async def drain(self, grace_s: float) -> bool:
        """Refuses new requests and answers those that were accepted.

        Args:
            grace_s: How long to wait for the answers, in seconds.

        Returns:
            Whether all of them were answered in time.
        """
        drained = await asyncio.gather(
            *(each.drain(grace_s) for each in (*self._live.values(), *self._retiring.values()))
        )
        return all(drained)

    def close(self) -> None:
        """Lets the threads of all deployments end."""
        for task in self._retiring:
            task.cancel()
        for deployment in (*self._live.values(), *self._retiring.values()):
            deployment.close()

    async def _start(self, rollout: Rollout, stored: StoredModel) -> Deployment:
        deployment = Deployment(
            stored,
            self._config.engine,
            self._config.batcher,
            self._config.decoder,
            max_request_images=max_request_images(self._config, rollout, stored),
            observer=self._observer.answers_of(stored),
        )
        try:
            await deployment.start()
        except BaseException:
            deployment.close()
            raise
        return deployment

    async def _retire(self, deployment: Deployment) -> None:
        which = deployment.name, deployment.version
        await asyncio.sleep(self._config.linger_s)
        if self._lingering.get(which) is deployment:
            del self._lingering[which]
        if not await deployment.drain(self._config.grace_s):
            _logger.error("%s version %d: calls were dropped", deployment.name, deployment.version)
        deployment.close()
        _logger.info("%s version %d is unloaded", deployment.name, deployment.version)
        del deployment
        gc.collect()  # frees the model's memory now: the engine and the batcher refer to each other

    def _router(self) -> Router:
        router = self._routers.get(self._number())
        if router is None:
            raise NotReady("the model is still loading")
        return router


def _key(stored: StoredModel) -> _Key:
    return stored.name, stored.version, stored.manifest.sha256


def _refusal(stored: StoredModel, reason: str, detail: str) -> Refusal:
    return Refusal(name=stored.name, version=stored.version, reason=reason, detail=detail)
