import csv
import io
import json
import re
from datetime import timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimline.dashboards.reports.formats import render
from slimline.storage.metrics.metric import TABLE_METRICS
from slimline.storage.metrics.rows import HostRow
from slimline.storage.queries.results import PUBLISHED_METRICS, Figure, NotMeasuredError, host_rows, result_rows
from slimline.storage.text import NONE
from tests.command import run_program
from tests.factories import result_row
from tests.storage.factories import NOON, measured, run_row

NASTY = 'a|b_c & <i>"50%" \\x{y}$#~^, [red]'
FORMATS = ("text", "md", "csv", "json", "html", "latex")
VALUES = {
    "disk_mb": 497.04,
    "disk_gzip_mb": 460.51,
    "memory_mb": 901.0,
    "memory_over_base_mb": 600.0,
    "samples_per_s": 0.914,
    "speed_ratio": 1.23,
    "line_speed_ratio": 1.4,
    "es": 40.12,
    "em": 15.5,
    "params_m": 124.2,
    "params_nonzero_m": 49.77,
}


def all_of(variant, after=0, **changes):
    time = NOON + timedelta(minutes=after)
    return [
        measured(variant, metric, value, lo=value * 0.9, hi=value * 1.1, time=time, **changes)
        for metric, value in VALUES.items()
    ]


@pytest.fixture
def filled(metrics):
    metrics.append([run_row("r0", NOON - timedelta(days=1), study="paper")])
    metrics.append(all_of("original", run="r0", study="paper"))
    metrics.append([run_row(noise_floor=0.0621, tainted=True)])
    metrics.append(
        [
            *all_of("original"),
            *all_of("zebra", after=1, random_weights=True),
            *all_of("pruned", after=2),
            measured(NASTY, "samples_per_s", None, time=NOON + timedelta(minutes=3), error=f"died\n\x1b[31m{NASTY}"),
        ],
    )
    return metrics


def test_rows_of_the_newest_run_in_the_order_of_measuring(filled):
    found = result_rows(filled)
    assert [row.variant for row in found] == ["original", "zebra", "pruned", NASTY]
    original, _, pruned, failed = found
    assert (original.run, original.study, original.host, original.label) == ("r1", "embedded", "box", "repaired")
    assert original.started == NOON
    assert {name: original.value(name) for name in VALUES} == VALUES
    assert original.figure("es") == Figure(40.12, pytest.approx(36.108), pytest.approx(44.132))
    assert (original.noise_floor, original.tainted, original.samples) == (0.0621, True, 200)
    assert (original.is_baseline, pruned.is_baseline) == (True, False)
    assert failed.error.startswith("died")
    assert all(failed.value(metric) is None for metric in TABLE_METRICS)
    assert [each.host for each in pruned.published] == ["delftblue", "laptop"]
    assert pruned.published[0].figures["disk_mb"] == 240.52
    assert pruned.published[0].figures["line_speed_ratio"] == pytest.approx(2.79 / 2.66)
    assert failed.published == ()


def test_an_exported_row_is_flat(filled):
    original, _, pruned, failed = (row.flat() for row in result_rows(filled))
    own = (
        "variant",
        "host",
        "label",
        "artifact",
        "random_weights",
        "error",
        "study",
        "run",
        "started",
        "baseline",
        "control",
    )
    figures = [f"{metric}{end}" for metric in TABLE_METRICS for end in ("", "_lo", "_hi")]
    assert [*original] == [*own, "rounds", "samples", "noise_floor", "tainted", *figures, "published"]
    assert original["started"] == "2026-11-01T12:00:00Z"
    assert (original["es"], original["es_lo"], original["latency_p50_ms"]) == (40.12, pytest.approx(36.108), None)
    assert [*pruned["published"][0]] == ["host", "published_name", "source", *PUBLISHED_METRICS]
    assert [each["samples_per_s"] for each in pruned["published"]] == [2.79, 0.8]
    assert all(failed[name] is None for name in figures)
    assert failed["published"] == []
    assert json.loads(json.dumps(original)) == original


def test_a_start_is_exported_in_utc():
    there = timezone(timedelta(hours=2))
    assert result_row("a", started=NOON.astimezone(there)).flat()["started"] == "2026-11-01T12:00:00Z"
    assert result_row("a", started=None).flat()["started"] is None


def test_rows_written_at_one_time_keep_the_order_of_writing(metrics):
    metrics.append([run_row()])
    names = ["original", "z", "a", "m", "b"]
    metrics.append([measured(name, metric, 1.0) for name in names for metric in ("es", "em")])
    assert [row.variant for row in result_rows(metrics)] == names


def test_a_study_or_a_run_can_be_chosen(filled):
    assert {row.run for row in result_rows(filled, study="paper")} == {"r0"}
    assert {row.run for row in result_rows(filled, run="r0")} == {"r0"}
    assert {row.run for row in result_rows(filled, study="embedded", run="r1")} == {"r1"}


@pytest.mark.parametrize(
    ("study", "run", "message"),
    [
        ("papre", None, "no study 'papre' in .*; there are: embedded, paper"),
        (None, "r7", "no run 'r7' in .*; there are: r1, r0"),
        ("paper", "r1", "no run 'r1' of study 'paper' in .*; there are: r0"),
        (None, "' OR 1=1 --", "no run"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(filled, study, run, message):
    with pytest.raises(NotMeasuredError, match=message):
        result_rows(filled, study, run)


def test_no_run_and_a_run_that_measured_nothing(metrics):
    with pytest.raises(NotMeasuredError, match="no run is stored in"):
        result_rows(metrics)
    metrics.append([run_row(status="failed", error="the disk is full")])
    with pytest.raises(NotMeasuredError, match="run 'r1' measured nothing: the disk is full"):
        result_rows(metrics)


def test_many_runs_are_not_all_listed(metrics):
    metrics.append([run_row(f"run{n}", NOON + timedelta(hours=n)) for n in range(15)])
    with pytest.raises(NotMeasuredError, match=r"there are: run14, .*, run5, and 5 older$"):
        result_rows(metrics, run="x")


def test_text(filled):
    text = render(result_rows(filled), "text")
    lines = text.splitlines()
    (original,) = (line for line in lines if "original, repaired" in line)
    cells = [cell.strip() for cell in original.strip("│").split("│")]
    assert cells[1:6] == ["497.04", "460.51", "901", "600", "1.23 [1.11, 1.35]"]
    assert cells[6:] == ["0.91 [0.82, 1.01]", "1.40", NONE, NONE, "40.12", "15.50", "124.20", "49.77"]
    below = [cell.strip() for cell in lines[lines.index(original) + 1].strip("│").split("│")]
    assert below[:8] == ["poster, delftblue", NONE, "462.26", "2976", NONE, NONE, "2.66", "1.00"]
    assert below[8:] == [NONE, NONE, "39.05", "14.50", NONE, "124.20"]
    (random,) = (line for line in lines if "zebra, repaired (random weights)" in line)
    assert [cell.strip() for cell in random.split("│")][11:13] == [NONE, NONE]
    assert "study embedded, run r1, host box, 200 samples, noise floor 6.2 %, TAINTED" in text
    assert f"{NASTY} failed: died  [31m{NASTY}" in text
    assert "\x1b" not in text


def test_a_table_per_host(filled):
    filled.append([run_row(host="other", samples=None, noise_floor=None)])
    filled.append([measured("original", "es", 1.0, host="other")])
    text = render(result_rows(filled, run="r1"), "text")
    assert "host box" in text
    assert f"host other, {NONE} samples, noise floor not measured\n" in text


def test_json_is_plain(filled):
    found = json.loads(render(result_rows(filled), "json"))
    assert [row["variant"] for row in found] == ["original", "zebra", "pruned", NASTY]
    assert found[0]["speed_ratio"] == 1.23
    assert found[3]["speed_ratio"] is None


def test_csv_comes_back(filled):
    found = list(csv.DictReader(io.StringIO(render(result_rows(filled), "csv"))))
    assert [row["variant"] for row in found] == ["original", "zebra", "pruned", NASTY]
    assert found[3]["error"] == f"died\n\x1b[31m{NASTY}"
    assert (found[0]["es"], found[3]["es"]) == ("40.12", "")
    assert found[2]["published_laptop_params_m"] == "49.77"


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_html_escapes(filled):
    cells = Cells()
    cells.feed(render(result_rows(filled), "html"))
    assert cells.tags == {"table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "br", "small"}
    assert f"{NASTY}, repaired (failed)" in cells.texts


def test_latex_escapes(filled):
    text = render(result_rows(filled), "latex")
    escaped = (
        r"a\textbar{}b\_c \& \textless{}i\textgreater{}\textquotedbl{}50\%\textquotedbl{} "
        r"\textbackslash{}x\{y\}\$\#\textasciitilde{}\textasciicircum{}, [red], repaired (failed) &"
    )
    assert escaped in text
    body = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {13}
    assert text.count(r"\begin") == text.count(r"\end") == 2


def test_markdown_escapes(filled):
    table = [line for line in render(result_rows(filled), "md").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {15}
    assert any(r"a\|b\_c \& \<i\>" in line for line in table)


NEW = {"prefill_limit_share": 41.4, "decode_limit_share": 123.6}


def test_columns_that_nothing_fills_are_left_out_and_the_others_explained(filled):
    assert "int8 ops" not in render(result_rows(filled), "md")
    noted = {
        "int8": {"matmuls": 25.0, "int8_matmuls": 25.0, "greedy_agreement": 0.875, **NEW},
        "onnx": {"matmuls": 25.0},
    }
    noted["quantized"] = {"matmuls": 25.0, "int8_matmuls": 1.0}
    filled.append([measured(v, metric, value) for v, them in noted.items() for metric, value in them.items()])
    shown = render(result_rows(filled), "md")
    head, _, *lines = (line.strip("|").split(" | ") for line in shown.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in head[-4:]] == ["int8 ops", "greedy same", "prefill limit %", "decode limit %"]
    cells = {line[0].strip(): [cell.strip() for cell in line[-4:]] for line in lines}
    assert cells["int8, repaired"] == ["25/25", "0.88", "41", "124"]
    assert cells["onnx, repaired"] == ["0/25", NONE, NONE, NONE]
    assert cells["quantized, repaired"] == ["1/25", NONE, NONE, NONE]
    assert cells["pruned, repaired"] == cells["&nbsp;&nbsp;poster, laptop"] == [NONE] * 4
    assert all(f"\n{word}: " in shown for word in ("int8 ops", "greedy same", "prefill limit", "decode limit"))
    for form in FORMATS:
        assert render(result_rows(filled), form)


def test_the_rows_of_one_host(filled):
    filled.append([run_row("r2", NOON + timedelta(days=1), host="other")])
    filled.append(all_of("original", run="r2", host="other"))
    filled.append([run_row("r3", NOON + timedelta(days=2), status="failed", error="the disk is full")])

    def chosen(**what):
        return {(row.run, row.host) for row in host_rows(filled, **what)}

    assert chosen(host="box") == {("r1", "box")}
    assert chosen(host="other") == chosen(run="r2") == {("r2", "other")}
    assert chosen(study="paper") == {("r0", "box")}
    assert len(host_rows(filled, host="box")) == 4
    refused = {
        "several hosts measured it; choose one with --host: other, box": {},
        "no host 'bx' measured it; there are: other, box": {"host": "bx"},
        "no host 'box' measured it; there are: other": {"host": "box", "run": "r2"},
        "run 'r3' measured nothing: the disk is full": {"run": "r3"},
        "no study 'papre'": {"study": "papre"},
    }
    for message, what in refused.items():
        with pytest.raises(NotMeasuredError, match=message):
            host_rows(filled, **what)


def test_rows_of_hosts_and_rounds_that_were_written_before_a_column_existed_are_read(metrics):
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = metrics._partitions.root / "hosts" / "month=2026-01"
    directory.mkdir(parents=True)
    pq.write_table(pa.table({"host": ["old"], "run": ["r0"], "cpu": ["X"]}), directory / f"{1:032x}.parquet")
    metrics.append([HostRow(host="new", run="r1", peak_fp32_gflops=95.0, peaks_measured=NOON)])
    found = metrics.query("SELECT host, cpu, peak_fp32_gflops, peaks_measured FROM hosts ORDER BY run").to_pylist()
    assert [tuple(row.values()) for row in found] == [("old", "X", None, None), ("new", None, 95.0, NOON)]


@given(text=st.text(max_size=30))
def test_any_text_is_rendered(text):
    row = result_row(text, label=text, error=text)
    for format_ in FORMATS:
        assert render([row], format_).endswith("\n")


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="unknown format 'pdf'; allowed: text, md, csv, json, html, latex"):
        render([], "pdf")


@pytest.mark.e2e
def test_the_table_needs_no_pandas_and_no_pyarrow(filled):
    program = Path(__file__).with_name("programs") / "print_table.py"
    modules = json.loads(run_program(program, filled._partitions.root).stdout)
    assert not set(modules) & {"pandas", "pyarrow", "torch", "fsspec", "numpy"}


def test_drops_of_what_was_trained_on_are_against_the_control():
    references = {
        row.variant: row.reference
        for row in (
            result_row("original", control="longer"),
            result_row("int8", control="longer"),
            result_row("longer", control="longer", train_tokens=9.0),
            result_row("slim", control="longer", train_tokens=9.0),
            result_row("fine-tuned", train_tokens=9.0),
        )
    }
    assert references == dict.fromkeys(("original", "int8", "longer", "fine-tuned"), "original") | {"slim": "longer"}
