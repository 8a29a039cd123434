"""Scores through running servers: a few streams to each, tried again elsewhere when one goes away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import grpc

from serving.client.call_errors import CallFailed
from serving.client.credentials import Credentials
from serving.score.batch import Scores, ScoringModel, Uint8Array
from serving.score.scorer import PixelScorer, ScoringStopped, VersionGone
from serving.score.stream import Stream

# What passes by itself; anything else would fail again.
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,  # a version was unloaded within a batch, and none was chosen
}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0


@dataclass(frozen=True, kw_only=True)
class Remote:
    """Which servers, and how.

    Attributes:
        targets: Addresses, `host:port`; all must serve the same model.
        credentials: TLS and token.
        model_name: The model to use; the servers' default where empty.
        model_version: Its version; where 0 the one that is current when the scorer is made, also later.
        mix_models: Whether requests name no version that was not chosen, so that whichever is current answers, or is
            on trial.
        streams: Streams to each, each with one request on its way. Two or three keep a server busy.
        retry_s: How long a batch is tried again before the run stops, in seconds.
        probabilities: Whether to ask for the probability of every label.
    """

    targets: Sequence[str]
    credentials: Credentials
    model_name: str = ""
    model_version: int = 0
    mix_models: bool = False
    streams: int = 3
    retry_s: float = 120.0
    probabilities: bool = False


class RemoteScorer(PixelScorer):
    """Streams to servers, one for each thread that scores.

    Args:
        remote: Which servers, and how.

    Raises:
        ScoringStopped: A server can't be reached, or they serve different models.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self.parallel = remote.streams * len(remote.targets)
        self._stopping = threading.Event()
        self._thread = threading.local()
        self._lock = threading.Lock()
        self._streams: set[Stream] = set()
        self._turn = 0
        self.model = self._describe(remote.targets[0])
        if not remote.mix_models:
            self._remote = replace(remote, model_name=self.model.name, model_version=self.model.version)
        for target in remote.targets[1:]:
            model = self._describe(target)
            if model.sha256 != self.model.sha256:
                raise ScoringStopped(f"{target} serves {model}, but {remote.targets[0]} {self.model}")

    def infer(self, images: Uint8Array) -> Scores:
        """See `PixelScorer.infer`; tries again, with the next server, for as long as was asked."""
        pause_s, failing_since = _FIRST_PAUSE_S, None
        while True:
            target = self._target()
            stream = None
            try:
                stream = self._stream(target)
                return stream.infer(images)
            except CallFailed as error:
                if stream is not None:
                    self._end(stream)
                self._thread.stream = None
                if error.code is grpc.StatusCode.NOT_FOUND:
                    raise self._version_gone(target, error) from error
                now = time.monotonic()
                failing_since = now if failing_since is None else failing_since
                if error.code not in _PASSING or now - failing_since >= self._remote.retry_s:
                    raise ScoringStopped(f"{target}: {error}") from error
                self._thread.place += 1
            # Streams that failed together must not come back together.
            if self._stopping.wait(pause_s * random.uniform(0.5, 1)):  # noqa: S311
                raise ScoringStopped("stopped while a server was waited for")
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """See `Scorer.close`."""
        self._stopping.set()
        for stream in list(self._streams):
            self._end(stream)

    def _describe(self, target: str) -> ScoringModel:
        """What a server answers with."""
        try:
            stream = self._open(target)
        except CallFailed as error:
            kind = VersionGone if error.code is grpc.StatusCode.NOT_FOUND else ScoringStopped
            raise kind(f"{target}: {error}") from error
        self._end(stream)
        return stream.model

    def _version_gone(self, target: str, error: CallFailed) -> ScoringStopped:
        """What stops a run whose version a server has unloaded; names the one that it serves instead, if any."""
        try:
            stream = self._open(target, version=0)
        except CallFailed:
            return VersionGone(f"{target}: {error}")
        self._end(stream)
        return VersionGone(
            f"{target}: {stream.model} came up in place of version {self.model.version} ({self.model.sha256[:12]}…); "
            f"--resume goes on where that one is served, --resume --mix-models with both"
        )

    def _target(self) -> str:
        if not hasattr(self._thread, "place"):
            with self._lock:
                self._thread.place = self._turn
                self._turn += 1
            self._thread.stream = None
        place: int = self._thread.place
        return self._remote.targets[place % len(self._remote.targets)]

    def _stream(self, target: str) -> Stream:
        if self._thread.stream is None:
            self._thread.stream = self._open(target)
        stream: Stream = self._thread.stream
        return stream

    def _open(self, target: str, *, version: int | None = None) -> Stream:
        remote = self._remote
        stream = Stream(
            target,
            remote.credentials,
            model_name=remote.model_name,
            model_version=remote.model_version if version is None else version,
            probabilities=remote.probabilities,
        )
        with self._lock:
            self._streams.add(stream)
        return stream

    def _end(self, stream: Stream) -> None:
        with self._lock:
            self._streams.discard(stream)
        stream.close()
