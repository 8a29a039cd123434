"""A rollout: which versions a server answers for at one time, and which of them gets which calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.repository.repository import StoredModel


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where the calls of one model go that name no version.

    Attributes:
        stable: The version that gets them.
        canary: A version on trial, which calls can also ask for by its label; None where there is none.
        share: Of those calls that the canary gets, from 0 to 1.
    """

    stable: int
    canary: int | None = None
    share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something in the repository that is not served as it stands.

    Attributes:
        name: Name of the model.
        version: The version; 0 where it is about the model's labels.
        reason: Why, in words that clients may read too.
        detail: What a library said about it, for the log alone.
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
    """Everything that one process needs to know to answer as all others do.

    Attributes:
        number: Counts up; the highest is the newest.
        default: The model of calls that name none; empty where they must name one.
        models: Every version that is loaded.
        routes: By the name of a model.
        refusals: What is in the repository and not served as it stands there.
        max_request_bytes: Of the largest request, whatever the model.
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
            trial = f" (canary {route.canary}, {route.share:.0%})" if route.canary else ""
            parts.append(f"{name} version {route.stable}{trial}")
        return ", ".join(parts) or "no model"
