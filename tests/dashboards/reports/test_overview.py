"""The picture of a run: what it draws of which rows, whose names it writes, and that a tainted run says so."""

import re

import pytest

from slimline.dashboards.reports.charts import WIDTH, svg
from slimline.dashboards.reports.overview import MOST_NAMES, has_overview, overview
from tests.dashboards.reports.test_charts import data, texts
from tests.factories import result_row
from tests.storage.factories import NOON


def row(variant, speed, drop, disk, **changes):
    interval = (drop, drop - 1.0, drop + 0.5)
    figures = {"speed_ratio": speed, "es_drop": interval, "disk_mb": disk}
    return result_row(variant, **({"started": NOON} | figures | changes))


ORIGINAL = row("original", 1.0, 0.0, 28.0)
ROWS = [ORIGINAL, row("int8", (4.0, 3.5, 9.0), 1.5, 7.0), row("slow", 0.5, 3.0, 28.0)]


def bubbles(chart):
    return {each["variant"]: each for each in data(chart) if "disk_mb" in each}


def test_a_drop_is_drawn_downwards_with_its_paired_interval():
    found = bubbles(overview(ROWS, recommended="int8"))
    int8 = found["int8"]
    assert (int8["x"], int8["y"], int8["lo"], int8["hi"], int8["disk_mb"]) == (4.0, -1.5, -2.0, -0.5, 7.0)
    assert (int8["slowest"], int8["fastest"]) == (3.5, 9.0)
    assert {name: each["kind"] for name, each in found.items()} == {
        "original": "the original",
        "int8": "recommended",
        "slow": "others",
    }


def test_it_says_what_is_drawn_where_and_when_it_was_measured():
    written = texts(svg(overview(ROWS)))
    assert {"original", "int8", "slow", "change of edit similarity (ES), points"} <= set(written)
    assert any("measured on box, 2026-11-01" in each for each in written if each)


def test_it_says_what_a_drop_is_measured_against():
    controlled = [each.model_copy(update={"control": "longer"}) for each in ROWS]
    assert "ES of what was trained on: against longer" in texts(svg(overview(controlled)))


def test_no_change_and_the_allowed_drop_are_lines_from_end_to_end():
    drawn = re.findall(r'<line aria-label="[^"]*points: ([^;]*);[^>]* x2="(\d+)"[^>]*dasharray', svg(overview(ROWS)))
    assert drawn == [("0", str(WIDTH)), ("\N{MINUS SIGN}2", str(WIDTH))]


def test_of_a_tainted_run_it_says_that_first():
    written = texts(svg(overview([each.model_copy(update={"tainted": True}) for each in ROWS])))
    assert any(each.startswith("TAINTED, too noisy to trust: measured on box") for each in written if each)


def test_at_most_eight_have_names_and_the_original_and_the_recommended_are_among_them():
    rows = [ORIGINAL, *(row(f"v{number}", 2.0 + number, 0.1 * number, 20.0) for number in range(12))]
    chart = overview([*rows, row("chosen", 1.1, 9.0, 30.0)], recommended="chosen")
    named = {each["text"] for each in data(chart) if "text" in each}
    assert len(named) == MOST_NAMES and {"original", "chosen", "v11"} <= set(named)
    assert len(bubbles(chart)) == 14


@pytest.mark.parametrize("unfit", [{"error": "it broke"}, {"random_weights": True}, {"speed_ratio": None}])
def test_what_has_not_all_three_is_left_out(unfit):
    assert "odd" not in bubbles(overview([*ROWS, row("odd", 2.0, 1.0, 9.0, **unfit)]))
    assert not has_overview([row("odd", 2.0, 1.0, 9.0, **unfit)])
    assert bubbles(overview([row("odd", 2.0, 1.0, 9.0, **unfit)])) == {}


def test_the_interval_of_speed_is_drawn_from_end_to_end_within_the_picture():
    bar = re.findall(
        r'<line aria-label="times[^:]*: 3\.5;[^"]*fastest: 9;[^>]*translate\(([\d.]+)[^>]* x2="([\d.]+)"',
        svg(overview(ROWS)),
    )
    ((start, length),) = bar
    assert 0 < float(start) < float(start) + float(length) < WIDTH
