"""Variants x rounds on this host: quality once, speed in interleaved rounds with the baseline twice."""

from __future__ import annotations

from collections.abc import Mapping
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
from tasks.evaluation.score import Score
from tasks.specs import Scoring


class Report(NamedTuple):
    """How measuring went on one host: the noise floor, and why a variant failed."""

    host: str
    noise_floor: float | None
    tainted: bool
    failed: dict[str, str]


@flow(name="measure", flow_run_name="measure {study.name}", validate_parameters=False)
def measure(
    run: str,
    study: Study,
    artifacts: Mapping[str, ArtifactRef],
    unbuilt: Mapping[str, str],
    slice_: ArtifactRef,
    store: ArtifactStore,
    metrics: MetricsStore,
) -> Report:
    """Measure every built variant on this host and append the rows; what could not be built gets a row saying so."""
    described = describe_host()
    host = str(described["host"])
    metrics.append("hosts", [{**described, "run": run, "recorded": datetime.now(UTC)}])
    predictions, failed = _complete(study, artifacts, slice_, store)
    scores = measuring.scores_of(predictions, store)
    metrics.append("predictions", measuring.prediction_rows(run, host, predictions, scores, store))
    rounds = _rounds(run, host, study, artifacts, slice_, store, metrics)
    failed |= {row["variant"]: row["error"] for row in rounds if row["error"]} | dict(unbuilt)
    measured = [
        *_absent(study, unbuilt),
        *summarise.speed_measurements(rounds, study.baseline),
        *summarise.quality_measurements(_quality(study, scores, failed), study.baseline),
    ]
    for variant, artifact in artifacts.items():
        measured += measuring.measure_size(variant, artifact, store)
        measured += measuring.note_measurements(variant, artifact, store)
    subjects = {variant: _subject(study, variant, artifacts.get(variant)) for variant in study.variants}
    metrics.append(
        "measurements",
        summarise.measurement_rows(measured, subjects, run=run, study=study.name, host=host, time=datetime.now(UTC)),
    )
    return Report(host, *summarise.session_noise(rounds, study.baseline), failed)


def _complete(
    study: Study, artifacts: Mapping[str, ArtifactRef], slice_: ArtifactRef, store: ArtifactStore
) -> tuple[dict[str, ArtifactRef], dict[str, str]]:
    """Every variant's completions, and the reason where there are none; random weights are not asked."""
    predictions: dict[str, ArtifactRef] = {}
    failed: dict[str, str] = {}
    for variant, artifact in {}.items() if study.random_weights else artifacts.items():
        say(f"completing {study.data.samples} lines with {variant}")
        scoring = Scoring(
            engine=study.variants[variant].engine,
            decoding=study.measuring.decoding,
            batch_size=study.measuring.quality_batch_size,
            threads=measuring.threads_of(study.measuring),
        )
        state = steps.complete(scoring, artifact, slice_, store, return_state=True)
        result = state.result(raise_on_failure=False)
        if isinstance(result, ArtifactRef):
            predictions[variant] = result
        else:
            failed[variant] = str(result)
    return predictions, failed


def _rounds(
    run: str,
    host: str,
    study: Study,
    artifacts: Mapping[str, ArtifactRef],
    slice_: ArtifactRef,
    store: ArtifactStore,
    metrics: MetricsStore,
) -> list[summarise.Row]:
    rows: list[summarise.Row] = []
    spec = study.measuring
    with Turns(spec.rounds * (len(artifacts) + 1)) as turns:
        for number in range(1, spec.rounds + 1):
            order = measuring.round_order(list(artifacts), study.baseline, study.seed, number)
            for position, (variant, replicate) in enumerate(order):
                visit = summarise.Visit(run, host, number, position, variant, replicate)
                turns.begin(f"round {number} of {spec.rounds}: {variant}")
                engine = study.variants[variant].engine
                rows.append(steps.measure_speed(visit, artifacts[variant], engine, slice_, spec, store))
                metrics.append("rounds", rows[-1:])
                turns.end(rows[-1]["samples_per_s"])
    return rows


def _absent(study: Study, unbuilt: Mapping[str, str]) -> list[summarise.Measured]:
    return [summarise.Measured(variant, "samples_per_s", None, None, None, 0, unbuilt[variant]) for variant in unbuilt]


def _quality(study: Study, scores: Mapping[str, Score], failed: Mapping[str, str]) -> dict[str, Score | str]:
    reasons = {
        variant: "random weights" if study.random_weights else failed.get(variant, "") for variant in study.variants
    }
    return {variant: scores.get(variant, reasons[variant]) for variant in study.variants}


def _subject(study: Study, variant: str, artifact: ArtifactRef | None) -> summarise.Subject:
    return summarise.Subject(artifact.digest if artifact else None, study.variants[variant].label, study.random_weights)
