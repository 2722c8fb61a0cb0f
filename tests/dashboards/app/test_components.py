"""What the pages compute, without a page."""

import threading
import time

import pytest
import streamlit
from hypothesis import given
from hypothesis import strategies as st

from slimline.dashboards.app import data
from slimline.dashboards.app.components.query_job import Job
from slimline.dashboards.app.components.source_code import as_source
from slimline.dashboards.app.views.history import upgrades
from slimline.dashboards.app.views.results import tables_html
from slimline.dashboards.app.views.tradeoffs import slider_range
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import result_rows
from slimline.storage.queries.runs import run_summaries
from slimline.storage.queries.series import RunVersions, study_series
from tests.dashboards.small import fill, small_run
from tests.storage.factories import NOON
from tests.system import PATIENCE_S


@pytest.fixture
def store(tmp_path):
    fill(tmp_path / "metrics")
    return MetricsStore(tmp_path / "metrics")


def test_a_table_can_be_scrolled_by_keyboard_and_shows_names_as_text(tmp_path):
    fill(tmp_path, variant="<script>alert(1)</script>")
    shown = tables_html(result_rows(MetricsStore(tmp_path)))
    assert "<script>" not in shown and 'tabindex="0"' in shown
    assert "poster, delftblue" in shown and "noise floor 2.0 %" in shown


def test_tokens_become_the_code_they_stand_for():
    tokens = '<s> import os <EOL> name = "<STR_LIT:x>" , <NUM_LIT:3> + <NUM_LIT> + "<STR_LIT>" <EOL> </s>'
    assert as_source(tokens) == 'import os\nname = "x" , 3 + 0 + ""'
    assert as_source(None) == ""


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_slider_reaches_over_what_was_measured(least, spread):
    lower, upper, step = slider_range(least, least + spread)
    assert lower <= least and least + spread <= upper
    assert (upper - lower) / step < 60


def test_an_upgrade_is_where_a_version_differs_from_the_run_before():
    versions = [{"torch": "1", "onnx": "1"}, {"torch": "1", "onnx": "2"}, {"torch": "1", "onnx": "2", "new": "1"}]
    runs = [RunVersions(time=NOON, run=f"r{number}", versions=each) for number, each in enumerate(versions)]
    assert upgrades(runs) == [(runs[1], "onnx 1 → 2")]


def test_answers_are_kept_by_question_and_store(store, monkeypatch):
    monkeypatch.setattr(data, "metrics", lambda: store)
    streamlit.cache_data.clear()
    streamlit.cache_resource.clear()
    runs, series = data.ask(run_summaries), data.ask(study_series, "embedded")
    assert [each.run for each in runs] == ["r1"] and {each.variant for each in series} == {"original", "int8"}
    assert data.ask(run_summaries) is runs and data.ask(study_series, "embedded") is series
    assert data.ask(study_series, "paper") == []
    store.append([small_run("r2")])
    data.store_state.clear()
    assert {each.run for each in data.ask(run_summaries)} == {"r1", "r2"}


def test_a_job_answers_or_says_why_not(store):
    job = Job(store, "SELECT count(*) AS n FROM measurements")
    assert job.wait(PATIENCE_S) and job.answer is not None and job.answer.to_pylist() == [{"n": 13}]
    job = Job(store, "SELECT 1 +\n  nonsense")
    assert job.wait(PATIENCE_S) and job.error is not None and "LINE 2" in job.error
    job = Job(store, "DROP VIEW runs")
    assert job.wait(PATIENCE_S) and job.error is not None and "queries only read" in job.error


def test_a_job_can_be_cancelled(store):
    job = Job(store, "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range % 7 = 3")
    time.sleep(0.2)
    job.cancel()
    assert job.wait(PATIENCE_S) and job.error == "the query was cancelled"
    before = threading.active_count()
    job.cancel()  # once more does nothing
    assert threading.active_count() == before
