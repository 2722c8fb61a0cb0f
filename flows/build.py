"""One variant's recipe, step by step, to the artifact its engine loads."""

from __future__ import annotations

from prefect import flow

from slimline.flows.config.study import Study
from slimline.flows.ui.progress import say
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.tasks import steps
from slimline.tasks.specs import Calibration, Distill, TrainingStep, Work


@flow(name="build", flow_run_name="build {variant}", validate_parameters=False)
def build(study: Study, variant: str, base: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """Apply the variant's steps to the base; steps it shares with another variant are made once."""
    teacher = artifact = base
    for step in study.prepare:
        teacher = artifact = _applied(step, artifact, base, slice_, store)
    for step in study.variants[variant].steps:
        artifact = _applied(step, artifact, teacher, slice_, store)
    return artifact


def _applied(
    step: Work, artifact: ArtifactRef, teacher: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore
) -> ArtifactRef:
    if isinstance(step, Distill):
        state = steps.distill(step, artifact, teacher, slice_, store, return_state=True)
    elif isinstance(step, TrainingStep):
        state = steps.train(step, artifact, slice_, store, return_state=True)
    elif isinstance(step, Calibration):
        state = steps.calibrate(step, artifact, slice_, store, return_state=True)
    else:
        state = steps.convert(step, artifact, store, return_state=True)
    made = state.result()
    say(f"  {step.step}: {'kept' if state.name == 'Cached' else 'made'} {made}")
    return made
