"""Verdicts from histories: simulated nights through the real judge, and every verdict there is."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from slimline.storage.metrics.rows import MeasurementRow, PredictionRow, Suspect, VerdictRow
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.history import History, HostRun, PairedRound
from slimline.tasks.regression.judge import judge, verdict_rows
from slimline.tasks.regression.noisy_metrics import settle
from slimline.tasks.regression.simulation import Recording, Slowdown, read_recordings, simulate

NOISE = Path(__file__).parents[3] / "docs/data/noise.csv"
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
SPEC = {
    "variants": {name: {"recipe": [{"step": "engine", "name": "torch"}]} for name in ("original", "int8")},
    "measuring": {"speed_samples": 4, "rounds": 3},
}


def host_run(number, **changes):
    run = HostRun(
        run=f"r{number}",
        host="box",
        study="smoke",
        baseline="original",
        started=NOON + timedelta(days=number),
        host_class="class",
        tainted=False,
        noise_floor=0.01,
        versions={"torch": "2.0", "onnxruntime": "1.0"},
        git_commit="abc",
        spec=SPEC,
    )
    return run.model_copy(update=changes)


def rounds_of(run, ratio, count=4, memory=100.0, variant="int8", seed=0):
    draw = np.random.default_rng([seed, len(run)])
    return [
        PairedRound(
            run=run,
            host="box",
            round=number,
            variant=variant,
            samples=4,
            prompt_tokens=900,
            samples_per_s=10.0 * ratio,
            speed_ratio=ratio * math.exp(draw.normal(0, 0.01)),
            baseline_self_ratio=math.exp(draw.normal(0, 0.01)),
            memory_over_base_mb=memory,
        )
        for number in range(count)
    ]


def measured(run, metric, value, variant="int8", version=1, error=None):
    return MeasurementRow(
        run=run,
        study="smoke",
        host="box",
        variant=variant,
        metric=metric,
        value=value,
        metric_version=version,
        time=NOON,
        error=error,
    )


def told(run, **changes):
    """An earlier verdict on int8's speed."""
    row = VerdictRow(
        run=run,
        study="smoke",
        host="box",
        variant="int8",
        metric="speed_ratio",
        metric_version=1,
        time=NOON,
        verdict="ok",
    )
    return row.replace(**changes)


def with_values(rows, **changes):
    return [row.model_copy(update=changes) for row in rows]


def history_of(ratios, now=None, verdicts=(), metric="speed_ratio"):
    """int8's history: a speed ratio a night, tonight's the last."""
    nights = [host_run(number) for number in range(len(ratios))]
    nights[-1] = now or nights[-1]
    rounds = [row for each, ratio in zip(nights, ratios, strict=True) for row in rounds_of(each.run, ratio)]
    rows = [measured(each.run, metric, ratio) for each, ratio in zip(nights, ratios, strict=True)]
    return History(nights[-1], tuple(nights[:-1]), rounds, rows, list(verdicts))


def verdict_of(history, predictions=lambda run, variant: {}):
    (judgement,) = judge(history, predictions)
    return judgement


STEADY = [3.0] * 8


def test_a_night_like_the_others_is_ok():
    row = verdict_of(history_of([*STEADY, 3.02])).row
    assert (row.verdict, row.history) == ("ok", 8)
    assert row.ratio == pytest.approx(1, abs=0.03) and row.reference == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize(("count", "more"), [(0, "5 nights"), (2, "3 nights"), (4, "1 night")])
def test_too_few_nights_are_new_and_say_how_many_are_needed(count, more):
    row = verdict_of(history_of([*STEADY[:count], 3.0])).row
    assert row.verdict == "new" and row.reason == f"{more} more are needed"


@pytest.mark.parametrize(("ratio", "lasted", "verdict"), [(2.5, 1, "regression"), (3.6, 3, "improvement")])
def test_a_change_is_suspicious_until_new_rounds_confirm_it(ratio, lasted, verdict):
    newer = {"torch": "2.1", "onnxruntime": "1.0"}
    history = history_of([*STEADY, *[ratio] * lasted])
    nights = [*history.past, history.now]
    nights = [*nights[:8], *with_values(nights[8:], versions=newer)]
    history = replace(history, now=nights[-1], past=tuple(nights[:-1]))
    first = verdict_of(history)
    assert first.row.verdict == "suspicious-unconfirmed" and first.pending
    settled = settle(first, ["again"], rounds_of("again", ratio, 8))
    (row,) = verdict_rows([settled], history)
    assert (row.verdict, row.rerun, row.change_point) == (verdict, ("again",), "r8")
    assert row.suspects == (Suspect(library="torch", before="2.0", after="2.1"),)
    assert (row.ratio - 1) * ((row.hi if ratio < 3 else row.lo) - 1) > 0
    refuted = settle(first, ["again"], rounds_of("again", 3.0, 8)).row
    assert refuted.verdict == "ok" and refuted.rerun == ("again",)


@pytest.mark.parametrize("lasted", [1, 2])
def test_an_improvement_is_not_the_level_before_it_has_lasted(lasted):
    """Else a false one would make the next normal night a regression."""
    better = [3.6] * lasted
    judged = verdict_of(history_of([*STEADY, *better]))
    assert judged.row.verdict == "suspicious-unconfirmed" and not judged.pending
    assert f"seen for {lasted} night" in judged.row.reason and judged.row.change_point is None
    after = verdict_of(history_of([*STEADY, *better, 3.0], verdicts=[judged.row])).row
    assert after.verdict == "ok" and after.reference == pytest.approx(3, rel=0.02)


def test_a_re_run_that_turns_a_bad_night_into_a_good_one_is_no_improvement_yet():
    first = verdict_of(history_of([*STEADY, 2.5]))
    row = settle(first, ["again"], rounds_of("again", 3.6, 8)).row
    assert row.verdict == "suspicious-unconfirmed" and "seen for 1 night of 3" in row.reason


def test_a_re_run_too_short_to_tell_stays_pending_and_one_that_failed_says_so():
    first = verdict_of(history_of([*STEADY, 2.5]))
    assert settle(first, ["again"], rounds_of("again", 2.5, 5)).pending
    failed = settle(first, ["again"], [])
    assert failed.row.verdict == "suspicious-unconfirmed" and "could not be measured again" in failed.row.reason


def test_a_change_no_larger_than_what_the_baseline_differs_from_itself_is_no_alarm():
    first = verdict_of(history_of([*STEADY, 2.5]))
    rounds = rounds_of("again", 2.5, 8)
    biased = with_values(rounds, baseline_self_ratio=1.215)
    row = settle(first, ["again"], biased).row
    assert row.verdict == "suspicious-unconfirmed" and "differs from itself by" in row.reason


def test_a_tainted_run_says_so():
    row = verdict_of(history_of([*STEADY, 2.5], host_run(8, tainted=True, noise_floor=0.09))).row
    assert "TAINTED: the noise floor of the run is 9.0 %" in row.reason


def test_after_a_regression_the_new_level_is_the_reference():
    slower = history_of([*STEADY, 2.5, 2.5], verdicts=[told("r8", change_point="r8")])
    row = verdict_of(slower).row
    assert (row.verdict, row.history) == ("ok", 1) and row.reference == pytest.approx(2.5, rel=0.02)


def test_a_change_that_began_earlier_names_that_run_and_what_changed_then():
    nights = [host_run(n, git_commit="abc" if n < 8 else "def") for n in range(10)]
    history = history_of([*STEADY, 2.5, 2.5])
    history = replace(history, now=nights[9], past=tuple(nights[:9]))
    settled = settle(verdict_of(history), ["again"], rounds_of("again", 2.5, 8))
    (row,) = verdict_rows([settled], history)
    assert (row.verdict, row.change_point) == ("regression", "r8")
    assert row.suspects == (Suspect(library="git_commit", before="abc", after="def"),)


def test_what_was_measured_again_belongs_to_its_night():
    history = history_of([*STEADY[:7], 2.0, 3.0], verdicts=[told("r7", rerun=("again",))])
    history = replace(history, rounds=[*history.rounds, *rounds_of("again", 3.0, 20)])
    assert verdict_of(history).row.history == 8
    assert verdict_of(history).row.reference == pytest.approx(3, rel=0.02)


CHANGED = {
    "recipe": ({"variants": {"int8": {"recipe": [{"step": "engine", "name": "onnxruntime"}]}}}, "variants.int8.0.name"),
    "samples": ({"measuring": {"speed_samples": 9}}, "measuring.speed_samples"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_another_setup_is_not_comparable(name):
    change, field = CHANGED[name]
    row = verdict_of(history_of([*STEADY, 2.5], host_run(8, spec=SPEC | change))).row
    assert row.verdict == "not-comparable" and row.reason == f"{field} changed after r7"


def test_more_rounds_and_a_new_field_are_comparable():
    spec = SPEC | {"measuring": {"speed_samples": 4, "rounds": 9, "threads": 0}}
    assert verdict_of(history_of([*STEADY, 3.0], host_run(8, spec=spec))).row.verdict == "ok"


def test_another_definition_and_other_prompts_are_not_comparable():
    history = history_of([*STEADY, 3.0])
    redefined = [*history.measurements[:-1], *with_values(history.measurements[-1:], metric_version=2)]
    row = verdict_of(replace(history, measurements=redefined)).row
    assert row.verdict == "not-comparable" and "definition" in row.reason
    baseline = with_values(history.rounds, variant="original")
    longer = [row.model_copy(update={"prompt_tokens": 901}) if row.run == "r8" else row for row in baseline]
    row = verdict_of(replace(history, rounds=[*history.rounds, *longer])).row
    assert row.verdict == "not-comparable" and "prompts" in row.reason


def test_a_variant_that_fails_has_failed():
    history = history_of([*STEADY, 3.0])
    rows = [*history.measurements[:-1], measured("r8", "speed_ratio", None, error="out of memory")]
    row = verdict_of(replace(history, measurements=rows)).row
    assert (row.verdict, row.reason, row.value) == ("failed", "out of memory", None)


def test_the_baseline_is_slower_only_after_some_nights():
    def night(slow):
        nights = [host_run(number) for number in range(9 + slow)]
        speeds = [1.0] * 9 + [0.5] * slow
        rounds = [
            row
            for each, speed in zip(nights, speeds, strict=True)
            for row in rounds_of(each.run, speed, variant="original")
        ]
        rows = [measured(each.run, "samples_per_s", 1.0, variant="original") for each in nights]
        first = verdict_of(History(nights[-1], tuple(nights[:-1]), rounds, rows, []))
        return settle(first, ["again"], rounds_of("again", 0.5, 8, variant="original")).row

    assert night(1).verdict == "suspicious-unconfirmed" and "seen for 1 night of 3" in night(1).reason
    assert (night(3).verdict, night(3).change_point) == ("regression", "r9")


@pytest.mark.parametrize(("size", "verdict"), [(8.0, "ok"), (8.05, "ok"), (8.2, "regression"), (7.0, "improvement")])
def test_sizes_are_exact(size, verdict):
    row = verdict_of(history_of([8.0, 8.0, size], metric="disk_mb")).row
    assert row.verdict == verdict and not row.rerun


def scored(wrong, samples=150):
    return {
        (n, f"x{n}"): PredictionRow(run="r", variant="int8", sample=n, es=40 if n < wrong else 100, em=n >= wrong)
        for n in range(samples)
    }


@pytest.mark.parametrize(
    ("metric", "before", "after", "verdict"),
    [
        ("es", 10, 10, "ok"),
        ("es", 10, 11, "ok"),
        ("es", 10, 13, "suspicious-unconfirmed"),
        ("es", 10, 30, "regression"),
        ("es", 30, 10, "improvement"),
        ("em", 10, 30, "regression"),
        ("em", 10, 12, "suspicious-unconfirmed"),
    ],
)
def test_quality_is_judged_sample_by_sample(metric, before, after, verdict):
    def predictions(run, variant):
        return scored(after if run.run == "r2" else before)

    values = [100 * (1 - wrong / 150) for wrong in (before, before, after)]
    row = verdict_of(history_of(values, metric=metric), predictions).row
    assert row.verdict == verdict, row.reason


def test_samples_without_a_score_are_not_comparable():
    def predictions(run, variant):
        return {key: row.replace(es=None) for key, row in scored(1).items()}

    assert verdict_of(history_of([50.0, 50.0, 50.0], metric="es"), predictions).row.verdict == "not-comparable"


def test_other_samples_are_not_comparable():
    def predictions(run, variant):
        return scored(1, samples=150 if run.run == "r2" else 149)

    assert verdict_of(history_of([50.0, 50.0, 50.0], metric="es"), predictions).row.verdict == "not-comparable"


# ------------------------------------------------------------------------------------------------------------ nights


@pytest.fixture(scope="module")
def recordings():
    return read_recordings(NOISE)


def test_nights_that_are_all_alike_raise_hardly_an_alarm(recordings):
    for recording in recordings:
        assert simulate(recording, nights=60, rounds=5, seed=7).count("regression") <= 1, recording.name


def made_of(noise):
    draw = np.random.default_rng(0)

    def row(name, speed, base, again):
        return PairedRound(
            run="",
            host="",
            round=0,
            variant=name,
            samples_per_s=speed,
            speed_ratio=speed / base,
            baseline_self_ratio=again,
            memory_over_base_mb=50.0,
        )

    rounds = []
    for _ in range(120):
        first, second, ours = (math.exp(draw.normal(0, noise)) for _ in range(3))
        base = (first + second) / 2
        rounds.append(
            {"base": row("base", base, base, second / first), "int8": row("int8", 5 * ours, base, second / first)}
        )
    return Recording("made", "base", rounds)


def test_a_slowdown_of_a_tenth_is_found_and_kept_in_the_store(tmp_path):
    found = simulate(made_of(0.02), nights=13, rounds=5, seed=0, slowdown=Slowdown("int8", 0.9, night=10))
    (alarm,) = [row for night in found.verdicts for row in night if row.verdict == "regression"]
    assert (alarm.run, alarm.variant, alarm.metric) == ("night-10", "int8", "speed_ratio")
    assert alarm.ratio == pytest.approx(0.9, abs=0.05) and found.again[10] >= 8
    store = MetricsStore(tmp_path)
    for night in found.verdicts:
        store.append(night)
    (kept,) = store.query("SELECT run, state FROM regressions").to_pylist()
    assert kept == {"run": "night-10", "state": "open"}


def test_the_same_seed_gives_the_same_nights():
    recording = made_of(0.05)
    assert simulate(recording, 12, 3, seed=3) == simulate(recording, 12, 3, seed=3)
    assert simulate(recording, 12, 3, seed=3) != simulate(recording, 12, 3, seed=4)
