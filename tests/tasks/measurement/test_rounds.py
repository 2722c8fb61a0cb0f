"""What an artifact's provenance says of it, and what only of its ancestors; and what a variant's turns are asked."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.metrics.metric import METRICS
from slimline.tasks.data.samples import Sample
from slimline.tasks.data.tokenizer import load_tokenizer, stop_ids
from slimline.tasks.export.onnx_export import export_onnx
from slimline.tasks.measurement import rounds
from slimline.tasks.measurement.completions import prompts_of, target_tokens
from slimline.tasks.measurement.limits import Limited, limit_measurements
from slimline.tasks.measurement.peaks import Peaks
from slimline.tasks.measurement.probe import ProbeRequest, ProbeResult, Timing
from slimline.tasks.measurement.probe_process import ProbeProcess
from slimline.tasks.measurement.roofline import ModelWork
from slimline.tasks.measurement.rounds import (
    PairPlan,
    Round,
    all_notes,
    note_measurements,
    round_order,
    speed_request,
)
from slimline.tasks.measurement.score import score_pairs
from slimline.tasks.measurement.settings import MeasurementSettings
from slimline.tasks.measurement.size import DiskSize, Parameters
from slimline.tasks.measurement.summary import (
    Turn,
    quality_measurements,
    round_row,
    size_measurements,
    speed_measurements,
)
from slimline.tasks.runtime.host import usable_cpus
from slimline.tasks.specs import Decoding, Engine
from tests.tasks.bpe_models import write_bpe_model


@pytest.fixture
def store(tmp_path: Any) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def publish(store: ArtifactStore, kind: str, inputs: list[ArtifactRef], step: str = "any", **notes: Any) -> ArtifactRef:
    made = Provenance(
        step={"step": step}, inputs=inputs, versions={}, host="h", created=datetime.now(UTC), seconds=0, notes=notes
    )
    with store.stage() as directory:
        (directory / "file").write_text(f"{kind} {step} {inputs} {notes}")
        return store.publish(directory, kind, made)


def noted(artifact: ArtifactRef, store: ArtifactStore) -> dict[str, float | None]:
    return {each.metric: each.value for each in note_measurements("v", artifact, store)}


def test_tokens_of_all_trainings_add_up_but_not_those_of_the_base(store: ArtifactStore) -> None:
    base = publish(store, "model", [], step="base", tokens=1000)
    pruned = publish(store, "model", [base], tokens=30)
    distilled = publish(store, "model", [pruned, base], tokens=200)
    assert noted(publish(store, "onnx", [distilled]), store)["train_tokens"] == 230
    assert "train_tokens" not in noted(base, store)


def test_training_is_inherited_and_what_conversions_found_is_not(store: ArtifactStore) -> None:
    base = publish(store, "model", [], train_loss=3.0, train_tokens_per_s=9)
    int8 = publish(store, "model", [base], matmuls=25, int8_matmuls=25, parity_max_abs=0.5, greedy_agreement=0.8)
    graph = publish(store, "onnx", [int8], matmuls=25, parity_max_abs=1e-5, parity_bound=None, opset=21)
    assert noted(graph, store) == {
        **{"train_loss": 3.0, "train_tokens_per_s": 9.0},
        **{"matmuls": 25.0, "parity_max_abs": 1e-5},
    }
    assert noted(int8, store)["greedy_agreement"] == 0.8
    tuned = publish(store, "model", [int8], train_loss=2.0)
    assert noted(tuned, store) == {"train_loss": 2.0, "train_tokens_per_s": 9.0}


def test_of_very_many_generations_the_nearest_note_counts(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, refs, known = 1500, [], {}
    first = store.provenance(publish(store, "model", []))
    for number in range(count):
        notes = {f"note{number % 7}": number}
        refs.append(ArtifactRef(kind="model", digest=f"{number:064x}"))
        known[refs[-1]] = first.model_copy(update={"inputs": refs[-2:-1], "notes": notes})
    monkeypatch.setattr(store, "provenance", known.__getitem__)
    assert all_notes(refs[-1], store) == {f"note{number % 7}": number for number in range(count - 7, count)}


def test_a_teachers_training_is_not_the_students(store: ArtifactStore) -> None:
    student, teacher = publish(store, "model", [], train_loss=3.0), publish(store, "model", [], train_loss=1.0)
    assert noted(publish(store, "model", [student, teacher]), store) == {"train_loss": 3.0}


def test_every_metric_is_measured_by_something_and_what_is_measured_has_a_definition(store: ArtifactStore) -> None:
    timing = Timing(latency_s=1.0, prefill_s=0.5, decode_s=0.5, prompt_tokens=9, new_tokens=9, decode_passes=8)
    memory = {"memory_mb": 9.0, "memory_over_base_mb": 4.0, "base_mb": 5.0, "libraries_mb": 6.0}
    memory |= {"memory_over_libraries_mb": 3.0, "energy_j": 2.0, "load_s": 1.0}
    now = datetime.now(UTC)
    result = ProbeResult(pid=1, started=now, finished=now, wall_s=1.0, timings=[timing], **memory)
    turns = [(number, name) for number in (1, 2) for name in ("original", "ours")]
    rounds = [round_row(Turn("r", "h", number, 0, name, 0), result).replace(pair_ratio=2.0) for number, name in turns]
    rates = {"fp32_gflops": 1.0, "bf16_gflops": None, "int8_gops": 1.0, "read_gb_s": 1.0}
    peaks = Peaks(fingerprint="f", cpu="c", threads=1, measured=now, versions={}, kernels={}, **rates)
    notes = {"train_tokens_per_s": 9, "train_loss": 3.0, "dev_loss": 3.0, "parity_max_abs": 0.1, "tokens": 64}
    notes |= {"dev_bits_per_byte": 1.0, "dev_bits_per_byte_before": 2.0}
    notes |= {"greedy_agreement": 0.9, "int8_matmuls": 1, "matmuls": 2, "opset": 21}
    measurements = [
        *speed_measurements(rounds, "original"),
        *limit_measurements(rounds, Limited("original", ModelWork(1.0, 1.0, 1.0, 1.0, 1.0, "int8"), 1, 0), peaks),
        *quality_measurements({"original": score_pairs([("a", "a")])}, {"original": "original"}, "original"),
        *size_measurements("original", DiskSize(2.0, 1.0, 1.5), Parameters(2, 1)),
        *note_measurements("original", publish(store, "model", [], **notes), store),
    ]
    assert {each.metric for each in measurements} == METRICS.keys()


TEXTS = ["x = 1\n", "def f ( x ) :\n    return x\n", "import os\nprint ( os . getcwd ( ) )\n"]

CODE = [
    Sample(n, "a.py", text, gt) for n, (text, gt) in enumerate(zip(TEXTS, ["y = 1", "", "print ( x )"], strict=True))
]


@pytest.mark.parametrize("decoding", [Decoding(max_new_tokens=4), Decoding(fixed_new_tokens=3)])
def test_one_request_serves_every_round(store: ArtifactStore, tmp_path: Path, decoding: Decoding) -> None:
    """It asks for the same as a request that is made in each turn, from the artifact and the texts, would."""
    model = write_bpe_model(tmp_path / "model")
    made = Provenance(step={}, inputs=[], versions={}, host="h", created=datetime.now(UTC), seconds=0)
    artifact = store.publish(model, "model", made)
    spec = MeasurementSettings(threads=1, warmup_samples=2, turn_seconds=0.5, decoding=decoding)
    engine = Engine(name="torch")
    request = speed_request(artifact, engine, CODE, spec, store)
    assert request == speed_request(artifact, engine, CODE, spec, store)
    new = target_tokens(store.path(artifact), ["y = 1", "", "print ( x )"], decoding)
    assert request == ProbeRequest(
        directory=store.path(artifact),
        engine=engine,
        threads=1,
        cpus=tuple(usable_cpus()[:1]),
        prompts=prompts_of(store.path(artifact), TEXTS, decoding),
        new_tokens=new,
        stop=() if decoding.fixed_new_tokens else stop_ids(load_tokenizer(model)),
        decoding=decoding,
        mode="speed",
        warmup=2,
        least_s=0.5,
    )
    assert ProbeRequest.model_validate_json(request.model_dump_json()) == request


def test_equal_work_is_what_each_tokenizer_needs_within_what_a_completion_may_have(tmp_path: Path) -> None:
    model = write_bpe_model(tmp_path / "model")
    lines = ["", "x", "print ( x )", "x = 1 " * 60]
    needed = [len(load_tokenizer(model).encode(line, add_special_tokens=False).ids) for line in lines]
    assert needed[3] > 9
    assert target_tokens(model, lines, Decoding(max_new_tokens=9)) == (1, *(min(9, each) for each in needed[1:]))
    assert target_tokens(model, lines, Decoding(fixed_new_tokens=5)) == (5,) * 4


def test_a_round_begins_with_the_process_that_the_others_take_turns_with() -> None:
    order = round_order(["a", "base", "b"], "base", seed=0, number=1)
    assert order[0] == ("base", 0)
    assert sorted(order[1:]) == [("a", 0), ("b", 0), ("base", 1)]
    assert {tuple(round_order(["a", "base", "b"], "base", 0, number)) for number in range(20)} > {tuple(order)}
    assert round_order(["base"], "base", 0, 1) == [("base", 0), ("base", 1)]


@pytest.fixture
def request_(tmp_path: Path) -> ProbeRequest:
    """What a probe of a tiny graph is asked: one sample alone, and two tokens where work is equal."""
    model, graph = write_bpe_model(tmp_path / "model"), tmp_path / "graph"
    graph.mkdir()
    export_onnx(model, graph)
    return ProbeRequest(
        directory=graph,
        engine=Engine(name="onnxruntime"),
        threads=1,
        prompts=((5, 6, 7), (8, 9)),
        decoding=Decoding(max_new_tokens=4),
        mode="speed",
        warmup=1,
        new_tokens=(2, 3),
    )


def turn(position: int, variant: str, replicate: int = 0) -> Turn:
    return Turn("r", "h", 1, position, variant, replicate)


def test_every_process_is_timed_alone_and_then_beside_the_same_one(request_: ProbeRequest) -> None:
    with Round(PairPlan(request_, 1, 0)) as beside:
        first = beside.measure(turn(0, "base"), request_)
        others = [beside.measure(turn(1, "ours"), request_), beside.measure(turn(2, "base", 1), request_)]
    assert first.samples_per_s and first.pair_ratio is None
    for row in others:
        assert row.samples_per_s and row.pair_ratio and row.pair_s and row.pair_baseline_s
        assert (row.pair_pid, row.pair_passes, row.pair_tokens) == (first.pid, 1, 5)
    assert len({first.pid, *(row.pid for row in others)}) == 3


@pytest.mark.parametrize(("number", "alive"), [(1, [0]), (2, [0, 1]), (3, [0]), (4, [0, 1])])
def test_in_every_second_round_the_baseline_starts_beside_another_that_ends(
    request_: ProbeRequest, number: int, alive: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[ProbeProcess] = []
    seen: list[int] = []

    class Watched(ProbeProcess):
        def __init__(self, request: ProbeRequest) -> None:
            seen.append(sum(each.is_alive for each in started))
            super().__init__(request)
            started.append(self)

    monkeypatch.setattr(rounds, "ProbeProcess", Watched)
    with Round(PairPlan(request_, 1, 0)) as beside:
        row = beside.measure(Turn("r", "h", number, 0, "base", 0), request_)
        assert seen == alive and [each.is_alive for each in started] == [False] * (len(alive) - 1) + [True]
    assert row.samples_per_s and row.pair_ratio is None


def test_a_variant_that_fails_beside_the_baseline_fails_alone(request_: ProbeRequest) -> None:
    too_long = request_.model_copy(update={"new_tokens": (2, 10**4)})
    with Round(PairPlan(request_, 1, 0)) as beside:
        beside.measure(turn(0, "base"), request_)
        failed = beside.measure(turn(1, "ours"), too_long)
        after = beside.measure(turn(2, "theirs"), request_)
    assert "prompt 0 has 2 tokens" in (failed.error or "") and failed.samples_per_s is None
    assert after.pair_ratio


def test_without_the_baselines_process_what_was_timed_alone_is_kept(
    request_: ProbeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    with Round(PairPlan(request_, 1, 0)) as beside:
        first = beside.measure(turn(0, "base"), request_)
        assert first.pid
        os.kill(first.pid, signal.SIGKILL)
        rows = [beside.measure(turn(place, "ours"), request_) for place in (1, 2)]
    assert [(row.pair_ratio, row.error) for row in rows] == [(None, None)] * 2
    assert all(row.samples_per_s for row in rows)
    assert "the baseline's process has ended; the rest of round 1 has no speed ratios" in caplog.text


def test_a_baseline_that_cannot_start_has_a_row_with_the_reason(request_: ProbeRequest, tmp_path: Path) -> None:
    broken = request_.model_copy(update={"directory": tmp_path})
    with Round(PairPlan(broken, 1, 0)) as beside:
        failed = beside.measure(turn(0, "base"), broken)
        alone = beside.measure(turn(1, "ours"), request_)
    assert "config.json" in (failed.error or "")
    assert alone.samples_per_s and alone.pair_ratio is None and alone.error is None
