"""Three servers behind Envoy, one of them at half speed: are calls spread by load reports? `make balance` runs it.

Four ways to spread calls take turns, at 80 % of the servers' capacity: over three equal servers; over two of them and
one at half speed, by reports with each answer, by reports on a stream, and evenly. Then, under load, a server is
killed, another one is stopped, and both come back. Exits with code 1 if a call is lost or wrong, or if the slow server
makes the calls that wait longest wait more than 1.3 times as long as behind equal servers.

The engines are slowed down: a batch takes a fixed time and a time per image, most of which it sleeps. So three servers,
Envoy and the callers fit on two processors. All else is as in production, and Envoy is set up as in `deploy/envoy`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml

from protos.digits.v1 import digits_pb2
from serving.bench.calls import UnaryCalls, has_labels, open_channel
from serving.bench.load import Pacer, run_callers
from serving.bench.measurement import Measurement
from training.synthetic import draw_digits

CONFIG = Path(__file__).parents[2] / "deploy" / "envoy" / "envoy.yaml"
METHOD = "/digits.v1.DigitClassifierService/Classify"

# What a batch takes at full speed, in milliseconds, and what a server can answer then.
BATCH_MS, ROW_MS = 6.0, 4.0
CAPACITY_PER_S = 1000 / ROW_MS
# Name of each server, and how many times as long its batches take.
SERVERS = {"fast-1": 1.0, "fast-2": 1.0, "fast-3": 1.0, "slow": 2.0}

SHARE = 0.8
CALLERS = 256
SETTLE_S = 20.0  # until Envoy knows what each server can do
MOST_TIMES = 1.3


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to spread calls.

    Attributes:
        name: What it is called.
        servers: Names of its servers.
        changes: What it changes in Envoy's policy; None for a policy that gives each server as many calls.
        measured: Its measurements.
    """

    name: str
    servers: Sequence[str]
    changes: dict[str, Any] | None
    measured: list[Measurement] = field(default_factory=list)

    @property
    def rate_per_s(self) -> float:
        return SHARE * CAPACITY_PER_S * sum(1 / SERVERS[name] for name in self.servers)

    def p99_ms(self, number: int) -> float:
        return float(1000 * np.percentile(self.measured[number].latencies_s, 99))


EQUAL, MIXED = ("fast-1", "fast-2", "fast-3"), ("fast-1", "fast-2", "slow")
ON_A_STREAM = {"enable_oob_load_report": True, "oob_reporting_period": "1s"}
WAYS = (
    Way(name="three equal servers", servers=EQUAL, changes={}),
    Way(name="one slow, reports with answers", servers=MIXED, changes={}),
    Way(name="one slow, reports on a stream", servers=MIXED, changes=ON_A_STREAM),
    Way(name="one slow, evenly", servers=MIXED, changes=None),
)


class SlowedServer:
    """A server in a process of its own whose engine takes its time."""

    def __init__(self, times: float) -> None:
        self._command = [sys.executable, __file__, "serve", str(times), "--port"]
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self) -> None:
        """Starts it, at its previous port if it had one; returns once it serves."""
        self._process = subprocess.Popen([*self._command, str(self.port)], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        found = re.search(r" on 127\.0\.0\.1:(\d+)", said)
        if found is None:
            raise SystemExit(f"a server did not start: {said}")
        self.port = int(found[1])

    def end(self, number: signal.Signals) -> None:
        """Ends it with a signal, if it runs; returns once it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.communicate(timeout=60)


@contextlib.contextmanager
def running_envoy(program: str, ports: dict[str, int]) -> Iterator[list[int]]:
    """Runs Envoy for servers on these ports; yields its own port for each way."""
    with tempfile.TemporaryDirectory() as folder:
        config, admin = Path(folder, "envoy.json"), Path(folder, "admin")
        config.write_text(json.dumps(envoy_config(ports)))
        options = ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]
        process = subprocess.Popen([program, "--config-path", config, "--admin-address-path", admin, *options])
        try:
            yield _listening(process, admin)
        finally:
            process.terminate()
            process.wait(timeout=30)


def envoy_config(ports: dict[str, int]) -> dict[str, Any]:
    """Returns the kit's configuration with a listener and a cluster for each way, on this machine only."""
    config = yaml.safe_load(CONFIG.read_text())
    resources = config["static_resources"]
    (listener,), (cluster,) = resources["listeners"], resources["clusters"]
    resources["listeners"], resources["clusters"] = [], []
    for number, way in enumerate(WAYS):
        name = f"way_{number}"
        here, there = copy.deepcopy(listener), copy.deepcopy(cluster)
        here["name"] = there["name"] = there["load_assignment"]["cluster_name"] = name
        here["address"] = _address(0)
        manager = here["filter_chains"][0]["filters"][0]["typed_config"]
        manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = name
        there["type"] = "STATIC"
        there["load_assignment"]["endpoints"] = [
            {"lb_endpoints": [{"endpoint": {"address": _address(ports[server])}} for server in way.servers]}
        ]
        if way.changes is None:
            del there["load_balancing_policy"]
            there["lb_policy"] = "ROUND_ROBIN"
        else:
            policy = there["load_balancing_policy"]["policies"][0]["typed_extension_config"]
            policy["typed_config"] |= way.changes
        resources["listeners"].append(here)
        resources["clusters"].append(there)
    return config | {"admin": {"address": _address(0)}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listening(process: subprocess.Popen[bytes], admin: Path) -> list[int]:
    """Waits until Envoy listens, and returns its port for each way."""
    ends = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < ends:
        with contextlib.suppress(OSError, ValueError):  # it has not written its address yet, or does not answer
            with urllib.request.urlopen(f"http://{admin.read_text()}/listeners?format=json") as answer:
                found = json.load(answer)["listener_statuses"]
            ports = {each["name"]: each["local_address"]["socket_address"]["port_value"] for each in found}
            return [ports[f"way_{number}"] for number in range(len(WAYS))]
        time.sleep(0.1)
    raise SystemExit("Envoy did not start")


class Load:
    """Callers that send single images at a fixed rate and check every answer.

    Args:
        port: Port of a server, which answers every image once beforehand.
    """

    def __init__(self, port: int) -> None:
        images, _ = draw_digits(256, seed=0)
        pixels = [digits_pb2.RawImages(pixels=image.tobytes(), count=1) for image in images]
        self._requests = [digits_pb2.ClassifyRequest(raw_images=each).SerializeToString() for each in pixels]
        self._right = asyncio.run(self._answers(port))

    async def _answers(self, port: int) -> list[bytes]:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            calls = UnaryCalls(channel, METHOD, timeout_s=60.0)
            return [await calls.send(request) for request in self._requests]

    async def run(self, port: int, *, rate_per_s: float, seconds: float) -> Measurement:
        """Runs for a time through a port of Envoy's."""
        async with open_channel(f"127.0.0.1:{port}") as channel:
            calls = UnaryCalls(channel, METHOD, timeout_s=20.0)

            async def send(number: int) -> bool:
                which = number % len(self._requests)
                return has_labels(await calls.send(self._requests[which]), self._right[which])

            return await run_callers([send] * CALLERS, Pacer(seconds=seconds, rate_per_s=rate_per_s))


def compare(load: Load, ports: Sequence[int], *, rounds: int, seconds: float) -> bool:
    """Lets the ways take turns; returns whether the slow server costs no more than it may."""
    for number in range(rounds):
        for way, port in zip(WAYS, ports, strict=True):
            run = functools.partial(load.run, port, rate_per_s=way.rate_per_s)
            asyncio.run(run(seconds=SETTLE_S))
            way.measured.append(asyncio.run(run(seconds=seconds)))
            bad = f"{way.measured[-1].wrong} wrong, {way.measured[-1].errors or 'none lost'}"
            click.echo(f"{number + 1}  {way.name:32}{way.rate_per_s:5.0f}/s  p99 {way.p99_ms(number):6.0f} ms  {bad}")
    times = [np.median([way.p99_ms(each) / WAYS[0].p99_ms(each) for each in range(rounds)]) for way in WAYS]
    for way, each in zip(WAYS, times, strict=True):
        click.echo(f"p99 {each:6.2f} times that of equal servers in the same round: {way.name}")
    by_load = WAYS[:3]
    answered = not any(each.wrong or each.errors for way in by_load for each in way.measured)
    return answered and max(times[: len(by_load)]) <= MOST_TIMES


def disturb(load: Load, port: int, servers: dict[str, SlowedServer]) -> bool:
    """Ends and starts servers under load; returns whether every call got the right answer."""

    async def run() -> Measurement:
        rate_per_s = WAYS[1].rate_per_s / 2  # so that two of the three can answer all
        loading = asyncio.create_task(load.run(port, rate_per_s=rate_per_s, seconds=30.0))
        for name, number in (("fast-2", signal.SIGKILL), ("fast-1", signal.SIGTERM)):
            await asyncio.sleep(5)
            await asyncio.to_thread(servers[name].end, number)
            await asyncio.sleep(5)
            await asyncio.to_thread(servers[name].start)
        return await loading

    found = asyncio.run(run())
    click.echo(
        f"one killed, one stopped, both started again: {found.answers} answers, {found.wrong} wrong, "
        f"{sum(found.errors.values())} calls lost {found.errors or ''}"
    )
    return not found.wrong and not found.errors


@click.group(invoke_without_command=True)
@click.option("--seconds", default=10.0, show_default=True, help="How long each way is measured, each time.")
@click.option("--rounds", default=3, show_default=True, help="How often the ways take turns.")
@click.pass_context
def main(context: click.Context, seconds: float, rounds: int) -> None:
    """Compares ways to spread calls over three servers."""
    if context.invoked_subcommand is not None:
        return
    program = shutil.which("envoy", path=Path(sys.executable).parent) or shutil.which("envoy")
    if program is None:
        raise SystemExit("the program envoy is missing; make balance installs it")
    servers = {name: SlowedServer(times) for name, times in SERVERS.items()}
    try:
        for server in servers.values():
            server.start()
        load = Load(servers["fast-1"].port)
        with running_envoy(program, {name: server.port for name, server in servers.items()}) as ports:
            fine = compare(load, ports, rounds=rounds, seconds=seconds)
            for _ in range(rounds):
                fine &= disturb(load, ports[1], servers)
    finally:
        for server in servers.values():
            server.end(signal.SIGKILL)
    sys.exit(not fine)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("times", type=float)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def serve(times: float, options: Sequence[str]) -> None:
    """Runs digits-serve with an engine that takes its time."""
    from serving.commands.serve import main as serve_main
    from serving.inference.engine import Engine, Prediction

    infer = Engine.infer

    def slowly(self: Engine, images: np.ndarray) -> Prediction:
        ends = time.monotonic() + times * (BATCH_MS + ROW_MS * len(images)) / 1000
        found = infer(self, images)
        time.sleep(max(0.0, ends - time.monotonic()))
        return found

    Engine.infer = slowly
    Engine.row_s = math.inf  # or small batches would sleep on the event loop
    serve_main(list(options))


if __name__ == "__main__":
    main()
