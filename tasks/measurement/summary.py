"""Rows of the tables `rounds` and `measurements` from the results of probes; pure functions without files or clocks.

The value of a measurement is the geometric mean over rounds (of EM and ES: the mean over samples) with its 95 %
interval. The baseline is measured twice in a round; its value in a round is the mean of both, and its second process
takes turns with the first as every variant's does: the baseline's ratio to itself.
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
    equal_speed_p_value,
    holm,
    mcnemar,
    mean_interval,
    noise_floor,
    paired_difference,
    paired_ratio,
    proportion_interval,
    replicates_interval,
)
from slimline.tasks.measurement.pairs import Pair
from slimline.tasks.measurement.probe import ProbeResult, Timing
from slimline.tasks.measurement.probe_process import ProbeError
from slimline.tasks.measurement.score import Score
from slimline.tasks.measurement.size import DiskSize, Parameters

_TIMED = (
    *("samples_per_s", "first_token_p50_ms", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms"),
    *("prefill_tokens_per_s", "decode_tokens_per_s", "memory_mb", "memory_over_base_mb"),
    "memory_over_libraries_mb",
)
_OF_ROUNDS = (*_TIMED, "energy_j_per_sample")
_SCORED = ("es", "em")
_PAIRED = ("es_drop", "em_drop", "em_p_value")
_NOT_MEASURED = "it was not measured"


@dataclass(frozen=True)
class Turn:
    """One process that measures one variant in one round.

    Attributes:
        run: Identifier of the run.
        host: The host's name in the tables.
        round: Number of the round.
        position: Its place in the round: 0 for the baseline's process with which the others take turns.
        variant: Name of the variant.
        replicate: 1 for the baseline's second process in a round, otherwise 0.
    """

    run: str
    host: str
    round: int
    position: int
    variant: str
    replicate: int

    @property
    def is_reference(self) -> bool:
        """Whether the others of its round take turns with it."""
        return self.position == 0


class Measurement(NamedTuple):
    """One metric of one variant, with its 95 % interval and the number of values; `error` says why `value` is None."""

    variant: str
    metric: str
    value: float | None
    lo: float | None
    hi: float | None
    n: int
    error: str | None


@dataclass(frozen=True)
class Subject:
    """The columns that all measurements of a variant share: artifact digest, label, whether its weights are random."""

    artifact: str | None
    label: str
    random_weights: bool


def round_row(turn: Turn, result: ProbeResult) -> RoundRow:
    """A row of `rounds` from a speed measurement; rates and energy are None where nothing was timed or counted.

    Numbers of samples and tokens are of one pass; rates and latencies are of all passes. Only `undisturbed_per_s` is of
    each sample's fastest pass: noise only adds time, so that pass has the least noise (Chen and Revels,
    arXiv:1608.04295).
    """
    timings, one_pass = result.timings, result.timings[: len(result.timings) // result.passes]
    latency_ms = np.array([timing.latency_s for timing in timings]) * 1e3
    p50, p95, p99 = np.percentile(latency_ms, (50, 95, 99)).tolist()
    fastest_ms = float(latency_ms.reshape(result.passes, -1).min(axis=0).sum())
    contexts = _contexts(one_pass)
    return RoundRow(
        **vars(turn),
        pid=result.pid,
        nice=result.nice,
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
        first_token_p50_ms=1e3 * statistics.median(timing.prefill_s for timing in timings),
        prefill_tokens_per_s=_rate(sum(t.prompt_tokens for t in timings), sum(t.prefill_s for t in timings)),
        decode_tokens_per_s=_rate(sum(t.decode_passes for t in timings), sum(t.decode_s for t in timings)),
        memory_mb=result.memory_mb,
        memory_over_base_mb=result.memory_over_base_mb,
        memory_over_libraries_mb=result.memory_over_libraries_mb,
        base_mb=result.base_mb,
        energy_j_per_sample=None if result.energy_j is None else result.energy_j / len(timings),
        energy_source=result.energy_source,
        load_s=result.load_s,
    )


class _Contexts(NamedTuple):
    """Number of prompt tokens, and the mean number of positions that a token attends to, including its own."""

    prompt_tokens: int
    prefill: float
    decode: float | None


def _contexts(timings: Sequence[Timing]) -> _Contexts:
    # The first token of a prompt of n tokens attends to 1 position, the last one to n, the j-th pass after it to n + j.
    tokens, passes = sum(t.prompt_tokens for t in timings), sum(t.decode_passes for t in timings)
    in_prompts = sum(t.prompt_tokens * (t.prompt_tokens + 1) / 2 for t in timings)
    in_passes = sum(t.decode_passes * (t.prompt_tokens + (t.decode_passes + 1) / 2) for t in timings)
    return _Contexts(tokens, in_prompts / tokens, in_passes / passes if passes else None)


def with_pair(row: RoundRow, pair: Pair, pid: int, tokens: int) -> RoundRow:
    """The row of a process that has taken turns with the baseline's process `pid`, and wrote `tokens` in a pass."""
    return row.replace(
        pair_pid=pid,
        pair_ratio=pair.ratio,
        pair_error=pair.error,
        pair_passes=pair.passes,
        pair_tokens=tokens,
        pair_s=pair.seconds,
        pair_baseline_s=pair.baseline_seconds,
    )


def failure_row(turn: Turn, failure: ProbeError, started: datetime, finished: datetime) -> RoundRow:
    """A row of `rounds` for a failed turn: it has no numbers, and `error` has the reason and the last lines."""
    return RoundRow(**vars(turn), started=started, finished=finished, error=str(failure))


def session_noise(rounds: Sequence[RoundRow], baseline: str) -> tuple[float | None, bool]:
    """Relative noise floor of a run on one host, and whether it taints the run; (None, True) if it is unknown.

    It is the interval of the baseline's ratio to itself, which is estimated as every variant's ratio is.
    """
    ratios, errors = _pairs(rounds, baseline)
    floor = noise_floor(ratios, errors) if ratios else None
    return floor, floor is None or floor > TAINTED_ABOVE


def speed_measurements(rounds: Sequence[RoundRow], baseline: str) -> list[Measurement]:
    """Speed, memory, energy and paired speed ratio of every variant in `rounds`, the rows of one run on one host.

    If a variant failed in some rounds, the others count, and `n` is smaller; if it failed in all, its measurements have
    the reason. Energy is left out where it was not counted.
    """
    variants = dict.fromkeys(row.variant for row in rounds)
    p_values = _p_values(rounds, [variant for variant in variants if variant != baseline])
    return [
        *(each for variant in variants for each in _variant_speeds(rounds, variant, baseline)),
        *(_measurement(variant, "speed_p_value", each) for variant, each in p_values.items()),
    ]


def _p_values(rounds: Sequence[RoundRow], variants: Iterable[str]) -> dict[str, Interval]:
    """Of each variant that has two pairs; they hold together, however many variants the run has."""
    pairs = {variant: _pairs(rounds, variant) for variant in variants}
    alone = {name: p for name, found in pairs.items() if found[0] and (p := equal_speed_p_value(*found)) is not None}
    return {name: Interval(p, None, None, len(pairs[name][0])) for name, p in holm(alone).items()}


def trained_variants(measurements: Iterable[Measurement]) -> set[str]:
    """The variants that were trained on after the base."""
    return {each.variant for each in measurements if each.metric == "train_tokens" and each.value}


def quality_measurements(
    scores: Mapping[str, Score | str], references: Mapping[str, str], baseline: str
) -> list[Measurement]:
    """EM, ES and their paired drop (reference minus variant, points) of every variant, and its agreement.

    Args:
        scores: The score of each variant, or the reason why it has none.
        references: By name of variant the one that it is compared with.
        baseline: Which all are to agree with: it is the teacher of what is distilled.

    Raises:
        ValueError: a variant and its reference were scored on different numbers of samples.
    """
    found = []
    for variant, score in scores.items():
        reference = references[variant]
        found += _variant_quality(variant, score, reference, scores.get(reference, _NOT_MEASURED))
        found.append(_agreement(variant, score, scores.get(baseline, _NOT_MEASURED)))
    return found


def size_measurements(variant: str, size: DiskSize, parameters: Parameters | None) -> list[Measurement]:
    """Disk size and, unless `parameters` is None, parameter counts; they are exact and have no interval."""
    values = {"disk_mb": size.raw_mb, "disk_gzip_mb": size.gzip_mb}
    if size.half_mb is not None:
        values["disk_half_mb"] = size.half_mb
    if parameters:
        values |= {"params_m": parameters.total / 1e6, "params_nonzero_m": parameters.nonzero / 1e6}
    return [_measurement(variant, metric, Interval(value, None, None, 1)) for metric, value in values.items()]


def measurement_rows(
    measurements: Iterable[Measurement],
    subjects: Mapping[str, Subject],
    *,
    run: str,
    study: str,
    host: str,
    time: datetime,
) -> list[MeasurementRow]:
    """Rows of `measurements`; `subjects` is by variant.

    Raises:
        KeyError: a variant or a metric is not known.
    """
    return [
        MeasurementRow(
            run=run,
            study=study,
            host=host,
            time=time,
            metric_version=METRICS[each.metric].version,
            unit=METRICS[each.metric].unit,
            **vars(subjects[each.variant]),
            **each._asdict(),
        )
        for each in measurements
    ]


def _variant_speeds(rounds: Sequence[RoundRow], variant: str, baseline: str) -> list[Measurement]:
    by_metric = {metric: _by_round(rounds, variant, metric) for metric in _OF_ROUNDS}
    if not by_metric["samples_per_s"]:
        return [missing_measurement(variant, metric, _failure(rounds, variant)) for metric in (*_TIMED, "speed_ratio")]
    measured = [
        _measurement(variant, metric, replicates_interval(list(values.values())))
        for metric, values in by_metric.items()
        if values
    ]
    return [
        *measured,
        _tokens(rounds, variant),
        _speed_ratio(rounds, variant, baseline),
        _line_ratio(by_metric["samples_per_s"], rounds, variant, baseline),
    ]


def _tokens(rounds: Sequence[RoundRow], variant: str) -> Measurement:
    """Tokens of a line: those of the first round, as greedy completions are the same in all."""
    row = next(row for row in rounds if row.variant == variant and row.samples)
    return _measurement(variant, "tokens_per_sample", Interval((row.tokens or 0) / (row.samples or 1), None, None, 1))


def _speed_ratio(rounds: Sequence[RoundRow], variant: str, baseline: str) -> Measurement:
    """At equal work; the baseline is as fast as itself by definition."""
    ratios, errors = _pairs(rounds, variant)
    if not ratios:
        return missing_measurement(variant, "speed_ratio", f"it never took turns with the baseline ({baseline})")
    itself = Interval(1.0, None, None, len(ratios))
    found = itself if variant == baseline else replicates_interval(ratios, errors=errors)
    return _measurement(variant, "speed_ratio", found)


def _line_ratio(ours: Mapping[int, float], rounds: Sequence[RoundRow], variant: str, baseline: str) -> Measurement:
    """As published: samples a second until the line ends, however long that is."""
    theirs = _by_round(rounds, baseline, "samples_per_s")
    if not ours.keys() & theirs.keys():
        return missing_measurement(variant, "line_speed_ratio", f"no round has both it and the baseline ({baseline})")
    return _measurement(variant, "line_speed_ratio", paired_ratio(ours, theirs))


def _variant_quality(variant: str, score: Score | str, against: str, reference: Score | str) -> list[Measurement]:
    if isinstance(score, str):
        return [missing_measurement(variant, metric, score) for metric in (*_SCORED, *_PAIRED)]
    own = [mean_interval(score.similarities), proportion_interval(score.exact).scale(100)]
    measured = [_measurement(variant, metric, interval) for metric, interval in zip(_SCORED, own, strict=True)]
    if isinstance(reference, str):
        reason = f"{against} has no score: {reference}"
        return [*measured, *(missing_measurement(variant, metric, reason) for metric in _PAIRED)]
    paired = _paired_intervals(reference, score)
    return [*measured, *(_measurement(variant, metric, value) for metric, value in zip(_PAIRED, paired, strict=True))]


def _agreement(variant: str, score: Score | str, teacher: Score | str) -> Measurement:
    if isinstance(score, str) or isinstance(teacher, str):
        return missing_measurement(variant, "line_agreement", score if isinstance(score, str) else str(teacher))
    same = [own == other for own, other in zip(score.lines, teacher.lines, strict=True)]
    return _measurement(variant, "line_agreement", proportion_interval(same).scale(100))


def _paired_intervals(reference: Score, score: Score) -> list[Interval]:
    return [
        paired_difference(reference.similarities, score.similarities),
        paired_difference(reference.exact, score.exact).scale(100),
        Interval(mcnemar(reference.exact, score.exact), None, None, score.samples),
    ]


def _measurement(variant: str, metric: str, interval: Interval) -> Measurement:
    return Measurement(variant, metric, interval.value, interval.lo, interval.hi, interval.n, None)


def missing_measurement(variant: str, metric: str, reason: str) -> Measurement:
    """A metric that could not be measured, with the reason."""
    return Measurement(variant, metric, None, None, None, 0, reason)


def _pairs(rounds: Sequence[RoundRow], variant: str) -> tuple[list[float], list[float]]:
    """The ratio of each round's pair, and the relative standard errors of those that have one."""
    ratios, errors = (_by_round(rounds, variant, name) for name in ("pair_ratio", "pair_error"))
    return list(ratios.values()), list(errors.values())


def _by_round(rounds: Iterable[RoundRow], variant: str, metric: str) -> dict[int, float]:
    """The variant's value in each round, as the mean over its turns; rounds without a value are left out."""
    values = defaultdict(list)
    for row in rounds:
        value: float | None = getattr(row, metric)
        if row.variant == variant and value is not None:
            values[row.round].append(value)
    return {number: statistics.fmean(found) for number, found in sorted(values.items())}


def _failure(rounds: Sequence[RoundRow], variant: str) -> str:
    """First and last line of a variant's first error, without the traceback between them."""
    lines = next(str(row.error) for row in rounds if row.variant == variant).splitlines()
    return ": ".join(dict.fromkeys((lines[0], lines[-1])))


def _rate(amount: float, seconds: float) -> float | None:
    return amount / seconds if seconds > 0 and amount > 0 else None
