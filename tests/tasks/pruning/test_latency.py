"""The latency table: parts recovered from fabricated timings, the search they allow, and what is kept on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from slimline.tasks.pruning import latency
from slimline.tasks.pruning.latency import LatencyTable, Setting, fit_table, latency_table, shapes_to_time
from slimline.tasks.pruning.shapes import Shape, largest_shapes, smaller_shapes
from slimline.tasks.pruning.timing import TimedOn, TimingRequest

ORIGINAL = Shape(layers=4, heads=4, width=64, inner=256, vocabulary=97, positions=64)
PROMPT = 32
ENGINES: list[TimedOn] = ["torch", "onnxruntime", "onnxruntime-int8"]
engines = pytest.mark.parametrize("timed_on", ENGINES)


def setting(original: Shape = ORIGINAL, timed_on: TimedOn = "torch") -> Setting:
    return Setting(host="0", cpu="any", threads=1, timed_on=timed_on, versions={}, code="0", original=original)


def fabricated(shape: Shape, timed_on: TimedOn) -> tuple[float, float]:
    """Seconds of the prefill of 32 tokens and of one decoding step, if milliseconds were as simple as this."""
    full = shape.layers - (timed_on != "torch")
    decode = 1 + shape.vocabulary / 1000 + shape.layers * (0.2 * shape.heads + 0.001 * shape.heads * shape.inner)
    prefill = 2 + shape.vocabulary / 500 + shape.layers * 3 * shape.heads + full * 0.02 * shape.heads * shape.inner
    of_one_token = (shape.layers - full) * 0.001 * shape.heads * shape.inner
    return (prefill + of_one_token) / 1000, decode / 1000


def fabricated_rounds(shapes: Sequence[Shape], timed_on: TimedOn) -> NDArray[np.float64]:
    """Three rounds whose median is the fabricated time."""
    seconds = np.array([fabricated(shape, timed_on) for shape in shapes])
    return np.stack([seconds, 0.9 * seconds, 7 * seconds], axis=1)


def table(original: Shape = ORIGINAL, timed_on: TimedOn = "torch") -> LatencyTable:
    shapes = shapes_to_time(original)
    return fit_table(setting(original, timed_on), PROMPT, shapes, fabricated_rounds(shapes, timed_on))


# ----------------------------------------------------------------------------------------------------------- the parts


@engines
@pytest.mark.parametrize(
    "original",
    [
        ORIGINAL,
        ORIGINAL._replace(layers=1),
        ORIGINAL._replace(layers=12, heads=12, width=96, inner=100, vocabulary=20_000),
        ORIGINAL._replace(heads=1, width=8, inner=24),
    ],
)
def test_all_smaller_shapes_are_predicted(original: Shape, timed_on: TimedOn) -> None:
    fitted = table(original, timed_on)
    for shape in (original, *smaller_shapes(original)):
        prefill, decode = fabricated(shape, timed_on)
        assert fitted.seconds(shape, PROMPT, 1) == pytest.approx(prefill)
        assert fitted.seconds(shape, PROMPT, 8) == pytest.approx(prefill + 7 * decode)


def test_the_parts_are_told_apart() -> None:
    (*_, parts) = table().structures
    assert (parts.heads, parts.width) == (4, 64)
    assert parts.base.prefill_s == pytest.approx(2.194e-3)
    assert parts.base.decode_s == pytest.approx(1.097e-3)
    assert parts.attention.prefill_s == pytest.approx(12e-3)
    assert parts.attention.decode_s == pytest.approx(0.8e-3)
    assert table().inner == (128, 256)
    assert [each.prefill_s for each in parts.feed_forward] == pytest.approx([10.24e-3, 20.48e-3])
    assert [each.decode_s for each in parts.feed_forward] == pytest.approx([0.512e-3, 1.024e-3])


def test_what_layers_take_grows_with_the_prompt() -> None:
    fitted = table()
    base = 2.194e-3
    assert fitted.seconds(ORIGINAL, 2 * PROMPT, 1) - base == pytest.approx(
        2 * (fabricated(ORIGINAL, "torch")[0] - base)
    )


def test_spread_is_the_middle_half_of_the_timings() -> None:
    shapes = shapes_to_time(ORIGINAL)
    rounds = np.array([0.8, 0.9, 1.0, 1.2, 5.0])[:, None] * np.ones((len(shapes), 1, 2))
    assert fit_table(setting(), PROMPT, shapes, rounds).spread == pytest.approx(0.3)


@given(st.integers(0, 2**32 - 1), st.sampled_from(ENGINES))
def test_more_layers_or_neurons_are_never_faster_whatever_was_timed(seed: int, timed_on: TimedOn) -> None:
    shapes = shapes_to_time(ORIGINAL)
    seconds = np.random.default_rng(seed).lognormal(-6, 2, (len(shapes), 3, 2))
    fitted = fit_table(setting(timed_on=timed_on), PROMPT, shapes, seconds)
    for heads in range(1, 5):
        grid = [
            [
                fitted.seconds(ORIGINAL._replace(layers=layers, heads=heads, width=16 * heads, inner=inner), PROMPT, 9)
                for inner in range(32, 257, 32)
            ]
            for layers in range(1, 5)
        ]
        assert (np.diff(grid, axis=0) >= -1e-12).all()
        assert (np.diff(grid, axis=1) >= -1e-12).all()


def test_timed_shapes_by_hand() -> None:
    original = Shape(layers=12, heads=12, width=768, inner=3072, vocabulary=50_001, positions=1024)
    found = shapes_to_time(original)
    assert {(shape.heads, shape.width) for shape in found} == {(1, 64), (4, 256), (6, 384), (9, 576), (12, 768)}
    sizes = [(shape.layers, shape.inner, shape.vocabulary) for shape in found if shape.heads == 12]
    assert sizes == [(1, 384, 50_001), (1, 384, 8192), (6, 384, 8192), (6, 1536, 8192), (6, 3072, 8192)]


@pytest.mark.parametrize(
    "change", [{"layers": 5}, {"heads": 5, "width": 80}, {"width": 32}, {"inner": 257}, {"inner": 0}, {"vocabulary": 9}]
)
def test_a_shape_that_was_not_measured_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"4 layers.*4 heads.*16.*256.*97"):
        table().seconds(ORIGINAL._replace(**change), PROMPT, 1)


# ---------------------------------------------------------------------------------------------------------- the search


def test_the_search_finds_the_most_neurons_of_every_depth_and_width() -> None:
    fitted = table()
    limit_s = fitted.seconds(ORIGINAL, PROMPT, 10) / 4
    found = largest_shapes(ORIGINAL, lambda each: fitted.seconds(each, PROMPT, 10) <= limit_s)
    best = {}
    for shape in sorted(smaller_shapes(ORIGINAL), key=lambda shape: shape.inner):
        prefill, decode = fabricated(shape, "torch")
        if shape.inner >= shape.width and prefill + 9 * decode <= limit_s:
            best[shape.layers, shape.heads] = shape
    assert sorted(found) == sorted(best.values())
    assert len(found) > 3


# ------------------------------------------------------------------------------------------------------------- the file


class Timer:
    """Stands in for the timing process; remembers what it was asked for."""

    def __init__(self) -> None:
        self.requests: list[TimingRequest] = []

    def __call__(self, request: TimingRequest) -> NDArray[np.float64]:
        self.requests.append(request)
        return fabricated_rounds(request.shapes, request.timed_on)


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Timer:
    timer = Timer()
    monkeypatch.setattr(latency, "time_shapes", timer)
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    return timer


def test_a_table_is_measured_once(timer: Timer, tmp_path: Path) -> None:
    first = latency_table(ORIGINAL, "onnxruntime", 1, tmp_path / "latency")
    assert latency_table(ORIGINAL, "onnxruntime", 1, tmp_path / "latency") == first
    (request,) = timer.requests
    assert (request.timed_on, request.threads, request.prompt_tokens) == ("onnxruntime", 1, 32)
    assert {shape.positions for shape in request.shapes} == {41}  # prompt and new tokens
    assert first.prompt_tokens == 32


def test_another_engine_thread_count_or_shape_is_measured_for_itself(timer: Timer, tmp_path: Path) -> None:
    for original, timed_on, threads in (
        (ORIGINAL, "torch", 1),
        (ORIGINAL, "onnxruntime", 1),
        (ORIGINAL, "torch", 2),
        (ORIGINAL._replace(layers=3), "torch", 1),
    ):
        latency_table(original, timed_on, threads, tmp_path / "latency")
    assert len(timer.requests) == len(list((tmp_path / "latency").glob("*.json"))) == 4


def test_a_table_can_be_measured_again(timer: Timer, tmp_path: Path) -> None:
    latency_table(ORIGINAL, "torch", 1, tmp_path)
    latency_table(ORIGINAL, "torch", 1, tmp_path, remeasure=True)
    assert len(timer.requests) == 2


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def forget_neurons(path: Path) -> None:
    content = json.loads(path.read_text())
    content["structures"][0]["feed_forward"].pop()
    path.write_text(json.dumps(content))


def claim_another_host(path: Path) -> None:
    content = json.loads(path.read_text())
    content["setting"]["host"] = "f" * 16
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("damage", [cut_in_half, forget_neurons, claim_another_host])
def test_a_damaged_or_foreign_file_is_measured_again(damage, timer: Timer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    whole = latency_table(ORIGINAL, "torch", 1, tmp_path)
    (path,) = tmp_path.glob("*.json")
    damage(path)
    assert latency_table(ORIGINAL, "torch", 1, tmp_path) == whole
    assert len(timer.requests) == 2
    assert LatencyTable.model_validate_json(path.read_bytes()) == whole


# --------------------------------------------------------------------------------------------------------- the command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["latency", *arguments])
    latency.main()


def test_the_command_prints_the_table(
    timer: Timer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "n_positions")
    config = {"model_type": "gpt2"} | dict(zip(names, ORIGINAL, strict=True))
    (tmp_path / "config.json").write_text(json.dumps(config))
    for arguments in ((), (), ("--remeasure",)):
        run(monkeypatch, str(tmp_path), "--timed-on", "torch", *arguments)
    assert len(timer.requests) == 2
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "structure size prefill of 32, ms decode of one, ms" in lines
    assert "embedding and head 97 x 64 2.194 1.097" in lines
    assert "attention 4 heads, 64 12.000 0.800" in lines
    assert "feed-forward 64 x 256 20.480 1.024" in lines


def test_the_command_refuses_what_is_no_gpt2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        run(monkeypatch, str(tmp_path))
    assert ending.value.code == 2
    assert "config.json is missing" in capsys.readouterr().err
