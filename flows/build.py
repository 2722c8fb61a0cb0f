"""One variant's recipe, step by step, to the artifact its engine loads."""

from __future__ import annotations

from prefect import State, flow

from slimline.flows.config.study import Study
from slimline.flows.ui.progress import say
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.tasks import steps
from slimline.tasks.registry import row_of
from slimline.tasks.specs import External, StepSpec


@flow(name="build", flow_run_name="build {variant}", validate_parameters=False)
def build(study: Study, variant: str, base: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """Apply the variant's steps to the base; steps it shares with another variant are made once."""
    teacher = artifact = base
    for step in study.prepare:
        teacher = artifact = _apply(step, artifact, base, slice_, store)
    for step in study.variants[variant].steps:
        artifact = _adopt(step, store) if isinstance(step, External) else _apply(step, artifact, teacher, slice_, store)
    return artifact


# The task that a step is in Prefect's view, by the first of these that the step needs.
_TASKS = {"teacher": steps.distill, "work": steps.train, "data": steps.calibrate}


def _apply(
    step: StepSpec, artifact: ArtifactRef, teacher: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore
) -> ArtifactRef:
    row = row_of(step)
    task = next((task for need, task in _TASKS.items() if row.needs(need)), steps.convert)
    others = [ref if row.needs(name) else None for name, ref in (("teacher", teacher), ("data", slice_))]
    return _result(step, task(step, artifact, store, *others, return_state=True))


def _adopt(step: External, store: ArtifactStore) -> ArtifactRef:
    return _result(step, steps.adopt(step, store, return_state=True))


def _result(step: StepSpec, state: State[ArtifactRef]) -> ArtifactRef:
    made = state.result()
    say(f"  {step.step}: {'kept' if state.name == 'Cached' else 'made'} {made}")
    return made
