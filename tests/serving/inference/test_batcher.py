"""The batcher: each request gets its own rows, and no request can harm another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.config import BatcherConfig
from serving.errors import DeadlinePassed, InferenceFailed, InvalidRequest, NotReady, QueueFull
from serving.inference.batcher import Batcher, BatchObserver


class Gate:
    """A fake engine that returns the first pixel of each image and records its batches. While held, it waits."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = threading.Semaphore(0)
        self.fails = False
        self._held = False
        self._permits = threading.Semaphore(0)

    def hold(self) -> None:
        self._held = True

    def pass_one(self) -> None:
        """Lets one held batch finish; the next is held again."""
        self._permits.release()

    def open(self) -> None:
        self._held = False
        self._permits.release(1000)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(images[:, 0, 0, 0].tolist())
        self.began.release()
        if self._held:
            assert self._permits.acquire(timeout=10)
        if self.fails:
            raise ValueError("the engine broke")
        return images[:, 0, 0, :].astype(np.float32)


def _images(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


@pytest.fixture
def gate() -> Gate:
    return Gate()


Make = Callable[..., Batcher]


@pytest_asyncio.fixture
async def make(gate: Gate) -> AsyncIterator[Make]:
    """Makes and starts batchers that run on the gate, and closes them after the test."""
    executor, made = ThreadPoolExecutor(1), []

    def start(infer: Callable | None = None, options: dict | None = None, **config: object) -> Batcher:
        batcher = Batcher(infer or gate, executor, BatcherConfig(**config), **(options or {}))
        batcher.start()
        made.append(batcher)
        return batcher

    yield start
    gate.open()
    for batcher in made:
        await asyncio.wait_for(batcher.aclose(), 10)
    executor.shutdown()


async def _busy(batcher: Batcher, gate: Gate) -> asyncio.Task:
    """Keeps the engine busy with one request until the gate opens."""
    gate.hold()
    task = asyncio.create_task(batcher.submit(_images(255)))
    assert await asyncio.to_thread(gate.began.acquire, timeout=10)
    return task


async def _queued(batcher: Batcher, *requests: np.ndarray, **options: object) -> list[asyncio.Task]:
    """Submits requests in order, so that all are queued when it returns."""
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(batcher.submit(request, **options)))
        await asyncio.sleep(0)
    return tasks


async def test_requests_that_queue_while_the_engine_is_busy_share_a_batch(make: Make, gate: Gate) -> None:
    batcher = make()
    first = await _busy(batcher, gate)
    waiting = await _queued(batcher, _images(1, 2), _images(3), _images(4, 5, 6))
    assert batcher.queued_rows == 6
    gate.open()
    answers = await asyncio.gather(first, *waiting)
    assert gate.batches == [[255], [1, 2, 3, 4, 5, 6]]
    assert [answer.probabilities[:, 0].tolist() for answer in answers] == [[255], [1, 2], [3], [4, 5, 6]]


async def test_a_large_request_runs_in_chunks_and_lets_small_ones_pass(make: Make, gate: Gate) -> None:
    batcher = make(options={"batch_rows": 4})
    first = await _busy(batcher, gate)
    waiting = await _queued(batcher, _images(*range(1, 11)), _images(20), _images(30, 31))
    gate.open()
    answers = await asyncio.gather(first, *waiting)
    assert gate.batches == [[255], [1, 2, 3, 4], [20, 30, 31, 5], [6, 7, 8, 9], [10]]
    assert [answer.probabilities[:, 0].tolist() for answer in answers[1:]] == [[*range(1, 11)], [20], [30, 31]]
    assert batcher.queued_rows == 0


@pytest.mark.parametrize("reason", ["cancelled", "late", "failed"])
async def test_the_rest_of_a_large_request_does_not_run_after_it_has_ended(make: Make, gate: Gate, reason: str) -> None:
    now = 100.0
    batcher = make(options={"batch_rows": 4, "clock": lambda: now})
    first = await _busy(batcher, gate)
    large, small = await _queued(batcher, _images(*range(1, 11))) + await _queued(batcher, _images(20))
    (large_in_time,) = await _queued(batcher, _images(*range(30, 35)), deadline=101.0)
    gate.pass_one()
    await first
    assert await asyncio.to_thread(gate.began.acquire, timeout=10)
    if reason == "cancelled":
        large.cancel()
        await asyncio.wait({large})
    if reason == "late":
        now = 102.0
    if reason == "failed":
        gate.fails = True
        gate.pass_one()
        assert await asyncio.to_thread(gate.began.acquire, timeout=10)
        gate.fails = False
    gate.open()
    results = await asyncio.wait_for(asyncio.gather(large, small, large_in_time, return_exceptions=True), 10)
    late, cancelled, failed = DeadlinePassed, asyncio.CancelledError, InferenceFailed
    ended = {"cancelled": (cancelled, None, None), "late": (None, None, late), "failed": (failed, None, None)}[reason]
    for result, error in zip(results, ended, strict=True):
        assert isinstance(result, error) if error else len(result.probabilities)
    if reason != "late":
        assert not {5, 6, 7, 8, 9, 10} & {value for batch in gate.batches for value in batch}
    assert batcher.queued_rows == 0


@pytest.mark.parametrize("late", [False, True])
async def test_queue_space_is_returned_only_once(make: Make, gate: Gate, late: bool) -> None:
    """The dispatcher drops the cancelled request before its caller does."""
    now = 100.0
    batcher = make(options={"clock": lambda: now})
    first = await _busy(batcher, gate)
    (gone,) = await _queued(batcher, _images(1, 2, 3), deadline=101.0)
    now = 102.0 if late else 100.0
    gone.cancel()
    assert batcher._take_batch() == []
    await asyncio.wait({gone})
    assert batcher.queued_rows == 0
    gate.open()
    await first


async def test_small_batches_run_on_the_event_loop_and_large_ones_on_the_thread(make: Make) -> None:
    threads = []

    def infer(images: np.ndarray) -> np.ndarray:
        threads.append(threading.current_thread())
        return images[:, 0, 0, :].astype(np.float32)

    batcher = make(infer, options={"inline_rows": 2, "batch_rows": 2})
    answer = await batcher.submit(_images(7, 8))
    assert answer.probabilities[:, 0].tolist() == [7, 8]
    assert threads == [threading.main_thread()]
    await asyncio.gather(
        batcher.submit(_images(1, 2)), batcher.submit(_images(3))
    )  # the second request waits while the first runs
    assert [thread is threading.main_thread() for thread in threads] == [True, False, True]
    batcher = make(infer, options={"inline_rows": 2})
    await batcher.submit(_images(1, 2, 3))
    assert threads[-1] is not threading.main_thread()


async def test_the_batcher_survives_a_failed_batch_on_the_event_loop(make: Make, gate: Gate) -> None:
    batcher = make(options={"inline_rows": 2})
    gate.fails = True
    with pytest.raises(InferenceFailed):
        await batcher.submit(_images(1))
    gate.fails = False
    assert (await batcher.submit(_images(2))).probabilities[:, 0].tolist() == [2]


async def test_a_deadline_that_can_not_be_met_is_refused_at_once(make: Make, gate: Gate) -> None:
    now = 100.0

    def slow(images: np.ndarray) -> np.ndarray:
        nonlocal now
        now += len(images)  # one second per image
        return gate(images)

    batcher = make(infer=slow, options={"batch_rows": 4, "clock": lambda: now})
    for _ in range(40):  # until it has learned the time per image
        await batcher.submit(_images(1, 2, 3, 4))
    with pytest.raises(DeadlinePassed, match="too long to meet"):
        await batcher.submit(_images(1, 2, 3, 4), deadline=now + 2)
    assert len((await batcher.submit(_images(1, 2), deadline=now + 3)).probabilities) == 2
    assert batcher.queued_rows == 0


async def test_every_batch_is_observed(make: Make, gate: Gate) -> None:
    class Observer(BatchObserver):
        seen: ClassVar[list] = []

        def queue_changed(self, rows: int) -> None:
            self.seen.append(rows)

        def batch_ended(self, results: np.ndarray, inference_s: float, queue_s: Sequence[float]) -> None:
            self.seen.append((len(results), inference_s, list(queue_s)))

        def rejected(self, reason: str) -> None:
            self.seen.append(reason)

    now = 100.0
    batcher = make(options={"batch_rows": 4, "observer": Observer(), "clock": lambda: now}, max_queue_rows=1024)
    first = await _busy(batcher, gate)
    waiting = await _queued(batcher, _images(*range(1, 7)), _images(9))
    (late,) = await _queued(batcher, _images(10), deadline=101.0)
    with pytest.raises(QueueFull):
        await batcher.submit(_images(*[0] * 1020))
    now = 105.0
    assert batcher.batch_age_s == 5.0
    gate.open()
    await asyncio.gather(first, *waiting)
    await asyncio.wait({late})
    assert Observer.seen == [
        *(0, "queue_full", (1, 5.0, [0.0])),
        *(4, 2, "deadline", 0),  # the second batch was full, so it was handed over with the first
        *((4, 0.0, [5.0]), (3, 0.0, [5.0])),
    ]
    assert batcher.batch_age_s == 0.0


async def test_the_engine_does_not_wait_for_the_event_loop_between_full_batches(make: Make, gate: Gate) -> None:
    batcher = make(options={"batch_rows": 2})
    gate.hold()
    large = asyncio.create_task(batcher.submit(_images(*range(8))))
    assert await asyncio.to_thread(gate.began.acquire, timeout=10)
    gate.open()
    assert gate.began.acquire(timeout=10)  # on the loop, which therefore can't hand anything over now
    assert (await large).probabilities[:, 0].tolist() == [*range(8)]
    assert gate.batches == [[0, 1], [2, 3], [4, 5], [6, 7]]


async def test_a_small_request_waits_for_no_second_batch_where_batches_are_slow(make: Make, gate: Gate) -> None:
    now, slow = [0.0], 1.0

    def infer(images: np.ndarray) -> np.ndarray:
        now[0] += slow
        return gate(images)

    batcher = make(infer, {"batch_rows": 2, "clock": lambda: now[0]})
    await batcher.submit(_images(100, 101))  # now it knows how long a batch takes
    gate.batches.clear()
    gate.hold()
    large = asyncio.create_task(batcher.submit(_images(*range(6))))
    assert await asyncio.to_thread(gate.began.acquire, timeout=10)
    assert await asyncio.to_thread(gate.began.acquire, timeout=10)
    (small,) = await _queued(batcher, _images(200))
    gate.open()
    await asyncio.gather(large, small)
    assert gate.batches == [[0, 1], [2, 3], [200, 4], [5]]


async def test_what_was_handed_over_ahead_may_fail_or_be_cancelled(make: Make, gate: Gate) -> None:
    batcher = make(options={"batch_rows": 2})
    gate.hold()
    first, second = await _queued(batcher, _images(1, 2, 3, 4), _images(5, 6))
    assert await asyncio.to_thread(gate.began.acquire, timeout=10)
    first.cancel()
    await asyncio.wait({first})
    gate.fails = True
    gate.open()
    with pytest.raises(InferenceFailed):
        await second
    assert batcher.queued_rows == 0
    gate.fails = False
    assert (await batcher.submit(_images(7))).probabilities[:, 0].tolist() == [7]


async def test_a_full_queue_refuses_at_once_and_has_room_again_later(make: Make, gate: Gate) -> None:
    batcher = make(max_batch_rows=4, max_queue_rows=4)
    first = await _busy(batcher, gate)
    waiting = await _queued(batcher, _images(1, 2, 3))
    with pytest.raises(QueueFull) as refused:
        await batcher.submit(_images(4, 5))
    assert refused.value.retry_after_s > 0
    waiting += await _queued(batcher, _images(6))
    gate.open()
    await asyncio.gather(first, *waiting)
    assert (await batcher.submit(_images(7))).probabilities.tolist() == [[7]]
    assert batcher.queued_rows == 0


@pytest.mark.parametrize("moment", ["queued", "running"])
async def test_a_cancelled_caller_hurts_no_neighbour(make: Make, gate: Gate, moment: str) -> None:
    batcher = make()
    first = await _busy(batcher, gate)
    waiting = await _queued(batcher, _images(1), _images(2, 3), _images(4))
    if moment == "running":
        gate.pass_one()
        await first
        assert await asyncio.to_thread(gate.began.acquire, timeout=10)
    waiting[1].cancel()
    await asyncio.wait({waiting[1]}, timeout=10)
    gate.open()
    answers = await asyncio.wait_for(asyncio.gather(waiting[0], waiting[2]), 10)
    assert [answer.probabilities.tolist() for answer in answers] == [[[1]], [[4]]]
    assert gate.batches[1] == ([1, 4] if moment == "queued" else [1, 2, 3, 4])
    assert waiting[1].cancelled()
    assert batcher.queued_rows == 0


async def test_an_expired_request_is_dropped_before_the_engine(make: Make, gate: Gate) -> None:
    now = 100.0
    batcher = make(options={"clock": lambda: now})
    first = await _busy(batcher, gate)
    (late,) = await _queued(batcher, _images(1), deadline=101.0)
    (in_time,) = await _queued(batcher, _images(2), deadline=103.0)
    now = 102.0
    gate.open()
    await first
    with pytest.raises(DeadlinePassed):
        await late
    assert (await in_time).queue_s == 2.0
    assert gate.batches == [[255], [2]]


async def test_a_failed_batch_fails_only_its_own_requests(make: Make, gate: Gate) -> None:
    batcher = make()
    gate.fails = True
    results = await asyncio.gather(batcher.submit(_images(1)), batcher.submit(_images(2)), return_exceptions=True)
    assert [type(result) for result in results] == [InferenceFailed, InferenceFailed]
    gate.fails = False
    assert (await batcher.submit(_images(3))).probabilities.tolist() == [[3]]


async def test_a_result_with_too_few_rows_is_an_error(make: Make) -> None:
    batcher = make(infer=lambda images: np.zeros((len(images) - 1, 1), np.float32))
    with pytest.raises(InferenceFailed, match=r"2 images gave a result of shape \[1, 1\]"):
        await batcher.submit(_images(1, 2))


async def test_closing_answers_what_was_accepted_and_refuses_the_rest(make: Make, gate: Gate) -> None:
    batcher = make()
    first = await _busy(batcher, gate)
    waiting = await _queued(batcher, _images(1), _images(2))
    closing = asyncio.create_task(batcher.aclose())
    await asyncio.sleep(0)
    with pytest.raises(NotReady):
        await batcher.submit(_images(3))
    gate.open()
    await asyncio.wait_for(closing, 10)
    answers = await asyncio.gather(first, *waiting)
    assert [answer.probabilities.tolist() for answer in answers] == [[[255]], [[1]], [[2]]]


async def test_an_oversized_request_is_refused(make: Make) -> None:
    with pytest.raises(InvalidRequest, match="3 images, but at most 2"):
        await make(max_batch_rows=2).submit(_images(1, 2, 3))


async def test_an_idle_engine_waits_for_more_only_if_configured(make: Make, gate: Gate) -> None:
    """The maximum wait is longer than the test's timeout, so only a full batch can start the engine."""
    batcher = make(max_batch_rows=3, max_wait_ms=60_000)
    waiting = await _queued(batcher, _images(1), _images(2))
    assert gate.batches == []
    waiting += await _queued(batcher, _images(3))
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert gate.batches == [[1, 2, 3]]


async def test_a_deadline_shortens_the_wait_for_more(make: Make, gate: Gate) -> None:
    batcher = make(max_wait_ms=60_000)
    answer = await asyncio.wait_for(batcher.submit(_images(1), deadline=time.monotonic() + 1), 10)
    assert answer.probabilities.tolist() == [[1]]


async def test_a_cancelled_request_returns_its_queue_space_at_once(make: Make, gate: Gate) -> None:
    batcher = make(max_batch_rows=4, max_queue_rows=4)
    first = await _busy(batcher, gate)
    (gone,) = await _queued(batcher, _images(1, 2, 3, 4))
    gone.cancel()
    await asyncio.wait({gone})
    assert batcher.queued_rows == 0
    (later,) = await _queued(batcher, _images(5, 6))
    gate.open()
    await first
    assert (await later).probabilities.tolist() == [[5], [6]]


async def test_a_batch_that_can_not_be_assembled_fails_only_its_own_requests(make: Make, gate: Gate) -> None:
    """Images of two sizes. Callers check the sizes, but the dispatcher must survive any failure."""
    batcher = make()
    first = await _busy(batcher, gate)
    odd = await _queued(batcher, _images(1), np.zeros((1, 2, 2, 1), np.uint8))
    gate.open()
    await first
    results = await asyncio.wait_for(asyncio.gather(*odd, return_exceptions=True), 10)
    assert [type(result) for result in results] == [InferenceFailed, InferenceFailed]
    assert (await asyncio.wait_for(batcher.submit(_images(2)), 10)).probabilities.tolist() == [[2]]


async def test_requests_fail_when_the_dispatcher_stops(make: Make, gate: Gate) -> None:
    batcher = make()
    await _busy(batcher, gate)
    (waiting,) = await _queued(batcher, _images(1))
    batcher._dispatcher.cancel()
    with pytest.raises(InferenceFailed, match="dispatcher"):
        await asyncio.wait_for(waiting, 10)
    with pytest.raises(NotReady):
        await batcher.submit(_images(2))
    batcher._dispatcher = None


async def test_the_wait_for_more_ends(make: Make, gate: Gate) -> None:
    batcher = make(max_wait_ms=20)
    await asyncio.wait_for(batcher.submit(_images(1)), 10)
    assert gate.batches == [[1]]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 16), min_size=1, max_size=40),
    cancelled=st.sets(st.integers(0, 39)),
    batch_rows=st.integers(1, 16),
    inline_rows=st.integers(0, 16),
)
def test_every_request_gets_exactly_its_own_rows(
    sizes: list[int], cancelled: set[int], batch_rows: int, inline_rows: int
) -> None:
    """Requests of random sizes with recognisable contents, some cancelled while queued."""

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            config = BatcherConfig(max_batch_rows=16, max_queue_rows=1000)
            infer = lambda images: images[:, 0, 0, :].astype(np.float32)  # noqa: E731
            batcher = Batcher(infer, executor, config, batch_rows=batch_rows, inline_rows=inline_rows)
            batcher.start()
            starts = np.cumsum([0, *sizes[:-1]])
            contents = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
            images = [np.stack([c // 256, c % 256], axis=1).astype(np.uint8).reshape(-1, 1, 1, 2) for c in contents]
            tasks = [asyncio.create_task(batcher.submit(image)) for image in images]
            await asyncio.sleep(0)
            for index in cancelled & set(range(len(tasks))):
                tasks[index].cancel()
            done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
            for index, (answer, content) in enumerate(zip(done, contents, strict=True)):
                if not isinstance(answer, asyncio.CancelledError):
                    assert (answer.probabilities @ [256, 1]).tolist() == content.tolist()
                else:
                    assert index in cancelled
            await batcher.aclose()

    asyncio.run(run())
