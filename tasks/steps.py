"""THE catalogue: every Prefect task of slimline, and the one cache policy.

The only file of tasks/ that imports Prefect. A task here is a plain function of tasks/ with a name, its retries and
its policy. What is built is cached exactly; what is timed never is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.context import TaskRunContext
from prefect.settings import get_current_settings

from storage.artifacts import ArtifactError, ArtifactRef, ArtifactStore
from tasks import building, measuring

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class ExactStep(CachePolicy):
    """A step's result depends on its spec, its inputs' content, its code and its libraries: on nothing else.

    Prefect's own TASK_SOURCE hashes only the decorated function's text, which for a thin door never changes.
    """

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str:
        """The key of `tasks.building.step_key`; a record whose artifact is gone or damaged is forgotten first."""
        refs = [value for value in inputs.values() if isinstance(value, ArtifactRef)]
        key = building.step_key(inputs["spec"], refs)
        _forget_if_damaged(Path(get_current_settings().results.local_storage_path) / key, inputs["store"])
        return key


def _forget_if_damaged(record: Path, store: ArtifactStore) -> None:
    try:
        store.verify(ArtifactRef.model_validate(json.loads(json.loads(record.read_text("utf8"))["result"])["data"]))
    except FileNotFoundError:
        return
    except (ArtifactError, ValueError, KeyError, TypeError):
        record.unlink()


def _built(function: Callable[P, R], sentence: str, retries: int = 0) -> Task[P, R]:
    """A task that makes an artifact: cached exactly. Only what reads from outside can fail for a moment."""
    bind = task(
        name=function.__name__.replace("_", "-"),
        task_run_name=sentence,
        tags=["build"],
        retries=retries,
        cache_policy=ExactStep(),
        persist_result=True,
        result_serializer="json",
    )
    return bind(function)


def _timed(function: Callable[P, R], sentence: str) -> Task[P, R]:
    """A task that measures: never cached, and never retried, because a second try would hide what the first saw."""
    name = function.__name__.replace("_", "-")
    bind = task(name=name, task_run_name=sentence, tags=["measure"], cache_policy=NO_CACHE, persist_result=False)
    return bind(function)


prepare_data = _built(building.prepare_data, "cut {spec.samples} lines from {spec.origin.source}", retries=1)
make_base = _built(building.make_base, "get the {spec.source} base model", retries=1)
train = _built(building.train, "{spec.step} on {model}")
distill = _built(building.distill, "distil {teacher} into {model}")
convert = _built(building.convert, "{spec.step} of {model}")
calibrate = _built(building.calibrate, "{spec.step} of {model}, calibrated")
complete = _built(building.complete, "complete lines with {model} on {spec.engine.name}")
measure_speed = _timed(measuring.measure_speed, "round {visit.round}: time {visit.variant}")
