"""Variants x rounds on this host: quality once, speed in interleaved rounds with the baseline twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from prefect import flow

from flows.progress import Turns, say
from flows.study import Study
from storage.artifacts import ArtifactRef, ArtifactStore
from storage.metrics import MetricsStore
from tasks import measuring, steps
from tasks.evaluation import summarise
from tasks.evaluation.host import describe_host
from tasks.evaluation.peaks import Peaks, PeaksFailed, host_peaks
from tasks.evaluation.score import Score
from tasks.specs import Scoring


@dataclass(frozen=True)
class Built:
    """What there is to measure: a run's study, its data slice, its variants' artifacts, and why others have none."""

    run: str
    study: Study
    slice_: ArtifactRef
    artifacts: Mapping[str, ArtifactRef]
    failed: Mapping[str, str]


class Report(NamedTuple):
    """How measuring went on one host: the noise floor, and why a variant failed."""

    host: str
    noise_floor: float | None
    tainted: bool
    failed: dict[str, str]


@flow(name="measure", flow_run_name="measure {built.study.name}", validate_parameters=False)
def measure(built: Built, store: ArtifactStore, metrics: MetricsStore) -> Report:
    """Measure every built variant on this host and append the rows; what could not be built gets a row saying so."""
    described = describe_host()
    host = str(described["host"])
    peaks = _peaks(built.study)
    columns = peaks.columns() if peaks else {}
    metrics.append("hosts", [{**described, **columns, "run": built.run, "recorded": datetime.now(UTC)}])
    predictions, failed = _complete(built, store)
    scores = measuring.scores_of(predictions, store)
    metrics.append("predictions", measuring.prediction_rows(built.run, host, predictions, scores, store))
    rounds = _rounds(built, host, store, metrics)
    failed |= {row["variant"]: row["error"] for row in rounds if row["error"]} | dict(built.failed)
    measured = [
        *summarise.speed_measurements(rounds, built.study.baseline),
        *_quality(built.study, scores, failed),
        *(made for variant in built.artifacts for made in _of_artifact(built, variant, store)),
        *(share for variant in built.artifacts if peaks for share in _limits(built, variant, rounds, peaks, store)),
        *(summarise.absent(variant, "samples_per_s", reason) for variant, reason in built.failed.items()),
    ]
    _append_measurements(built, host, measured, store, metrics)
    return Report(host, *summarise.session_noise(rounds, built.study.baseline), failed)


def _peaks(study: Study) -> Peaks | None:
    """This host's peaks, kept or measured now; without them the variants' shares of its limits are left out."""
    try:
        return host_peaks(measuring.threads_of(study.measuring))
    except PeaksFailed as failure:
        say(str(failure))
        return None


def _complete(built: Built, store: ArtifactStore) -> tuple[dict[str, ArtifactRef], dict[str, str]]:
    """Every variant's completions, and the reason where there are none; random weights are not asked."""
    predictions: dict[str, ArtifactRef] = {}
    failed: dict[str, str] = {}
    for variant, artifact in built.artifacts.items():
        if measuring.has_random_weights(artifact, store):
            continue
        scoring = _scoring(built.study, variant)
        state = steps.complete(scoring, artifact, built.slice_, store, return_state=True)
        result = state.result(raise_on_failure=False)
        if isinstance(result, ArtifactRef):
            predictions[variant] = result
            say(f"completions of {variant}: {'kept' if state.name == 'Cached' else 'made'} {result}")
        else:
            failed[variant] = str(result)
            say(f"completions of {variant} failed: {result}")
    return predictions, failed


def _scoring(study: Study, variant: str) -> Scoring:
    return Scoring(
        engine=study.variants[variant].engine,
        decoding=study.measuring.decoding,
        batch_size=study.measuring.quality_batch_size,
        threads=measuring.threads_of(study.measuring),
    )


def _rounds(built: Built, host: str, store: ArtifactStore, metrics: MetricsStore) -> list[summarise.Row]:
    rows: list[summarise.Row] = []
    study, spec = built.study, built.study.measuring
    with Turns(spec.rounds * (len(built.artifacts) + 1)) as turns:
        for number in range(1, spec.rounds + 1):
            order = measuring.round_order(list(built.artifacts), study.baseline, study.seed, number)
            for position, (variant, replicate) in enumerate(order):
                visit = summarise.Visit(built.run, host, number, position, variant, replicate)
                turns.begin(f"round {number} of {spec.rounds}: {variant}")
                engine = study.variants[variant].engine
                rows.append(steps.measure_speed(visit, built.artifacts[variant], engine, built.slice_, spec, store))
                metrics.append("rounds", rows[-1:])
                turns.end(rows[-1]["samples_per_s"])
    return rows


def _quality(study: Study, scores: Mapping[str, Score], failed: Mapping[str, str]) -> list[summarise.Measured]:
    """EM and ES, or the reason why a variant has none; of random weights they mean nothing and are left out."""
    outcomes: dict[str, Score | str] = {**failed, **scores}
    found = {variant: outcomes[variant] for variant in study.variants if variant in outcomes}
    return summarise.quality_measurements(found, study.baseline)


def _of_artifact(built: Built, variant: str, store: ArtifactStore) -> list[summarise.Measured]:
    artifact = built.artifacts[variant]
    return [
        *measuring.measure_size(variant, artifact, store),
        *measuring.note_measurements(variant, artifact, store),
    ]


def _limits(
    built: Built, variant: str, rounds: list[summarise.Row], peaks: Peaks, store: ArtifactStore
) -> list[summarise.Measured]:
    work = measuring.work(built.artifacts[variant], built.study.variants[variant].engine, store)
    beams = built.study.measuring.decoding.beams
    return summarise.limit_measurements(rounds, variant, work, peaks, beams)


def _append_measurements(
    built: Built, host: str, measured: list[summarise.Measured], store: ArtifactStore, metrics: MetricsStore
) -> None:
    study = built.study
    subjects = {variant: _subject(built, variant, store) for variant in study.variants}
    in_order = sorted(measured, key=lambda each: list(study.variants).index(each.variant))
    rows = summarise.measurement_rows(
        in_order, subjects, run=built.run, study=study.name, host=host, time=datetime.now(UTC)
    )
    metrics.append("measurements", rows)


def _subject(built: Built, variant: str, store: ArtifactStore) -> summarise.Subject:
    label, artifact = built.study.variants[variant].label, built.artifacts.get(variant)
    if artifact is None:
        return summarise.Subject(None, label, random_weights=False)
    return summarise.Subject(artifact.digest, label, measuring.has_random_weights(artifact, store))
