"""The controller: brings every process from one rollout to the next, all of them at the same moment."""

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


class Member(Protocol):
    """A process that serves, or this one."""

    async def prepare(self, rollout: Rollout) -> list[Refusal]:
        """Loads and warms what is new; returns the versions that can't be served."""

    def release(self, number: int) -> None:
        """Lets go what the rollout of this number, which is served by now, does not have."""

    async def counts(self) -> Mapping[tuple[str, int], Counts]:
        """What it has counted, by name and version; nothing where it does not say."""


class RolloutController:
    """Plans rollouts and carries them out.

    First every member loads what is new, and goes on serving what it served. Only when all of them have, the number of
    the rollout changes, for all at once; so no caller sees a new version, then an old one. A version that one of them
    can't load is refused for all.

    Args:
        config: Repository, models and versions.
        members: Those that serve at the moment.
        switch: Makes every member route calls by the rollout of this number.

    Attributes:
        switching: Held for the moment in which the rollout changes. Who joins the members holds it too, and looks
            whether what it has loaded is still what they serve.
    """

    def __init__(
        self, config: ServerConfig, members: Callable[[], Iterable[Member]], switch: Callable[[int], None]
    ) -> None:
        self._planner = RolloutPlanner(config)
        self._watch_s = config.watch_s
        self._control = config.model_control
        self._members = members
        self._switch = switch
        self._updating = asyncio.Lock()
        self.switching = asyncio.Lock()

    @property
    def rollout(self) -> Rollout:
        """What is served.

        Raises:
            NotReady: Nothing is, yet.
        """
        if self._planner.accepted is None:
            raise NotReady("the model is still loading")
        return self._planner.accepted

    async def first(self) -> Rollout:
        """Reads the repository and plans, for those that have to know what comes.

        Raises:
            DigitsError: There is nothing to serve; says why.
        """
        rollout = await _aside(self._planner.plan)
        if rollout is None:
            raise NotReady("a rollout is served already")
        return rollout

    async def update(self) -> None:
        """Reads the repository again, and serves what is to be served now.

        Raises:
            DigitsError: Nothing is served yet, and nothing can be; says why.
        """
        async with self._updating:
            while (rollout := await _aside(self._planner.plan)) is not None:
                refusals = await self._carry_out(rollout)
                if not refusals:
                    break
                for refusal in refusals:
                    self._planner.refuse(refusal)
            if self._planner.accepted is not None:
                for member in self._members():
                    member.release(self._planner.accepted.number)

    async def counts(self) -> Mapping[tuple[str, int], Counts]:
        """What all members have counted, by name and version."""
        added: dict[tuple[str, int], Counts] = {}
        for counted in await asyncio.gather(*(member.counts() for member in self._members())):
            for which, counts in counted.items():
                added.setdefault(which, Counts()).include(counts)
        return added

    async def watch(self) -> None:
        """Looks at the repository from time to time, for as long as it is not cancelled."""
        while self._watch_s:
            await asyncio.sleep(self._watch_s)
            try:
                await self.update()
            except Exception:
                _logger.exception("the repository could not be looked at")

    async def load(self, name: str) -> None:
        """Reads the repository again, and serves a model even where it was unloaded.

        Raises:
            NotImplementedError: Clients may not do this.
            ModelNotFound: There is no such model, or none of its versions can be served.
        """
        self._check_control()
        async with self._updating:
            await _aside(self._planner.restore, name)
        await self.update()
        self._planner.check_served(name)

    async def unload(self, name: str) -> None:
        """Serves a model no more until it is loaded again.

        Raises:
            NotImplementedError: Clients may not do this.
            ModelNotFound: It is not served.
        """
        self._check_control()
        async with self._updating:
            self._planner.withdraw(name)
        await self.update()

    async def _carry_out(self, rollout: Rollout) -> Collection[Refusal]:
        """Prepares all members and switches; where one of them can't load a version, returns that."""
        ready: set[Member] = set()
        while True:
            # Without the lock: a member that hangs here must not keep others from being replaced.
            members = [member for member in self._members() if member not in ready]
            prepared = await asyncio.gather(*(member.prepare(rollout) for member in members))
            refusals = {(each.name, each.version): each for several in prepared for each in several}
            if refusals:
                return refusals.values()
            ready.update(members)
            async with self.switching:
                if not all(member in ready for member in self._members()):
                    continue  # somebody joined meanwhile
                self._switch(rollout.number)
                before = self._planner.accepted
                if before is not None and before.routes != rollout.routes:
                    _logger.info("serving %s from now on", rollout)
                self._planner.accept(rollout)
                return ()

    def _check_control(self) -> None:
        if not self._control:
            raise NotImplementedError(_NO_CONTROL)


async def _aside(read: Callable[..., T], *arguments: object) -> T:
    """Awaits something that reads a disk, in a thread that keeps no process from ending when the disk hangs."""
    outcome: Future[T] = Future()

    def run() -> None:
        outcome.set_running_or_notify_cancel()
        try:
            outcome.set_result(read(*arguments))
        except BaseException as error:  # noqa: BLE001 - whoever awaits it gets it
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(outcome)
