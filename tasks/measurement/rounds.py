"""The measurements of a variant: speed by rounds, size, and the values noted when its artifact was made."""

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
from slimline.tasks.measurement.probe import ProbeError, ProbeRequest, run_probe
from slimline.tasks.measurement.roofline import ModelWork, work_of
from slimline.tasks.measurement.size import Parameters, count_parameters, disk_size
from slimline.tasks.measurement.summary import Measurement, Turn, failure_row, round_row, size_measurements
from slimline.tasks.models.external import is_external
from slimline.tasks.runtime.host import usable_cpus, usable_threads
from slimline.tasks.specs import Engine, MeasurementSettings

_OF_TRAINING = ("train_tokens_per_s", "train_loss", "dev_loss")
_OF_ARTIFACT = ("parity_max_abs", "greedy_agreement", "int8_matmuls", "matmuls")


def threads_of(spec: MeasurementSettings) -> int:
    """Intra-op threads: those of the spec, or one per usable CPU if it has none."""
    return spec.threads or usable_threads()


def speed_inputs(slice_dir: Path, count: int) -> list[str]:
    """The inputs that every variant is timed on in every round: a seeded random selection from the slice."""
    samples = read_samples(slice_dir)
    return [sample.input for sample in random.Random(0).sample(samples, min(count, len(samples)))]


def speed_request(
    artifact: ArtifactRef, engine: Engine, texts: Sequence[str], spec: MeasurementSettings, store: ArtifactStore
) -> ProbeRequest:
    """A request for a probe to time the variant in one round; all rounds share it, so that texts are tokenized once."""
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


def measure_speed(turn: Turn, request: ProbeRequest) -> RoundRow:
    """Time one variant in one round; returns a row of `rounds`, with an error if the probe failed.

    The task in `tasks/steps.py` that calls this holds the machine lock.
    """
    started = datetime.now(UTC)
    try:
        return round_row(turn, run_probe(request, timeout_for(len(request.prompts)) + request.least_s))
    except ProbeError as failure:
        return failure_row(turn, failure, started, datetime.now(UTC))


def measure_size(variant: str, artifact: ArtifactRef, store: ArtifactStore) -> list[Measurement]:
    """Disk size of an artifact, and parameters of the checkpoint that it is, or was exported from, if known."""
    return size_measurements(variant, disk_size(store.path(artifact)), _parameters(artifact, store))


def _parameters(artifact: ArtifactRef, store: ArtifactStore) -> Parameters | None:
    while not is_external(store.path(artifact)) and artifact.kind != "model":
        artifact = store.provenance(artifact).inputs[0]
    if not is_external(store.path(artifact)):
        return count_parameters(store.path(artifact))
    notes = all_notes(artifact, store)
    return Parameters(notes["parameters"], notes["parameters_nonzero"]) if "parameters" in notes else None


def note_measurements(variant: str, artifact: ArtifactRef, store: ArtifactStore) -> list[Measurement]:
    """Values that were noted when an artifact was made.

    These are the speed and loss of its last training, also if that made one of its ancestors; and, of the artifact
    itself, parity and agreement with what it was converted from, and its int8 operators.
    """
    notes = {name: value for name, value in all_notes(artifact, store).items() if name in _OF_TRAINING}
    notes |= {name: value for name, value in store.provenance(artifact).notes.items() if name in _OF_ARTIFACT}
    return [
        Measurement(variant, metric, float(notes[metric]), None, None, 1, None)
        for metric in (*_OF_TRAINING, *_OF_ARTIFACT)
        if isinstance(notes.get(metric), int | float)
    ]


def artifact_work(artifact: ArtifactRef, engine: Engine, store: ArtifactStore) -> ModelWork | None:
    """What the artifact's model must compute and read on that engine; None if others made it.

    Raises:
        CheckpointError: it is not a GPT-2.
    """
    if is_external(store.path(artifact)):
        return None
    return work_of(store.path(artifact), engine, store.provenance(artifact).notes)


def all_notes(artifact: ArtifactRef, store: ArtifactStore) -> dict[str, Any]:
    """The notes of an artifact and of its ancestors; where several have a note, the nearest one counts."""
    notes: dict[str, Any] = {}
    waiting, seen = [artifact], set()
    while waiting:
        ref = waiting.pop()
        if ref not in seen and ref.kind != "slice":
            seen.add(ref)
            provenance = store.provenance(ref)
            notes = provenance.notes | notes
            waiting += reversed(provenance.inputs)
    return notes


def has_random_weights(artifact: ArtifactRef, store: ArtifactStore) -> bool:
    """Whether a model was never trained, so that its EM and ES mean nothing."""
    return bool(store.provenance(artifact).notes.get("random_weights"))


def prediction_rows(run: str, host: str, variant: str, predictions: Sequence[Prediction]) -> list[PredictionRow]:
    """Rows of `predictions`: each completion of a variant with its scores."""
    return [PredictionRow(run=run, host=host, variant=variant, **each._asdict()) for each in predictions]


def round_order(variants: Sequence[str], baseline: str, seed: int, number: int) -> list[tuple[str, int]]:
    """The turns of a round as (variant, replicate): every variant once, the baseline twice, in seeded random order."""
    turns = [(variant, 0) for variant in variants] + [(baseline, 1)]
    random.Random(f"{seed}/{number}").shuffle(turns)
    first = next(index for index, (variant, _) in enumerate(turns) if variant == baseline)
    return [(variant, int(index != first) if variant == baseline else 0) for index, (variant, _) in enumerate(turns)]
