"""Everything that can go wrong in the core, each error with the moment at which it is raised.

The core knows no transport: `serving.server.services.status` maps these to gRPC status codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class DigitsError(Exception):
    """Base of all errors that carry a message meant for people."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One thing that is wrong with a request: which field, and what about it."""

    field: str
    description: str


class InvalidRequest(DigitsError):
    """A request that can never succeed as it stands. Raised while it is decoded, before it is queued."""

    def __init__(self, *violations: Violation) -> None:
        self.violations: Sequence[Violation] = violations
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequest:
        """The common case of a single violation."""
        return cls(Violation(field=field, description=description))


class InvalidImage(DigitsError):
    """A file that is no readable image or has the wrong size. Raised while it is decoded."""


class ModelNotFound(DigitsError):
    """The named model or version is not served, or not in the repository."""


class QueueFull(DigitsError):
    """Admitting the request would exceed the bound of the queue. Raised at once, never after waiting."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class TooManyCalls(DigitsError):
    """As many calls are running as may run at a time. Raised at once, before the request is decoded."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Unauthenticated(DigitsError):
    """The call carries no token, or none that is known. Raised before the request is decoded."""

    def __init__(self) -> None:
        super().__init__("the call carries no valid credentials")  # and not what is wrong with them


class DeadlinePassed(DigitsError):
    """The caller's deadline, or the request's own, passed before it was answered."""


class NotReady(DigitsError):
    """The server is starting or stopping. Another server, or this one in a moment, can answer."""


class ModelRejected(DigitsError):
    """A model file or manifest that may not be served: damaged, unproven, or not what its manifest says.

    Args:
        message: What is wrong, in words that clients may read too.
        detail: What a library said about it, for the log and the command line alone.
    """

    def __init__(self, message: str, *, detail: str = "") -> None:
        self.message = message
        self.detail = detail
        super().__init__(f"{message}: {detail}" if detail else message)

    def within(self, where: object) -> ModelRejected:
        """The same, and where."""
        return ModelRejected(f"{where}: {self.message}", detail=self.detail)


class RepositoryError(DigitsError):
    """A model repository that is missing, empty or not laid out as one. Raised while it is read."""


class ChangeRefused(DigitsError):
    """A label that may not be moved as asked, or a version that may not be removed. Raised before anything changed."""


class ProviderUnavailable(DigitsError):
    """The execution provider that was asked for can't run the whole model here. Says what is missing."""


class InferenceFailed(DigitsError):
    """The engine raised, or answered with something other than one row an image."""


class StartFailed(DigitsError):
    """The server can't start as configured: a port in use, an address that is not this machine's."""


class UnusableFile(DigitsError):
    """A file of certificates, keys or tokens that can't be read or used. Never says what is in it."""


class InvalidConfig(DigitsError):
    """An option outside its range. Raised when the configuration is constructed."""
