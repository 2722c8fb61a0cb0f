"""The flow that measures on this machine: quality once, speed in rounds, in which all take turns with the baseline.

If it is killed and started again with the same order, it measures only what is not stored yet.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from filelock import FileLock
from prefect import flow

from slimline.flows.config.study import Study
from slimline.flows.run import Order, RunEnd, append_measurements, missing_speeds, place, run_row
from slimline.flows.ui.artifacts import show_progress
from slimline.flows.ui.progress import TurnProgress, say
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.storage.metrics.rows import HostRow, PredictionRow, RoundRow
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.paths import home
from slimline.storage.queries.results import control_of
from slimline.storage.queries.resume import StoredRows, stored_rows
from slimline.storage.stores import artifact_store, metrics_store
from slimline.tasks import steps
from slimline.tasks.measurement import limits, summary
from slimline.tasks.measurement.completions import read_predictions, score_of
from slimline.tasks.measurement.peaks import Peaks, PeaksError, host_peaks, raise_peaks
from slimline.tasks.measurement.probe import ProbeRequest
from slimline.tasks.measurement.rounds import (
    PairPlan,
    Round,
    artifact_work,
    has_random_weights,
    measure_size,
    note_measurements,
    prediction_rows,
    round_order,
    speed_request,
    speed_samples,
    threads_of,
)
from slimline.tasks.measurement.saturation import saturation
from slimline.tasks.measurement.score import Score
from slimline.tasks.runtime.host import describe_host, last_level_cache_bytes
from slimline.tasks.runtime.machine_lock import machine_lock
from slimline.tasks.specs import ScoreStep

__all__ = ["Order", "measure"]


class _Site(NamedTuple):
    """An order that is measured here: the stores, which rows they have of it already, and when to stop."""

    order: Order
    store: ArtifactStore
    metrics: MetricsStore
    stored: StoredRows
    deadline: float

    @property
    def too_late(self) -> str | None:
        """A message once the time that the order allows is over."""
        if self.order.minutes is None or time.monotonic() < self.deadline:
            return None
        return f"the limit of {self.order.minutes:g} minutes was reached"

    def has(self, turn: summary.Turn) -> bool:
        """Whether the store has the turn's row."""
        key = turn.round, turn.variant, turn.replicate
        return any((row.round, row.variant, row.replicate) == key for row in self.stored.rounds)

    @property
    def turns(self) -> int:
        """Measuring processes of the whole order."""
        return self.order.study.measuring.rounds * (len(self.order.artifacts) + 1)


@flow(name="measure", flow_run_name="measure {order.study.name} on {order.table_host}")
def measure(order: Order) -> None:
    """Measure every built variant on this machine and append the rows; the others get a row with the reason.

    Args:
        order: What to measure, for which run; made by `benchmark`.
    """
    metrics = metrics_store()
    # A supervisor and a waiting benchmark may both have started it again: the second finds the rows of the first.
    with _only_one(order):
        stored = stored_rows(metrics, order.run, order.table_host)
        store = artifact_store()
        usable = order if stored.complete else _without_saturated(order, store)
        site = _Site(usable, store, metrics, stored, time.monotonic() + (order.minutes or 0) * 60)
        if not stored.complete:
            with show_progress(f"{order.study.name}-measuring-{order.table_host}"):
                _measure(site)


def _without_saturated(order: Order, store: ArtifactStore) -> Order:
    """The order without the variants whose int8 arithmetic is wrong on this processor: they have failed, with a reason.

    Raises:
        RuntimeError: the baseline is one of them.
    """
    reasons = {variant: why for variant, ref in order.artifacts.items() if (why := saturation(ref, store))}
    for variant, why in reasons.items():
        say(f"{variant} is not measured: {why}")
    if why := reasons.get(order.study.baseline):
        raise RuntimeError(f"the baseline {order.study.baseline} cannot be measured here: {why}")
    usable = {variant: ref for variant, ref in order.artifacts.items() if variant not in reasons}
    return order.model_copy(update={"artifacts": usable, "failed": order.failed | reasons})


@contextmanager
def _only_one(order: Order) -> Iterator[None]:
    path = home() / "work" / f"{order.run}-{order.table_host}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, poll_interval=1):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _measure(site: _Site) -> None:
    order, baseline = site.order, site.order.study.baseline
    peaks = None if site.stored.measured else _describe(site)
    scores, failed = _score(site)
    rounds = _measure_rounds(site)
    limited = [one for variant in order.artifacts if peaks and (one := _limited(site, variant))]
    peaks = _raise_beaten(peaks, limited, rounds) if peaks else None
    cut_short = site.too_late if len(rounds) < site.turns else None
    failed |= {row.variant: row.error for row in rounds if row.error} | order.failed
    of_artifacts = [each for variant in order.artifacts for each in _artifact_measurements(site, variant)]
    measurements = [
        *summary.speed_measurements(rounds, baseline),
        *missing_speeds(order, rounds, cut_short or "it was not measured"),
        *_quality(order.study, scores, failed, summary.trained_variants(of_artifacts)),
        *of_artifacts,
        *(share for each in limited if peaks for share in limits.limit_measurements(rounds, each, peaks)),
    ]
    reasons = dict.fromkeys([*failed.values(), *([cut_short] if cut_short else [])])
    _conclude(site, measurements, RunEnd(*summary.session_noise(rounds, baseline), "; ".join(reasons) or None))


def _conclude(site: _Site, measurements: list[summary.Measurement], ending: RunEnd) -> None:
    """Append the results of the rounds, unless the benchmark has stopped waiting and has written that it did."""
    order, metrics = site.order, site.metrics
    stored = stored_rows(metrics, order.run, order.table_host)
    if not stored.measured:
        append_measurements(order, measurements, site.store, metrics)
    if not stored.complete:
        metrics.append([run_row(order, ending, place().node)])


def _describe(site: _Site) -> Peaks | None:
    """Store the description of this machine; return its peaks, or None: then there are no shares of its limits."""
    peaks = _peaks(site.order.study)
    if not site.stored.described:
        row = _host_row(site.order, peaks)
        site.metrics.append([row])
    return peaks


def _host_row(order: Order, peaks: Peaks | None) -> HostRow:
    """What this machine is, under the host's name in the tables."""
    row = HostRow(run=order.run, recorded=datetime.now(UTC), **describe_host()._asdict(), **place()._asdict())
    row = row.replace(host=order.table_host)
    if peaks is None:
        return row
    return row.replace(
        peak_fp32_gflops=peaks.fp32_gflops,
        peak_bf16_gflops=peaks.bf16_gflops,
        peak_int8_gops=peaks.int8_gops,
        peak_read_gb_s=peaks.read_gb_s,
        peak_threads=peaks.threads,
        peaks_measured=peaks.measured,
    )


def _peaks(study: Study) -> Peaks | None:
    """This host's peaks: those measured before, or measured now."""
    try:
        return host_peaks(threads_of(study.measuring))
    except PeaksError as failure:
        say(str(failure))
        return None


def _score(site: _Site) -> tuple[dict[str, Score], dict[str, str]]:
    """Every variant's scores, and the reason where there are none; predictions that are not stored yet are appended."""
    completions, failed = _complete(site)
    scores: dict[str, Score] = {}
    rows: list[PredictionRow] = []
    for variant, ref in completions.items():
        predictions = read_predictions(site.store.path(ref))
        scores[variant] = score_of(predictions)
        if variant not in site.stored.predicted:
            rows += prediction_rows(site.order.run, site.order.table_host, variant, predictions)
    site.metrics.append(rows)
    return scores, failed


def _complete(site: _Site) -> tuple[dict[str, ArtifactRef], dict[str, str]]:
    """Every variant's completions, and the reason where there are none; random weights are not asked."""
    completions: dict[str, ArtifactRef] = {}
    failed: dict[str, str] = {}
    order = site.order
    for variant, artifact in order.artifacts.items():
        if has_random_weights(artifact, site.store):
            continue
        if too_late := site.too_late:
            failed[variant] = too_late
            continue
        scoring = _scoring(order.study, variant)
        state = steps.complete(scoring, artifact, order.slice_, site.store, return_state=True)
        result = state.result(raise_on_failure=False)
        if isinstance(result, ArtifactRef):
            completions[variant] = result
            say(f"completions of {variant}: {'kept' if state.name == 'Cached' else 'made'} {result}")
        else:
            failed[variant] = str(result)
            say(f"completions of {variant} failed: {result}")
    return completions, failed


def _scoring(study: Study, variant: str) -> ScoreStep:
    return ScoreStep(
        engine=study.variants[variant].engine,
        decoding=study.measuring.decoding,
        batch_size=study.measuring.quality_batch_size,
        threads=threads_of(study.measuring),
    )


def _measure_rounds(site: _Site) -> list[RoundRow]:
    """The rows of `rounds`: those stored already, and a new one for every turn that has none, until it is too late."""
    rows = list(site.stored.rounds)
    if site.stored.measured or len(rows) == site.turns:
        return rows
    requests = _speed_requests(site)
    with TurnProgress(site.turns) as progress:
        for turns in _rounds_to_measure(site):
            if not site.too_late:
                rows += _measure_round(site, turns, requests, progress)
    return rows


def _rounds_to_measure(site: _Site) -> Iterator[list[summary.Turn]]:
    """The turns of each round that has not all rows: those without one, after that of the baseline's process."""
    order = site.order
    for number in range(1, order.study.measuring.rounds + 1):
        in_turn = round_order(list(order.artifacts), order.study.baseline, order.study.seed, number)
        turns = [
            summary.Turn(order.run, order.table_host, number, position, variant, replicate)
            for position, (variant, replicate) in enumerate(in_turn)
        ]
        if missing := [turn for turn in turns if not site.has(turn)]:
            yield [turns[0], *(turn for turn in missing if not turn.is_reference)]


def _measure_round(
    site: _Site, turns: list[summary.Turn], requests: Mapping[str, ProbeRequest], progress: TurnProgress
) -> list[RoundRow]:
    """The new rows of a round, each appended as soon as it is measured."""
    study, rows = site.order.study, list[RoundRow]()
    plan = PairPlan(requests[study.baseline], study.measuring.turn_samples, study.measuring.pair_seconds)
    name = f"round {turns[0].round} of {study.measuring.rounds}"
    with machine_lock(f"{name} of {site.order.run!r}"), Round(plan) as beside:
        for turn in turns:
            if site.too_late:
                break
            progress.begin(f"{name}: {turn.variant}")
            row = steps.measure_speed(turn, requests[turn.variant], beside).replace(**place()._asdict())
            if not site.has(turn):  # in a round that was cut short, the baseline's process starts once more
                site.metrics.append([row])
                rows.append(row)
                progress.end(row)
    return rows


def _speed_requests(site: _Site) -> dict[str, ProbeRequest]:
    """What each variant's processes are asked to time."""
    order, spec = site.order, site.order.study.measuring
    samples = speed_samples(site.store.path(order.slice_), spec.speed_samples)
    return {
        variant: speed_request(artifact, order.study.variants[variant].engine, samples, spec, site.store)
        for variant, artifact in order.artifacts.items()
    }


def _quality(
    study: Study, scores: Mapping[str, Score], failed: Mapping[str, str], trained: Collection[str]
) -> list[summary.Measurement]:
    """EM and ES, or the reason why a variant has none; of random weights they mean nothing and are left out."""
    outcomes: dict[str, Score | str] = {**failed, **scores}
    found = {variant: outcomes[variant] for variant in study.variants if variant in outcomes}
    references = {
        variant: control_of(variant, study.control, trained=variant in trained) or study.baseline for variant in found
    }
    return summary.quality_measurements(found, references, study.baseline)


def _artifact_measurements(site: _Site, variant: str) -> list[summary.Measurement]:
    artifact = site.order.artifacts[variant]
    return [
        *measure_size(variant, artifact, site.store),
        *note_measurements(variant, artifact, site.store),
    ]


def _limited(site: _Site, variant: str) -> limits.Limited | None:
    """What limits a variant; null where its work is not known."""
    study = site.order.study
    engine, beams = study.variants[variant].engine, study.measuring.decoding.beams
    work = artifact_work(site.order.artifacts[variant], engine, site.store)
    if work is None:
        return None
    counts_passes = beams == 1 and not engine.draft_tokens
    return limits.Limited(variant, work, beams, last_level_cache_bytes(), counts_passes)


def _raise_beaten(peaks: Peaks, limited: list[limits.Limited], rounds: list[RoundRow]) -> Peaks:
    """The peaks, raised to what a variant has reached where that is beyond them by far: then they are too low."""
    beaten = [each for one in limited for each in limits.beaten_peaks(rounds, one, peaks)]
    for each in beaten:
        say(f"{each.describe(peaks)}, which was measured too low: kept as the peak from now on")
    fastest = {each.rate: each for each in sorted(beaten, key=lambda each: each.value)}
    return raise_peaks(peaks, fastest) if fastest else peaks
