"""The measurements of a variant: speed by rounds, size, and the values noted when its artifact was made.

In a round every variant has a new process. It is timed alone first. Then it takes turns with the round's process of the
baseline, which sleeps meanwhile: so no more than two models are in memory.

A process that starts while another model is in memory is given other pages than one that starts without, and is up to
1 % faster for it. The variants' always start beside the baseline's. So in every second round the baseline's starts
beside one, too, which then ends: what cannot be made equal is varied, so that the intervals have it (Mytkowicz et al.,
Producing Wrong Data Without Doing Anything Obviously Wrong, ASPLOS 2009).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.storage.metrics.rows import PredictionRow, RoundRow
from slimline.tasks.data.parquet import read_samples
from slimline.tasks.data.samples import Sample
from slimline.tasks.measurement.completions import Prediction, request_for, target_tokens, timeout_for
from slimline.tasks.measurement.pairs import Schedule, compare, take_turns
from slimline.tasks.measurement.probe import ProbeRequest
from slimline.tasks.measurement.probe_process import ProbeError, ProbeProcess
from slimline.tasks.measurement.roofline import ModelWork, work_of
from slimline.tasks.measurement.settings import MeasurementSettings
from slimline.tasks.measurement.size import Parameters, count_parameters, disk_size
from slimline.tasks.measurement.summary import (
    Measurement,
    Turn,
    failure_row,
    round_row,
    size_measurements,
    with_pair,
)
from slimline.tasks.models.external import is_external
from slimline.tasks.runtime.host import usable_cpus, usable_threads
from slimline.tasks.specs import Engine

_log = logging.getLogger(__name__)
_OF_TRAINING = ("train_tokens_per_s", "train_loss", "dev_loss", "dev_bits_per_byte", "dev_bits_per_byte_before")
_OF_ARTIFACT = ("parity_max_abs", "greedy_agreement", "int8_matmuls", "matmuls")


def threads_of(spec: MeasurementSettings) -> int:
    """Intra-op threads: those of the spec, or one per usable CPU if it has none."""
    return spec.threads or usable_threads()


def speed_samples(slice_dir: Path, count: int) -> list[Sample]:
    """What every variant is timed on in every round: a seeded random selection from the slice."""
    samples = read_samples(slice_dir)
    return random.Random(0).sample(samples, min(count, len(samples)))


def speed_request(
    artifact: ArtifactRef, engine: Engine, samples: Sequence[Sample], spec: MeasurementSettings, store: ArtifactStore
) -> ProbeRequest:
    """A request for a probe to time the variant in one round; all rounds share it, so that texts are tokenized once."""
    threads, directory = threads_of(spec), store.path(artifact)
    return request_for(
        directory,
        [sample.input for sample in samples],
        engine,
        spec.decoding,
        threads,
        mode="speed",
        warmup=spec.warmup_samples,
        least_s=spec.turn_seconds,
        cpus=tuple(usable_cpus()[:threads]),
        new_tokens=target_tokens(directory, [sample.gt for sample in samples], spec.decoding),
    )


class PairPlan(NamedTuple):
    """How a variant takes turns with the baseline in a round.

    Attributes:
        baseline: What the baseline's process is asked.
        in_turn: Samples in a turn.
        least_s: Seconds after which no further pass over the samples begins.
    """

    baseline: ProbeRequest
    in_turn: int
    least_s: float

    @property
    def schedule(self) -> Schedule:
        """The schedule of a pair."""
        return Schedule(len(self.baseline.prompts), self.in_turn, self.least_s, timeout_for(self.in_turn))


class Round:
    """One round on this machine: the process of the baseline, with which every other one takes turns.

    Whoever measures holds the machine lock as long as the context lasts: its process stays in memory.
    """

    def __init__(self, plan: PairPlan) -> None:
        self._plan = plan
        self._processes = ExitStack()
        self._baseline: tuple[ProbeProcess, int] | None = None  # and its pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._processes.close()

    def measure(self, turn: Turn, request: ProbeRequest) -> RoundRow:
        """The row of a process, with an error if it failed; `turn` says which it is."""
        started = datetime.now(UTC)
        try:
            if turn.is_reference:
                return self._start_baseline(turn)
            with ProbeProcess(request) as process:
                row = round_row(turn, process.result(_longest(request)))
                return self._pair(row, process, sum(request.new_tokens))
        except ProbeError as failure:
            return failure_row(turn, failure, started, datetime.now(UTC))

    def _start_baseline(self, turn: Turn) -> RoundRow:
        self._processes.close()
        self._baseline = None
        with self._another() if turn.round % 2 == 0 else nullcontext():
            process = self._processes.enter_context(ProbeProcess(self._plan.baseline))
            result = process.result(_longest(self._plan.baseline))
        self._baseline = process, result.pid
        return round_row(turn, result)

    @contextmanager
    def _another(self) -> Iterator[None]:
        """One more process of the baseline, as long as the context lasts."""
        with ProbeProcess(self._plan.baseline) as process:
            process.result(_longest(self._plan.baseline))
            yield

    def _pair(self, row: RoundRow, process: ProbeProcess, tokens: int) -> RoundRow:
        """The row with what it gave in turns; without, if the baseline cannot take any."""
        if self._baseline is None:
            return row
        baseline, pid = self._baseline
        seed = f"{row.run}/{row.round}/{row.variant}/{row.replicate}"
        try:
            seconds = take_turns(process, baseline, self._plan.schedule, seed)
        except ProbeError:
            if baseline.is_alive:
                raise
            _log.warning("the baseline's process has ended; the rest of round %d has no speed ratios", row.round)
            self._baseline = None
            return row
        return with_pair(row, compare(seconds), pid, tokens)


def _longest(request: ProbeRequest) -> float:
    return timeout_for(len(request.prompts)) + request.least_s


def measure_speed(turn: Turn, request: ProbeRequest, beside: Round) -> RoundRow:
    """Time one variant in one round; returns a row of `rounds`, with an error if the probe failed."""
    return beside.measure(turn, request)


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

    These are the tokens of all its trainings; the speed and loss of the last one, also if that made one of its
    ancestors; and, of the artifact itself, parity and agreement with what it was converted from, and its int8
    operators.
    """
    notes = {name: value for name, value in all_notes(artifact, store).items() if name in _OF_TRAINING}
    notes |= {name: value for name, value in store.provenance(artifact).notes.items() if name in _OF_ARTIFACT}
    if tokens := trained_tokens(artifact, store):
        notes["train_tokens"] = tokens
    return [
        Measurement(variant, metric, float(notes[metric]), None, None, 1, None)
        for metric in (*_OF_TRAINING, *_OF_ARTIFACT, "train_tokens")
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


def trained_tokens(artifact: ArtifactRef, store: ArtifactStore) -> int:
    """Tokens of all trainings that led to an artifact, beginning with the model of which a form that ships was made."""
    provenance = store.provenance(artifact)
    models = [ref for ref in provenance.inputs if ref.kind not in ("slice", "predictions")]
    before = trained_tokens(models[0], store) if models else 0  # the first input is the model, the second a teacher
    own = provenance.notes.get("tokens") if provenance.step.get("step") != "base" else None
    return before + (int(own) if isinstance(own, int | float) else 0)


def has_random_weights(artifact: ArtifactRef, store: ArtifactStore) -> bool:
    """Whether a model was never trained, so that its EM and ES mean nothing."""
    return bool(store.provenance(artifact).notes.get("random_weights"))


def prediction_rows(run: str, host: str, variant: str, predictions: Sequence[Prediction]) -> list[PredictionRow]:
    """Rows of `predictions`: each completion of a variant with its scores."""
    return [PredictionRow(run=run, host=host, variant=variant, **each._asdict()) for each in predictions]


def round_order(variants: Sequence[str], baseline: str, seed: int, number: int) -> list[tuple[str, int]]:
    """The processes of a round as (variant, replicate): the baseline's, with which the others take turns, comes first.

    The others are every other variant's and the baseline's second one, in seeded random order.
    """
    others = [(variant, 0) for variant in variants if variant != baseline] + [(baseline, 1)]
    random.Random(f"{seed}/{number}").shuffle(others)
    return [(baseline, 0), *others]
