"""The deployments of a process: what answers for which model and version, exchanged while calls go on."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from serving.config import ServerConfig
from serving.errors import ModelRejected, NotReady, ProviderUnavailable
from serving.inference.batcher import BatchObserver
from serving.inference.statistics import Counts
from serving.repository.labels import STABLE
from serving.repository.repository import StoredModel
from serving.rollout.deployment import Deployment
from serving.rollout.planner import max_request_images
from serving.rollout.rollout import Refusal, Rollout
from serving.rollout.router import Router

_logger = logging.getLogger(__name__)

_Key = tuple[str, int, str]


class RolloutObserver(Protocol):
    """Is told what is served."""

    def batches_of(self, model: str, version: int) -> BatchObserver:
        """What is told of the batches of one version."""

    def rolled_out(self, served: Sequence[Deployment], refusals: Sequence[Refusal]) -> None:
        """These are served from now on, and those are not."""


class Deployments:
    """The versions that this process answers for, found by name and version.

    A rollout comes in three steps: `prepare` loads what is new, the number of the rollout changes (in all processes at
    the same moment, where they share it), and `release` lets go what is no longer served, once it has answered.

    Args:
        config: How models are run.
        observer: Is told what is served.
        number: The number of the rollout that calls are routed by.

    Attributes:
        loading: What is being loaded for the next rollout.
    """

    def __init__(self, config: ServerConfig, observer: RolloutObserver, *, number: Callable[[], int]) -> None:
        self._config = config
        self._observer = observer
        self._number = number
        self._live: dict[_Key, Deployment] = {}
        self._tables: dict[int, Router] = {}
        self._retiring: dict[asyncio.Task[None], Deployment] = {}
        self._lingering: dict[tuple[str, int], Deployment] = {}
        self.loading: list[StoredModel] = []

    def __iter__(self) -> Iterator[Deployment]:
        """All that calls can reach now."""
        table = self._tables.get(self._number())
        return iter(table if table else ())

    @property
    def ready(self) -> bool:
        """Whether there is something to answer with."""
        return self._number() in self._tables

    @property
    def rollout(self) -> Rollout:
        """What is served.

        Raises:
            NotReady: Nothing is, yet.
        """
        return self._table().rollout

    @property
    def batch_age_s(self) -> float:
        """The longest time that an engine has been in its present batch, in seconds. Safe to use from any thread."""
        every = (*self._live.values(), *self._retiring.values())
        return max((deployment.batch_age_s for deployment in every), default=0.0)

    def find(self, name: str = "", version: int = 0, label: str = "") -> Deployment:
        """Finds what answers a call.

        Args:
            name: Name of the model; empty for the default.
            version: Its version; 0 for the one that is stable, or for the canary in its share of the calls.
            label: `stable` or `canary`, in place of a version.

        Raises:
            ModelNotFound: No such model or version is served here.
            InvalidRequest: No model is named and there is no default; or a version and a label are.
            NotReady: Nothing is served yet.
        """
        table = self._table()
        deployment = self._lingering.get((name or table.default, version)) if version and not label else None
        return table.find(name, version, label, lingering=deployment)

    def described(self, name: str = "", version: int = 0, label: str = "") -> Deployment:
        """Finds what a question about a model is about: where no version is named, always the one that is stable.

        Raises:
            DigitsError: As for `find`.
        """
        return self.find(name, version, label if version or label else STABLE)

    async def prepare(self, rollout: Rollout) -> list[Refusal]:
        """Loads and warms what is new in a rollout. Calls are not routed by it yet.

        Returns:
            The versions that can't be served; then the rollout is of no use.

        Raises:
            ProviderUnavailable: The provider that was asked for runs nothing here.
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
            self._tables[rollout.number] = Router(rollout, deployments)
        return refusals

    def release(self, number: int) -> None:
        """Ends all deployments that the rollout of this number does not have, a while later."""
        self._tables = {each: table for each, table in self._tables.items() if each == number}
        rollout = self._tables[number].rollout
        kept = {_key(stored) for stored in rollout.models}
        for key in self._live.keys() - kept:
            deployment = self._live.pop(key)
            self._lingering[key[:2]] = deployment
            task = asyncio.create_task(self._retire(deployment))
            self._retiring[task] = deployment
            task.add_done_callback(self._retiring.pop)
        self._observer.rolled_out(list(self._live.values()), rollout.refusals)

    async def counts(self) -> dict[tuple[str, int], Counts]:
        """What was counted of each version that is served."""
        return {(each.name, each.version): each.statistics.counts for each in self}

    async def drain(self, grace_s: float) -> bool:
        """Refuses new requests from now on and answers those that were accepted.

        Returns:
            Whether all were answered within the grace period, in seconds.
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
            observer=self._observer.batches_of(stored.name, stored.version),
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
        _logger.info("%s version %d is not loaded any more", deployment.name, deployment.version)
        del deployment
        gc.collect()  # engine and batcher refer to each other, and a model's memory is not to wait for chance

    def _table(self) -> Router:
        table = self._tables.get(self._number())
        if table is None:
            raise NotReady("the model is still loading")
        return table


def _key(stored: StoredModel) -> _Key:
    return stored.name, stored.version, stored.manifest.sha256


def _refusal(stored: StoredModel, reason: str, detail: str) -> Refusal:
    return Refusal(name=stored.name, version=stored.version, reason=reason, detail=detail)
