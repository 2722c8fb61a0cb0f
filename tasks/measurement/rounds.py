"""Steps that measure: a variant in a process of its own, its size, and the rows that come of a run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.storage.metrics.rows import PredictionRow, RoundRow
from slimline.tasks.data.parquet import read_samples
from slimline.tasks.measurement.completions import Prediction, request_for, timeout_for
from slimline.tasks.measurement.probe import ProbeFailed, ProbeRequest, run_probe
from slimline.tasks.measurement.roofline import ModelWork, work_of
from slimline.tasks.measurement.size import count_parameters, disk_size
from slimline.tasks.measurement.summary import Measurement, Visit, failed_round_row, round_row, size_measurements
from slimline.tasks.runtime.host import usable_cpus, usable_threads
from slimline.tasks.specs import Engine, Measuring

_OF_TRAINING = ("train_tokens_per_s", "train_loss", "dev_loss")
_OF_ARTIFACT = ("parity_max_abs", "greedy_agreement", "int8_matmuls", "matmuls")


def threads_of(spec: Measuring) -> int:
    """Intra-op threads: as asked for, else one for every CPU this process may use in full."""
    return spec.threads or usable_threads()


def speed_inputs(slice_dir: Path, count: int) -> list[str]:
    """The samples every variant is timed on, the same ones in every round: a seeded draw from the slice."""
    samples = read_samples(slice_dir)
    return [sample.input for sample in random.Random(0).sample(samples, min(count, len(samples)))]


def speed_request(
    artifact: ArtifactRef, engine: Engine, texts: Sequence[str], spec: Measuring, store: ArtifactStore
) -> ProbeRequest:
    """What a process is asked to time in every round; made once a variant, so that no turn tokenizes again."""
    threads = threads_of(spec)
    return request_for(
        store.path(artifact),
        texts,
        engine,
        spec.decoding,
        threads,
        mode="speed",
        warmup=spec.warmup_samples,
        least_s=spec.turn_seconds,
        cpus=tuple(usable_cpus()[:threads]),
    )


def measure_speed(visit: Visit, request: ProbeRequest) -> RoundRow:
    """One turn of one variant: a row of `rounds`, with the reason where the process failed.

    Its task in `tasks/steps.py` sees to it that nothing else measures here meanwhile.
    """
    started = datetime.now(UTC)
    try:
        return round_row(visit, run_probe(request, timeout_for(len(request.prompts)) + request.least_s))
    except ProbeFailed as failure:
        return failed_round_row(visit, failure, started, datetime.now(UTC))


def measure_size(variant: str, artifact: ArtifactRef, store: ArtifactStore) -> list[Measurement]:
    """Disk size of what inference needs, and parameters of the checkpoint it is, or was exported from."""
    parameters = count_parameters(store.path(_checkpoint_of(artifact, store)))
    return size_measurements(variant, disk_size(store.path(artifact)), parameters)


def _checkpoint_of(artifact: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    while artifact.kind != "model":
        artifact = store.provenance(artifact).inputs[0]
    return artifact


def note_measurements(variant: str, artifact: ArtifactRef, store: ArtifactStore) -> list[Measurement]:
    """What was measured while an artifact was made.

    That is the speed and loss of its last training; and of the artifact itself parity and agreement with what it was
    converted from, and operators in int8: its ancestors' are not its own.
    """
    notes = {name: value for name, value in all_notes(artifact, store).items() if name in _OF_TRAINING}
    notes |= {name: value for name, value in store.provenance(artifact).notes.items() if name in _OF_ARTIFACT}
    return [
        Measurement(variant, metric, float(notes[metric]), None, None, 1, None)
        for metric in (*_OF_TRAINING, *_OF_ARTIFACT)
        if isinstance(notes.get(metric), int | float)
    ]


def artifact_work(artifact: ArtifactRef, engine: Engine, store: ArtifactStore) -> ModelWork:
    """What the artifact's model must compute and read on that engine. Raises CheckpointError if it is no GPT-2."""
    return work_of(store.path(artifact), engine, store.provenance(artifact).notes)


def all_notes(artifact: ArtifactRef, store: ArtifactStore) -> dict[str, Any]:
    """The notes of an artifact and of those it was made from, the nearest first to speak."""
    provenance = store.provenance(artifact)
    ancestors = [all_notes(ref, store) for ref in provenance.inputs if ref.kind != "slice"]
    notes: dict[str, Any] = {}
    for each in [*reversed(ancestors), provenance.notes]:
        notes |= each
    return notes


def has_random_weights(artifact: ArtifactRef, store: ArtifactStore) -> bool:
    """Whether a model was never trained: EM and ES of it mean nothing."""
    return bool(store.provenance(artifact).notes.get("random_weights"))


def prediction_rows(run: str, host: str, variant: str, predictions: Sequence[Prediction]) -> list[PredictionRow]:
    """Rows of `predictions`: a variant's every completion with its own scores."""
    return [PredictionRow(run=run, host=host, variant=variant, **each._asdict()) for each in predictions]


def round_order(variants: Sequence[str], baseline: str, seed: int, number: int) -> list[tuple[str, int]]:
    """A round's turns as (variant, replicate): every variant once, the baseline twice, in a seeded random order."""
    turns = [(variant, 0) for variant in variants] + [(baseline, 1)]
    random.Random(f"{seed}/{number}").shuffle(turns)
    first = next(index for index, (variant, _) in enumerate(turns) if variant == baseline)
    return [(variant, int(index != first) if variant == baseline else 0) for index, (variant, _) in enumerate(turns)]
