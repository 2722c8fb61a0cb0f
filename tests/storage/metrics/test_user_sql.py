"""Queries that users write: what is answered, what is refused, and that refusal says why."""

import pyarrow as pa
import pytest

from slimline.storage.metrics import user_sql
from slimline.storage.metrics.store import MetricsStore, QueryError
from tests.storage.factories import measured


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    store = MetricsStore(tmp_path_factory.mktemp("metrics"))
    store.append([measured("original", "es", 40.0), measured("pruned", "es", 31.0)])
    return store


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM measurements",
        "select 1;",
        "-- a comment\nSELECT 1 -- another",
        "FROM measurements",
        "FROM measurements SELECT variant;",
        "WITH best AS (SELECT max(value) AS v FROM measurements) SELECT * FROM best",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) FROM n",
        "VALUES (1, 'a')",
        "TABLE measurements",
        "DESCRIBE measurements",
        "DESCRIBE SELECT 1",
        "SUMMARIZE measurements",
        "SHOW TABLES",
        "SHOW measurements",
        "EXPLAIN SELECT * FROM measurements",
        "EXPLAIN ANALYZE SELECT * FROM measurements",
        "/* ( */ explain /* analyze */ (format json) select ')' as x",
        "/* é */ EXPLAIN /* ü */ ANALYZE SELECT 'ß' AS x",
        "SELECT * FROM query_table('measurements')",
        "PIVOT measurements ON variant IN ('original', 'pruned') USING max(value) GROUP BY metric",
        "SELECT strftime(time AT TIME ZONE 'UTC', '%Y-%m') FROM measurements",
        "SELECT ';' AS semicolon",
    ],
)
def test_reading_is_answered(filled, sql):
    answer = filled.query(sql)
    assert isinstance(answer, pa.Table)
    assert answer.num_rows > 0


READS_ONLY = "is refused: queries only read; allowed: one statement of SELECT"
NO_FILES = "disabled by configuration"
REFUSED = [
    ("COPY measurements TO '{here}/x.csv'", f"COPY {READS_ONLY}"),
    ("COPY measurements FROM '/etc/passwd'", f"COPY {READS_ONLY}"),
    ("ATTACH '{here}/x.db'", f"ATTACH {READS_ONLY}"),
    ("DETACH memory", f"DETACH {READS_ONLY}"),
    ("EXPORT DATABASE '{here}/x'", f"EXPORT {READS_ONLY}"),
    ("PRAGMA database_list", f"PRAGMA {READS_ONLY}"),
    ("CALL pragma_version()", f"CALL {READS_ONLY}"),
    ("CHECKPOINT", "is refused"),
    ("VACUUM", f"VACUUM {READS_ONLY}"),
    ("SET enable_external_access = true", f"SET {READS_ONLY}"),
    ("RESET lock_configuration", f"SET {READS_ONLY}"),
    ("USE memory", f"SET {READS_ONLY}"),
    ("CREATE TABLE t (i INT)", f"CREATE {READS_ONLY}"),
    ("CREATE TEMP TABLE t AS SELECT 1", f"CREATE {READS_ONLY}"),
    ("CREATE MACRO m() AS 1", f"CREATE {READS_ONLY}"),
    ("INSERT INTO published (host) VALUES ('x')", f"INSERT {READS_ONLY}"),
    ("UPDATE published SET host = 'x'", f"UPDATE {READS_ONLY}"),
    ("DELETE FROM published", f"DELETE {READS_ONLY}"),
    ("DROP VIEW measurements", f"DROP {READS_ONLY}"),
    ("ALTER TABLE published ADD COLUMN x INT", f"ALTER {READS_ONLY}"),
    ("INSTALL httpfs", f"LOAD {READS_ONLY}"),
    ("LOAD httpfs", f"LOAD {READS_ONLY}"),
    ("PREPARE p AS SELECT 1", f"PREPARE {READS_ONLY}"),
    ("EXECUTE p", f"EXECUTE {READS_ONLY}"),
    ("BEGIN", f"TRANSACTION {READS_ONLY}"),
    ("ROLLBACK", f"TRANSACTION {READS_ONLY}"),
    ("PIVOT measurements ON variant USING max(value)", r"ON column IN \(\.\.\.\)"),
    ("SELECT 1; SELECT 2", "found 2 statements"),
    ("SELECT 1; DROP TABLE published", "found 2 statements"),
    ("", "found 0 statements"),
    (" ; -- nothing", "found 0 statements"),
    ("SELEC 1", "not valid SQL: .*syntax error"),
    ("SELECT '", "not valid SQL"),
    ("EXPLAIN", "not valid SQL"),
    ("EXPLAIN CREATE TABLE t (i INT)", f"CREATE {READS_ONLY}"),
    ("EXPLAIN ANALYZE INSERT INTO published (host) VALUES ('x')", f"INSERT {READS_ONLY}"),
    ("EXPLAIN (FORMAT json) DELETE FROM published", f"DELETE {READS_ONLY}"),
    ("/* x */ EXPLAIN /* y */ ANALYZE -- z\n COPY published TO '{here}/x.csv'", f"COPY {READS_ONLY}"),
    ("EXPLAIN (ANALYZE, FORMAT json) COPY published TO '{here}/x.csv'", f"COPY {READS_ONLY}"),
    ("WITH x AS (INSERT INTO published (host) VALUES ('x') RETURNING *) FROM x", "read-only"),
    ("/* ééééé */ EXPLAIN ANALYZE INSERT INTO published (host) SELECT 'x'", f"INSERT {READS_ONLY}"),
    ("MERGE INTO published USING published AS p ON true WHEN MATCHED THEN DELETE", f"MERGE_INTO {READS_ONLY}"),
    ("COMMENT ON TABLE published IS 'x'", f"ALTER {READS_ONLY}"),
    ("IMPORT DATABASE '{here}'", f"PRAGMA {READS_ONLY}"),
    ("UPDATE EXTENSIONS", "this statement is refused: queries only read"),
    ("SET VARIABLE x = 1", f"SET {READS_ONLY}"),
    ("CREATE SECRET (TYPE s3)", f"CREATE {READS_ONLY}"),
    ("SELECT 1 /* ; */; /* */ DROP VIEW runs", "found 2 statements"),
    ("SELECT '\\'; DROP TABLE published; --'", "found 2 statements"),
    ("SELECT $$x$$; DROP TABLE published", "found 2 statements"),
    ("SELECT 1\0; DROP TABLE published", "found 2 statements|not valid"),
    ("\N{FULLWIDTH LATIN CAPITAL LETTER D}ROP TABLE published", "not valid SQL"),
    ("SELECT 1 \N{NO-BREAK SPACE}; \N{LINE SEPARATOR} DROP TABLE published", "found 2 statements|not valid"),
    ("SELECT '\ud800'", "not valid text"),
    ("SELECT " + "(" * 50_000 + "1" + ")" * 50_000, "expression depth limit"),
    ("SELECT * FROM query('CREATE TABLE t (i INT)')", "single SELECT"),
    ("FROM json_execute_serialized_sql(json_serialize_sql('DROP VIEW runs'))", "Only SELECT"),
    ("FROM query('COPY published TO ''{here}/x.csv''')", "single SELECT"),
    ("FROM query_table('/etc/passwd')", "does not exist"),
    ("FROM enable_logging()", "has been locked"),
    ("FROM force_checkpoint()", "Cannot FORCE CHECKPOINT"),
    ("FROM sniff_csv('/etc/passwd')", NO_FILES),
    ("FROM parquet_metadata('/etc/passwd')", NO_FILES),
    ("FROM read_text('http://127.0.0.1:9/')", NO_FILES),
    ("FROM read_parquet('s3://bucket/x.parquet')", NO_FILES),
    ("FROM sqlite_scan('{here}/x.db', 't')", "sqlite_scanner extension"),
    ("FROM which_secret('x', 's3')", NO_FILES),
    ("SUMMARIZE '/etc/passwd'", "does not exist"),
    ("PIVOT (FROM read_csv('/etc/passwd')) ON column0 IN ('x') USING count(*)", NO_FILES),
    ("SELECT * FROM read_csv('/etc/passwd')", NO_FILES),
    ("SELECT * FROM read_text('/etc/passwd')", NO_FILES),
    ("SELECT * FROM read_blob('/proc/self/environ')", NO_FILES),
    ("SELECT * FROM read_json('/etc/passwd')", NO_FILES),
    ("SELECT * FROM read_parquet('{here}/*.parquet')", NO_FILES),
    ("SELECT * FROM glob('/etc/*')", NO_FILES),
    ("SELECT * FROM 'file.parquet'", NO_FILES),
    ("SELECT * FROM 'https://example.org/x.csv'", "disabled|does not exist"),
    ("FROM '/etc/passwd'", "does not exist"),
    ("FROM duckdb_secrets()", NO_FILES),
    ("SELECT getenv('HOME')", "getenv does not exist"),
    ("FROM filled", "does not exist"),
    ("FROM python_variable", "does not exist"),
    ("SELECT * FROM nonsense", "nonsense does not exist"),
    ("SELECT valeu FROM measurements", 'valeu" not found'),
    ("SELECT error('stop')", "stop"),
    ("SELECT 'x'::INT", "Could not convert"),
]


@pytest.mark.parametrize(("sql", "reason"), REFUSED)
def test_all_else_is_refused_with_the_reason(filled, tmp_path, sql, reason):
    python_variable = pa.table({"secret": [1]})
    with pytest.raises(QueryError, match=f"(?s){reason}"):
        filled.query(sql.replace("{here}", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
    assert python_variable.num_rows == 1
    assert filled.query("SELECT count(*) AS n FROM published").to_pylist() == [{"n": 6}]


def test_the_stores_own_files_cannot_be_overwritten(filled):
    (file,) = (filled._partitions.root / "measurements").glob("*/*.parquet")
    before = file.read_bytes()
    for sql in (f"COPY published TO '{file}'", f"EXPLAIN ANALYZE COPY published TO '{file}' (FORMAT parquet)"):
        with pytest.raises(QueryError):
            filled.query(sql)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("SELECT valeu FROM measurements", "LINE 1: SELECT valeu FROM measurements\n               ^"),
        ("-- é\n\nSELECT 'é',\n  nonsense(1)", "LINE 4:   nonsense(1)\n          ^"),
        ("\n\n\n\n\n\n\n\n-- x\nSELECT 1 +", "LINE 10: SELECT 1 +\n                  ^"),
        ("SELECT 'x'\n::INT", "LINE 2: ::INT\n        ^"),
    ],
)
def test_an_error_says_the_line_and_points_to_the_place(filled, sql, place):
    with pytest.raises(QueryError) as refusal:
        filled.query(sql)
    assert place in str(refusal.value)


def test_a_huge_result_is_refused_before_it_fills_the_memory(filled, monkeypatch):
    monkeypatch.setattr(user_sql, "RESULT_LIMIT_BYTES", 2_000_000)
    with pytest.raises(QueryError, match="the result is larger than 2 MB; aggregate, or add a LIMIT"):
        filled.query("SELECT * FROM range(100000000000)", seconds=20)


def test_a_query_of_our_own_is_stopped_in_time(filled):
    with pytest.raises(QueryError, match=r"the query was stopped after 0\.3 s"):
        filled.query("SELECT count(*) FROM range(100000000000) a, range(1000) b WHERE a.range + b.range = -1", 0.3)


def test_the_connection_itself_is_locked(filled):
    import duckdb

    with filled.connect() as connection:
        assert connection.execute("SELECT count(*) FROM measurements").fetchall() == [(2,)]
        for sql in ("SET threads = 1", "SET enable_external_access = true", "FROM read_csv('/etc/passwd')"):
            with pytest.raises(duckdb.Error, match=r"locked|disabled"):
                connection.execute(sql)


def test_through_a_dataset_the_same_is_answered_and_refused():
    remote = MetricsStore("memory://usersql")
    remote.append([measured("original", "es", 40.0)])
    assert remote.query("SELECT value FROM measurements WHERE variant = 'original'").to_pylist() == [{"value": 40.0}]
    with pytest.raises(QueryError, match="disabled by configuration"):
        remote.query("SELECT * FROM read_csv('/etc/passwd')")
    remote._partitions.fs.rm("/usersql", recursive=True)
