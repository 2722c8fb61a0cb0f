"""Series of anybody's benchmark: what a file may look like, and which line and column of a wrong one is named."""

import csv
import io
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimline.tasks.regression.series_csv import Choices, SeriesError, read_series

HEAD = "time,series,value"
PLAIN = f"{HEAD}\n2026-11-01,a,10\n2026-11-02,a,11\n"


def read(text, **names):
    return read_series(text.encode(), Choices(), names)


def test_the_smallest_file():
    (series,) = read(f"{HEAD}\n2026-11-01,a,10\n")
    (run,) = series.runs
    assert (series.name, series.better, series.relevant) == ("a", "lower", 5.0)
    assert (run.run, run.time, run.values) == ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC), (10.0,))


SAME = {
    "byte order mark": "\ufeff" + PLAIN,
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "quotes": PLAIN.replace("a", '"a"').replace("10", '"10"').replace('v"a"lue', "value"),
    "blank lines and blanks": PLAIN.replace("\n", "\n\n").replace(",", " , "),
    "no line break at the end": PLAIN.rstrip(),
    "unsorted": "\n".join([HEAD, "2026-11-02,a,11", "2026-11-01,a,10"]),
    "exponents": PLAIN.replace("10", "1.0e1").replace("11\n", "+1.1E+1\n"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_file_written_otherwise(name):
    (series,) = read(SAME[name])
    assert [run.values for run in series.runs] == [(10.0,), (11.0,)]


def test_all_columns():
    head = "time,series,run,value,replicate,rerun,better,unit,relevant,setup,torch"
    rows = ["7,x,1,0,higher,1/s,10,box,2.0", "8,x,2,no,Higher,1/s,10%,box,2.0", "9,x,1,yes,higher,1/s,10.0,box,2.0"]
    lines = [
        f"2026-11-01T0{n}:00:00Z,s,{run},{value},{rest}"
        for n, row in enumerate(rows)
        for value, run, rest in [row.split(",", 2)]
    ]
    (series,) = read("\n".join([head, *lines]))
    (run,) = series.runs
    assert (series.better, series.relevant) == ("higher", 10.0)
    assert (run.values, run.again, run.unit, run.setup) == ((7.0, 8.0), (9.0,), "1/s", "box")
    assert run.time == datetime(2026, 11, 1, tzinfo=UTC) and run.blame == {"torch": "2.0"}


def test_columns_of_another_name_and_series_in_any_order():
    text = "date;bench;ms;value\n2026-11-02;b;1;x\n2026-11-01;a;2;y\n"
    found = read(text, time="date", series="bench", value="ms")
    assert [(each.name, each.runs[0].values, each.runs[0].blame) for each in found] == [
        ("a", (2.0,), {}),
        ("b", (1.0,), {}),
    ]


def test_times_of_several_zones_are_in_order():
    times = ["2026-11-01T12:00:00+02:00", "2026-11-01T09:00:00Z", "2026-11-01T09:30:00+00:00"]
    (series,) = read("\n".join([HEAD, *(f"{time},a,{value}" for value, time in enumerate(times, 1))]))
    assert [run.values[0] for run in series.runs] == [2.0, 3.0, 1.0]


def rows(*lines, head=HEAD):
    return "\n".join([head, "2026-11-01,a,10", *lines])


WRONG = {
    "empty": ("", ["line 1", "column time"]),
    "head only": (HEAD, ["line 2"]),
    "no value": ("time,series\n2026-11-01,a", ["line 1", "column value"]),
    "column twice": (f"{HEAD},value\n2026-11-01,a,1,2", ["line 1", "column value", "2 times"]),
    "NaN": (rows("2026-11-02,a,nan"), ["line 3", "column value", "'nan'"]),
    "infinite": (rows("2026-11-02,a,inf"), ["line 3", "column value", "'inf'"]),
    "empty value": (rows("2026-11-02,a,"), ["line 3", "column value", "''"]),
    "zero": (rows("2026-11-02,a,0"), ["line 3", "column value", "'0'"]),
    "negative": (rows("2026-11-02,a,-1"), ["line 3", "column value", "'-1'"]),
    "huge": (rows("2026-11-02,a,1e400"), ["line 3", "column value", "'1e400'"]),
    "many digits": (rows(f"2026-11-02,a,{'9' * 5000}"), ["line 3", "column value", "'9999"]),
    "decimal comma": (
        rows("2026-11-02,a,1,5").replace(",", ";").replace("1;5", "1,5"),
        ["line 3", "column value", "'1,5'"],
    ),
    "underscore": (rows("2026-11-02,a,1_0"), ["line 3", "column value", "'1_0'"]),
    "time": (rows("yesterday,a,1"), ["line 3", "column time", "'yesterday'"]),
    "no such day": (rows("2026-02-30,a,1"), ["line 3", "column time", "'2026-02-30'"]),
    "before all time": (rows("0001-01-01T00:00:00+23:00,a,1"), ["line 3", "column time"]),
    "zone and none": (rows("2026-11-02T00:00:00Z,a,1"), ["line 3", "column time", "line 2"]),
    "no name": (rows("2026-11-02,,1"), ["line 3", "column series"]),
    "twice": (rows("2026-11-01,a,10"), ["line 3", "column value", "line 2", "replicate"]),
    "file twice": (rows("2026-11-01,a,11", "2026-11-01,a,10", "2026-11-01,a,11"), ["line 4", "line 2", "replicate"]),
    "replicate twice": (
        f"{HEAD},replicate\n2026-11-01,a,1,1\n2026-11-01,a,2,1",
        ["line 3", "column replicate", "line 2"],
    ),
    "too many cells": (rows("2026-11-02,a,1,2"), ["line 3", "4", "3"]),
    "quote": (rows('2026-11-02,a,"1'), ["line 3", "CSV"]),
    "better": ("time,series,value,better\n2026-11-01,a,1,more", ["line 2", "column better", "'more'", "higher, lower"]),
    "both ways": (f"{HEAD},better\n2026-11-01,a,1,lower\n2026-11-02,a,1,higher", ["line 3", "column better", "line 2"]),
    "relevant": (f"{HEAD},relevant\n2026-11-01,a,1,95", ["line 2", "column relevant", "'95'"]),
    "rerun": (f"{HEAD},rerun\n2026-11-01,a,1,maybe", ["line 2", "column rerun", "'maybe'"]),
    "only a re-run": (f"{HEAD},rerun\n2026-11-01,a,1,1", ["line 2", "column rerun"]),
    "one name for all nights": (
        f"{HEAD},run\n2026-11-01,a,1,x\n2026-11-02,a,2,x\n2026-11-03,a,2,x",
        ["line 4", "column run", "'x'"],
    ),
    "names that begin anew": (
        f"{HEAD},run\n2026-11-01T01,a,1,1\n2026-11-01T01,a,2,2\n2026-11-01T02,a,2,1\n2026-11-01T02,a,1,2"
        "\n2026-11-01T03,a,2,3\n2026-11-01T04,a,1,1",
        ["line 7", "column run", "'1'"],
    ),
    "two units": (f"{HEAD},unit\n2026-11-01,a,1,s\n2026-11-01,a,2,ms", ["line 3", "column unit", "line 2"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_right_is_refused_with_line_and_column(name):
    text, named = WRONG[name]
    with pytest.raises(SeriesError) as refused:
        read(text)
    message = str(refused.value)
    assert all(word in message for word in named), message
    assert "\n" not in message and len(message) < 250


def test_another_encoding_is_refused():
    with pytest.raises(SeriesError, match="line 2"):
        read_series(f"{HEAD}\n2026-11-01,ä,1".encode("latin-1"), Choices())
    with pytest.raises(SeriesError, match="line 1"):
        read_series(PLAIN.encode("utf-16"), Choices())


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(SeriesError, match=r"column ms: .*time, series, value"):
        read(PLAIN, value="ms")


def test_rows_of_one_time_are_one_run_however_it_is_written():
    (series,) = read(f"{HEAD}\n2026-11-01T03:00:00+01:00,a,10\n2026-11-01T02:00:00Z,a,11\n2026-11-01T02:00:01Z,a,12")
    assert [(run.run, run.values) for run in series.runs] == [
        ("2026-11-01T03:00:00+01:00", (10.0, 11.0)),
        ("2026-11-01T02:00:01Z", (12.0,)),
    ]


def test_a_re_run_may_come_days_later():
    (series,) = read(f"{HEAD},run,rerun\n2026-11-01,a,10,x,\n2026-11-02,a,11,y,\n2026-11-04,a,12,x,yes")
    assert [(run.run, run.again) for run in series.runs] == [("x", (12.0,)), ("y", ())]


def test_a_run_may_have_equal_values_but_not_all_of_them_twice_without_a_number():
    assert read(f"{HEAD}\n2026-11-01,a,10\n2026-11-01,a,10\n2026-11-01,a,11")[0].runs[0].values == (10, 10, 11)
    (series,) = read(f"{HEAD},replicate\n2026-11-01,a,10,1\n2026-11-01,a,10,2")
    assert series.runs[0].values == (10.0, 10.0)


zones = st.integers(-12, 12).map(lambda hours: timezone(timedelta(hours=hours)))
times = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=zones)
names = st.text(min_size=1, max_size=8).filter(lambda text: text.strip() == text and "\0" not in text)
values = st.floats(1e-150, 1e150)


@given(
    st.dictionaries(st.tuples(times, names), st.lists(values, min_size=1, max_size=4), min_size=1, max_size=12),
    st.randoms(),
)
def test_whatever_is_written_is_read(runs, draw):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["series", "value", "time", "replicate"])
    lines = [
        [name, repr(value), time.isoformat(), n]
        for (time, name), found in runs.items()
        for n, value in enumerate(found)
    ]
    draw.shuffle(lines)
    writer.writerows(lines)
    found = read_series(text.getvalue().encode(), Choices())
    assert {each.name for each in found} == {name for _, name in runs}
    for each in found:
        assert sorted(value for run in each.runs for value in run.values) == sorted(
            value for (_, name), values in runs.items() if name == each.name for value in values
        )
        assert [run.time for run in each.runs] == sorted(run.time for run in each.runs)


cells = st.one_of(st.sampled_from(["2026-11-01", "a", "1", "", '"', "nan", "1e9"]), st.text(max_size=5))
files = st.lists(st.lists(cells, min_size=1, max_size=5), max_size=5).map(lambda rows: "\n".join(map(",".join, rows)))


@given(st.one_of(files.map(lambda text: f"{HEAD}\n{text}".encode()), st.binary(max_size=60)))
def test_any_bytes_are_read_or_refused_in_one_line(content):
    try:
        found = read_series(content, Choices())
    except SeriesError as refused:
        assert str(refused).startswith("line ") and "\n" not in str(refused)
    else:
        assert all(run.values for series in found for run in series.runs)
