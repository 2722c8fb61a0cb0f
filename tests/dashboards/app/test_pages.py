"""Each page's script, without a server or a browser."""

import pytest
import streamlit
from streamlit.testing.v1 import AppTest

from slimline.storage.metrics.store import MetricsStore
from tests.dashboards.small import fill, small_run
from tests.storage.factories import NOON, measured, run_row, verdict_row

PAGES = ("results", "tradeoffs", "history", "compare", "lineage", "sql")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    monkeypatch.delenv("SLIMLINE_STORE", raising=False)
    streamlit.cache_data.clear()
    streamlit.cache_resource.clear()
    return tmp_path


def opened(name, **parameters):
    """The page after its first run, with these parameters in its address."""
    app = AppTest.from_string(f"from slimline.dashboards.app.views import {name}\n{name}.page()", default_timeout=600)
    for key, value in parameters.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception, app.exception
    return app


@pytest.mark.parametrize("name", PAGES)
def test_a_page_over_nothing_says_so(name, home):
    app = opened(name)
    assert name == "sql" or "slimline run smoke" in app.info[0].value
    assert not list(home.iterdir())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_over_a_run_has_its_title(name, home):
    fill(home / "metrics")
    assert opened(name).title[0].value.lower().replace("-", "") == name


def test_results_filter_what_is_shown(home):
    fill(home / "metrics")
    assert "int8, repaired" in opened("results").html[0].value
    app = opened("results", show="as published")
    assert "int8" not in app.html[0].value and "original, baseline" in app.html[0].value
    app.radio(key="show").set_value("repaired").run()
    assert "int8, repaired" in app.html[0].value


def test_a_run_that_measured_nothing_says_why(home):
    MetricsStore(home / "metrics").append([run_row("r0", error="the disk was full")])
    assert "the disk was full" in opened("results").warning[0].value


def test_constraints_choose_another_variant(home):
    fill(home / "metrics")
    app = opened("tradeoffs")
    assert "Ship **original**" in app.success[0].value  # int8's ES may drop by 3 points, and 2 are allowed
    app.slider(key="max_es_drop").set_value(app.slider(key="max_es_drop").max).run()
    assert "Ship **int8**" in app.success[0].value
    app.slider(key="min_samples_per_s").set_value(16.0).run()
    assert "Ship none" in app.warning[0].value
    assert "Ship **int8**" in opened("tradeoffs", max_es_drop="3").success[0].value


def test_a_link_to_a_run_without_its_study_finds_it(home):
    fill(home / "metrics")
    later = NOON.replace(day=2)
    MetricsStore(home / "metrics").append([run_row("r2", later, study="paper")])
    streamlit.cache_data.clear()
    assert opened("results").selectbox(key="study").value == "embedded"  # the newest that measured something
    assert opened("results", run="r2").selectbox(key="study").value == "paper"


def test_history_marks_upgrades_and_change_points(home):
    fill(home / "metrics")
    store, later = MetricsStore(home / "metrics"), NOON.replace(day=2)
    store.append([small_run("r2", started=later, versions={"torch": "2"})])
    store.append([measured("int8", "samples_per_s", 9.0, "r2", later)])
    change = {"verdict": "regression", "change_point": "r2", "change_time": later, "ratio": 0.5}
    store.append([verdict_row("r2", later, metric="samples_per_s", **change)])
    app = opened("history")
    changes, upgrades, figures = (element.value for element in app.dataframe)
    assert changes["run"].tolist() == ["r2"] and upgrades["text"].tolist() == ["torch 1 → 2"]
    assert figures["value"].tolist() == [16.0, 9.0, 2.0]
    assert [box.options for box in app.selectbox if box.label.startswith("A run")] == [["r2", "r1"]]


def test_compare_counts_who_is_right(home):
    fill(home / "metrics")
    app = opened("compare", a="original", b="int8", samples="only A matches")
    assert app.table[0].value.to_numpy().tolist() == [["A matches", 1, 1], ["A does not", 0, 0]]
    assert [code.value for code in app.code] == ["x = 1", "x = 1", "x = 0"]
    assert "no longer in the artifact store" in app.info[0].value
    assert not opened("compare", a="original", b="int8", samples="only B matches").code


def test_sql_answers_and_says_what_is_wrong(home):
    fill(home / "metrics")
    app = asked(sql="SELECT count(*) AS n, 'a' AS name FROM predictions", mark="bar", across="name", up="n")
    assert app.dataframe[0].value["n"].tolist() == [4]
    assert "LINE 1" in asked(sql="SELECT nonsense").code[0].value


def asked(**parameters):
    """The page SQL once its query has ended."""
    app = opened("sql", **parameters)
    assert app.session_state["job"].wait(600)
    return app.run()
