"""The tasks' policy: what is built is cached exactly and checked, what is timed never is, and both run alone."""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.cache_policies import NO_CACHE
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.serializers import JSONSerializer

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.tasks import build, steps
from slimline.tasks.runtime import machine_lock
from slimline.tasks.specs import Data

SPEC = Data(train_files=4, dev_files=2, samples=2)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultStore:
    """Where Prefect keeps results, as a task run has it."""
    found = ResultStore(
        result_storage=LocalFileSystem(basepath=str(tmp_path / "results")),
        serializer=JSONSerializer(),
        cache_result_in_memory=False,
    )
    monkeypatch.setattr(steps, "get_result_store", lambda: found)
    return found


@pytest.fixture(autouse=True)
def step_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys without the hash of the code, which takes a while."""
    monkeypatch.setattr(build, "step_key", lambda spec, refs: f"{spec.samples}-{len(refs)}")


def publish(store: ArtifactStore, content: bytes = b"content") -> ArtifactRef:
    now = datetime.now(UTC)
    provenance = Provenance(step={"step": "data"}, inputs=[], versions={}, host="h", created=now, seconds=0)
    with store.stage() as directory:
        (directory / "content").write_bytes(content)
        return store.publish(directory, "slice", provenance)


def compute_key(store: ArtifactStore, results: ResultStore, *refs: ArtifactRef) -> str:
    inputs = {"spec": SPEC, "store": store, **{f"input{number}": ref for number, ref in enumerate(refs)}}
    context: Any = SimpleNamespace(result_store=results)
    return steps.ExactStep().compute_key(context, inputs, {})


def test_the_key_is_of_spec_and_inputs(store: ArtifactStore, results: ResultStore) -> None:
    ref = publish(store)
    assert compute_key(store, results) == "2-0"
    assert compute_key(store, results, ref) == "2-1"


def test_a_result_whose_artifact_is_whole_stays_a_hit(store: ArtifactStore, results: ResultStore) -> None:
    ref = publish(store)
    results.write(ref, "2-0")
    key = compute_key(store, results)
    assert results.exists(key) and results.read(key).result == ref


def test_a_result_whose_artifact_is_damaged_or_gone_is_no_hit_any_more(
    store: ArtifactStore, results: ResultStore, caplog: pytest.LogCaptureFixture
) -> None:
    ref = publish(store)
    key = "2-0"
    results.write(ref, key)
    damaged = store.path(ref) / "content"
    damaged.chmod(0o644)
    damaged.write_bytes(b"damaged")
    compute_key(store, results)
    assert not results.exists(key)
    assert "content" in caplog.text
    results.write(ArtifactRef(kind="slice", digest="0" * 64), key)
    compute_key(store, results)
    assert not results.exists(key)


@pytest.mark.parametrize("record", ["", "{", json.dumps({"metadata": {}, "result": "{"})])
def test_a_damaged_result_is_no_hit(record: str, store: ArtifactStore, results: ResultStore, tmp_path: Path) -> None:
    key = "2-0"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / key).write_text(record)
    assert compute_key(store, results) == key
    assert not results.exists(key)


def test_what_another_run_built_meanwhile_is_not_built_again(store: ArtifactStore, results: ResultStore) -> None:
    ref, other = publish(store), publish(store, b"other")
    calls = []

    def prepare(spec: Data, store: ArtifactStore) -> ArtifactRef:
        calls.append(spec)
        return other

    built = steps._build_task(prepare, "prepare")
    assert built.fn(SPEC, store) == other and calls == [SPEC]
    results.write(ref, "2-0")  # as a run does that had the machine while this one waited
    assert built.fn(SPEC, store) == ref and calls == [SPEC]


def test_steps_run_while_they_hold_the_machine(store: ArtifactStore, results: ResultStore) -> None:
    held = []

    def note(spec: Data, store: ArtifactStore) -> ArtifactRef:
        held.append(machine_lock._thread.holder)
        return publish(store)

    steps._build_task(note, "build").fn(SPEC, store)
    steps._timing_task(note, "time").fn(SPEC, store)
    assert len(held) == 2 and None not in held and machine_lock._thread.holder is None


def test_a_timing_is_never_cached_and_never_tried_again() -> None:
    assert steps.measure_speed.cache_policy == NO_CACHE
    assert steps.measure_speed.retries == 0 and not steps.measure_speed.persist_result
