"""A deployment: one model version with its decoder, engine and batcher, started and stopped together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from serving.config import BatcherConfig, DecoderConfig, EngineConfig
from serving.errors import InvalidImage, NotReady
from serving.images.decoder_pool import DecoderPool
from serving.images.image_status import ImageStatus, statuses_of
from serving.images.preparation import Preparation, PreparedImage
from serving.inference.batcher import Batcher
from serving.inference.engine import Engine
from serving.inference.request import InferenceResult, QueuedRequest, ResultFuture
from serving.inference.statistics import AnswerObserver, Statistics
from serving.repository.engines import start_engine
from serving.repository.manifest import Manifest
from serving.repository.precision import FLOAT32, PrecisionFigures
from serving.repository.repository import StoredModel

_logger = logging.getLogger(__name__)

_DECODER = DecoderConfig()


class Deployment:
    """Answers requests with one version of one model, once it is started.

    Args:
        stored: The version, as read from the repository.
        engine_config: How the engine runs it.
        batcher_config: How requests are batched.
        decoder_config: How encoded images are decoded.
        max_request_images: The most images in one request; None for the most rows in a batch.
        observer: Observes every batch and answer.

    Attributes:
        statistics: What it has done so far.
        precision: `float32` or `int8`, once it is started.
    """

    def __init__(
        self,
        stored: StoredModel,
        engine_config: EngineConfig,
        batcher_config: BatcherConfig,
        decoder_config: DecoderConfig = _DECODER,
        *,
        max_request_images: int | None = None,
        observer: AnswerObserver | None = None,
    ) -> None:
        self.name = stored.name
        self.version = stored.version
        self.manifest: Manifest = stored.manifest
        self.max_request_images = max_request_images or batcher_config.max_batch_rows
        self.max_image_pixels = decoder_config.max_image_pixels
        self._threshold = stored.manifest.no_digit and stored.manifest.no_digit.threshold
        self._batcher_config = batcher_config
        self.statistics = Statistics(len(stored.manifest.labels), observer)
        spec = stored.manifest.input
        self._decoder = DecoderPool(
            Preparation(
                kind=spec.preparation,
                height=spec.height,
                width=spec.width,
                channels=spec.channels,
                max_pixels=decoder_config.max_image_pixels,
            ),
            decoder_config,
            rejected=self.statistics.rejected,
        )
        self._draining = False
        self._start_engine = partial(start_engine, stored, engine_config)
        self._engine: Engine | None = None
        self.precision = ""
        self._executor: ThreadPoolExecutor | None = None
        self._batcher: Batcher | None = None

    @property
    def provider(self) -> str:
        """The execution provider that runs the whole model."""
        if self._engine is None:
            raise NotReady("the model is still loading")
        return self._engine.provider

    @property
    def runs_on(self) -> str:
        """The same, with the precision unless it is float32."""
        return self.provider if self.precision == FLOAT32 else f"{self.provider} in {self.precision}"

    @property
    def precision_figures(self) -> PrecisionFigures | None:
        """The proof of its precision; None in float32, whose proof is that of parity."""
        described = self.manifest.precisions.get(self.precision)
        return next(iter(described.proven.values())) if described else None

    @property
    def max_wait_ms(self) -> float:
        """How long an idle engine waits for more requests, in milliseconds."""
        return self._batcher_config.max_wait_ms

    @property
    def queued_rows(self) -> int:
        """The number of images that wait for a batch."""
        return self._batcher.queued_rows if self._batcher else 0

    @property
    def batch_age_s(self) -> float:
        """How long the engine has been running its current batch, in seconds; 0 between batches."""
        return self._batcher.batch_age_s if self._batcher else 0.0

    def device_error(self) -> str | None:
        """Returns why the GPU that runs the model can't be used any more, or None. Safe from any thread."""
        return self._engine.device_error() if self._engine else None

    async def start(self) -> None:
        """Loads and warms the engine on the thread that will own it, then accepts requests.

        Raises:
            ModelRejected: The model can't be served.
            ProviderUnavailable: The requested provider can't run it on this machine.
        """
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        started = await asyncio.get_running_loop().run_in_executor(self._executor, self._start_engine)
        self._engine, self.precision = engine, _ = started
        if self.provider not in self.manifest.parity:
            _logger.warning(
                "%s version %d: parity was proven on %s, not on %s; digits-export --verify proves it here",
                self.name,
                self.version,
                ", ".join(self.manifest.parity),
                self.provider,
            )
        self._batcher = Batcher(
            partial(_infer, engine),
            self._executor,
            self._batcher_config,
            batch_rows=min(engine.batch_rows, self._batcher_config.max_batch_rows),
            inline_rows=int(self._batcher_config.inline_s / engine.row_s),
            observer=self.statistics,
        )
        self._batcher.start()
        self._decoder.start()

    async def drain(self, grace_s: float) -> bool:
        """Refuses new requests and answers those that were accepted.

        Args:
            grace_s: How long to wait for the answers, in seconds.

        Returns:
            Whether all of them were answered in time.
        """
        if self._batcher is None:
            return True
        self._draining = True
        closing = asyncio.create_task(self._end(self._batcher))
        # Even an idle batcher needs one turn of the event loop to end, so there is always a short timeout.
        done, _ = await asyncio.wait({closing}, timeout=max(grace_s, 0.1))
        return bool(done)

    def close(self) -> None:
        """Lets the threads end once they have finished their current batch and images."""
        self._decoder.close()
        executor, self._executor = self._executor, None
        if executor is not None:
            if self._engine is not None:
                executor.submit(self._engine.close)  # in the thread that started it
            executor.shutdown(wait=False)

    async def prepare(
        self, contents: Sequence[bytes], *, deadline: float | None = None
    ) -> list[PreparedImage | InvalidImage]:
        """Decodes and prepares encoded images; see `DecoderPool.decode` for the errors."""
        if self._draining:
            raise NotReady("not accepting requests")
        return await self._decoder.decode(contents, deadline=deadline)

    async def classify(
        self,
        images: npt.NDArray[np.uint8],
        *,
        deadline: float | None = None,
        prepared: Sequence[ImageStatus] | None = None,
    ) -> InferenceResult:
        """Classifies images; see `Batcher.submit` for the errors.

        Args:
            images: uint8 `[n, height, width, channels]`.
            deadline: When the caller stops waiting, by `time.monotonic`.
            prepared: If the images come from `prepare`, what it noticed about each. They are answered even if the
                deployment drains by now.
        """
        started = time.perf_counter()
        try:
            answer = await self._accepting(is_prepared=prepared is not None).submit(images, deadline=deadline)
        except BaseException:
            self.statistics.request_failed(time.perf_counter() - started)
            raise
        return self.completed(answer, time.perf_counter() - started, prepared)

    def enqueue(
        self, images: npt.NDArray[np.uint8], future: ResultFuture, *, deadline: float | None = None
    ) -> QueuedRequest:
        """Begins to classify raw images, without a task; see `Batcher.enqueue`.

        `completed` must follow with the result, or `statistics.request_failed`.
        """
        return self._accepting(is_prepared=False).enqueue(images, future, deadline=deadline)

    def drop(self, request: QueuedRequest) -> None:
        """Takes a request that nobody waits for out of the queue."""
        if self._batcher is not None:
            self._batcher.drop(request)

    def completed(
        self, answer: InferenceResult, seconds: float, prepared: Sequence[ImageStatus] | None = None
    ) -> InferenceResult:
        """Makes the answer of what the batcher returned after this time, and counts it."""
        self.statistics.request_succeeded(answer, seconds)
        rows, classes = answer.probabilities, len(self.manifest.labels)
        answer.probabilities, answer.logits = rows[:, :classes], rows[:, classes : 2 * classes]
        if self._threshold is not None:
            answer.no_digit = rows[:, -1]
        if prepared is not None or self._threshold is not None:
            answer.statuses = statuses_of(prepared, answer.no_digit, self._threshold or 0)
            if answer.statuses is not None:
                self.statistics.noticed(answer.statuses)
        return answer

    def _accepting(self, *, is_prepared: bool) -> Batcher:
        if self._batcher is None:
            raise NotReady("the model is still loading")
        if self._draining and not is_prepared:
            raise NotReady("not accepting requests")
        return self._batcher

    async def _end(self, batcher: Batcher) -> None:
        await self._decoder.until_idle()
        await batcher.aclose()


def _infer(engine: Engine, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Returns all outputs side by side, because the batcher splits one array of rows."""
    found = engine.infer(images)
    if found.no_digit is None:
        return np.concatenate((found.probabilities, found.logits), axis=1)
    return np.concatenate((found.probabilities, found.logits, found.no_digit[:, np.newaxis]), axis=1)
