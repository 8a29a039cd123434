"""`digits-bench`: options to configuration, progress on stderr, a table on stdout."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving.bench.rung import KINDS, MODES, LadderConfig, Rung
from serving.config import PRETRAINED, PROVIDERS
from serving.errors import DigitsError

if TYPE_CHECKING:  # what needs numpy, psutil and grpc is imported after it is known to be there
    from serving.bench.outcome import Outcome
    from serving.bench.result import Result
    from serving.bench.session import Session

_LADDER = LadderConfig()


class _List(click.ParamType[tuple[Any, ...]]):
    """Values between commas."""

    def __init__(self, name: str, make: Callable[[str], Any]) -> None:
        self.name = name
        self._make = make

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(dict.fromkeys(self._make(part.strip()) for part in value.split(",")))
        except ValueError:
            self.fail(f"{value!r} is not a list of {self.name} between commas", param, ctx)


_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)
_WORDS, _INTEGERS, _NUMBERS = _List("words", str), _List("integers", int), _List("numbers", float)


def _listed(values: tuple[Any, ...]) -> str:
    return ",".join(map(str, values))


@click.command(
    context_settings={"show_default": True, "max_content_width": 110},
    epilog="Options of the server that is started follow behind --, as in: digits-bench -- --max-wait-ms 1",
)
@click.option("--target", show_default="starts its own", help="A running server to measure, HOST:PORT.")
@click.option(
    "--pid",
    type=click.IntRange(1),
    show_default="its CPU is not measured",
    help="First process of the target, on this machine.",
)
@click.option("--rungs", default=_listed(KINDS), type=_WORDS, help="What to measure.")
@click.option("--mode", "modes", default=_listed(MODES), type=_WORDS, help="How requests travel.")
@click.option("--callers", default=_listed(_LADDER.callers), type=_INTEGERS, help="Requests in flight at most.")
@click.option("--batch-rows", default=_listed(_LADDER.batch_rows), type=_INTEGERS, help="Images of a request.")
@click.option(
    "--rate",
    "rates",
    type=_NUMBERS,
    show_default="as fast as answers come",
    help="Requests due each second, of all callers together. Latency counts from when each was due, not from when a "
    "caller was free to send it.",
)
@click.option(
    "--seconds",
    default=_LADDER.seconds,
    type=click.FloatRange(0.01, 3600),
    help="Time of one rung in one round, in seconds.",
)
@click.option(
    "--rounds",
    default=_LADDER.rounds,
    type=click.IntRange(1, 1000),
    help="How often all rungs are measured; the medians are reported.",
)
@click.option("--generators", default=1, type=click.IntRange(1, 64), help="Processes that make the load.")
@click.option("--connections", default=8, type=click.IntRange(1, 1000), help="Connections that callers share.")
@click.option("--callers-per-stream", default=16, type=click.IntRange(1, 10_000), help="Callers that share a stream.")
@click.option("--timeout-s", default=30.0, type=click.FloatRange(0.1, 600), help="Deadline of a call, in seconds.")
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=PRETRAINED,
    show_default="the model that the package ships",
    help="Directory of the model repository.",
)
@click.option("--model", show_default="the only one", help="Name of the model.")
@click.option("--version", type=click.IntRange(1), show_default="the newest", help="Version of the model.")
@click.option("--provider", default="auto", type=click.Choice(PROVIDERS), help="What runs the model.")
@click.option("--threads", default=1, type=click.IntRange(0), help="Threads of one inference on the CPU; 0: all.")
@click.option("--json", "json_path", type=_FILE, show_default="not written", help="Write the results into this file.")
@click.option("--plot", "plot_path", type=_FILE, show_default="not drawn", help="Draw latency against load, as PNG.")
@click.argument("server_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- SERVER OPTIONS]")
def main(
    *,
    target: str | None,
    pid: int | None,
    rungs: tuple[str, ...],
    modes: tuple[str, ...],
    callers: tuple[int, ...],
    batch_rows: tuple[int, ...],
    rates: tuple[float, ...] | None,
    seconds: float,
    rounds: int,
    generators: int,
    connections: int,
    callers_per_stream: int,
    timeout_s: float,
    repository: Path,
    model: str | None,
    version: int | None,
    provider: str,
    threads: int,
    json_path: Path | None,
    plot_path: Path | None,
    server_options: tuple[str, ...],
) -> None:
    """Measures a server, and the ladder that tells where time goes.

    engine: the model in a process; batcher: the same behind concurrent callers; echo: a bare grpcio server with
    messages of the same size; wire: the server. Exit code 1 where an answer was wrong, a rung got none, or it was
    interrupted.
    """
    if target is None and pid is not None:
        raise click.UsageError("--pid belongs to --target")
    if target is not None and server_options:
        raise click.UsageError("a --target runs already: options of the server can't be given")
    for path in filter(None, (json_path, plot_path)):
        if not path.parent.is_dir():
            raise click.UsageError(f"{path}: there is no directory {path.parent}")
    try:
        config = LadderConfig(
            kinds=rungs,
            modes=modes,
            callers=callers,
            batch_rows=batch_rows,
            rates_per_s=rates or (),
            seconds=seconds,
            rounds=rounds,
        )
    except DigitsError as error:
        raise click.UsageError(str(error)) from error
    _require("tqdm", "psutil", "google.rpc", *(["matplotlib.figure"] if plot_path else []))

    from serving.bench.ladder import WireConfig
    from serving.bench.session import ModelConfig, open_session
    from serving.bench.target import Target

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    session = open_session(
        config,
        WireConfig(connections=connections, callers_per_stream=callers_per_stream, timeout_s=timeout_s),
        ModelConfig(repository=repository, model=model, version=version, provider=provider, threads=threads),
        target=None if target is None else Target(address=target, pid=pid),
        server_options=server_options,
        generators=generators,
    )
    measured, about, failure = _measure(session, len(config.rungs()) * config.rounds)
    try:
        _report(measured, about, json_path, plot_path)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    failures = [*_failures(measured), *([failure] if failure else [])]
    if failures:
        raise click.ClickException("; ".join(failures))


def _require(*modules: str) -> None:
    """Before anything is started, since what is missing would be missed after minutes."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{error.name} is not installed; digits-bench needs the extra bench: "
                "pip install 'digits-serving[bench]'"
            ) from error


def _measure(
    session: AbstractContextManager[Session], measurements: int
) -> tuple[Mapping[Rung, Result], dict[str, Any], str]:
    """Results, what they are of, and what ended it early, if anything did."""
    from tqdm import tqdm

    from serving.bench.result import results

    outcomes: dict[Rung, list[Outcome]] = {}
    failure = ""
    about: dict[str, Any] = {
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "load_average_before": round(os.getloadavg()[0], 2),
    }
    try:
        with session as opened, tqdm(total=measurements, unit="rung", file=sys.stderr, dynamic_ncols=True) as progress:
            about |= opened.about
            for rung, outcome in opened.ladder.measure():
                if outcome is None:
                    progress.set_description(rung.name)
                else:
                    outcomes.setdefault(rung, []).append(outcome)
                    progress.update()
    except KeyboardInterrupt:
        failure = f"interrupted after {sum(map(len, outcomes.values()))} of {measurements} measurements"
    except DigitsError as error:
        failure = str(error)
    return results(outcomes), about, failure


def _report(
    measured: Mapping[Rung, Result], about: Mapping[str, Any], json_path: Path | None, plot_path: Path | None
) -> None:
    from serving.bench.report import as_json, table

    if measured:
        click.echo(table(measured))
    if json_path is not None:
        json_path.write_text(as_json(measured, about), encoding="utf-8")
    if plot_path is not None:
        from serving.bench.plot import write_plot

        write_plot(measured, plot_path)


def _failures(measured: Mapping[Rung, Result]) -> Iterator[str]:
    if wrong := sum(result.wrong for result in measured.values()):
        yield f"{wrong:,} answers were wrong"
    if silent := [rung.name for rung, result in measured.items() if not result.answers]:
        yield f"no request was answered: {', '.join(silent)}"
