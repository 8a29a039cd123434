"""Two workers with real deployments: neither changes version before both have loaded it, and then both do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from versions import publish

from serving.config import EngineConfig, ServerConfig
from serving.errors import NotReady, RepositoryError
from serving.repository.repository import Repository
from serving.rollout.controller import RolloutController
from serving.rollout.deployments import Deployments
from serving.rollout.rollout import Refusal, Rollout
from serving.server.process.shared_number import SharedNumber
from serving.server.telemetry.metrics import Metrics


class Gated(Deployments):
    """Loads new versions only while its gate is open."""

    def __init__(self, config: ServerConfig, number: SharedNumber) -> None:
        super().__init__(config, Metrics(registry=None), number=number.get)
        self.gate, self.waiting, self.prepared = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.refuses = 0

    async def prepare(self, rollout: Rollout) -> list[Refusal]:
        self.waiting.set()
        await self.gate.wait()
        refused = [stored for stored in rollout.models if stored.version == self.refuses]
        if refused:
            return [Refusal(name=stored.name, version=stored.version, reason="out of memory") for stored in refused]
        refusals = await super().prepare(rollout)
        self.prepared.set()
        return refusals


class Pair:
    """A fast worker and a slow one."""

    def __init__(self, root: Path) -> None:
        self.repository = Repository(root)
        publish(self.repository, 1)
        config = ServerConfig(repository=root, engine=EngineConfig(provider="cpu"))
        self.number = SharedNumber()
        self.fast, self.slow = Gated(config, self.number), Gated(config, self.number)
        self.controller = RolloutController(config, lambda: [self.fast, self.slow], self.number.set)

    def served(self) -> list[int]:
        return [worker.find().version for worker in (self.fast, self.slow)]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path / "models")
    yield made
    for worker in (made.fast, made.slow):
        await worker.drain(1)
        worker.close()
    made.number.close()


async def test_none_changes_before_all_have_loaded(pair: Pair) -> None:
    with pytest.raises(NotReady):
        pair.served()
    await pair.controller.update_from_repository()
    assert pair.served() == [1, 1]
    publish(pair.repository, 2)
    pair.slow.gate.clear()
    pair.slow.waiting.clear()
    pair.fast.prepared.clear()
    updating = asyncio.create_task(pair.controller.update_from_repository())
    await pair.slow.waiting.wait()
    await pair.fast.prepared.wait()
    assert pair.served() == [1, 1]
    pair.slow.gate.set()
    await updating
    assert pair.served() == [2, 2]


async def test_what_one_refuses_is_served_by_none(pair: Pair) -> None:
    await pair.controller.update_from_repository()
    publish(pair.repository, 2)
    pair.slow.refuses = 2
    await pair.controller.update_from_repository()
    assert pair.served() == [1, 1]
    (refusal,) = pair.controller.rollout.refusals
    assert (refusal.version, refusal.reason) == (2, "out of memory")
    assert [deployment.version for deployment in pair.fast] == [1]
    publish(pair.repository, 3)
    await pair.controller.update_from_repository()
    assert pair.served() == [3, 3]


async def test_an_empty_repository_is_an_error_only_at_the_start(pair: Pair, tmp_path: Path) -> None:
    elsewhere = pair.repository.root.rename(tmp_path / "elsewhere")
    with pytest.raises(RepositoryError):
        await pair.controller.update_from_repository()
    elsewhere.rename(pair.repository.root)
    await pair.controller.update_from_repository()
    pair.repository.root.rename(elsewhere)
    await pair.controller.update_from_repository()
    assert pair.served() == [1, 1]
