import contextlib
import json
import os
import signal
import subprocess
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimline.storage.metrics import partitions
from slimline.storage.metrics.rows import HostRow, MeasurementRow, PublishedRow
from slimline.storage.metrics.schema import READABLE, arrow_schema, columns
from slimline.storage.metrics.store import MetricsStore
from tests.command import program_command, run_program
from tests.storage.factories import NOON, measured, run_row

AT_ONCE = timedelta(0)
PROGRAMS = Path(__file__).with_name("programs")


def files_of(store, table="measurements"):
    """The names of a table's Parquet files."""
    return [name for name in store._partitions.files(table) if name.endswith(".parquet")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=["local", "memory"])
def either(request, metrics):
    if request.param == "local":
        yield metrics
        return
    remote = MetricsStore("memory://bench/metrics")
    yield remote
    remote._partitions.fs.store.clear()


@pytest.mark.parametrize("table", READABLE)
def test_an_empty_store_has_every_table_with_its_columns(metrics, table):
    answer = metrics.query(f"SELECT * FROM {table}")
    assert answer.column_names == [column.name for column in columns(READABLE[table])]
    assert answer.num_rows == (6 if table == "published" else 0)
    assert not metrics._partitions.root.exists()


@pytest.mark.parametrize("view", ["result_table", "versus_published", "history"])
def test_an_empty_store_has_empty_views(metrics, view):
    assert metrics.query(f"FROM {view}").num_rows == 0


def test_published_figures(metrics):
    answer = metrics.query(
        "SELECT host, variant, disk_mb, memory_mb, samples_per_s, es, em, params_m FROM published ORDER BY ALL"
    )
    assert [tuple(row.values()) for row in answer.to_pylist()] == [
        ("delftblue", "original", 462.26, 2976, 2.66, 39.05, 14.5, 124.2),
        ("delftblue", "pruned", 240.52, 3175, 2.79, 30.54, 9.0, 49.77),
        ("delftblue", "quantized", 260.39, 3293, 2.68, 20.76, 0.5, 49.77),
        ("laptop", "onnx", 311.75, 4166.37, 1.59, 30.54, 9.0, 49.77),
        ("laptop", "original", 462.26, 2184.49, 0.80, 39.05, 14.5, 124.2),
        ("laptop", "pruned", 240.52, 2189.63, 0.80, 30.54, 9.0, 49.77),
    ]
    assert metrics.query("SELECT published_name FROM published WHERE variant = 'pruned' ORDER BY 1").to_pylist() == [
        {"published_name": "compressed"},
        {"published_name": "pruned"},
    ]


@pytest.mark.parametrize("row", READABLE.values(), ids=READABLE)
def test_every_column_says_what_it_is(row):
    for column, field in zip(columns(row), arrow_schema(row), strict=True):
        assert field.metadata[b"doc"].decode() == column.doc == row.model_fields[column.name].description
        assert column.doc.endswith(".")


def test_appended_rows_come_back(either):
    host = HostRow(host="box", run="r1", cores=2, memory_mb=8e3, isa=("avx2", "amx"), versions={"a": "1"})
    either.append([host])
    either.append([run_row(), run_row("r2", decoding='{"beams":5}', spec={"x": [1, None]})])
    (back,) = either.query("FROM hosts").to_pylist()
    expected = {"host": "box", "run": "r1", "cores": 2, "memory_mb": 8e3, "isa": ["avx2", "amx"]}
    assert {name: value for name, value in back.items() if value is not None} == expected | {"versions": '{"a": "1"}'}
    rows = either.query("SELECT run, started, decoding, spec FROM runs ORDER BY run").to_pylist()
    assert [row["decoding"] for row in rows] == [None, '{"beams": 5}']
    assert json.loads(rows[1]["spec"]) == {"x": [1, None]}
    assert rows[0]["started"] == NOON


def test_no_rows_make_no_file(metrics):
    metrics.append([])
    assert not metrics._partitions.root.exists()


def test_times_are_kept_in_utc(metrics):
    metrics.append([run_row(started=datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))))])
    (row,) = metrics.query("SELECT started FROM runs").to_pylist()
    assert row["started"] == datetime(2025, 12, 31, 23, tzinfo=UTC)


def test_rows_of_two_tables_are_refused_and_nothing_is_written(metrics):
    with pytest.raises(ValueError, match="hosts, runs; allowed: one of runs, hosts, rounds"):
        metrics.append([run_row(), HostRow(host="box", run="r1")])
    with pytest.raises(ValueError, match="published; allowed: one of runs, hosts, rounds"):
        metrics.append([PublishedRow(host="box")])
    assert not metrics._partitions.root.exists()


REQUIRED = {"run": "r0", "study": "s", "host": "box", "variant": "old", "metric": "es", "time": NOON}


def old_file(store, number, **columns):
    """A file of a version before checksums, with one row."""
    month = store._partitions.root / "measurements" / "month=2020-01"
    month.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([REQUIRED | columns]), month / f"{number:032x}.parquet")


def test_older_and_newer_files_are_read_by_name(metrics):
    metrics.append([measured("now", "es", 3.0)])
    old_file(metrics, 1, n=7)
    old_file(metrics, 2, surprise=1.5, variant="new", run="r9")
    rows = metrics.query("SELECT variant, value, n, surprise, label FROM measurements ORDER BY run").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("old", None, 7, None, None),
        ("now", 3.0, None, None, "repaired"),
        ("new", None, None, 1.5, None),
    ]
    assert metrics.query("FROM measurements").column_names == [*MeasurementRow.model_fields, "surprise"]
    assert metrics.compact("measurements") == 2
    assert metrics.query("SELECT variant FROM measurements ORDER BY run")["variant"].to_pylist() == [
        "old",
        "now",
        "new",
    ]


def test_schema_growth_in_a_remote_store():
    remote = MetricsStore("memory://growth")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([REQUIRED | {"surprise": 1.5}]), sink)
    remote._partitions.write(f"measurements/month=2020-01/{1:032x}.parquet", bytes(sink.getvalue()))
    remote.append([measured("now", "es", 3.0)])
    rows = remote.query("SELECT run, value, surprise FROM measurements ORDER BY run").to_pylist()
    assert [tuple(row.values()) for row in rows] == [("r0", None, 1.5), ("r1", 3.0, None)]
    remote._partitions.fs.rm("/growth", recursive=True)


def test_a_root_with_signs_that_mean_something_elsewhere(tmp_path):
    store = MetricsStore(tmp_path / "a'b [x]* ü?")
    store.append([measured("a", "es", 1.0)])
    store.append([measured("b", "es", 2.0)])
    assert store.query("SELECT sum(value) AS total FROM measurements").to_pylist() == [{"total": 3.0}]


def test_compact_merges_each_month_and_keeps_every_row(either):
    for number in range(5):
        either.append([measured("a", "es", float(number))])
    before = either.query("FROM measurements ORDER BY value")
    assert either.compact("measurements") == 5
    assert either.query("FROM measurements ORDER BY value") == before
    assert len(either._partitions.files("measurements")) == 5 + 2
    assert either.compact("measurements") == 0
    assert either.query("FROM measurements ORDER BY value") == before
    assert either.compact("measurements", AT_ONCE) == 0
    assert len(files_of(either)) == 1
    assert either.query("FROM measurements ORDER BY value") == before
    assert either.compact("predictions") == 0
    with pytest.raises(ValueError, match=r"table: 'published' is not .*; allowed: runs, hosts, rounds, measurements"):
        either.compact("published")


def test_what_is_being_read_while_it_is_replaced_is_still_there(metrics):
    for number in range(3):
        metrics.append([measured("a", "es", float(number))])
    with metrics.connect() as connection:
        metrics.compact("measurements")
        assert connection.execute("SELECT count(*) FROM measurements").fetchone() == (3,)


@pytest.mark.parametrize("merges", [1, 3])
def test_what_was_merged_again_and_again_goes_without_coming_back(either, monkeypatch, merges):
    for number in range(merges):
        either.append([measured("a", "es", 2.0 * number), measured("a", "es", 2.0 * number + 1)])
        either.append([measured("b", "es", 0.0)])
        either.compact("measurements")
    counted, removed = 3 * merges, either._partitions.remove

    def watched(name):
        removed(name)
        assert either.query("SELECT count(*) AS n FROM measurements").to_pylist() == [{"n": counted}]

    monkeypatch.setattr(either._partitions, "remove", watched)
    either.compact("measurements", AT_ONCE)
    assert len(files_of(either)) == 1


@pytest.mark.parametrize("dies_at", range(8))
def test_compaction_may_die_at_any_step(either, monkeypatch, dies_at):
    for number in range(3):
        either.append([measured("a", "es", float(number))])
    steps = iter(range(dies_at))
    inner = either._partitions

    def dying(action):
        def step(*arguments):
            if next(steps, None) is None:
                raise InterruptedError
            action(*arguments)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(inner, "write", dying(inner.write))
        patch.setattr(inner, "remove", dying(inner.remove))
        with contextlib.suppress(InterruptedError):
            either.compact("measurements", AT_ONCE)
        assert either.query("SELECT sum(value) AS s, count(*) AS n FROM measurements").to_pylist() == [{"s": 3, "n": 3}]
    either.compact("measurements", AT_ONCE)
    assert len(files_of(either)) == 1
    assert either.query("SELECT sum(value) AS s, count(*) AS n FROM measurements").to_pylist() == [{"s": 3, "n": 3}]


def test_a_file_replaced_while_it_is_read_is_read_from_its_successor(metrics, monkeypatch):
    for number in range(3):
        metrics.append([measured("a", "es", float(number))])
    listed, listings = partitions.listing, []
    stale = listed(metrics._partitions)
    metrics.compact("measurements", AT_ONCE)

    def stale_at_first(inner, table=None):
        if table:
            return listed(inner, table)
        listings.append(listed(inner))
        return stale if len(listings) == 1 else listings[-1]

    monkeypatch.setattr(partitions, "listing", stale_at_first)
    assert metrics.query("SELECT count(*) AS n FROM measurements").to_pylist() == [{"n": 3}]
    assert len(listings) == 2


def start_writer(root, who, appends):
    command = program_command(PROGRAMS / "append_predictions.py", root, who, appends)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"ARROW_DEFAULT_THREADS": "1"})


@pytest.mark.e2e
def test_four_writers_a_compactor_and_a_reader_lose_nothing(metrics):
    root = metrics._partitions.root
    writers = [start_writer(root, f"w{number}", 6) for number in range(4)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        (row,) = metrics.query("SELECT count(*) AS n, count(DISTINCT (run, sample)) AS d FROM predictions").to_pylist()
        assert row["n"] == row["d"] >= seen
        assert row["n"] % 3 == 0
        seen = row["n"]
        metrics.compact("predictions")
    assert [writer.communicate() and writer.returncode for writer in writers] == [0] * 4
    (row,) = metrics.query("SELECT count(*) AS n, count(DISTINCT (run, sample)) AS d FROM predictions").to_pylist()
    assert row == {"n": 72, "d": 72}


@pytest.mark.e2e
def test_a_killed_writer_leaves_whole_files_only(metrics):
    root = metrics._partitions.root
    writer = start_writer(root, "w", 10_000)
    for _ in range(10):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    announced = 10 + len(writer.communicate()[0].split("\n")) - 1
    (row,) = metrics.query("SELECT count(*) AS n FROM predictions").to_pylist()
    assert row["n"] >= 3 * announced
    assert row["n"] % 3 == 0
    metrics.compact("predictions")
    assert list((root / ".staging").iterdir()) == []


def test_two_compactors_take_turns(metrics):
    for number in range(6):
        metrics.append([measured("a", "es", float(number))])
    merged = []
    threads = [threading.Thread(target=lambda: merged.append(metrics.compact("measurements"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(merged) == [0, 0, 6]
    assert metrics.query("SELECT count(*) AS n FROM measurements").to_pylist() == [{"n": 6}]


@pytest.mark.e2e
def test_a_small_store_answers_without_heavy_imports(metrics):
    metrics.append([run_row()])
    metrics.append([measured("original", "es", 40.0)])
    modules = json.loads(run_program(PROGRAMS / "query_small_store.py", metrics._partitions.root).stdout)
    assert not set(modules) & {"pandas", "torch", "fsspec", "prefect", "transformers"}
