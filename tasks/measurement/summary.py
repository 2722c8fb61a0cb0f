"""From what the probes returned to rows of the tables `rounds` and `measurements`. Pure functions, no file, no clock.

A measurement's value is the median over rounds (the shares and means of quality: over samples) with its 95 % interval.
The baseline runs twice a round; its value in a round is the mean of both passes.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np

from slimline.storage.metrics.metric import METRICS
from slimline.storage.metrics.rows import MeasurementRow, RoundRow
from slimline.tasks.analysis.statistics import (
    TAINTED_ABOVE,
    Interval,
    mcnemar,
    mean_interval,
    median_interval,
    noise_floor,
    paired_difference,
    paired_ratio,
    proportion_interval,
)
from slimline.tasks.measurement.peaks import Peaks
from slimline.tasks.measurement.probe import ProbeFailed, ProbeResult, Timing
from slimline.tasks.measurement.roofline import ModelWork
from slimline.tasks.measurement.score import Score
from slimline.tasks.measurement.size import DiskSize, Parameters

METRIC_VERSION = 1
_TIMED = (
    *("samples_per_s", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "prefill_tokens_per_s"),
    *("decode_tokens_per_s", "memory_mb", "memory_over_base_mb"),
)
_OF_ROUNDS = (*_TIMED, "energy_j_per_sample")
_SCORED = ("es", "em")
_PAIRED = ("es_drop", "em_drop", "em_p_value")


@dataclass(frozen=True)
class Visit:
    """One turn of one variant: `position` is its place in the round's order, `replicate` 1 the baseline's second."""

    run: str
    host: str
    round: int
    position: int
    variant: str
    replicate: int


class Measurement(NamedTuple):
    """One metric of one variant; `value` is null where `error` says why there is none."""

    variant: str
    metric: str
    value: float | None
    lo: float | None
    hi: float | None
    n: int
    error: str | None


@dataclass(frozen=True)
class Subject:
    """What all measurements of a variant say about it: artifact digest, label, and whether its weights are random."""

    artifact: str | None
    label: str
    random_weights: bool


def round_row(visit: Visit, result: ProbeResult) -> RoundRow:
    """A row of `rounds` from a speed measurement; rates and energy are null where nothing was timed or counted.

    What it says of samples and tokens is of one pass over them; rates and latencies are of all passes, but for
    `undisturbed_per_s`: noise only ever adds time, so a sample's fastest pass is the one that it disturbed least (Chen
    and Revels, arXiv:1608.04295).
    """
    timings, one_pass = result.timings, result.timings[: len(result.timings) // result.passes]
    latency_ms = np.array([timing.latency_s for timing in timings]) * 1e3
    p50, p95, p99 = np.percentile(latency_ms, (50, 95, 99)).tolist()
    fastest_ms = float(latency_ms.reshape(result.passes, -1).min(axis=0).sum())
    contexts = _contexts(one_pass)
    return RoundRow(
        **vars(visit),
        pid=result.pid,
        started=result.started,
        finished=result.finished,
        samples=len(one_pass),
        passes=result.passes,
        tokens=sum(timing.new_tokens for timing in one_pass),
        prompt_tokens=contexts.prompt_tokens,
        prefill_context=contexts.prefill,
        decode_context=contexts.decode,
        wall_s=result.wall_s,
        samples_per_s=len(timings) / result.wall_s,
        undisturbed_per_s=1e3 * len(one_pass) / fastest_ms,
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        prefill_tokens_per_s=_rate(sum(t.prompt_tokens for t in timings), sum(t.prefill_s for t in timings)),
        decode_tokens_per_s=_rate(sum(t.decode_passes for t in timings), sum(t.decode_s for t in timings)),
        memory_mb=result.memory_mb,
        memory_over_base_mb=result.memory_over_base_mb,
        base_mb=result.base_mb,
        energy_j_per_sample=None if result.energy_j is None else result.energy_j / len(timings),
        energy_source=result.energy_source,
        load_s=result.load_s,
    )


class _Contexts(NamedTuple):
    """Prompt tokens, and how many positions a token attends to in the mean, itself included: of prompts, of passes."""

    prompt_tokens: int
    prefill: float
    decode: float | None


def _contexts(timings: Sequence[Timing]) -> _Contexts:
    """The first token of a prompt of n attends to 1 position, its last to n, and the j-th pass after it to n + j."""
    tokens, passes = sum(t.prompt_tokens for t in timings), sum(t.decode_passes for t in timings)
    in_prompts = sum(t.prompt_tokens * (t.prompt_tokens + 1) / 2 for t in timings)
    in_passes = sum(t.decode_passes * (t.prompt_tokens + (t.decode_passes + 1) / 2) for t in timings)
    return _Contexts(tokens, in_prompts / tokens, in_passes / passes if passes else None)


def failed_round_row(visit: Visit, failure: ProbeFailed, started: datetime, finished: datetime) -> RoundRow:
    """A row of `rounds` for a variant that failed in it: all numbers null, `error` the reason and the last lines."""
    return RoundRow(**vars(visit), started=started, finished=finished, error=str(failure))


def session_noise(rounds: Sequence[RoundRow], baseline: str) -> tuple[float | None, bool]:
    """Noise floor of a run on one host, relative, and whether it taints the run; (None, True) if it is unknown."""
    first, second = (
        _by_round([row for row in rounds if row.replicate == replicate], baseline, "samples_per_s")
        for replicate in (0, 1)
    )
    if not first.keys() & second.keys():
        return None, True
    floor = noise_floor(first, second)
    return floor, floor > TAINTED_ABOVE


def speed_measurements(rounds: Sequence[RoundRow], baseline: str) -> list[Measurement]:
    """Speed, memory and energy of every variant in `rounds` (rows of one run on one host), and its paired speed ratio.

    A variant that failed in some rounds is measured on the others (`n` tells); one that failed in all has the reason.
    Energy is left out where it was not counted.
    """
    variants = dict.fromkeys(row.variant for row in rounds)
    return [each for variant in variants for each in _speeds(rounds, variant, baseline)]


def limit_measurements(
    rounds: Sequence[RoundRow], variant: str, work: ModelWork, peaks: Peaks, beams: int
) -> list[Measurement]:
    """What share of the host's limits a variant reached, %, by the formulas of `tasks.measurement.roofline`.

    Of its matrix multiplications' peak while it read prompts, and of its memory's bandwidth while it decoded. Nothing
    is clipped: what stays in a cache is read faster than memory, and accepted drafts share a pass over it.
    """
    ours = [row for row in rounds if row.variant == variant and row.samples_per_s is not None]
    shares = {
        "prefill_limit_share": {row.round: _prefill_share(row, work, peaks) for row in ours},
        "decode_limit_share": {row.round: _decode_share(row, work, peaks, beams) for row in ours},
    }
    found = {name: [value for value in values.values() if value is not None] for name, values in shares.items()}
    return [_present(variant, name, median_interval(values)) for name, values in found.items() if values]


def _prefill_share(row: RoundRow, work: ModelWork, peaks: Peaks) -> float | None:
    if row.prefill_tokens_per_s is None or not row.prompt_tokens or row.samples is None or row.prefill_context is None:
        return None
    operations = work.prefill_operations(row.prefill_context, row.samples / row.prompt_tokens)
    return 100 * operations * row.prefill_tokens_per_s / peaks.operations_per_s(work.precision)


def _decode_share(row: RoundRow, work: ModelWork, peaks: Peaks, beams: int) -> float | None:
    if row.decode_tokens_per_s is None or row.decode_context is None:
        return None
    read = work.decode_bytes(row.decode_context, beams) * row.decode_tokens_per_s
    return 100 * read / (peaks.read_gb_s * 1e9)


def quality_measurements(scores: Mapping[str, Score | str], baseline: str) -> list[Measurement]:
    """EM, ES and their paired drop from the baseline (baseline minus variant, points), for every variant.

    `scores` holds each variant's score, or the reason why it has none. Raises ValueError if two variants were scored
    on different numbers of samples.
    """
    reference = scores.get(baseline, "it was not measured")
    return [each for variant, score in scores.items() for each in _quality(variant, score, reference)]


def size_measurements(variant: str, size: DiskSize, parameters: Parameters | None) -> list[Measurement]:
    """Disk size and parameter counts, which are exact and have no interval; no counts where `parameters` is null."""
    values = {"disk_mb": size.raw_mb, "disk_gzip_mb": size.gzip_mb}
    if parameters:
        values |= {"params_m": parameters.total / 1e6, "params_nonzero_m": parameters.nonzero / 1e6}
    return [_present(variant, metric, Interval(value, None, None, 1)) for metric, value in values.items()]


def measurement_rows(
    measurements: Iterable[Measurement],
    subjects: Mapping[str, Subject],
    *,
    run: str,
    study: str,
    host: str,
    time: datetime,
) -> list[MeasurementRow]:
    """Rows of `measurements`; `subjects` by variant.

    Raises:
        KeyError: a variant or a metric is not known.
    """
    return [
        MeasurementRow(
            run=run,
            study=study,
            host=host,
            time=time,
            metric_version=METRIC_VERSION,
            unit=METRICS[each.metric].unit,
            **vars(subjects[each.variant]),
            **each._asdict(),
        )
        for each in measurements
    ]


def _speeds(rounds: Sequence[RoundRow], variant: str, baseline: str) -> list[Measurement]:
    by_metric = {metric: _by_round(rounds, variant, metric) for metric in _OF_ROUNDS}
    if not by_metric["samples_per_s"]:
        return [absent(variant, metric, _failure(rounds, variant)) for metric in (*_TIMED, "speed_ratio")]
    measured = [
        _present(variant, metric, median_interval(list(values.values())))
        for metric, values in by_metric.items()
        if values
    ]
    return [*measured, _speed_ratio(by_metric["samples_per_s"], rounds, variant, baseline)]


def _speed_ratio(ours: Mapping[int, float], rounds: Sequence[RoundRow], variant: str, baseline: str) -> Measurement:
    theirs = _by_round(rounds, baseline, "samples_per_s")
    if not ours.keys() & theirs.keys():
        return absent(variant, "speed_ratio", f"no round has both it and the baseline ({baseline})")
    return _present(variant, "speed_ratio", paired_ratio(ours, theirs))


def _quality(variant: str, score: Score | str, reference: Score | str) -> list[Measurement]:
    if isinstance(score, str):
        return [absent(variant, metric, score) for metric in (*_SCORED, *_PAIRED)]
    own = [mean_interval(score.similarities), proportion_interval(score.exact).scaled(100)]
    measured = [_present(variant, metric, interval) for metric, interval in zip(_SCORED, own, strict=True)]
    if isinstance(reference, str):
        reason = f"the baseline has no score: {reference}"
        return [*measured, *(absent(variant, metric, reason) for metric in _PAIRED)]
    paired = _paired(reference, score)
    return [*measured, *(_present(variant, metric, value) for metric, value in zip(_PAIRED, paired, strict=True))]


def _paired(reference: Score, score: Score) -> list[Interval]:
    return [
        paired_difference(reference.similarities, score.similarities),
        paired_difference(reference.exact, score.exact).scaled(100),
        Interval(mcnemar(reference.exact, score.exact), None, None, score.samples),
    ]


def _present(variant: str, metric: str, interval: Interval) -> Measurement:
    return Measurement(variant, metric, interval.value, interval.lo, interval.hi, interval.n, None)


def absent(variant: str, metric: str, reason: str) -> Measurement:
    """A metric that could not be measured, and why."""
    return Measurement(variant, metric, None, None, None, 0, reason)


def _by_round(rounds: Iterable[RoundRow], variant: str, metric: str) -> dict[int, float]:
    """The variant's value in each round that has one: the mean over its passes."""
    values = defaultdict(list)
    for row in rounds:
        value: float | None = getattr(row, metric)
        if row.variant == variant and value is not None:
            values[row.round].append(value)
    return {number: statistics.fmean(found) for number, found in sorted(values.items())}


def _failure(rounds: Sequence[RoundRow], variant: str) -> str:
    """What a variant's first failure says, without its traceback: the first line and the last."""
    lines = next(str(row.error) for row in rounds if row.variant == variant).splitlines()
    return ": ".join(dict.fromkeys((lines[0], lines[-1])))


def _rate(amount: float, seconds: float) -> float | None:
    return amount / seconds if seconds > 0 and amount > 0 else None
