"""Scores through running servers: a few streams to each. When a server goes away, its batches go to the next one.

gRPC can retry a call, but not a request of a stream at another server, so these retries are ours.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import grpc

from serving.client.call_errors import CallFailed
from serving.client.credentials import Credentials
from serving.score.batch import Scores, ScoringModel, Uint8Array
from serving.score.classifier import Classifier
from serving.score.scorer import Scorer, ScoringStopped, VersionGone
from serving.score.stream import Stream

_TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """Which servers to use, and how.

    Attributes:
        targets: Addresses, `host:port`; all must serve the same model.
        credentials: TLS and token.
        model_name: The model to use; by default the servers' default model.
        model_version: The version to use; 0 for the version that is current when the run starts.
        mix_models: Whether requests name only a version that the user chose. Otherwise whichever version is current,
            or a canary, may answer.
        streams: Streams to each server, each with one request in flight. Two or three keep a server busy.
        retry_s: How long a batch is retried before the run stops, in seconds.
        probabilities: Whether to request the probability of every label.
    """

    targets: Sequence[str]
    credentials: Credentials
    model_name: str = ""
    model_version: int = 0
    mix_models: bool = False
    streams: int = 3
    retry_s: float = 120.0
    probabilities: bool = False

    def open_stream(self, target: str) -> Stream:
        """Opens a stream to one of the servers; it connects later."""
        return Stream(
            target,
            self.credentials,
            model_name=self.model_name,
            model_version=self.model_version,
            probabilities=self.probabilities,
        )

    def get_model(self, target: str) -> ScoringModel:
        """Asks one of the servers for the model.

        Raises:
            CallFailed: The server can't be reached or refused the call.
        """
        with closing(self.open_stream(target)) as stream:
            return stream.get_model()


class RemoteClassifier(Classifier):
    """One stream. When it fails, the next one goes to the next server.

    Args:
        config: Which servers to use, and how.
        model: The model that the run starts with.
        first: Index of the first server.
        stopping: Set when the run ends.
    """

    def __init__(self, config: RemoteConfig, model: ScoringModel, *, first: int, stopping: threading.Event) -> None:
        self.model = model
        self._config = config
        self._next = first
        self._stopping = stopping
        self._stream: Stream | None = None

    def infer(self, images: Uint8Array) -> Scores:
        """See `Classifier.infer`; retries with the next server, for up to `retry_s`."""
        pause_s, failing_since = _FIRST_PAUSE_S, None
        while True:
            target = self._config.targets[self._next % len(self._config.targets)]
            try:
                stream = self._stream = self._stream or self._config.open_stream(target)
                return stream.infer(images)
            except ValueError as error:
                raise ScoringStopped(f"{target}: {error}") from error
            except CallFailed as error:
                self.close()
                if error.code is grpc.StatusCode.NOT_FOUND:
                    raise self._version_gone(target, error) from error
                now = time.monotonic()
                failing_since = now if failing_since is None else failing_since
                if error.code not in _TRANSIENT or now - failing_since >= self._config.retry_s:
                    raise ScoringStopped(f"{target}: {error}") from error
                self._next += 1
            # Random, so that streams that failed together do not come back together.
            if self._stopping.wait(pause_s * random.uniform(0.5, 1)):  # noqa: S311
                raise ScoringStopped("stopped while waiting for a server")
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """Closes the stream; called from any thread."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _version_gone(self, target: str, error: CallFailed) -> ScoringStopped:
        """Makes the error for a version that is not served any more; it names the current version, if there is one."""
        try:
            model = replace(self._config, model_version=0).get_model(target)
        except CallFailed:
            return VersionGone(f"{target}: {error}")
        return VersionGone(
            f"{target}: {model} came up in place of version {self.model.version} ({self.model.sha256[:12]}…); --resume "
            "continues once that version is served again, --resume --mix-models continues with both"
        )


class RemoteScorer(Scorer):
    """Streams to servers, one for each thread.

    Args:
        config: Which servers to use, and how.

    Raises:
        ScoringStopped: A server can't be reached, or the servers serve different models.
    """

    def __init__(self, config: RemoteConfig) -> None:
        model = _get_model(config, config.targets[0])
        if not config.mix_models:
            config = replace(config, model_name=model.name, model_version=model.version)
        for target in config.targets[1:]:
            other = _get_model(config, target)
            if other.sha256 != model.sha256:
                raise ScoringStopped(f"{target} serves {other}, but {config.targets[0]} {model}")
        self._stopping = threading.Event()
        self._classifiers = [
            RemoteClassifier(config, model, first=number, stopping=self._stopping)
            for number in range(config.streams * len(config.targets))
        ]
        super().__init__(model, [classifier.classify for classifier in self._classifiers])

    def close(self) -> None:
        """See `Scorer.close`."""
        self._stopping.set()
        for classifier in self._classifiers:
            classifier.close()


def _get_model(config: RemoteConfig, target: str) -> ScoringModel:
    try:
        return config.get_model(target)
    except CallFailed as error:
        kind = VersionGone if error.code is grpc.StatusCode.NOT_FOUND else ScoringStopped
        raise kind(f"{target}: {error}") from error
