"""A result: the median of a rung's rounds, and how it compares with the engine and with a bare echo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.bench.outcome import Outcome
from serving.bench.rung import Rung

PERCENTILES = {"p50_ms": 50.0, "p99_ms": 99.0, "p99_9_ms": 99.9}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The medians over the rounds of a rung. None where nothing was answered, or what it needs was not measured.

    Attributes:
        rounds: How often the rung was measured.
        answers: Requests that were answered, in all rounds.
        requests_per_s: Requests answered each second.
        images_per_s: Images answered each second.
        p50_ms: Latency that half of the requests did not exceed, in milliseconds.
        p99_ms: The same of 99 %.
        p99_9_ms: The same of 99.9 %; below 1,000 requests a round it is the longest.
        cpu_us_per_request: User and system time of what was measured for each answer, in microseconds.
        cpu_us_per_image: The same for each image.
        generator_share: Of one processor, what the busiest generator took; near 1 it is what limits the rate.
        errors: Requests without an answer, by status code, in all rounds.
        wrong: Answers with other labels than expected, in all rounds.
        images_per_s_of_engine: Images a second as a share of the engine's, with as many images a request.
        cpu_per_image_of_engine: CPU an image as a multiple of the engine's, likewise.
        p50_of_echo: Median latency as a multiple of the echo's under the same load.
        cpu_of_echo_and_engine: CPU a request as a multiple of that of echo and engine together.
    """

    rounds: int
    answers: int
    requests_per_s: float | None
    images_per_s: float | None
    p50_ms: float | None
    p99_ms: float | None
    p99_9_ms: float | None
    cpu_us_per_request: float | None
    cpu_us_per_image: float | None
    generator_share: float | None
    errors: Mapping[str, int]
    wrong: int
    images_per_s_of_engine: float | None = None
    cpu_per_image_of_engine: float | None = None
    p50_of_echo: float | None = None
    cpu_of_echo_and_engine: float | None = None


def results(outcomes: Mapping[Rung, Sequence[Outcome]]) -> dict[Rung, Result]:
    """Medians and comparisons of all rungs that were measured.

    Args:
        outcomes: The rounds of each rung, at least one.
    """
    medians = {rung: _medians(rung, rounds) for rung, rounds in outcomes.items()}
    return {rung: _compared(rung, result, medians) for rung, result in medians.items()}


def _medians(rung: Rung, rounds: Sequence[Outcome]) -> Result:
    def median(figure: Callable[[Outcome], float | None]) -> float | None:
        values = [value for outcome in rounds if len(outcome.latencies_s) and (value := figure(outcome)) is not None]
        return float(np.median(values)) if values else None

    def percentile_ms(percent: float) -> float | None:
        # A latency that was measured, not one between two: with few requests that would flatter the tail.
        return median(lambda outcome: 1e3 * float(np.percentile(outcome.latencies_s, percent, method="higher")))

    errors: Counter[str] = Counter()
    for outcome in rounds:
        errors.update(outcome.errors)
    cpu_us = median(lambda outcome: None if outcome.cpu_s is None else 1e6 * outcome.cpu_s / len(outcome.latencies_s))
    per_s = median(lambda outcome: len(outcome.latencies_s) / (outcome.ended_s - outcome.began_s))
    served = rung.kind in ("echo", "wire")
    return Result(
        rounds=len(rounds),
        answers=sum(len(outcome.latencies_s) for outcome in rounds),
        requests_per_s=per_s,
        images_per_s=None if per_s is None else per_s * rung.batch_rows,
        **{name: percentile_ms(percent) for name, percent in PERCENTILES.items()},
        cpu_us_per_request=cpu_us,
        cpu_us_per_image=None if cpu_us is None else cpu_us / rung.batch_rows,
        generator_share=median(lambda o: o.load_cpu_s / (o.ended_s - o.began_s)) if served else None,
        errors=dict(errors),
        wrong=sum(outcome.wrong for outcome in rounds),
    )


def _compared(rung: Rung, result: Result, medians: Mapping[Rung, Result]) -> Result:
    engine = medians.get(Rung(kind="engine", batch_rows=rung.batch_rows))
    if engine is not None and rung.kind != "echo":
        result = replace(
            result,
            images_per_s_of_engine=_ratio(result.images_per_s, engine.images_per_s),
            cpu_per_image_of_engine=_ratio(result.cpu_us_per_image, engine.cpu_us_per_image),
        )
    echo = medians.get(replace(rung, kind="echo"))
    if rung.kind == "wire" and echo is not None:
        result = replace(result, p50_of_echo=_ratio(result.p50_ms, echo.p50_ms))
        if engine is not None and engine.cpu_us_per_request is not None and echo.cpu_us_per_request is not None:
            both = echo.cpu_us_per_request + engine.cpu_us_per_request
            result = replace(result, cpu_of_echo_and_engine=_ratio(result.cpu_us_per_request, both))
    return result


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base
