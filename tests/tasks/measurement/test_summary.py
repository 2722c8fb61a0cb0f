from datetime import UTC, datetime

import pytest

from slimline.storage.metrics.metric import METRICS
from slimline.storage.metrics.rows import MeasurementRow
from slimline.tasks.analysis.statistics import holm, replicates_interval
from slimline.tasks.measurement.pairs import Pair
from slimline.tasks.measurement.probe import ProbeResult, Timing
from slimline.tasks.measurement.probe_process import ProbeError
from slimline.tasks.measurement.score import score_pairs
from slimline.tasks.measurement.size import DiskSize, Parameters
from slimline.tasks.measurement.summary import (
    Measurement,
    Subject,
    Turn,
    failure_row,
    measurement_rows,
    quality_measurements,
    round_row,
    session_noise,
    size_measurements,
    speed_measurements,
    trained_variants,
    with_pair,
)

NOT_OF_A_TURN = {"node", "slurm_job"}  # but of where the process is
TO_BASE = {"base": "base", "ours": "base"}
OF_A_PAIR = {"pair_pid", "pair_ratio", "pair_error", "pair_passes", "pair_tokens", "pair_s", "pair_baseline_s"}
T0, T1 = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


def turn(variant, number=0, replicate=0):
    return Turn(run="r", host="h", round=number, position=1, variant=variant, replicate=replicate)


def result(latencies=(0.1, 0.2, 0.3, 0.4), **change):
    timings = [
        Timing(latency_s=s, prefill_s=s / 2, decode_s=s / 4, prompt_tokens=100, new_tokens=10, decode_passes=9)
        for s in latencies
    ]
    values = {"pid": 7, "started": T0, "finished": T1, "load_s": 2.0, "wall_s": sum(latencies)}
    values |= {"base_mb": 40.0, "libraries_mb": 90.0}
    memory = {"memory_mb": 140.0, "memory_over_base_mb": 100.0, "memory_over_libraries_mb": 50.0}
    return ProbeResult(**{**values, **memory, "timings": timings, **change})


def row(variant, samples_per_s, number=0, replicate=0, ratio=None):
    made = round_row(turn(variant, number, replicate), result())
    return made.replace(samples_per_s=samples_per_s, pair_ratio=ratio)


def failed_row(variant, number=0):
    failure = ProbeError("ended with exit status 1", 1, ["Traceback", "  File", "ValueError: no"])
    return failure_row(turn(variant, number), failure, T0, T1)


def by_metric(measured, variant):
    return {each.metric: each for each in measured if each.variant == variant}


def test_a_round_row_of_known_timings():
    made = round_row(turn("ours"), result(energy_j=8.0, energy_source="rapl"))
    assert made.model_dump(exclude=NOT_OF_A_TURN | OF_A_PAIR) == {
        **{"run": "r", "host": "h", "round": 0, "position": 1, "variant": "ours", "replicate": 0},
        **{"pid": 7, "nice": 0, "started": T0, "finished": T1, "samples": 4, "passes": 1, "tokens": 40},
        **{"prompt_tokens": 400, "prefill_context": 50.5, "decode_context": 105.0},
        "wall_s": pytest.approx(1.0),
        "samples_per_s": pytest.approx(4.0),
        "undisturbed_per_s": pytest.approx(4.0),
        "latency_p50_ms": pytest.approx(250),
        "latency_p95_ms": pytest.approx(385),
        "latency_p99_ms": pytest.approx(397),
        "first_token_p50_ms": pytest.approx(125),
        "prefill_tokens_per_s": pytest.approx(400 / 0.5),
        "decode_tokens_per_s": pytest.approx(36 / 0.25),
        **{"memory_mb": 140.0, "memory_over_base_mb": 100.0, "base_mb": 40.0, "memory_over_libraries_mb": 50.0},
        **{"energy_j_per_sample": 2.0, "energy_source": "rapl", "load_s": 2.0, "error": None},
    }


def test_of_several_passes_counts_are_of_one_and_the_fastest_of_each_sample_is_undisturbed():
    made = round_row(turn("ours"), result((0.1, 0.5, 0.3, 0.2), passes=2))
    assert (made.samples, made.passes, made.tokens, made.prompt_tokens) == (2, 2, 20, 200)
    assert made.samples_per_s == pytest.approx(4 / 1.1)
    assert made.undisturbed_per_s == pytest.approx(2 / (0.1 + 0.2))


def test_what_took_no_pass_has_no_rate():
    (timing,) = result((0.1,)).timings
    made = round_row(turn("ours"), result(timings=[timing.model_copy(update={"decode_passes": 0, "decode_s": 0.0})]))
    assert made.decode_tokens_per_s is made.decode_context is None
    assert made.prefill_context == 50.5


def test_contexts_are_means_over_tokens_not_over_samples():
    long, short = result((0.1, 0.1)).timings
    timings = [long, short.model_copy(update={"prompt_tokens": 1, "decode_passes": 1})]
    made = round_row(turn("ours"), result(timings=timings))
    assert made.prompt_tokens == 101
    assert made.prefill_context == pytest.approx((sum(range(1, 101)) + 1) / 101)
    assert made.decode_context == pytest.approx((sum(range(101, 110)) + 2) / 10)


def test_rows_fill_the_tables_exactly():
    made = round_row(turn("ours"), result(energy_j=8.0, energy_source="rapl"))
    assert {name for name, value in made if value is None} == {*NOT_OF_A_TURN, *OF_A_PAIR, "error"}
    paired = with_pair(made, Pair(2.0, 0.01, 3, 1.5, 3.0), pid=8, tokens=44)
    assert {name for name, value in paired if value is None} == {*NOT_OF_A_TURN, "error"}
    assert (paired.pair_ratio, paired.pair_error, paired.pair_passes) == (2.0, 0.01, 3)
    assert (paired.pair_pid, paired.pair_tokens, paired.pair_s, paired.pair_baseline_s) == (8, 44, 1.5, 3.0)
    subjects = {"ours": Subject(artifact="ab" * 32, label="repaired", random_weights=False)}
    measured = size_measurements("ours", DiskSize(5.0, 4.0), Parameters(1_500_000, 500_000))
    rows = measurement_rows(measured, subjects, run="r", study="s", host="h", time=T0)
    assert rows[2] == MeasurementRow(
        run="r",
        study="s",
        host="h",
        time=T0,
        variant="ours",
        metric="params_m",
        value=1.5,
        unit="M",
        n=1,
        metric_version=1,
        artifact="ab" * 32,
        label="repaired",
        random_weights=False,
    )
    with pytest.raises(KeyError, match="theirs"):
        measurement_rows([measured[0]._replace(variant="theirs")], subjects, run="r", study="s", host="h", time=T0)
    with pytest.raises(KeyError, match="unheard"):
        measurement_rows([measured[0]._replace(metric="unheard")], subjects, run="r", study="s", host="h", time=T0)


def test_the_size_in_half_precision_is_a_measurement_of_its_own():
    measured = size_measurements("ours", DiskSize(5.0, 4.0, 2.5), None)
    assert [(each.metric, each.value) for each in measured][-1] == ("disk_half_mb", 2.5)


def test_an_export_without_counts_has_no_count_rows():
    assert [each.metric for each in size_measurements("ours", DiskSize(5.0, 4.0), None)] == ["disk_mb", "disk_gzip_mb"]


def test_a_failed_round_keeps_the_whole_reason():
    made = failed_row("ours")
    assert made.error == "measuring process: ended with exit status 1\nTraceback\n  File\nValueError: no"
    assert made.samples_per_s is made.pid is None
    assert (made.started, made.finished) == (T0, T1)


def test_speeds_are_means_over_rounds_and_ratios_are_of_pairs():
    drift = [1.0, 2.0, 4.0]
    rounds = [row("base", speed, number) for number, speed in enumerate(drift)]
    rounds += [row("base", 1.0, number, 1, ratio) for number, ratio in enumerate([1.01, 1.0, 0.99])]
    rounds += [row("ours", 9 * speed, number, ratio=2.0 + number / 10) for number, speed in enumerate(drift)]
    measured = by_metric(speed_measurements(rounds, "base"), "ours")
    assert measured["speed_ratio"][2:] == (*replicates_interval([2.0, 2.1, 2.2]), None)
    assert measured["samples_per_s"][2:] == (*replicates_interval([9.0, 18.0, 36.0]), None)
    assert measured["memory_mb"][2:] == (140.0, 140.0, 140.0, 3, None)
    assert measured["tokens_per_sample"][2:] == (10.0, None, None, 1, None)
    assert "energy_j_per_sample" not in measured
    assert set(measured) < set(METRICS)
    own = by_metric(speed_measurements(rounds, "base"), "base")
    assert own["speed_ratio"][2:] == (1.0, None, None, 3, None)
    assert "speed_p_value" not in own


def test_samples_a_second_are_compared_as_published_too():
    """A variant that stops early is fast in samples, and no faster at equal work."""
    rounds = [row("base", 1.0), row("base", 3.0, replicate=1, ratio=1.0), row("ours", 4.0, ratio=1.0)]
    measured = speed_measurements(rounds, "base")
    assert by_metric(measured, "base")["samples_per_s"].value == pytest.approx(2.0)
    assert by_metric(measured, "ours")["line_speed_ratio"][2:] == (pytest.approx(2.0), None, None, 1, None)
    assert by_metric(measured, "ours")["speed_ratio"][2:] == (1.0, None, None, 1, None)


def test_p_values_hold_together():
    ratios = {"a": [1.1, 1.12, 1.11], "b": [1.0, 1.02, 0.98], "c": [1.5]}
    rounds = [row(name, 1.0, number, ratio=each) for name, found in ratios.items() for number, each in enumerate(found)]
    measured = {
        each.variant: each.value
        for each in speed_measurements([row("base", 1.0), *rounds], "base")
        if each.metric == "speed_p_value"
    }
    assert measured.keys() == {"a", "b"}  # one pair tells nothing
    assert measured == pytest.approx(holm({"a": 0.00076787, "b": 1.0}), abs=0.01)


def test_energy_appears_where_it_was_counted():
    rounds = [round_row(turn("base"), result(energy_j=2.0, energy_source="rapl"))]
    assert by_metric(speed_measurements(rounds, "base"), "base")["energy_j_per_sample"].value == pytest.approx(0.5)


def test_a_variant_that_failed_in_one_round_is_measured_on_the_others():
    rounds = [row("base", 1.0), row("base", 1.0, 1), failed_row("ours"), row("ours", 2.0, 1, ratio=2.0)]
    measured = by_metric(speed_measurements(rounds, "base"), "ours")
    assert measured["samples_per_s"][2:] == (2.0, None, None, 1, None)
    assert measured["speed_ratio"][2:] == (2.0, None, None, 1, None)


def test_a_variant_that_always_failed_has_rows_with_the_reason():
    measured = by_metric(speed_measurements([row("base", 1.0), failed_row("ours")], "base"), "ours")
    reason = "measuring process: ended with exit status 1: ValueError: no"
    assert measured["samples_per_s"][2:] == measured["speed_ratio"][2:] == (None, None, None, 0, reason)


def test_without_a_baseline_only_the_ratios_are_missing():
    measured = by_metric(speed_measurements([failed_row("base"), row("ours", 2.0)], "base"), "ours")
    assert measured["samples_per_s"].value == 2.0
    assert measured["speed_ratio"][2:] == (None, None, None, 0, "it never took turns with the baseline (base)")
    assert measured["line_speed_ratio"][2:] == (None, None, None, 0, "no round has both it and the baseline (base)")


@pytest.mark.parametrize(("ratios", "floor", "tainted"), [([1.0, 1.0], 0.0, False), ([1.02, 0.98], 0.29, True)])
def test_the_noise_is_the_baselines_ratio_to_itself(ratios, floor, tainted):
    rounds = [row("base", 1.0, number, 1, ratio) for number, ratio in enumerate(ratios)]
    assert session_noise([row("base", 9.0), *rounds, row("ours", 9.0, ratio=5.0)], "base") == (
        pytest.approx(floor, abs=0.01),
        tainted,
    )


def test_noise_that_could_not_be_measured_taints():
    assert session_noise([row("base", 1.0), failed_row("base", 1)], "base") == (None, True)
    assert session_noise([row("base", 1.0), row("base", 1.0, replicate=1, ratio=1.0)], "base") == (None, True)


def test_quality_is_paired_with_its_reference():
    base = score_pairs([("a", "a"), ("b", "b"), ("c", "c"), ("x", "d")])
    ours = score_pairs([("a", "a"), ("b", "b"), ("x", "c"), ("x", "d")])
    measured = quality_measurements({"base": base, "ours": ours}, TO_BASE, "base")
    values = {metric: each.value for metric, each in by_metric(measured, "ours").items()}
    assert values == {
        "es": 50.0,
        "em": 50.0,
        "es_drop": 25.0,
        "em_drop": 25.0,
        "em_p_value": 1.0,
        "line_agreement": 75.0,
    }
    assert {each.n for each in measured} == {4}
    own = by_metric(measured, "base")
    assert own["em"][2:5] == pytest.approx((75.0, 30.06, 95.44), abs=0.01)
    assert own["es_drop"][2:5] == own["em_drop"][2:5] == (0.0, 0.0, 0.0)


def test_each_variant_has_a_reference_of_its_own():
    scores = {
        "base": score_pairs([("a", "a"), ("x", "b")]),
        "longer": score_pairs([("a", "a"), ("b", "b")]),
        "slim": score_pairs([("a", "a"), ("x", "b")]),
        "int8": score_pairs([("a", "a"), ("x", "b")]),
    }
    measured = quality_measurements(scores, dict.fromkeys(scores, "base") | {"slim": "longer"}, "base")
    drops = {variant: by_metric(measured, variant)["em_drop"].value for variant in scores}
    assert drops == {"base": 0.0, "longer": -50.0, "slim": 50.0, "int8": 0.0}


def test_agreement_is_with_the_baseline_whatever_is_right_and_whatever_the_reference_is():
    lines = {"base": ["a", " b", "x"], "longer": ["a", "b", "c"], "slim": ["y", "b ", "x"]}
    scores = {name: score_pairs([(line, "a") for line in found]) for name, found in lines.items()}
    measured = quality_measurements(scores, dict.fromkeys(scores, "longer"), "base")
    shares = {name: by_metric(measured, name)["line_agreement"].value for name in scores}
    assert shares == pytest.approx({"base": 100.0, "longer": 200 / 3, "slim": 200 / 3})


def test_trained_is_what_has_seen_tokens_after_the_base():
    found = [
        Measurement("slim", "train_tokens", 9.0, None, None, 1, None),
        Measurement("original", "train_tokens", 0.0, None, None, 1, None),
        Measurement("int8", "disk_mb", 9.0, None, None, 1, None),
    ]
    assert trained_variants(found) == {"slim"}


def test_a_variant_without_a_score_has_rows_with_the_reason():
    base = score_pairs([("a", "a"), ("b", "c")])
    measured = by_metric(quality_measurements({"base": base, "ours": "out of memory"}, TO_BASE, "base"), "ours")
    assert {(each.value, each.error) for each in measured.values()} == {(None, "out of memory")}
    assert len(measured) == 6


def test_a_baseline_without_a_score_leaves_the_variants_own():
    ours = score_pairs([("a", "a"), ("b", "c")])
    measured = by_metric(quality_measurements({"base": "out of memory", "ours": ours}, TO_BASE, "base"), "ours")
    assert measured["em"].value == 50.0
    assert measured["em_drop"].error == "base has no score: out of memory"


def test_scores_of_different_samples_do_not_pair():
    scores = {"base": score_pairs([("a", "a")]), "ours": score_pairs([("a", "a"), ("b", "b")])}
    with pytest.raises(ValueError, match="differ in number: 1 and 2"):
        quality_measurements(scores, TO_BASE, "base")
