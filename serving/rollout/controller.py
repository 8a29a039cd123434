"""The rollout controller: loads new versions in every worker, then makes them current in all workers at once.

A version becomes current in `RolloutController._make_current`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import Protocol, TypeVar

from serving.config import ServerConfig
from serving.errors import NotReady
from serving.inference.statistics import Counts
from serving.rollout.planner import RolloutPlanner
from serving.rollout.rollout import Refusal, Rollout

_NO_CONTROL = "explicit model load / unload is not allowed: the server was started without --model-control"

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Worker(Protocol):
    """Something that serves a rollout: a worker process, or the deployments of this process."""

    async def prepare(self, rollout: Rollout) -> list[Refusal]:
        """Loads and warms the new versions of a rollout; returns those that can't be served."""

    def release(self, number: int) -> None:
        """Unloads every version that is not part of the current rollout, which has this number."""

    async def counts(self) -> Mapping[tuple[str, int], Counts]:
        """Returns its counts by model name and version; empty if it does not answer."""


class RolloutController:
    """Plans rollouts and carries them out.

    Every worker first loads what is new, while it still serves the current rollout. Once all have loaded it, the number
    of the current rollout changes, for all workers at once, so no caller gets a new version first and then an old one.
    If one worker can't load a version, all workers refuse it.

    Args:
        config: The repository, the models and the versions.
        workers: Returns the workers that serve at the moment.
        set_number: Sets the number of the current rollout, which all workers share.

    Attributes:
        switch_lock: Held while the current rollout changes. Hold it to add a worker too, and check that the worker has
            prepared the current rollout.
    """

    def __init__(
        self, config: ServerConfig, workers: Callable[[], Iterable[Worker]], set_number: Callable[[int], None]
    ) -> None:
        self._planner = RolloutPlanner(config)
        self._watch_s = config.watch_s
        self._control = config.model_control
        self._workers = workers
        self._set_number = set_number
        self._updating = asyncio.Lock()
        self.switch_lock = asyncio.Lock()

    @property
    def rollout(self) -> Rollout:
        """The current rollout.

        Raises:
            NotReady: There is none yet.
        """
        if self._planner.accepted is None:
            raise NotReady("the model is still loading")
        return self._planner.accepted

    async def plan_first(self) -> Rollout:
        """Plans the first rollout without loading it, for callers that need its limits early.

        Raises:
            DigitsError: Nothing can be served; the message says why.
        """
        rollout = await _in_daemon_thread(self._planner.plan)
        if rollout is None:
            raise NotReady("a rollout is already being served")
        return rollout

    async def update_from_repository(self) -> None:
        """Reads the repository again and rolls out what has changed.

        Raises:
            DigitsError: Nothing is served yet and nothing can be; the message says why.
        """
        async with self._updating:
            while (rollout := await _in_daemon_thread(self._planner.plan)) is not None:
                refusals = await self._roll_out(rollout)
                if not refusals:
                    break
                for refusal in refusals:
                    self._planner.refuse(refusal)
            if self._planner.accepted is not None:
                for worker in self._workers():
                    worker.release(self._planner.accepted.number)

    async def poll_repository(self) -> None:
        """Updates from the repository at every watch interval, until it is cancelled. Without an interval, it ends."""
        while self._watch_s:
            await asyncio.sleep(self._watch_s)
            try:
                await self.update_from_repository()
            except Exception:
                _logger.exception("the repository could not be read")

    async def counts(self) -> Mapping[tuple[str, int], Counts]:
        """Returns the sum of all workers' counts, by model name and version."""
        total: dict[tuple[str, int], Counts] = {}
        for counted in await asyncio.gather(*(worker.counts() for worker in self._workers())):
            for key, counts in counted.items():
                total.setdefault(key, Counts()).include(counts)
        return total

    async def load(self, name: str) -> None:
        """Reads the repository again and serves a model, even if it was unloaded before.

        Raises:
            NotImplementedError: The server does not let clients load models.
            ModelNotFound: There is no such model, or none of its versions can be served.
        """
        self._check_control()
        async with self._updating:
            await _in_daemon_thread(self._planner.include, name)
        await self.update_from_repository()
        self._planner.check_served(name)

    async def unload(self, name: str) -> None:
        """Stops serving a model until it is loaded again.

        Raises:
            NotImplementedError: The server does not let clients unload models.
            ModelNotFound: It is not served.
        """
        self._check_control()
        async with self._updating:
            self._planner.exclude(name)
        await self.update_from_repository()

    async def _roll_out(self, rollout: Rollout) -> Collection[Refusal]:
        """Prepares all workers, then makes the rollout current, unless it returns versions that a worker refused."""
        prepared: set[Worker] = set()
        while True:
            # Not under the lock: a worker that hangs here must not keep others from being replaced.
            workers = [worker for worker in self._workers() if worker not in prepared]
            answers = await asyncio.gather(*(worker.prepare(rollout) for worker in workers))
            refusals = {(refusal.name, refusal.version): refusal for answer in answers for refusal in answer}
            if refusals:
                return refusals.values()
            prepared.update(workers)
            async with self.switch_lock:
                if all(worker in prepared for worker in self._workers()):  # else one was added in the meantime
                    self._make_current(rollout)
                    return ()

    def _make_current(self, rollout: Rollout) -> None:
        """Makes the versions of a rollout current: from here on, every worker routes its calls by the new number."""
        self._set_number(rollout.number)
        before = self._planner.accepted
        if before is not None and before.routes != rollout.routes:
            _logger.info("serving %s from now on", rollout)
        self._planner.accept(rollout)

    def _check_control(self) -> None:
        if not self._control:
            raise NotImplementedError(_NO_CONTROL)


async def _in_daemon_thread(function: Callable[..., T], *arguments: object) -> T:
    """Runs a function that reads the disk. If the disk hangs, a daemon thread does not keep the process from ending."""
    outcome: Future[T] = Future()

    def run() -> None:
        outcome.set_running_or_notify_cancel()
        try:
            outcome.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - the awaiting task raises it
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(outcome)
