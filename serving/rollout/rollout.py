"""A rollout: the versions that a server has loaded at one time, and which of them gets which calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.repository.repository import StoredModel


@dataclass(frozen=True, kw_only=True)
class Route:
    """Which versions of a model answer calls that name no version.

    Attributes:
        stable: The version that answers them, apart from the canary's share.
        canary: The version on trial; None if there is none.
        share: The canary's share of these calls, from 0 to 1.
    """

    stable: int
    canary: int | None = None
    share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A version, or a model's labels, that can't be served as they are in the repository.

    Attributes:
        name: Name of the model.
        version: The version; 0 if the model's labels are refused.
        reason: The reason, in words that clients may read.
        detail: The error text of a library, only for the log.
    """

    name: str
    version: int
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        which = f"{self.name} version {self.version}" if self.version else self.name
        return f"{which}: {self.reason}{': ' if self.detail else ''}{self.detail}"


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Everything that a worker needs to know to answer calls the way all other workers do.

    Attributes:
        number: A number that increases with each rollout.
        default: The model that answers calls which name no model; empty if calls must name one.
        models: Every version to load.
        routes: The route of each model, by its name.
        refusals: What the repository contains but the server refuses.
        max_request_bytes: Size of the largest request for any model.
    """

    number: int
    default: str
    models: Sequence[StoredModel]
    routes: Mapping[str, Route]
    refusals: Sequence[Refusal] = ()
    max_request_bytes: int

    def __str__(self) -> str:
        parts = []
        for name, route in self.routes.items():
            canary = f" (canary {route.canary}, {route.share:.0%})" if route.canary else ""
            parts.append(f"{name} version {route.stable}{canary}")
        return ", ".join(parts) or "no model"
