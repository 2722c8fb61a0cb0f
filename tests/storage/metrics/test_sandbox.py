"""What a stranger's query may take: each ends soon, within its memory, and says why; the machine does not notice."""

import os
import threading
import time

import pytest

from slimline.storage.metrics import sandbox
from slimline.storage.metrics.sandbox import Limits, ask
from slimline.storage.metrics.store import MetricsStore, QueryError
from tests.storage.factories import measured

pytestmark = pytest.mark.e2e
LATE = "stopped after 1 s"
FULL = "memory"
LARGE = "large"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    store = MetricsStore(tmp_path_factory.mktemp("metrics"))
    store.append([measured("original", "es", 40.0), measured("pruned", "es", 31.0)])
    return store


def test_a_query_is_answered_as_in_this_process(filled):
    sql = "SELECT variant, value, time, ['a', NULL] AS list FROM measurements ORDER BY value"
    assert ask(filled.url, sql) == filled.query(sql)


@pytest.mark.parametrize("sql", ["DROP TABLE published", "SELECT valeu\nFROM runs", "FROM read_csv('/etc/passwd')"])
def test_a_refusal_is_the_same_as_in_this_process(filled, sql):
    with pytest.raises(QueryError) as there:
        ask(filled.url, sql)
    with pytest.raises(QueryError) as here:
        filled.query(sql)
    assert str(there.value) == str(here.value)


def test_the_environment_and_the_current_directory_stay_outside(filled, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current directory')")
    monkeypatch.chdir(tmp_path)
    assert ask(filled.url, "SELECT 1 AS one").to_pylist() == [{"one": 1}]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(100000000000) a, range(1000) b WHERE a.range + b.range = -1",
        "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
        "SELECT sleep_ms(100000)",
    ],
)
def test_a_query_that_takes_no_memory_ends_at_its_time(filled, sql):
    with pytest.raises(QueryError, match=LATE):
        ask(filled.url, sql, Limits(seconds=1))


# Which limit ends them first depends on how fast the machine is.
@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        "SELECT length(repeat('x', 4000000000))",
        "SELECT length(format('{:>2000000000}', 'x'))",
        "SELECT len(range(4000000000))",
        "SELECT unnest(generate_series(1, 4000000000))",
        "SELECT list(range) FROM range(100000000000)",
        "SELECT string_agg(range, ',') FROM range(100000000000)",
        "SELECT count(*) FROM (SELECT DISTINCT range FROM range(100000000000))",
        "SELECT len(list_transform(range(100000000), lambda x: repeat('a', 1000)))",
        "WITH RECURSIVE n(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM n) FROM n",
        "FROM range(100000000000) ORDER BY hash(range)",
        "FROM range(1000000) WHERE regexp_matches(repeat('a', 1000000) || range, '(a+)+(.*b){1,500}$')",
    ],
)
def test_a_bomb_goes_off_outside(filled, sql):
    with pytest.raises(QueryError, match=f"{LATE}|{FULL}|{LARGE}"):
        ask(filled.url, sql, Limits(seconds=1))
    assert filled.query("SELECT count(*) AS n FROM measurements").to_pylist() == [{"n": 2}]


def test_the_memory_of_a_query_is_limited_by_the_kernel(filled):
    with pytest.raises(QueryError, match="memory"):
        ask(filled.url, "SELECT length(repeat('x', 4000000000))", Limits(seconds=60, memory_bytes=1_000_000_000))


def test_a_cancelled_query_ends_at_once_with_its_process(filled, monkeypatch):
    cancelled, started, outcome = threading.Event(), [], []
    popen = sandbox.subprocess.Popen

    def start(*arguments, **more):
        started.append(popen(*arguments, **more))
        return started[0]

    def ask_and_note():
        with pytest.raises(QueryError) as refusal:
            ask(filled.url, "SELECT sleep_ms(100000)", Limits(seconds=600), cancelled)
        outcome.append(str(refusal.value))

    monkeypatch.setattr(sandbox.subprocess, "Popen", start)
    asking = threading.Thread(target=ask_and_note)
    asking.start()
    while not started:
        time.sleep(0.01)
    cancelled.set()
    asking.join()
    assert outcome == ["the query was cancelled"]
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)
