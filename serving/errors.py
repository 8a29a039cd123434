"""Errors of the core. Each docstring says when the error is raised.

The core knows no transport: `serving.server.services.status` maps these errors to gRPC status codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def install_hint(extra: str) -> str:
    """Returns how to install an extra, such as `gpu`. No package index has this package, so it needs a checkout."""
    return f"pip install '.[{extra}]' in a checkout of digits-serving"


class DigitsError(Exception):
    """Base class of the errors whose message is meant for users."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One problem with a request: the field, and what is wrong with it."""

    field: str
    description: str


class InvalidRequest(DigitsError):
    """The request can never succeed as it is. Raised while it is decoded, before it is queued."""

    def __init__(self, *violations: Violation) -> None:
        self.violations: Sequence[Violation] = violations
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequest:
        """Returns an error with a single violation, the common case."""
        return cls(Violation(field=field, description=description))


class InvalidImage(DigitsError):
    """The file is not a readable image, or it has the wrong size. Raised while it is decoded."""


class ModelNotFound(DigitsError):
    """The named model or version is not served, or not in the repository."""


class Overloaded(DigitsError):
    """Base class of refusals under load. Raised at once, never after waiting.

    Args:
        message: Which limit was reached.
        retry_after_s: When the caller should try again, in seconds from now.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class QueueFull(Overloaded):
    """The queue has no room for the request."""


class TooManyCalls(Overloaded):
    """The maximum number of calls is already running. Raised before the request is decoded."""


class Unauthenticated(DigitsError):
    """The call has no token, or an unknown one. Raised before the request is decoded."""

    def __init__(self) -> None:
        super().__init__("the call carries no valid credentials")  # without saying what is wrong with them


class DeadlinePassed(DigitsError):
    """The deadline of the caller or of the request passed before the answer was ready."""


class NotReady(DigitsError):
    """The server is starting or stopping. The caller can retry later or on another server."""


class DeviceLost(NotReady):
    """The GPU has failed, and this process can't use it any more. The caller can try another one.

    Args:
        detail: What CUDA says, for the log only.
    """

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__("the GPU has failed; this server process ends")


class ModelRejected(DigitsError):
    """The model file or its manifest must not be served: damaged, without proof of parity, or a mismatch.

    Args:
        message: What is wrong, in words that clients may see too.
        detail: The message of the library that failed, for the log and the command line only.
    """

    def __init__(self, message: str, *, detail: str = "") -> None:
        self.message = message
        self.detail = detail
        super().__init__(f"{message}: {detail}" if detail else message)

    def within(self, where: object) -> ModelRejected:
        """Returns the same error with its location in front of the message."""
        return ModelRejected(f"{where}: {self.message}", detail=self.detail)


class RepositoryError(DigitsError):
    """The model repository is missing, empty, or laid out wrongly. Raised while it is read."""


class ChangeRefused(DigitsError):
    """The label can't be moved as requested, or the version can't be removed. Raised before anything changes."""


class ProviderUnavailable(DigitsError):
    """The requested execution provider can't run the whole model here. The message says what is missing."""


class InferenceFailed(DigitsError):
    """The engine raised an error, or did not return one row per image."""


class StartFailed(DigitsError):
    """The server can't start as configured: a port is in use, or an address does not belong to this machine."""


class UnusableFile(DigitsError):
    """A file of certificates, keys or tokens can't be read or used. The message never quotes its contents."""


class InvalidConfig(DigitsError):
    """A setting is outside its range, or contradicts another. Raised when the configuration is constructed.

    Args:
        message: What is wrong, in which settings are called by the names of their fields.
        fields: The fields that the message names, so that a command can name its options instead.
    """

    def __init__(self, message: str, *, fields: Sequence[str] = ()) -> None:
        self.fields = fields
        super().__init__(message)

    def renamed(self, names: Mapping[str, str]) -> str:
        """Returns the message with other names for the fields, as far as there are any."""
        words = re.compile(rf"\b({'|'.join(map(re.escape, self.fields))})\b") if self.fields else None
        return words.sub(lambda field: names.get(field[1], field[1]), str(self)) if words else str(self)
