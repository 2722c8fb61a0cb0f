"""Steps that make artifacts: from references to references, through the store, with provenance.

Each function is a plain one, without Prefect: `tasks/steps.py` makes tasks of them. What is computed is in the other
packages of tasks/, and what is known of each step in `registry`; here a step's inputs are looked up, its result is
checked and published, and what it depends on is named.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.paths import home
from slimline.tasks.export.parity import Loadable, parity_in_new_process, reference_in_new_process
from slimline.tasks.forms import ENGINE_OF, KIND_OF
from slimline.tasks.models.checkpoint import refuse_not_finite, stored_tensors
from slimline.tasks.registry import StepRow, row_of
from slimline.tasks.runtime.code_hash import code_hash, step_libraries
from slimline.tasks.specs import (
    Base,
    BundledBase,
    Data,
    Engine,
    External,
    RandomBase,
    ScoreStep,
    Spec,
    StepSpec,
    UserStep,
)


def prepare_data(spec: Data, store: ArtifactStore) -> ArtifactRef:
    """The data slice of a study."""
    return _make(spec, {}, store)


def make_base(spec: Base, slice_: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """The base model of a study; the slice matters only where a tokenizer is learnt from it."""
    return _make(spec, {"data": slice_}, store)


def apply_step(
    spec: StepSpec,
    model: ArtifactRef,
    store: ArtifactStore,
    teacher: ArtifactRef | None = None,
    data: ArtifactRef | None = None,
) -> ArtifactRef:
    """What a recipe step makes of a model. A step that was killed while it trained goes on from its last checkpoint.

    Args:
        spec: The step.
        model: What it is applied to.
        store: Where the inputs are, and where the result goes.
        teacher: The study's prepared base, for a step that needs it.
        data: The study's slice, for a step that needs it.

    Raises:
        ValueError: the result's logits differ from the input's by more than the step's bound.
        RuntimeError: the result does not load in a new process.
    """
    inputs = {"model": model, "teacher": teacher, "data": data}
    return _make(spec, {name: ref for name, ref in inputs.items() if ref is not None}, store)


def adopt(spec: External, store: ArtifactStore) -> ArtifactRef:
    """A model that others made, in place of a base.

    Raises:
        ValueError: it cannot be run; the message says what is missing.
        RuntimeError: it does not load in a new process.
    """
    return _make(spec, {}, store)


def complete(spec: ScoreStep, model: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """A model's completions of the slice's samples."""
    return _make(spec, {"model": model, "data": slice_}, store)


def _make(spec: Spec, inputs: Mapping[str, ArtifactRef], store: ArtifactStore) -> ArtifactRef:
    """Run a step, check its result, and publish it; `inputs` are by the names that the registry has for them."""
    row, started = row_of(spec), time.monotonic()
    used = _used(spec, list(inputs.values()))
    paths = {name: store.path(ref) for name, ref in inputs.items()}
    kind = KIND_OF[row.opens(spec)] if row.opens else row.kind_made(inputs["model"].kind if "model" in inputs else None)
    with _work_directory(row, spec, used) as work, store.stage() as target:
        notes = row.call(_checked(spec, row), {**paths, **work, "target": target})
        if kind in ENGINE_OF:
            notes |= _check(spec, inputs, paths, Loadable(Engine(name=ENGINE_OF[kind]), target))
        provenance = Provenance(
            step={"step": _step_name(spec), **spec.model_dump(mode="json")},
            inputs=list(used),
            versions=step_libraries(row.module),
            host=platform.node(),
            created=datetime.now(UTC),
            seconds=time.monotonic() - started,
            notes={**_inherited(used, store), **notes},
        )
        return store.publish(target, kind, provenance)


def _checked(spec: Spec, row: StepRow) -> Spec:
    """What the function gets: for a user's own step its own spec, which a study keeps as plain data."""
    return row.spec.model_validate(spec.model_dump()) if isinstance(spec, UserStep) else spec


def _inherited(inputs: Sequence[ArtifactRef], store: ArtifactStore) -> dict[str, Any]:
    """Random weights stay random whatever is done to them, short of pre-training."""
    return {"random_weights": any(store.provenance(ref).notes.get("random_weights") for ref in inputs)}


def _check(
    spec: Spec, inputs: Mapping[str, ArtifactRef], paths: Mapping[str, Path], result: Loadable
) -> dict[str, Any]:
    """Load the result in a new process, where it has to compute what its input computes if it is another form of it."""
    row = row_of(spec)
    refuse_not_finite(_step_name(spec), stored_tensors(result.directory))
    if not row.changes_form():
        return {"reference": reference_in_new_process(result)}
    before = Loadable(Engine(name=ENGINE_OF[inputs["model"].kind]), paths["model"])
    found = parity_in_new_process(before, result)
    bound = row.bound.of(spec, found.size) if row.bound else None
    if bound is not None and not found.max_abs <= bound:
        raise ValueError(f"{_step_name(spec)}: logits differ by {found.max_abs:g}, allowed: {bound:g}")
    agreement = {"parity_bound": bound, "greedy_agreement": found.greedy_agreement}
    return {"parity_max_abs": found.max_abs, **agreement, "reference": found.reference}


@contextmanager
def _work_directory(row: StepRow, spec: Spec, inputs: Sequence[ArtifactRef]) -> Iterator[dict[str, Path]]:
    """Where a step keeps what lets it resume after a kill: found again by its cache key, removed once it is done."""
    if not row.needs("work"):
        yield {}
        return
    work = home() / "work" / step_key(spec, inputs)[:16]
    yield {"work": work}
    shutil.rmtree(work, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------ cache key


def step_key(spec: Spec, inputs: Sequence[ArtifactRef]) -> str:
    """What a step's result depends on: its spec, its inputs' content, its code, its libraries, and files outside.

    Returns:
        64 hexadecimal digits.
    """
    row = row_of(spec)
    parts = (
        _step_name(spec),
        spec.model_dump_json(),
        *(ref.digest for ref in _used(spec, inputs)),
        code_hash(row.module),
        row.reads(spec),
    )
    return sha256("\0".join(parts).encode()).hexdigest()


def _step_name(spec: Spec) -> str:
    """The step's name in keys and provenance."""
    return "data" if isinstance(spec, Data) else str(getattr(spec, "step", "base"))


def _used(spec: Spec, inputs: Sequence[ArtifactRef]) -> Sequence[ArtifactRef]:
    """The inputs a step looks at: a base does not look at the slice if its tokenizer is slimline's own."""
    is_ours = isinstance(spec, BundledBase) or (isinstance(spec, RandomBase) and spec.tokenizer == "bundled")
    return () if is_ours else inputs
