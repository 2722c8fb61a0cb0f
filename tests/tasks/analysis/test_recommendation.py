"""Which variant to ship: rules on small known tables, and properties on any table."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimline.dashboards.reports.recommendation import render_recommendation, results_by_host
from slimline.storage.queries.results import Figure
from slimline.tasks.analysis.recommendation import DEFAULT, Constraints, recommend
from slimline.tasks.analysis.significance import NOT_ENOUGH
from tests.factories import result_row, with_figures

AXES = {"es": 1, "speed_ratio": 1, "disk_mb": -1, "memory_over_base_mb": -1}
BOUNDED = {
    "max_es_drop": ("es_drop", 1),
    "max_em_drop": ("em_drop", 1),
    "max_memory_mb": ("memory_mb", 1),
    "max_disk_mb": ("disk_mb", 1),
    "min_samples_per_s": ("samples_per_s", -1),
}


def row(variant, speed=1.0, es=50.0, disk=20.0, memory=100.0, **changes):
    """A variant; every figure's interval is 10 % wide to both sides, but the disk's, which has none.

    Three rounds have the speed, 1 % less, and 1 % more.
    """
    drop = None if es is None else 50.0 - es
    values = {"speed_ratio": speed, "samples_per_s": 5 * speed, "es": es, "es_drop": drop, "em_drop": drop}
    values |= {"memory_mb": memory + 40, "memory_over_base_mb": memory}
    figures = {metric: around(value) for metric, value in values.items()}
    head = {"study": "s", "run": "r", "host": "h", "label": "ours", "disk_mb": disk}
    head["pair_ratios"] = pairs(speed, 0.99 * speed, 1.01 * speed)
    return result_row(variant, **(head | figures | changes))


def pairs(*ratios):
    return dict(enumerate(ratios, start=1))


def around(value):
    return Figure() if value is None else Figure(value, value - abs(value) / 10, value + abs(value) / 10)


def reasons(found):
    return {candidate.variant: "; ".join(candidate.loses) for candidate in found.candidates}


def test_the_fastest_wins_where_it_is_faster_for_sure():
    rows = [row("original"), row("small", 2.0, disk=5.0), row("fast", 3.0, disk=30.0), row("broken", 9.0, es=30.0)]
    found = recommend(rows)
    assert (found.winner, found.constraints) == ("fast", {"max_es_drop": 2.0})
    slower_or_worse = "each other is surely slower, round by round, or no better in anything"
    assert found.rule == f"the fastest that keeps the constraints: {slower_or_worse}"
    assert reasons(found) == {
        "original": "dominated by small: no better in ES, speed, disk or memory",
        "small": "slower than fast: 2 [1.8, 2.2] times the baseline, against 3 [2.7, 3.3]",
        "fast": "",
        "broken": "breaks ES drop at most 2 points: 20 [18, 22] against original",
    }
    assert [c.variant for c in found.candidates if c.on_frontier] == ["small", "fast", "broken"]


def test_the_smaller_wins_where_speeds_cannot_be_told_apart():
    noisy = pairs(2.6, 3.2, 2.7)
    rows = [
        row("original"),
        row("small", 2.8, disk=5.0, pair_ratios=noisy),
        row("light", 2.9, memory=50.0, pair_ratios=noisy),
        row("fast", 3.0, es=52.0),
    ]
    found = recommend(rows)
    assert found.winner == "small"
    assert found.rule == "the smallest of those that may be as fast as fast: none is surely slower"
    assert reasons(found)["fast"] == (
        "not surely faster, and not smaller: 20 MB on disk, 100 over base in memory, against 5 and 100"
    )
    same_disk = recommend([with_figures(each, disk_mb=20.0) for each in rows])
    assert same_disk.winner == "light"
    smallest_too = recommend([row("a", 3.0, disk=5.0), row("b", 2.9, es=51.0, pair_ratios=noisy)])
    assert smallest_too.rule == (
        "the fastest that keeps the constraints, and the smallest of those that may be as fast: also b"
    )


def test_candidates_are_compared_with_each_other_round_by_round():
    """Both are noisy against the baseline, and the noise is the same: one is surely faster than the other."""
    fast = row("fast", 3.0, es=52.0, pair_ratios=pairs(2.0, 3.0, 4.5))
    slow = row("slow", 2.9, disk=5.0, pair_ratios=pairs(1.94, 2.9, 4.35))
    assert recommend([row("original"), fast, slow]).winner == "fast"
    apart = slow.model_copy(update={"pair_ratios": pairs(4.35, 2.9, 1.94)})
    assert recommend([row("original"), fast, apart]).winner == "slow"


def test_the_more_candidates_there_are_the_surer_a_difference_must_be():
    fast = row("fast", 3.0, es=51.0)
    near = row("near", 2.9, disk=5.0, pair_ratios=pairs(2.9, 2.88, 2.92))
    assert recommend([fast, near]).winner == "fast"
    slow = [row(f"v{number}", 1.0, es=52.0 + number, disk=4.0 + number / 10) for number in range(20)]
    assert recommend([fast, near, *slow]).winner == "near"


def test_the_baseline_is_as_fast_as_itself_in_every_round():
    original = row("original", baseline="original", pair_ratios=pairs(0.5, 1.5, 1.0))
    small = row("small", 1.05, disk=5.0, pair_ratios=pairs(1.05, 1.04, 1.06), baseline="original", es=49.0)
    assert recommend([original, small]).winner == "small"
    tiny = small.model_copy(update={"pair_ratios": pairs(0.95, 0.94, 0.96)})
    found = recommend([original, with_figures(tiny, speed_ratio=(0.95, 0.93, 0.97))])
    assert reasons(found)["small"].startswith("slower than original: 0.95")


def test_one_pair_of_processes_is_not_enough_to_tell():
    one = {"pair_ratios": pairs(3.0), "speed_ratio": 3.0, "samples_per_s": 15.0}
    rows = [row("fast", 3.0, **one), row("small", 2.0, disk=5.0)]
    found = recommend(rows)
    assert found.winner is None
    assert found.rule.startswith("not enough to tell: ")
    assert set(reasons(found).values()) == {found.rule}
    assert "excludes the most" not in render_recommendation(found, "text")
    assert recommend(rows[:1]).winner == "fast"  # there is nothing to compare it with
    bounded = recommend(rows[:1], Constraints(min_samples_per_s=1))
    assert "samples/s: not enough to tell" in reasons(bounded)["fast"]


def test_one_that_fits_and_one_that_is_best_in_everything():
    assert recommend([row("original"), row("bad", 2.0, es=10.0)]).rule == "the only one that keeps the constraints"
    best = recommend([row("original"), row("best", 2.0, disk=10.0)])
    assert best.rule == "no other that keeps the constraints is better in anything: ES, speed, disk or memory"


@pytest.mark.parametrize(
    ("changes", "constraints", "reason"),
    [
        ({"es_drop": (1.9, 1.8, 2.1)}, DEFAULT, "may break ES drop at most 2 points, as its interval reaches"),
        ({"es_drop": (1.9, 1.8, 2.0)}, DEFAULT, ""),
        ({"es_drop": (3.2, -4.9, 13.2)}, DEFAULT, "may break ES drop at most 2 points, as its interval reaches"),
        ({"es_drop": (3.2, 2.1, 13.2)}, DEFAULT, "breaks ES drop at most 2 points: 3.2 [2.1, 13.2] against original"),
        ({"es_drop": None}, DEFAULT, "ES drop was not measured"),
        ({"random_weights": True}, DEFAULT, "random weights have no quality"),
        ({"random_weights": True}, Constraints(max_es_drop=2, max_em_drop=2), "random weights have no quality"),
        ({"random_weights": True}, Constraints(max_disk_mb=20), ""),
        ({"error": "died:\nout of memory"}, Constraints(max_disk_mb=20), "failed: died: out of memory"),
        ({"speed_ratio": None}, Constraints(max_disk_mb=20), "not measured: speed_ratio"),
        (
            {"speed_ratio": None, "line_speed_ratio": 2.0},
            Constraints(max_disk_mb=20),
            "not measured: speed_ratio; the run is older than measuring at equal work: run the study again",
        ),
        ({"disk_mb": 20.5}, Constraints(max_disk_mb=20), "breaks disk at most 20 MB: 20.5"),
        ({"memory_mb": (140.0, 126.0, 901.0)}, Constraints(max_memory_mb=900), "may break memory at most 900 MB"),
        ({"memory_mb": 900.0}, Constraints(max_memory_mb=900), ""),
        ({"samples_per_s": (10.0, 4.9, 11.0)}, Constraints(min_samples_per_s=5), "may break samples/s at least 5, as"),
        ({"em_drop": around(3.0)}, Constraints(max_em_drop=2.5), "breaks EM drop at most 2.5 points: 3 ["),
    ],
)
def test_each_reason_not_to_ship(changes, constraints, reason):
    found = recommend([row("only", 2.0, **changes)], constraints)
    assert found.winner == (None if reason else "only")
    assert reasons(found)["only"].startswith(reason)
    assert bool(reasons(found)["only"]) == bool(reason)


def test_none_fits_and_what_it_would_take():
    rows = [row("original", disk=28.0), row("int8", 5.0, disk=16.523), row("broken", 9.0, es=30.0, disk=9.9)]
    found = recommend(rows, Constraints(max_es_drop=5, max_disk_mb=10))
    assert found.winner is None
    assert found.excluded_by == {"max_es_drop": 1, "max_disk_mb": 2}
    assert (found.relaxation.variant, found.relaxation.bounds) == ("int8", {"max_disk_mb": 16.6})
    text = render_recommendation(found, "text")
    assert text.startswith("ship none\nwhy: no variant surely keeps the constraints\n")
    assert "excludes the most: disk at most 10 MB, 2 of 3 measured variants\n" in text
    assert "it would take: disk at most 16.6 MB; then int8 fits\n" in text


def test_two_bounds_must_give_where_one_is_not_enough():
    found = recommend([row("a", es=40.0, disk=30.0)], Constraints(max_es_drop=2, max_disk_mb=10))
    assert found.relaxation.bounds == {"max_es_drop": 11.0, "max_disk_mb": 30.0}


def test_where_nothing_was_measured_no_bound_helps():
    found = recommend([row("a", error="it broke"), row("b", es=None, random_weights=True)])
    assert (found.winner, found.relaxation) == (None, None)
    assert "no other bound would help" in render_recommendation(found, "text")
    nothing = render_recommendation(recommend([row("a", error="it broke")]), "text")
    assert "nothing was measured in all that a choice takes" in nothing and "not a: failed: it broke" in nothing


def test_random_weights_are_compared_by_all_but_quality():
    rows = [row("original", es=None, random_weights=True), row("int8", 2.0, es=None, disk=9.0, random_weights=True)]
    found = recommend(rows, Constraints(max_disk_mb=100))
    assert found.winner == "int8"
    assert [candidate.on_frontier for candidate in found.candidates] == [False, True]
    assert "random weights, so of no known quality" in render_recommendation(found, "text")


def test_what_a_tainted_run_recommends_is_provisional_and_that_comes_first():
    tainted = {"tainted": True, "noise_floor": 0.168}
    for form, start in (("text", ""), ("md", r"\*\*")):
        shown = render_recommendation(recommend([row("a", **tainted)]), form)
        assert re.match(start + r"provisional, as the noise floor is 16.8 %: .*: ship a", shown)
    unknown = recommend([row("a", tainted=True, noise_floor=None)])
    assert "noise floor is unknown" in render_recommendation(unknown, "text")
    none = recommend([row("a", es=30.0, **tainted)])
    assert re.match(r"provisional, .*: ship none\n", render_recommendation(none, "text"))
    assert json.loads(render_recommendation(none, "json"))["provisional"] == none.provisional
    assert recommend([row("a")]).provisional is None


@pytest.mark.parametrize("bound", [math.nan, math.inf])
def test_a_bound_is_a_number(bound):
    with pytest.raises(ValueError, match=r"max_disk_mb.*finite"):
        Constraints(max_disk_mb=bound)


def test_a_recommendation_is_for_one_run_on_one_host():
    for rows in ([], [row("a"), row("b", host="other")], [row("a"), row("b", run="other")]):
        with pytest.raises(ValueError, match="for one run on one host"):
            recommend(rows)


def test_text():
    found = recommend([row("original", label="baseline"), row("fast", 3.0), row("worse", 1.0, disk=30.0)])
    assert render_recommendation(found, "text") == (
        "ship fast, ours: 3 [2.7, 3.3] times the speed of the baseline, ES drop 0 [0, 0] points against original, "
        "20 MB on disk, 140 [126, 154] MB of memory\n"
        "why: no other that keeps the constraints is better in anything: ES, speed, disk or memory\n"
        "constraints: ES drop at most 2 points (what counts is the worse end of a 95 % interval)\n"
        "\n"
        "frontier  ES %         times as fast  disk MB  over base MB   keeps constraints\n"
        "fast      50 [45, 55]  3 [2.7, 3.3]   20       100 [90, 110]  yes\n"
        "\n"
        "not original: dominated by fast: no better in ES, speed, disk or memory\n"
        "not worse: dominated by fast: no better in ES, speed, disk or memory\n"
        "study s, run r, host h\n"
    )


def test_markdown_escapes_and_has_the_frontier_as_a_table():
    shown = render_recommendation(recommend([row("a|b_c", 3.0), row("<i>")]), "md")
    assert shown.startswith(r"**ship a\|b\_c, ours: 3 \[2.7, 3.3\] times")
    assert "\n| frontier | ES % |" in shown and "\n| --- | --- |" in shown and "\n- not \\<i\\>: dominated by" in shown


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match=r"'pdf'.*text, md, json"):
        render_recommendation(recommend([row("a")]), "pdf")


def test_each_host_of_a_run_has_its_own():
    rows = [row("original", host="box"), row("original", host="other"), row("int8", disk=10.0, host="other")]
    found = [(each.host, each.recommendation.winner) for each in results_by_host(rows)]
    assert found == [("box", "original"), ("other", "int8")]


# ---------------------------------------------------------------------------------------------------------- any table

figure = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 1))  # coarse, so that ties occur
NOISE = st.sampled_from([0.8, 0.99, 1.0, 1.01, 1.2])
size = st.floats(0, 50, allow_nan=False).map(lambda value: round(value, 0))


@st.composite
def figures(draw, values):
    value = draw(st.none() if draw(st.integers(0, 9)) == 0 else values)
    wide = draw(st.none() | st.tuples(size, size))
    return Figure(value) if value is None or wide is None else Figure(value, value - wide[0], value + wide[1])


@st.composite
def tables(draw):
    metrics = (*AXES, "samples_per_s", "es_drop", "em_drop", "memory_mb")
    rows = []
    for number in range(draw(st.integers(1, 6))):
        state = {"error": draw(st.sampled_from([None, None, None, "it broke"]))}
        state |= {"random_weights": draw(st.sampled_from([False, False, True]))}
        found = {metric: draw(figures(figure if "drop" in metric else size)) for metric in metrics}
        speed = (found["speed_ratio"].value or 0) + 0.1
        found["speed_ratio"] = found["speed_ratio"] if found["speed_ratio"].value is None else Figure(speed)
        state["pair_ratios"] = pairs(*(speed * factor for factor in draw(st.lists(NOISE, max_size=3))))
        rows.append(with_figures(row(f"v{number}", **state), **found))
    return rows


bounds = st.builds(Constraints, *(st.none() | figure for _ in BOUNDED))


def keeps(made, constraints):
    """Whether a variant surely keeps everything, said again in other words."""
    if made.error or any(made.value(metric) is None for metric in list(AXES)[1:]):
        return False
    for name, bound in (constraints.bounds() or DEFAULT.bounds()).items():
        metric, sign = BOUNDED[name]
        found = made.figure(metric)
        if (made.random_weights and "drop" in metric) or found.value is None:
            return False
        if metric == "samples_per_s" and found.lo is None:
            return False
        if any(sign * end > sign * bound for end in (found.value, found.lo, found.hi) if end is not None):
            return False
    return True


def better(one, other):
    """Whether one is at least as good in everything and better in something."""
    pairs = []
    for axis, sign in AXES.items():
        values = [None if axis == "es" and each.random_weights else each.value(axis) for each in (one, other)]
        pairs.append([-math.inf if value is None else sign * value for value in values])
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


@given(rows=tables(), constraints=bounds)
def test_what_is_recommended_surely_keeps_the_constraints_and_nothing_that_does_dominates_it(rows, constraints):
    found = recommend(rows, constraints)
    fitting = [each for each in rows if keeps(each, constraints)]
    assert (found.winner is None) == (not fitting or found.rule == NOT_ENOUGH)
    assert {candidate.variant for candidate in found.candidates if not candidate.loses} == {found.winner} - {None}
    winner = next((each for each in rows if each.variant == found.winner), None)
    if winner is not None:
        assert winner in fitting
        optimal = [each for each in fitting if not any(better(other, each) for other in fitting)]
        assert winner in optimal


@given(rows=tables(), constraints=bounds)
def test_the_frontier_is_what_nothing_dominates(rows, constraints):
    found = recommend(rows, constraints)
    with_quality = {each.variant: each.model_copy(update={"random_weights": False}) for each in rows}
    complete = [each for each in rows if keeps(with_quality[each.variant], ANYTHING)]
    optimal = {each.variant for each in complete if not any(better(other, each) for other in complete)}
    assert {candidate.variant for candidate in found.candidates if candidate.on_frontier} == optimal


ANYTHING = Constraints(max_disk_mb=1e9)


@given(rows=tables(), constraints=bounds)
def test_what_it_would_take_is_enough_and_needed(rows, constraints):
    found = recommend(rows, constraints)
    if found.relaxation is None:
        return
    asked = constraints.bounds() or DEFAULT.bounds()
    for name, bound in found.relaxation.bounds.items():
        assert (bound - asked[name]) * BOUNDED[name][1] > 0
    relaxed = Constraints(**{**asked, **found.relaxation.bounds})
    again = recommend(rows, relaxed)
    assert again.winner is not None or again.rule == NOT_ENOUGH
    for name in found.relaxation.bounds:
        kept = Constraints(**{**asked, **found.relaxation.bounds, name: asked[name]})
        assert not keeps(next(each for each in rows if each.variant == found.relaxation.variant), kept)


@given(rows=tables(), constraints=bounds, shuffled=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_and_all_forms_render(rows, constraints, shuffled):
    found = recommend(rows, constraints)
    other = list(rows)
    shuffled.shuffle(other)
    assert recommend(other, constraints).winner == found.winner
    assert recommend(other, constraints).relaxation == found.relaxation
    assert all(render_recommendation(found, form).endswith("\n") for form in ("text", "md"))
    assert json.loads(render_recommendation(found, "json"))["winner"] == found.winner
