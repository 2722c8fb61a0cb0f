"""Every change of the store's files is found, named and left out; what others have written is checked as it is read."""

import logging
import os
import random
import shutil
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimline.storage.metrics.rows import RunRow
from slimline.storage.metrics.store import MOST_FILES, MetricsStore
from tests.storage.factories import NOON, measured, run_row

ROW = {"run": "r0", "study": "s", "host": "box", "variant": "old", "metric": "es", "time": NOON, "value": 1.0}
FOREIGN = "month=2026-01"
LARGE = pa.Table.from_pylist([ROW]).drop_columns("run")
NOT_UTF8 = pa.array([b"\xff\xfe"]).view(pa.string())


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "local":
        yield MetricsStore(tmp_path / "metrics")
        return
    remote = MetricsStore(f"memory://{tmp_path.name}")
    yield remote
    remote._partitions.fs.store.clear()


@pytest.fixture
def metrics(tmp_path):
    """A local store with three files of one row each, whose values are 0, 1 and 2."""
    filled = MetricsStore(tmp_path / "metrics")
    for number in range(3):
        filled.append([measured("a", "es", float(number))])
    return filled


def files(store):
    return sorted((store._partitions.root / "measurements").glob("month=*/*.parquet"))


def values(store):
    return sorted(store.query("SELECT value FROM measurements")["value"].to_pylist())


def problems(store, again=False):
    return list(store.inspect(again=again).problems.values())


def put(store, name, rows):
    """A file that slimline has not written."""
    month = store._partitions.root / "measurements" / FOREIGN
    month.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows) if isinstance(rows, list) else rows, month / name)


def test_what_was_appended_is_whole(store):
    store.append([run_row()])
    store.append([measured("a", "es", 1.0)])
    for again in (False, True):
        report = store.inspect(again=again)
        assert len(report.whole) == 2 and not report.problems


def test_every_flipped_bit_is_found(metrics):
    path = files(metrics)[1]
    content = path.read_bytes()
    draw = random.Random(0)
    for _ in range(40):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        assert len(problems(metrics)) == 1 and len(values(metrics)) == 2
    path.write_bytes(content)
    assert not problems(metrics) and len(values(metrics)) == 3


def test_a_bit_that_flips_without_a_change_of_the_files_time_is_found_by_verify_and_is_not_merged(metrics):
    path = files(metrics)[1]
    (before,) = pq.read_table(path)["value"].to_pylist()
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert metrics.compact("measurements") == 2
    assert problems(metrics, again=True)
    assert before not in values(metrics) and len(values(metrics)) == 2


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_half_copied_file_is_left_out_and_named(metrics, keep, caplog):
    path = files(metrics)[0]
    path.write_bytes(path.read_bytes()[:keep])
    assert len(values(metrics)) == 2
    assert str(path) in caplog.text and "left out" in caplog.text


def test_a_file_in_another_table_is_left_out(metrics):
    path = files(metrics)[0]
    other = metrics._partitions.root / "runs" / path.parent.name
    other.mkdir(parents=True)
    path.rename(other / path.name)
    assert len(problems(metrics)) == 2  # it is gone in one, and not what was written in the other
    assert metrics.query("FROM runs").num_rows == 0


@pytest.mark.parametrize("name", ["copy (1).parquet", "zz.parquet", "._{name}", "{name}.parquet", "Copy of {name}"])
@pytest.mark.parametrize("is_merged", [False, True])
def test_a_copy_with_another_name_is_left_out(metrics, name, is_merged, tmp_path):
    path = files(metrics)[0]
    copy = path.with_name(name.format(name=path.name))
    kept = shutil.copy(path, tmp_path)
    if is_merged:
        metrics.compact("measurements", timedelta(0))
        assert not path.exists()
    shutil.copy(kept, copy)
    assert len(values(metrics)) == 3
    assert len(problems(metrics)) == 1


def test_rows_that_another_program_wrote_count(metrics):
    put(metrics, "part-0001.parquet", [ROW | {"value": 7.0}])
    assert values(metrics) == [0.0, 1.0, 2.0, 7.0]
    assert not problems(metrics)


@pytest.mark.parametrize("month", ["month=2026-01", None])
def test_a_copy_counts_once(metrics, month):
    path = files(metrics)[0]
    target = path.parent.with_name(month or path.parent.name)
    target.mkdir(exist_ok=True)
    shutil.copy(path, target / (path.name if month else f"{7:032x}.parquet"))
    assert values(metrics) == [0.0, 1.0, 2.0]
    (problem,) = problems(metrics)
    assert problem.startswith("a copy of measurements/")


def test_a_deleted_file_is_noticed(metrics):
    files(metrics)[1].unlink()
    assert len(values(metrics)) == 2
    (problem,) = problems(metrics)
    assert "gone" in problem


def test_what_was_merged_is_not_missed(store):
    for number in range(3):
        store.append([measured("a", "es", float(number))])
    other = MetricsStore(store.url)
    assert len(values(other)) == 3
    for round_ in range(2):
        store.append([measured("b", "es", 9.0 + round_)])
        assert store.compact("measurements", timedelta(0))
    assert not problems(store) and not problems(other, again=True)
    assert len(values(other)) == 5
    assert not problems(MetricsStore(store.url), again=True)


LISTS = {
    "a flipped bit": lambda text: text.replace("measurements", "measurementr", 1),
    "cut": lambda text: text[:-5],
    "numbers": lambda text: '{"at": "2026-11-01T00:00:00", "olds": [5, null]}',
    "lists": lambda text: '{"at": "2026-11-01T00:00:00", "olds": [["a"]]}',
    "deep": lambda text: "[" * 100_000,
    "gone": None,
    "a directory": None,
}


@pytest.mark.parametrize("kind", LISTS)
def test_rows_count_once_whatever_becomes_of_the_list_of_what_was_merged(metrics, kind):
    metrics.compact("measurements")
    (listed,) = (metrics._partitions.root / "measurements").glob("month=*/*.replaces.json")
    text = listed.read_text()
    listed.unlink()
    if change := LISTS[kind]:
        listed.write_text(change(text))
    elif kind == "a directory":
        listed.mkdir()
    assert values(metrics) == [0.0, 1.0, 2.0]
    assert not problems(metrics, again=True)
    metrics.append([measured("b", "es", 9.0)])
    metrics.compact("measurements", timedelta(0))
    assert values(metrics) == [0.0, 1.0, 2.0, 9.0]


@pytest.mark.parametrize("content", ["5", "[{}]", "[" * 100_000, None])
def test_a_damaged_history_of_merges_is_no_end(metrics, content):
    values(metrics)
    files(metrics)[1].unlink()
    history = files(metrics)[0].parent / "q.replaced.json"
    history.write_text(content) if content else history.mkdir()
    assert len(values(metrics)) == 2 and len(problems(metrics)) == 1


@pytest.mark.parametrize("line", ['[5, "a", "b"]', '["x", "y"]', "[" * 100_000, "{}", '["x", 1, 2]'])
def test_a_damaged_line_of_the_record_is_passed_over(metrics, line):
    with (metrics._partitions.root / ".checked.jsonl").open("a") as record:
        record.write(f"{line}\n")
    assert values(metrics) == [0.0, 1.0, 2.0] and not problems(metrics, again=True)


ODD = {
    "a pipe": lambda month: os.mkfifo(month / "p.parquet"),
    "a directory": lambda month: (month / "d.parquet").mkdir(),
    "a link to nothing": lambda month: (month / "n.parquet").symlink_to("nowhere"),
    "a link to itself": lambda month: (month / "l.parquet").symlink_to("l.parquet"),
    "a month that is a link to itself": lambda month: month.with_name("month=2026-01").symlink_to("month=2026-01"),
    "a line break in its name": lambda month: (month / "new\nline.parquet").write_bytes(b"x"),
    "a name that is not UTF-8": lambda month: shutil.copy(
        next(month.glob("*.parquet")), month / os.fsdecode(b"n\xe9.parquet")
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_left_out_and_named(metrics, kind, caplog):
    ODD[kind](files(metrics)[0].parent)
    assert values(metrics) == [0.0, 1.0, 2.0]
    assert len(problems(metrics)) == 1
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_a_store_that_cannot_be_written_to_is_read(metrics, monkeypatch):
    (metrics._partitions.root / ".checked.jsonl").unlink()
    (metrics._partitions.root / ".checked.jsonl").mkdir()
    assert values(metrics) == [0.0, 1.0, 2.0]


# ------------------------------------------------------------------------------- what has no checksum in its name


def test_a_file_of_an_older_version_is_read_and_compared_from_then_on(metrics):
    put(metrics, f"{1:032x}.parquet", [ROW])
    assert values(metrics) == [0.0, 1.0, 1.0, 2.0]
    put(metrics, f"{1:032x}.parquet", [ROW | {"value": 5.0}])
    assert values(metrics) == [0.0, 1.0, 2.0]
    (problem,) = problems(metrics)
    assert "not what was written" in problem


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([ROW | {"value": "fast"}], "value is string; allowed: double"),
        ([ROW | {"value": float("nan")}], "value is not a number in 1 of 1"),
        ([ROW | {"value": float("inf")}, ROW], "value is not a number in 1 of 2"),
        ([ROW | {"run": None}, ROW], "run is null in 1 of 2"),
        ([{"surprise": 1}], "run is missing"),
        ([ROW | {"run": "../../x"}], "run: '../../x' is not a name"),
        ([ROW | {"run": "/etc/passwd"}], "run: '/etc/passwd' is not a name"),
        ([ROW | {"time": "noon"}], "time is string"),
        (pa.table([[1.0], [2.0]], names=["value", "value"]), "value is there twice"),
        (LARGE.append_column("run", pa.array(["/etc/x"], pa.large_string())), "run: '/etc/x' is not a name"),
        (LARGE.append_column("run", NOT_UTF8), "UTF8"),
        (b"{}", "not a readable Parquet file"),
        (b"PAR1" * 30, "not a readable Parquet file"),
    ],
)
def test_rows_that_slimline_would_not_write_are_left_out_and_named(metrics, rows, word):
    if isinstance(rows, bytes):
        month = metrics._partitions.root / "measurements" / FOREIGN
        month.mkdir()
        (month / f"{1:032x}.parquet").write_bytes(rows)
    else:
        put(metrics, f"{1:032x}.parquet", rows)
    put(metrics, f"{2:032x}.parquet", [ROW | {"value": 7.0}])
    assert values(metrics) == [0.0, 1.0, 2.0, 7.0]
    (problem,) = problems(metrics)
    assert word in problem


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\nb", "x" * 129, "a.", " a", "~"])
def test_a_name_that_is_a_path_is_not_written(name):
    with pytest.raises(ValueError, match="is not a name"):
        RunRow(run=name, study="s", started=NOON, host="box")


def test_very_many_files_become_few(metrics, caplog):
    caplog.set_level(logging.WARNING)
    for number in range(MOST_FILES):
        put(metrics, f"{number:032x}.parquet", [ROW | {"value": float(number)}])
    assert metrics.query("SELECT count(*) AS n FROM measurements").to_pylist() == [{"n": MOST_FILES + 3}]
    assert len(metrics.files()) < 5
    assert "merged once" in caplog.text
    assert metrics.query("SELECT count(*) AS n FROM measurements").to_pylist() == [{"n": MOST_FILES + 3}]


def test_who_appends_very_many_files_merges_them(metrics, monkeypatch):
    monkeypatch.setattr("slimline.storage.metrics.store.MOST_FILES", 5)
    for number in range(12):
        metrics.append([measured("b", "es", float(number))])
        assert len(metrics.files()) < 5
    assert len(values(metrics)) == 15
