"""The judge of any series: the verdicts there are, what confirms them, and that alarms stay rare."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from slimline.tasks.regression.series_csv import Choices, Run, Series, read_series
from slimline.tasks.regression.series_judge import judge_series
from slimline.tasks.regression.series_simulation import Layout, drawn, simulate_series

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def runs_of(levels, noise=0.01, count=1, seed=0, **changes):
    draw = np.random.default_rng(seed)
    return [
        Run(
            run=f"r{n}",
            time=NOON + timedelta(days=n),
            values=tuple((level * np.exp(draw.normal(0, noise, count))).tolist()),
            again=(),
            unit="ms",
            setup="",
            blame={"commit": "abc" if level == levels[0] else "def"},
        )._replace(**changes)
        for n, level in enumerate(levels)
    ]


def judged(runs, better="lower", relevant=5.0, lasting=3):
    return judge_series(Series("a", better, relevant, tuple(runs)), lasting)


STEADY = [100.0] * 20


def test_a_run_like_the_others_is_ok():
    found = judged(runs_of([*STEADY, 100.5]))
    assert (found.verdict, found.run, found.runs, found.since) == ("ok", "r20", 20, "r0")
    assert found.value == pytest.approx(100.5, rel=0.04) and found.reference == pytest.approx(100, rel=0.02)
    assert found.lo < found.ratio < found.hi and found.open is None


@pytest.mark.parametrize(("count", "more"), [(1, "5 more runs"), (3, "3 more runs"), (5, "1 more run")])
def test_too_few_runs_are_new(count, more):
    found = judged(runs_of(STEADY[:count]))
    assert found.verdict == "new" and found.reason.startswith(more)


@pytest.mark.parametrize(
    ("better", "level", "verdict"),
    [
        ("lower", 120.0, "regression"),
        ("lower", 80.0, "improvement"),
        ("higher", 80.0, "regression"),
        ("higher", 120.0, "improvement"),
    ],
)
def test_a_change_is_confirmed_by_later_runs(better, level, verdict):
    for lasted in (1, 2):
        early = judged(runs_of([*STEADY, *[level] * lasted]), better)
        assert early.verdict == "suspicious-unconfirmed" and f"{lasted} run" in early.reason
        assert early.since == "r20"
    found = judged(runs_of([*STEADY, *[level] * 3]), better)
    assert (found.verdict, found.since, found.since_time) == (verdict, "r20", NOON + timedelta(days=20))
    assert found.ratio == pytest.approx(level / 100, rel=0.03)
    assert [(each.column, each.before, each.after) for each in found.suspects] == [("commit", "abc", "def")]
    assert (found.open is not None) == (verdict == "regression")


def test_one_wild_run_is_none():
    for wild in (200.0, 50.0):
        assert judged(runs_of([*STEADY, wild, 100.0])).verdict == "ok"
        assert judged(runs_of([*STEADY, wild, wild, 100.0])).verdict == "ok"


def test_a_regression_is_an_alarm_once_and_open_until_it_is_undone():
    slower = [*STEADY, *[120.0] * 8]
    found = judged(runs_of(slower))
    assert (found.verdict, found.reference) == ("ok", pytest.approx(120, rel=0.02))
    assert (found.open.since, found.open.run) == ("r20", "r22")
    assert judged(runs_of([*slower, *[117.0] * 6])).open is not None
    assert judged(runs_of([*slower, *[100.0] * 3])).open is None


def test_a_re_run_confirms_or_refutes_at_once():
    runs = runs_of([*STEADY, 120.0])
    again = [tuple(100 * level * math.exp(0.01 * n) for n in range(-5, 5)) for level in (1.2, 1.0)]
    assert judged([*runs[:-1], runs[-1]._replace(again=again[0])]).verdict == "regression"
    assert judged([*runs[:-1], runs[-1]._replace(again=again[1])]).verdict == "ok"
    few = judged([*runs[:-1], runs[-1]._replace(again=again[0][:7])])
    assert few.verdict == "suspicious-unconfirmed"


def test_an_improvement_by_a_re_run_waits_all_the_same():
    runs = runs_of([*STEADY, 80.0, 80.0, 80.0])
    again = tuple(80 * math.exp(0.01 * n) for n in range(-5, 5))
    runs = [*runs[:-3], *(run._replace(again=again) for run in runs[-3:])]
    assert [judged(runs[:end]).verdict for end in (21, 22, 23)] == [*["suspicious-unconfirmed"] * 2, "improvement"]


@pytest.mark.parametrize("column", ["unit", "setup"])
def test_another_unit_or_setup_starts_anew(column):
    old, new = runs_of(STEADY), runs_of([*STEADY, *[100.0] * 7])[20:]
    new = [run._replace(**{column: "other"}) for run in new]
    found = judged([*old, new[0]])
    assert found.verdict == "not-comparable" and column in found.reason and "r19" in found.reason
    assert judged([*old, *new[:3]]).verdict == "new"
    assert judged([*old, *new]).verdict == "ok"


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_a_slow_drift_is_named_and_noise_and_confirmed_changes_are_none(better):
    sign = 1 if better == "lower" else -1
    drift = judged(runs_of([100 * 1.004 ** (sign * n) for n in range(60)], noise=0.003), better)
    assert drift.verdict == "ok" and 1.1 < drift.crept**sign < 1.3
    assert judged(runs_of([100 * 1.004 ** (-sign * n) for n in range(60)], noise=0.003), better).crept is None
    assert judged(runs_of([*STEADY, *STEADY]), better).crept is None
    assert judged(runs_of([*STEADY, *[100 * 1.2**sign] * 20]), better).crept is None


def test_what_matters_is_chosen():
    runs = runs_of([*STEADY, *[108.0] * 3])
    assert judged(runs, relevant=5.0).verdict == "regression"
    assert judged(runs, relevant=20.0).verdict == "ok"


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e149])
def test_numbers_may_be_as_large_and_small_as_they_like(scale):
    found = judged([run._replace(values=(run.values[0] / 100 * scale,)) for run in runs_of([*STEADY, *[120.0] * 3])])
    assert found.verdict == "regression" and found.ratio == pytest.approx(1.2, rel=0.03)


def test_the_widest_jumps_have_a_verdict():
    wild = runs_of([1e-150 if n % 2 else 1e150 for n in range(30)])
    assert judged(wild).verdict in ("ok", "suspicious-unconfirmed")


def test_the_same_values_without_any_noise():
    assert judged(runs_of(STEADY, noise=0.0)).verdict == "ok"
    assert judged(runs_of([*STEADY, *[110.0] * 3], noise=0.0)).verdict == "regression"


def test_several_series_of_one_file():
    lines = [
        f"{run.time.isoformat()},{name},{run.values[0]}"
        for name, level in (("steady", 100.0), ("slow", 120.0))
        for run in runs_of([*STEADY, *[level] * 3])
    ]
    text = "\n".join(["time,series,value", *lines])
    found = [judge_series(each) for each in read_series(text.encode(), Choices())]
    assert [(each.series, each.verdict) for each in found] == [("slow", "regression"), ("steady", "ok")]


def test_alarms_are_rare_and_a_tenth_is_found():
    normal = drawn(lambda draw, before: draw.gauss(0, 1))
    layout = Layout("normal", 1, again=False)
    steady = [simulate_series(normal, layout, 120, seed) for seed in range(3)]
    assert sum(each.count("regression") + each.count("improvement") for each in steady) <= 1
    slower = [simulate_series(normal, layout, 30, seed, factor=0.9) for seed in range(5)]
    assert sum("regression" in each[20:] for each in slower) >= 4
