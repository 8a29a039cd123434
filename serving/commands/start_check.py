"""The rehearsal: what a server does before it serves, by the server's own code, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.config import ServerConfig, is_loopback
from serving.errors import DigitsError, StartFailed
from serving.rollout.controller import RolloutController
from serving.rollout.deployments import Deployments
from serving.rollout.rollout import Rollout
from serving.server.fronts.shared_port import SharedPort
from serving.server.security.tls import TlsFiles
from serving.server.security.tokens import TokenFile
from serving.server.telemetry.metrics import Metrics

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What it is about, such as `cuda`.
        state: `ok`; `note` where a server runs, but not as it might; `problem` where it would not start.
        text: What was found.
    """

    subject: str
    state: str
    text: str


class StartCheck:
    """Reads, chooses, loads and warms models as a server with this configuration would.

    Args:
        config: Of the server.

    Attributes:
        rollout: What it would serve; None where it would not start.
        providers: By name and version of what is loaded, the execution provider that runs it.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self.rollout: Rollout | None = None
        self.providers: dict[tuple[str, int], str] = {}

    def models(self) -> Iterator[Finding]:
        """Tells for each model which versions would answer, and of whatever is not served the reason."""
        try:
            self.rollout = asyncio.run(self._load())
        except DigitsError as error:
            yield Finding(subject="serving", state=PROBLEM, text=str(error))
            return
        yield from self._served(self.rollout)

    def files(self) -> Iterator[Finding]:
        """Tells whether certificates and tokens can be used; nothing where none are asked for."""
        security = self._config.security
        try:
            tls, tokens = TlsFiles.of(security), TokenFile.of(security, self._config.host)
        except DigitsError as error:
            yield Finding(subject="security", state=PROBLEM, text=str(error))
            return
        if tls:
            yield Finding(subject="security", state=OK, text="the certificate and its key fit")
        if tokens and (tls or is_loopback(self._config.host)):
            yield Finding(subject="security", state=OK, text="a call needs a token")
        elif tokens:
            text = "a call needs a token, which comes in plain text, for anyone on the way to read: give a certificate"
            yield Finding(subject="security", state=NOTE, text=text)

    def addresses(self) -> Iterator[Finding]:
        """Tells which of the ports that are asked for are free."""
        config = self._config
        ports = {"address": config.port, "http address": config.http_port, "metrics address": config.metrics_port}
        taken: set[int] = set()
        for subject, number in ports.items():
            if number is None:
                continue
            try:
                if number in taken:
                    raise StartFailed(f"port {number} is asked for twice")
                port = SharedPort(config.host, number)
            except StartFailed as error:
                yield Finding(subject=subject, state=PROBLEM, text=str(error))
                continue
            port.close()
            taken |= {number} - {0}
            yield Finding(subject=subject, state=OK, text=f"{port.address} is free")

    async def _load(self) -> Rollout:
        number = 0

        def switch(to: int) -> None:
            nonlocal number
            number = to

        deployments = Deployments(self._config, Metrics(registry=None), number=lambda: number)
        controller = RolloutController(self._config, lambda: [deployments], switch)
        try:
            await controller.update_from_repository()
            self.providers = {(each.name, each.version): each.provider for each in deployments}
            return controller.rollout
        finally:
            await deployments.drain(0)
            deployments.close()

    def _served(self, rollout: Rollout) -> Iterator[Finding]:
        for name, route in rollout.routes.items():
            text = f"{name}: version {route.stable} on {self.providers[name, route.stable]}"
            if route.canary:
                text += f"; canary {route.canary} with {route.share * 100:g} % of the calls that name no version"
            others = sorted({version for model, version in self.providers if model == name})
            named = [str(version) for version in others if version not in (route.stable, route.canary)]
            if named:
                text += f"; for calls that name it also {', '.join(named)}"
            yield Finding(subject="serving", state=OK, text=text)
        for refusal in rollout.refusals:
            yield Finding(subject="serving", state=NOTE, text=f"not served: {refusal}")
        yield Finding(subject="serving", state=OK, text=_default(rollout.default, list(rollout.routes)))


def _default(default: str, names: Sequence[str]) -> str:
    if default:
        return f"calls that name no model are answered by {default}"
    return f"a call must name its model, one of {', '.join(names)}"
