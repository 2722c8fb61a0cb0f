"""THE catalogue: every Prefect task of slimline, and the one cache policy.

The only file of tasks/ that imports Prefect. A task here is a plain function of tasks/ with a name, its retries and
its policy. What is built is cached exactly; what is timed never is.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import httpx
from prefect import Task, get_client, task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.context import ConcurrencyContext
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings

from slimline.storage.artifacts.store import ArtifactError, ArtifactRef, ArtifactStore
from slimline.storage.paths import home
from slimline.tasks import build
from slimline.tasks.measurement import rounds
from slimline.tasks.runtime.machine_lock import measuring_lock

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
        """The key of `slimline.tasks.build.step_key`; a record whose artifact is gone or damaged is forgotten first."""
        record = _record(inputs)
        _kept(record, inputs["store"])
        return record.name


def _record(inputs: Mapping[str, Any]) -> Path:
    """Where Prefect keeps what a step made."""
    refs = [value for value in inputs.values() if isinstance(value, ArtifactRef)]
    return Path(get_current_settings().results.local_storage_path) / build.step_key(inputs["spec"], refs)


def _kept(record: Path, store: ArtifactStore) -> ArtifactRef | None:
    """What a step made, if it is still there, and whole; the record is removed if not."""
    try:
        ref = ArtifactRef.model_validate(json.loads(json.loads(record.read_text("utf8"))["result"])["data"])
        store.verify(ref)
    except FileNotFoundError:
        return None
    except (ArtifactError, ValueError, KeyError, TypeError):
        record.unlink()
        return None
    return ref


# ------------------------------------------------------------------------------------------------------- one at a time

# In the environment of a Slurm job whose server was started for its run alone.
ALONE = "SLIMLINE_ALONE"
_LEASE_S = 120  # renewed every 90; a server is started again in less than the rest
_OUTAGE = (ConcurrencySlotAcquisitionError, httpx.HTTPError)
_TRIES, _BETWEEN_TRIES_S = 60, 2.0


@contextmanager
def exclusive() -> Iterator[Callable[[], bool]]:
    """Nothing else is built or measured on this machine meanwhile, by whoever uses the same server, or the same home.

    The server's limit is what runs with other homes see. The lock around it is what runs with servers of their own
    share, and it tells that a slot is held by the dead: the kernel frees it with its holder, the server two minutes
    later. Yields whether it has held so far: a server that was away for longer may have given the slot to others.
    """
    with measuring_lock():
        if not _is_server_shared():
            yield lambda: True
            return
        lease = home() / f"measuring-{platform.node()}.lease"
        slot = _slot_taken(f"measure-{platform.node()}", lease)
        try:
            yield lambda: _is_held(lease)
        finally:
            with suppress(*_OUTAGE):  # what was measured counts; the slot is freed by whoever comes next
                slot.close()
                lease.unlink()


def _is_server_shared() -> bool:
    """Whether others may use this server; one that was started for this run alone never frees what the dead held."""
    return bool(get_current_settings().api.url) and ALONE not in os.environ


def _slot_taken(limit: str, lease: Path) -> ExitStack:
    """The server's slot, once it is free; a server that is just being started again is waited for."""
    for tries_left in reversed(range(_TRIES)):
        try:
            _free_slot_of_the_dead(limit, lease)
            slot = ExitStack()
            slot.enter_context(
                concurrency(limit, 1, lease_duration=_LEASE_S, strict=True, raise_on_lease_renewal_failure=False)
            )
        except _OUTAGE:
            if not tries_left:
                raise
            time.sleep(_BETWEEN_TRIES_S)
        else:
            granted = ConcurrencyContext.get()
            assert granted  # every flow and task run has one
            lease.write_text(str(granted.cleanup_lease_ids[-1]), "utf8")
            return slot
    raise AssertionError("the last try returns or raises")


def _is_held(lease: Path) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.renew_concurrency_lease(UUID(lease.read_text("utf8")), _LEASE_S)
        except httpx.HTTPStatusError as refused:
            return refused.response.status_code != httpx.codes.GONE
        except httpx.TransportError:  # away just now: nobody else can have it
            return True
    return True


def _free_slot_of_the_dead(limit: str, lease: Path) -> None:
    """Whoever left the file had the lock that is ours now, so it has died with the slot."""
    with get_client(sync_client=True) as client:
        with suppress(FileNotFoundError, ValueError):
            client.release_concurrency_slots_with_lease(UUID(lease.read_text("utf8")))
            lease.unlink()
        with suppress(ObjectAlreadyExists):  # where two make it at once
            client.upsert_global_concurrency_limit_by_name(limit, 1)


# ---------------------------------------------------------------------------------------------------------- the doors


def _built(function: Callable[P, ArtifactRef], sentence: str, retries: int = 0) -> Task[P, ArtifactRef]:
    """A task that makes an artifact: cached exactly. Only what reads from outside can fail for a moment."""

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> ArtifactRef:
        inputs = signature(function).bind(*args, **kwargs).arguments
        with exclusive():  # another run may have made it while this one waited
            return _kept(_record(inputs), inputs["store"]) or function(*args, **kwargs)

    bind = task(
        name=function.__name__.replace("_", "-"),
        task_run_name=sentence,
        retries=retries,
        cache_policy=ExactStep(),
        persist_result=True,
        result_serializer="json",
    )
    return bind(alone)


def _timed(function: Callable[P, R], sentence: str) -> Task[P, R]:
    """A task that measures: never cached, and never retried, because a second try would hide what the first saw.

    Only what others may have disturbed is measured again.
    """

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            with exclusive() as is_held:
                measured = function(*args, **kwargs)
                if is_held():
                    return measured

    name = function.__name__.replace("_", "-")
    bind = task(name=name, task_run_name=sentence, cache_policy=NO_CACHE, persist_result=False)
    return bind(alone)


prepare_data = _built(build.prepare_data, "cut {spec.samples} lines from {spec.origin.source}", retries=1)
make_base = _built(build.make_base, "get the {spec.source} base model", retries=1)
train = _built(build.train, "{spec.step} on {model}")
distill = _built(build.distill, "distil {teacher} into {model}")
convert = _built(build.convert, "{spec.step} of {model}")
calibrate = _built(build.calibrate, "{spec.step} of {model}, calibrated")
complete = _built(build.complete, "complete lines with {model} on {spec.engine.name}")
measure_speed = _timed(rounds.measure_speed, "round {visit.round}: time {visit.variant}")
