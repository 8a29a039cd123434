"""The decoder: encoded images are decoded and prepared on threads of their own, off the event loop and within a bound.

A request's images go to the threads a few at a time, so that a single image never waits for a thousand.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from serving.config import DecoderConfig
from serving.errors import DeadlinePassed, InvalidImage, NotReady, QueueFull
from serving.images.preparation import Preparation, PreparedImage

# What a thread takes at a time: as many images, of as many bytes together unless it is one.
_PIECE_IMAGES = 16
_PIECE_BYTES = 128 * 1024


class DecoderPool:
    """Decodes and prepares images for one model.

    Args:
        preparation: What the model takes.
        config: Threads and bounds.
        rejected: Is told the reason of every refusal, `decoder_full` or `deadline`.
        clock: Seconds from any fixed moment; deadlines are given on this clock.
    """

    def __init__(
        self,
        preparation: Preparation,
        config: DecoderConfig,
        *,
        rejected: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._preparation = preparation
        self._config = config
        self._rejected = rejected
        self._clock = clock
        self._requests = 0
        self._images = 0
        self._bytes = 0
        self._seconds_per_byte = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._executor: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Begins to accept images; threads start as they are needed."""
        self._executor = ThreadPoolExecutor(max_workers=self._config.decoder_threads, thread_name_prefix="decoder")

    def close(self) -> None:
        """Lets the threads end after the images that they may be at."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    async def until_idle(self) -> None:
        """Returns once everything that was accepted is decoded."""
        await self._idle.wait()

    async def decode(
        self, contents: Sequence[bytes], *, deadline: float | None = None
    ) -> list[PreparedImage | InvalidImage]:
        """Decodes and prepares the images of one request. Cancelling it stops it after what its threads are at.

        Args:
            contents: The bytes of a file each.
            deadline: When the caller stops waiting, on the decoder's clock.

        Returns:
            For each image what became of it, in order.

        Raises:
            QueueFull: Others wait, and there is no room for all of these; nothing was queued.
            DeadlinePassed: The deadline passed before the last image was begun.
            NotReady: The decoder is not started or was closed.
        """
        count, size = len(contents), sum(map(len, contents))
        config = self._config
        if self._requests and (
            self._images + count > config.max_queue_images or self._bytes + size > config.max_queue_bytes
        ):
            self._rejected("decoder_full")
            raise QueueFull(
                f"{self._images} encoded images of {self._bytes} bytes wait already",
                retry_after_s=min(5.0, max(0.01, self._bytes * self._seconds_per_byte / config.decoder_threads / 2)),
            )
        self._requests += 1
        self._images += count
        self._bytes += size
        self._idle.clear()
        try:
            return await self._decode(contents, deadline)
        finally:
            self._requests -= 1
            self._images -= count
            self._bytes -= size
            if not self._requests:
                self._idle.set()

    async def _decode(self, contents: Sequence[bytes], deadline: float | None) -> list[PreparedImage | InvalidImage]:
        results: dict[int, list[PreparedImage | InvalidImage]] = {}
        pieces = _pieces(contents)

        async def work() -> None:
            for start, piece in pieces:
                if deadline is not None and self._clock() >= deadline:
                    self._rejected("deadline")
                    raise DeadlinePassed("the deadline passed while images were decoded")
                if self._executor is None:
                    raise NotReady("not accepting images")
                results[start] = await asyncio.get_running_loop().run_in_executor(
                    self._executor, self._decode_piece, piece
                )

        if len(contents) == 1:
            await work()
        else:
            workers = [asyncio.create_task(work()) for _ in range(self._config.decoder_threads)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
        return [result for start in sorted(results) for result in results[start]]

    def _decode_piece(self, piece: Sequence[bytes]) -> list[PreparedImage | InvalidImage]:
        """Runs on a thread."""
        began = self._clock()
        results: list[PreparedImage | InvalidImage] = []
        for content in piece:
            try:
                results.append(self._preparation.decode(content))
            except InvalidImage as error:
                results.append(error)
        each = (self._clock() - began) / (1 + sum(map(len, piece)))
        self._seconds_per_byte += (each - self._seconds_per_byte) / 8  # a guess, which another thread may overwrite
        return results


def _pieces(contents: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Pieces for a thread, each with the place of its first image."""
    start = size = 0
    for index, content in enumerate(contents):
        size += len(content)
        if index > start and (index - start == _PIECE_IMAGES or size > _PIECE_BYTES):
            yield start, contents[start:index]
            start, size = index, len(content)
    yield start, contents[start:]
