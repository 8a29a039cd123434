"""`digits-bench`: measures a server; progress on stderr, a table on stdout."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from serving.bench.scenario import LAYERS, MODES, BenchConfig, Scenario
from serving.commands.cli import SETTINGS, examples, option, repository_option, version_option
from serving.config import FRONTS, PRECISIONS, PROVIDERS
from serving.errors import DigitsError, InvalidConfig, install_hint

if TYPE_CHECKING:  # needs numpy, psutil and grpc, whose presence is checked first
    from serving.bench.benchmark import Benchmark
    from serving.bench.measurement import Measurement
    from serving.bench.result import Result

_DEFAULTS = BenchConfig()
# The options of the fields that can be out of range.
_NAMES = {
    "layers": "--layers",
    "fronts": "--front",
    "modes": "--mode",
    "callers": "--callers",
    "batch_rows": "--batch-rows",
    "rates_per_s": "--rate",
}


class _List(click.ParamType[tuple[Any, ...]]):
    """Values separated by commas."""

    def __init__(self, name: str, make: Callable[[str], Any]) -> None:
        self.name = name
        self._make = make

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(dict.fromkeys(self._make(part.strip()) for part in value.split(",")))
        except ValueError:
            self.fail(f"{value!r} is not a list of {self.name} separated by commas", param, ctx)


_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)
_WORDS, _INTEGERS, _NUMBERS = _List("words", str), _List("integers", int), _List("numbers", float)


def _listed(values: tuple[Any, ...]) -> str:
    return ",".join(map(str, values))


@cloup.command(
    context_settings=SETTINGS,
    epilog=examples(
        "digits-bench --seconds 1 --rounds 1 --callers 1,16 --batch-rows 1,64",
        "digits-bench --layers echo,wire --rate 200 --json bench.json --plot bench.png",
        "digits-bench --layers wire --mode unary --front grpcio,native --precision int8 -- --max-wait-ms 1",
        note="Options of digits-serve follow after --, if it is started.",
    ),
)
@cloup.option_group(
    "Server",
    option("--target", show_default="starts one", help="Address of a running server to measure, HOST:PORT."),
    option(
        "--pid",
        type=click.IntRange(1),
        show_default="its processor time is not measured",
        help="Main process of the target, if it runs on this machine.",
    ),
)
@cloup.option_group(
    "Scenarios",
    option(
        "--layers",
        "--rungs",  # the name until version 0.1
        "layers",
        default=_listed(LAYERS),
        type=_WORDS,
        help="Layers to measure. engine: the model in a process. batcher: the same with concurrent callers. echo: a "
        "bare grpcio server with messages of the same size. wire: the server, over gRPC.",
    ),
    option(
        "--front",
        "fronts",
        type=_WORDS,
        show_default="the server's own",
        help=f"Front ends to compare, each in a server of its own: {', '.join(FRONTS)}.",
    ),
    option(
        "--mode",
        "modes",
        default=_listed(MODES),
        type=_WORDS,
        help="How requests travel: one call each, or many on a stream.",
    ),
    option(
        "--callers", default=_listed(_DEFAULTS.callers), type=_INTEGERS, help="Maximum number of requests in flight."
    ),
    option("--batch-rows", default=_listed(_DEFAULTS.batch_rows), type=_INTEGERS, help="Images per request."),
    option(
        "--rate",
        "rates",
        type=_NUMBERS,
        show_default="as fast as answers arrive",
        help="Requests due per second, for all callers together. Latency counts from the time a request was due, not "
        "from the time a caller was free to send it.",
    ),
    option(
        "--seconds",
        default=_DEFAULTS.seconds,
        type=click.FloatRange(0.01, 3600),
        help="Length of one round of one scenario, in seconds.",
    ),
    option(
        "--rounds",
        default=_DEFAULTS.rounds,
        type=click.IntRange(1, 1000),
        help="How often to measure each scenario. Medians are reported.",
    ),
)
@cloup.option_group(
    "Load generators",
    option(
        "--load-generator",
        default="grpcio",
        type=click.Choice(("grpcio", "h2load")),
        help="What sends the requests. h2load (Debian: nghttp2-client) takes a tenth of the processor time, but only "
        "makes unary calls, sends one request over and over, and compares the labels of one answer.",
    ),
    option("--generators", default=1, type=click.IntRange(1, 64), help="Processes that generate the load."),
    option("--connections", default=8, type=click.IntRange(1, 1000), help="Connections that all callers share."),
    option("--callers-per-stream", default=16, type=click.IntRange(1, 10_000), help="Callers that share a stream."),
    option("--timeout-s", default=30.0, type=click.FloatRange(0.1, 600), help="Deadline of a call, in seconds."),
)
@cloup.option_group(
    "Model",
    repository_option(),
    option("--model", show_default="the only one", help="Name of the model."),
    option("--model-version", type=click.IntRange(1), show_default="the newest", help="Version of the model."),
    option(
        "--provider",
        default="auto",
        type=click.Choice(PROVIDERS),
        help="What runs the model. auto: CUDA if it works, else the CPU.",
    ),
    option(
        "--precision",
        default="float32",
        type=click.Choice(PRECISIONS),
        help="What the network computes with. auto: int8 where it was proven, else float32.",
    ),
    option(
        "--threads", default=1, type=click.IntRange(0), help="Threads per inference on the CPU; 0: one per processor."
    ),
)
@cloup.option_group(
    "Report",
    option("--json", "json_path", type=_FILE, show_default="not written", help="File for the results as JSON."),
    option("--plot", "plot_path", type=_FILE, show_default="not drawn", help="File for a plot of latency, as PNG."),
)
@version_option()
@click.argument("server_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- SERVER OPTIONS]")
def main(
    *,
    target: str | None,
    pid: int | None,
    layers: tuple[str, ...],
    fronts: tuple[str, ...] | None,
    modes: tuple[str, ...],
    callers: tuple[int, ...],
    batch_rows: tuple[int, ...],
    rates: tuple[float, ...] | None,
    seconds: float,
    rounds: int,
    load_generator: str,
    generators: int,
    connections: int,
    callers_per_stream: int,
    timeout_s: float,
    repository: Path,
    model: str | None,
    model_version: int | None,
    provider: str,
    precision: str,
    threads: int,
    json_path: Path | None,
    plot_path: Path | None,
    server_options: tuple[str, ...],
) -> None:
    """Measures throughput, latency and processor time of a server, and of each layer below it.

    Exit code 1 if an answer was wrong, if a scenario got no answer, or after an interruption.
    """
    if target is None and pid is not None:
        raise click.UsageError("--pid belongs to --target")
    if target is not None and server_options:
        raise click.UsageError("options of the server can't be given for a --target, which is already running")
    if target is not None and fronts:
        raise click.UsageError("--front can't be given for a --target, which is already running")
    if load_generator == "h2load":
        if "stream" in modes or rates:
            raise click.UsageError("h2load makes unary calls as fast as answers arrive: give --mode unary, no --rate")
        if shutil.which("h2load") is None:
            raise click.ClickException("h2load is not installed; on Debian: apt-get install nghttp2-client")
    for path in filter(None, (json_path, plot_path)):
        if not path.parent.is_dir():
            raise click.UsageError(f"{path}: there is no directory {path.parent}")
    if precision == "int8" and provider == "cuda":
        raise click.UsageError("--precision int8 runs on the CPU only, not with --provider cuda")
    try:
        config = BenchConfig(
            layers=layers,
            fronts=fronts or (),
            modes=modes,
            callers=callers,
            batch_rows=batch_rows,
            rates_per_s=rates or (),
            seconds=seconds,
            rounds=rounds,
        )
    except InvalidConfig as error:
        raise click.UsageError(error.renamed(_NAMES)) from error
    _require("tqdm", "psutil", "google.rpc", *(["matplotlib.figure"] if plot_path else []))

    from serving.bench.benchmark import CallConfig
    from serving.bench.environment import ModelConfig, open_benchmark
    from serving.bench.target import Target

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    benchmark = open_benchmark(
        config,
        CallConfig(connections=connections, callers_per_stream=callers_per_stream, timeout_s=timeout_s),
        ModelConfig(
            repository=repository,
            model=model,
            version=model_version,
            provider=provider,
            precision=precision,
            threads=threads,
        ),
        target=None if target is None else Target(address=target, pid=pid),
        server_options=server_options,
        load_generator=load_generator,
        generators=generators,
    )
    measured, about, failure = _measure(benchmark, len(config.scenarios()) * config.rounds)
    try:
        _report(measured, about, json_path, plot_path)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    failures = [*_failures(measured), *([failure] if failure else [])]
    if failures:
        raise click.ClickException("; ".join(failures))


def _require(*modules: str) -> None:
    """Checks for packages before anything is started; a missing one would otherwise show after minutes."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{error.name} is not installed; digits-bench needs the extra bench: {install_hint('bench')}"
            ) from error


def _measure(
    benchmark: AbstractContextManager[Benchmark], total: int
) -> tuple[Mapping[Scenario, Result], dict[str, Any], str]:
    """Returns the results, what was measured, and why it ended early, if it did."""
    from tqdm import tqdm

    from serving.bench.result import results

    measurements: dict[Scenario, list[Measurement]] = {}
    failure = ""
    about: dict[str, Any] = {
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "load_average_before": round(os.getloadavg()[0], 2),
    }
    try:
        with benchmark as opened, tqdm(total=total, unit="scenario", file=sys.stderr, dynamic_ncols=True) as progress:
            about |= opened.about
            for scenario, measurement in opened.measure():
                if measurement is None:
                    progress.set_description(scenario.name)
                else:
                    measurements.setdefault(scenario, []).append(measurement)
                    progress.update()
    except KeyboardInterrupt:
        failure = f"interrupted after {sum(map(len, measurements.values()))} of {total} measurements"
    except DigitsError as error:
        failure = str(error)
    return results(measurements), about, failure


def _report(
    measured: Mapping[Scenario, Result], about: Mapping[str, Any], json_path: Path | None, plot_path: Path | None
) -> None:
    from serving.bench.report import as_json, table

    if measured:
        click.echo(table(measured))
    if json_path is not None:
        json_path.write_text(as_json(measured, about), encoding="utf-8")
    if plot_path is not None:
        from serving.bench.plot import write_plot

        write_plot(measured, plot_path)


def _failures(measured: Mapping[Scenario, Result]) -> Iterator[str]:
    if wrong := sum(result.wrong for result in measured.values()):
        yield f"{wrong:,} answers were wrong"
    if silent := [scenario.name for scenario, result in measured.items() if not result.answers]:
        yield f"no request was answered: {', '.join(silent)}"
