"""Charts: what they show of which rows, that they are legible, and that the same rows give the same bytes."""

import re
import xml.etree.ElementTree as ET
from datetime import timedelta

import pytest

from slimline.dashboards.reports import charts
from slimline.dashboards.reports.label_layout import CHARACTER, LINE, Anchor, place_labels
from slimline.storage.queries.series import SeriesPoint
from tests.factories import result_row
from tests.storage.factories import NOON


def row(variant, samples_per_s, es, **changes):
    figures = {"disk_mb": 10.0, "memory_mb": 100.0, "speed_ratio": samples_per_s / 10, "es": es}
    speed = (samples_per_s, samples_per_s * 0.9, samples_per_s * 1.1)
    return result_row(variant, **({"samples_per_s": speed} | figures | changes))


ROWS = [row("original", 10.0, 50.0), row("int8", 30.0, 49.0), row("slow", 20.0, 45.0), row("bad", 45.0, 20.0)]


def data(chart):
    """Every row that the chart holds."""
    return [each for rows in chart.to_dict()["datasets"].values() for each in rows]


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter() if element.tag.endswith(("}text", "}tspan"))]


def states(chart):
    return {each["variant"]: each["state"] for each in data(chart) if "x_lo" in each}


def test_a_tradeoff_names_every_variant_its_axes_and_what_it_is():
    chart = charts.tradeoff(ROWS, excluded=["bad"], recommended="int8")
    assert states(chart) == {
        "original": charts.FRONTIER,
        "int8": charts.RECOMMENDED,
        "slow": charts.DOMINATED,
        "bad": charts.EXCLUDED,
    }
    written = texts(charts.svg(chart))
    assert {"original", "int8", "slow", "bad", "speed, samples/s (log scale)", "edit similarity (ES), %"} <= set(
        written
    )
    assert set(charts.STATES) <= set(written)


def test_the_frontier_is_that_of_the_axes_shown_and_leaves_out_what_is_excluded():
    assert states(charts.tradeoff(ROWS))["bad"] == charts.FRONTIER
    small = [row("a", 10.0, 50.0, disk_mb=1.0), row("b", 10.0, 40.0, disk_mb=2.0), row("c", 10.0, 60.0, disk_mb=3.0)]
    found = states(charts.tradeoff(small, x="disk_mb"))
    assert found == {"a": charts.FRONTIER, "b": charts.DOMINATED, "c": charts.FRONTIER}


def test_an_interval_is_drawn_and_a_missing_one_is_the_value_itself():
    (found,) = [each for each in data(charts.tradeoff(ROWS)) if each.get("variant") == "int8"]
    assert (found["x_lo"], found["x_hi"], found["y_lo"], found["y_hi"]) == (27.0, 33.0, 49.0, 49.0)


@pytest.mark.parametrize(
    "unfit",
    [
        row("unfit", 10.0, None),
        row("unfit", 10.0, 40.0, error="out of memory"),
        row("unfit", 10.0, 40.0, random_weights=True),
    ],
)
def test_what_has_no_such_figure_is_left_out(unfit):
    assert "unfit" not in states(charts.tradeoff([*ROWS, unfit]))


@pytest.mark.parametrize("draw", [charts.tradeoff, charts.speedups, charts.history])
def test_without_rows_the_chart_says_so(draw):
    assert texts(charts.svg(draw([]))) == [charts.NO_DATA]


def test_a_wide_range_is_drawn_on_a_logarithmic_axis_and_said_so():
    assert "speed, samples/s" in texts(charts.svg(charts.tradeoff(ROWS[:2])))
    assert "speed, samples/s (log scale)" in texts(charts.svg(charts.tradeoff(ROWS)))


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match=r"axis.*'colour'.*samples_per_s.*disk_mb"):
        charts.tradeoff(ROWS, x="colour")


def test_speedups_are_sorted_and_written_out():
    written = texts(charts.svg(charts.speedups(ROWS)))
    assert [name for name in written if name in {each.variant for each in ROWS}] == [
        "bad",
        "int8",
        "slow",
        "original",
    ]
    assert {"4.50", "3.00", "2.00", "1.00", "speed, times the baseline"} <= set(written)


def points(host="box", days=range(1, 5)):
    what = {"variant": "int8", "host": host, "metric": "samples_per_s", "unit": "samples/s"}
    return [SeriesPoint(time=NOON.replace(day=day), run=f"r{day}", value=30.0 + day, **what) for day in days]


def test_history_marks_changes_and_upgrades_and_tells_hosts_apart():
    marks = [
        charts.Mark(NOON.replace(day=2, hour=18), "onnxruntime 1.30 to 1.31", "upgrade"),
        charts.Mark(NOON.replace(day=3), "int8 +10 %", "change"),
    ]
    written = texts(charts.svg(charts.history(points() + points("laptop"), marks)))
    expected = {"onnxruntime 1.30 to 1.31", "int8 +10 %", "int8 on box", "int8 on laptop", "speed, samples/s"}
    assert expected <= set(written)


def test_history_is_not_limited_in_rows():
    many = [points()[0].model_copy(update={"time": NOON + timedelta(seconds=at)}) for at in range(6000)]
    assert len(data(charts.history(many))) >= 6000


@pytest.mark.parametrize(
    "chart",
    [lambda: charts.tradeoff(ROWS), lambda: charts.speedups(ROWS), lambda: charts.history(points())],
)
def test_the_same_rows_give_the_same_bytes_and_nothing_from_outside(chart):
    one, other = charts.svg(chart()), charts.svg(chart())
    assert one == other
    assert charts.png(chart()) == charts.png(chart())
    assert charts.png(chart()).startswith(b"\x89PNG")
    assert "href" not in one
    assert not re.search(r"url\((?!#)|@import|<script", one)


def test_a_hostile_name_stays_text():
    svg = charts.svg(charts.tradeoff([row("<script>alert(1)</script>\x1b[31m", 10.0, 50.0), *ROWS]))
    assert "<script" not in svg
    assert "<script>alert(1)</script> [31m" in texts(svg)


def boxes(labels):
    return [(each.x, each.y - LINE / 2, each.x + CHARACTER * len(each.text), each.y + LINE / 2) for each in labels]


def test_names_of_crowded_points_do_not_cover_each_other():
    crowd = [Anchor(f"variant-{index}", 300 + 9 * (index % 5), 200 + 7 * (index // 5)) for index in range(20)]
    found = boxes(place_labels(crowd, 720, 440))
    overlaps = [
        (one, other)
        for index, one in enumerate(found)
        for other in found[:index]
        if min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])
    ]
    assert overlaps == []
    assert all(left >= 0 and top >= 0 and right <= 720 and bottom <= 440 for left, top, right, bottom in found)


def test_colours_can_be_told_apart_without_colour_vision():
    shapes = [shape for _, shape in charts.STATES.values()]
    assert len(set(shapes)) == len(shapes)
    assert len(set(charts.SHAPES)) == len(charts.SERIES)
