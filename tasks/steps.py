"""Every Prefect task of slimline, and their one cache policy.

The only file of tasks/ that imports Prefect. A task here is a plain function of tasks/ with a name, its retries and
its policy. What is built is cached exactly; what is timed never is. Both run alone on the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.context import FlowRunContext, TaskRunContext
from prefect.results import ResultStore, get_result_store
from prefect.types import DateTime

from slimline.storage.artifacts.store import ArtifactError, ArtifactRef, ArtifactStore
from slimline.tasks import build
from slimline.tasks.measurement import rounds
from slimline.tasks.runtime.machine_lock import machine_lock

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)


@dataclass
class ExactStep(CachePolicy):
    """A step's result depends on its spec, its inputs' content, its code and its libraries: on nothing else.

    Prefect's own TASK_SOURCE hashes only the decorated function's text, which for a function that calls another one
    never changes.
    """

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str:
        """The key of `slimline.tasks.build.step_key`; a result whose artifact is gone or damaged is expired first."""
        key = _step_key(inputs)
        _find_result(key, inputs["store"], task_ctx.result_store)
        return key


def _step_key(inputs: Mapping[str, Any]) -> str:
    """The name under which Prefect keeps what a step made."""
    refs = [value for value in inputs.values() if isinstance(value, ArtifactRef)]
    return build.step_key(inputs["spec"], refs)


def _find_result(key: str, store: ArtifactStore, results: ResultStore) -> ArtifactRef | None:
    """What a step made, if it is still there, and whole.

    Prefect would take a result whose artifact is gone for a hit. It has no call that removes one, so it is replaced by
    one that has expired.
    """
    if not results.exists(key):
        return None
    ref: ArtifactRef = results.read(key).result
    try:
        store.verify(ref)
    except ArtifactError as error:
        _log.warning("the result of an earlier step cannot be used, so it is built again: %s", error)
        results.write(ref, key, expiration=DateTime.now("UTC"))
        return None
    return ref


def _purpose(step: str) -> str:
    """What a step needs the machine for."""
    context = FlowRunContext.get()
    return f"{step} of {context.flow_run.name!r}" if context and context.flow_run else step


def _build_task(
    function: Callable[P, ArtifactRef], sentence: str, retries: int = 0, name: str | None = None
) -> Task[P, ArtifactRef]:
    """A task that makes an artifact: cached exactly. Only what reads from outside can fail for a moment."""
    name = name or function.__name__.replace("_", "-")

    @wraps(function)
    def build_alone(*args: P.args, **kwargs: P.kwargs) -> ArtifactRef:
        inputs = signature(function).bind(*args, **kwargs).arguments
        with machine_lock(_purpose(name)):  # another run may have made it while this one waited
            return _find_result(_step_key(inputs), inputs["store"], get_result_store()) or function(*args, **kwargs)

    bind = task(
        name=name,
        task_run_name=sentence,
        retries=retries,
        cache_policy=ExactStep(),
        persist_result=True,
        result_serializer="json",
        cache_result_in_memory=False,  # another run's result is on the disk only
    )
    return bind(build_alone)


def _timing_task(function: Callable[P, R], sentence: str) -> Task[P, R]:
    """A task that measures: never cached, and never retried, because a second try would hide what the first saw."""
    name = function.__name__.replace("_", "-")

    @wraps(function)
    def measure_alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with machine_lock(_purpose(name)):
            return function(*args, **kwargs)

    bind = task(name=name, task_run_name=sentence, cache_policy=NO_CACHE, persist_result=False)
    return bind(measure_alone)


prepare_data = _build_task(build.prepare_data, "cut {spec.samples} lines from {spec.origin.source}", retries=1)
make_base = _build_task(build.make_base, "get the {spec.source} base model", retries=1)
adopt = _build_task(build.adopt, "read {spec.directory}")
train = _build_task(build.apply_step, "{spec.step} on {model}", name="train")
distill = _build_task(build.apply_step, "distil {teacher} into {model}", name="distill")
convert = _build_task(build.apply_step, "{spec.step} of {model}", name="convert")
calibrate = _build_task(build.apply_step, "{spec.step} of {model}, calibrated", name="calibrate")
complete = _build_task(build.complete, "complete lines with {model} on {spec.engine.name}")
measure_speed = _timing_task(rounds.measure_speed, "round {turn.round}: time {turn.variant}")
