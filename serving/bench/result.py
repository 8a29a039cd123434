"""Results: the medians of the rounds of a scenario, and comparisons with the engine and with the echo server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.bench.measurement import Measurement
from serving.bench.scenario import Scenario

PERCENTILES = {"p50_ms": 50.0, "p99_ms": 99.0, "p99_9_ms": 99.9}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Medians over the rounds of a scenario. None if nothing was answered, or if what they need was not measured.

    Attributes:
        rounds: Number of rounds.
        answers: Answered requests in all rounds.
        requests_per_s: Requests answered per second.
        images_per_s: Images answered per second.
        p50_ms: Median latency, in milliseconds.
        p99_ms: 99th percentile of latency, in milliseconds.
        p99_9_ms: 99.9th percentile; with fewer than 1,000 requests per round, the longest latency.
        cpu_us_per_request: User and system time of the measured process per answer, in microseconds.
        cpu_us_per_image: The same per image.
        memory_mb: Resident memory of the measured process after the load, in megabytes.
        generator_share: Share of one processor that the busiest load generator used; near 1 it limits the rate.
        errors: Requests without an answer by status code, in all rounds.
        wrong: Answers with unexpected labels, in all rounds.
        images_per_s_of_engine: Images per second as a share of those of the engine with the same request size.
        cpu_per_image_of_engine: Processor time per image as a multiple of that of the engine.
        p50_of_echo: Median latency as a multiple of that of the echo server under the same load.
        cpu_of_echo_and_engine: Processor time per request as a multiple of that of echo server and engine together.
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
    memory_mb: float | None
    generator_share: float | None
    errors: Mapping[str, int]
    wrong: int
    images_per_s_of_engine: float | None = None
    cpu_per_image_of_engine: float | None = None
    p50_of_echo: float | None = None
    cpu_of_echo_and_engine: float | None = None


def results(measurements: Mapping[Scenario, Sequence[Measurement]]) -> dict[Scenario, Result]:
    """Computes medians and comparisons for all measured scenarios.

    Args:
        measurements: The rounds of each scenario, at least one.
    """
    medians = {scenario: _medians(scenario, rounds) for scenario, rounds in measurements.items()}
    return {scenario: _compared(scenario, result, medians) for scenario, result in medians.items()}


def _medians(scenario: Scenario, rounds: Sequence[Measurement]) -> Result:
    def median(figure: Callable[[Measurement], float | None]) -> float | None:
        values = [value for each in rounds if each.answers and (value := figure(each)) is not None]
        return float(np.median(values)) if values else None

    def percentile_ms(percent: float) -> float | None:
        # A measured latency, not an interpolated one, which would flatter the tail if requests are few.
        return median(lambda each: 1e3 * float(np.percentile(each.latencies_s, percent, method="higher")))

    errors: Counter[str] = Counter()
    for each in rounds:
        errors.update(each.errors)
    cpu_us = median(lambda each: None if each.cpu_s is None else 1e6 * each.cpu_s / each.answers)
    per_s = median(lambda each: each.answers / each.duration_s)
    served = scenario.layer in ("echo", "wire")
    return Result(
        rounds=len(rounds),
        answers=sum(each.answers for each in rounds),
        requests_per_s=per_s,
        images_per_s=None if per_s is None else per_s * scenario.batch_rows,
        **{name: percentile_ms(percent) for name, percent in PERCENTILES.items()},
        cpu_us_per_request=cpu_us,
        cpu_us_per_image=None if cpu_us is None else cpu_us / scenario.batch_rows,
        memory_mb=median(lambda each: None if each.memory_bytes is None else each.memory_bytes / 1e6),
        generator_share=median(lambda each: each.load_cpu_s / each.duration_s) if served else None,
        errors=dict(errors),
        wrong=sum(each.wrong for each in rounds),
    )


def _compared(scenario: Scenario, result: Result, medians: Mapping[Scenario, Result]) -> Result:
    engine = medians.get(Scenario(layer="engine", batch_rows=scenario.batch_rows))
    if engine is not None and scenario.layer != "echo":
        result = replace(
            result,
            images_per_s_of_engine=_ratio(result.images_per_s, engine.images_per_s),
            cpu_per_image_of_engine=_ratio(result.cpu_us_per_image, engine.cpu_us_per_image),
        )
    echo = medians.get(replace(scenario, layer="echo", front=""))
    if scenario.layer == "wire" and echo is not None:
        result = replace(result, p50_of_echo=_ratio(result.p50_ms, echo.p50_ms))
        if engine is not None and engine.cpu_us_per_request is not None and echo.cpu_us_per_request is not None:
            both = echo.cpu_us_per_request + engine.cpu_us_per_request
            result = replace(result, cpu_of_echo_and_engine=_ratio(result.cpu_us_per_request, both))
    return result


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base
