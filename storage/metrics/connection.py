"""A DuckDB connection that can read the store's tables and nothing else, and the limits for SQL that users write."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import duckdb
from pydantic import BaseModel

from slimline.storage.metrics.metric import WIDE_METRICS
from slimline.storage.metrics.rows import PublishedRow, Row
from slimline.storage.metrics.schema import SQL_TYPES, TABLES, columns

if TYPE_CHECKING:
    import pyarrow as pa

M = TypeVar("M", bound=BaseModel)

PUBLISHED_CSV = Path(__file__).with_name("published.csv")
VIEW_FILES = Path(__file__).with_name("views")
# In the order they build on each other.
VIEWS = ("result_table", "pareto", "versus_published", "history", "paired_rounds", "regressions")
MEMORY_LIMIT = "1GB"
RESULT_LIMIT_BYTES = 500_000_000
BATCH_ROWS = 10_000
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "memory_limit": MEMORY_LIMIT,
    "temp_directory": "",
}
ALLOWED = "allowed: one statement of SELECT, WITH, FROM, VALUES, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN"


class QueryRefused(Exception):  # noqa: N818 - read as a sentence
    """A query was not answered: the message says why."""


def connect(files: Mapping[str, Sequence[str]], datasets: Mapping[str, object]) -> duckdb.DuckDBPyConnection:
    """A connection to an in-memory database with the tables and views; then no file, no setting can be reached.

    A table's rows come from its local Parquet `files`, or from its pyarrow dataset in `datasets`.
    """
    connection = duckdb.connect(":memory:", config=CONFIG)
    connection.execute("SET parquet_metadata_cache = true")
    for table, row in TABLES.items():
        connection.execute(_table_view(connection, row, files.get(table, ()), datasets.get(table)))
    connection.execute(f"CREATE TABLE published AS FROM {_published()}")
    for view in VIEWS:
        connection.execute(f"CREATE VIEW {view} AS {view_sql(view)}")
    paths = [path for table in files.values() for path in table]
    connection.execute(f"SET allowed_paths = {_list(paths)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def view_sql(view: str) -> str:
    """A view's query, as its file has it; the metrics' columns are filled in from their definitions."""
    text = (VIEW_FILES / f"{view}.sql").read_text("utf8")
    ends = {"value": "", "lo": "_lo", "hi": "_hi"}
    wide = [
        f"any_value({end}) FILTER (metric = '{metric}') AS {metric}{suffix}"
        for metric in WIDE_METRICS
        for end, suffix in ends.items()
    ]
    return text.replace("{metrics}", ",\n".join(wide))


def _table_view(connection: duckdb.DuckDBPyConnection, row: type[Row], files: Sequence[str], dataset: object) -> str:
    # By name with no rows of today's columns: columns that old files lack are NULL, those that newer files add stay.
    typed = ", ".join(f"NULL::{SQL_TYPES[column.type]} AS {_name(column.name)}" for column in columns(row))
    select = f"SELECT {typed} WHERE false"
    if files:
        rows = f"read_parquet({_list(files)}, union_by_name = true, hive_partitioning = false)"
        select = f"FROM ({select}) UNION ALL BY NAME FROM {rows}"
    elif dataset is not None:
        connection.register(f"{row.table}_files", dataset)
        select = f"FROM ({select}) UNION ALL BY NAME FROM {row.table}_files"
    return f"CREATE VIEW {row.table} AS {select}"


def _published() -> str:
    types = ", ".join(f"{_text(column.name)}: {_text(SQL_TYPES[column.type])}" for column in columns(PublishedRow))
    return f"read_csv({_text(str(PUBLISHED_CSV))}, header = true, columns = {{{types}}})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(_text(value) for value in values) + "]"


def fetch(connection: duckdb.DuckDBPyConnection, model: type[M], sql: str, values: Sequence[object] = ()) -> list[M]:
    """The answer to a query of ours as models, by column name; columns that the model does not have are left out."""
    found = connection.execute(sql, list(values))
    names = [column[0] for column in found.description or ()]
    known = [name in model.model_fields for name in names]
    return [
        model.model_validate(
            {name: value for name, value, kept in zip(names, row, known, strict=True) if kept}, strict=False
        )
        for row in found.fetchall()
    ]


def check_statement(sql: str) -> None:
    """Raise QueryRefused unless the text is exactly one statement that only reads."""
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise QueryRefused(f"not valid text: {error}") from error
    kind = _kind(sql)
    inner = _explained(sql) if kind == duckdb.StatementType.EXPLAIN else sql
    if inner is not sql:
        kind = _kind(inner)
    if kind != duckdb.StatementType.SELECT:
        raise QueryRefused(f"{kind.name} is refused: queries only read; {ALLOWED}{_hint(kind)}")


def _kind(sql: str) -> duckdb.StatementType:
    before, begun = _begun(sql)
    try:
        kinds = [statement.type for statement in duckdb.extract_statements(begun)]
    except duckdb.Error as error:
        raise QueryRefused(f"not valid SQL: {_located(error, before)}") from error
    except ValueError as error:  # of a type that DuckDB's Python has no name for
        raise QueryRefused(f"this statement is refused: queries only read; {ALLOWED}") from error
    if len(kinds) != 1:
        raise QueryRefused(f"found {len(kinds)} statements; {ALLOWED}")
    return kinds[0]


def _hint(kind: duckdb.StatementType) -> str:
    return "; PIVOT only with its values listed: ON column IN (...)" if kind == duckdb.StatementType.MULTI else ""


def _tokens(sql: str) -> list[int]:
    """Where each token that is no comment begins, in bytes."""
    return [start for start, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment]


def _explained(sql: str) -> str:
    """The statement after EXPLAIN [ANALYZE | (options)]: EXPLAIN ANALYZE runs it, so it must be allowed by itself."""
    text, tokens = sql.encode(), _tokens(sql)
    after = 1
    if text[tokens[after] :].startswith(b"("):
        after = 1 + next(index for index, start in enumerate(tokens) if text[start:].startswith(b")"))
    elif text[tokens[after] :].lower().startswith(b"analyze"):
        after += 1
    return text[tokens[after] :].decode()


def _begun(sql: str) -> tuple[int, str]:
    """The lines before the first token, and the text from there: DuckDB points to the wrong place otherwise."""
    text, tokens = sql.encode(), _tokens(sql)
    start = tokens[0] if tokens else 0
    return text[:start].count(b"\n"), text[start:].decode()


def _located(error: Exception, before: int) -> str:
    """DuckDB's message, its line and its caret moved to where they are in the whole text."""

    def moved(match: re.Match[str]) -> str:
        line = f"LINE {int(match[1]) + before}:"
        return f"{line}{match[2]}\n{' ' * (len(line) - len(f'LINE {match[1]}:'))}{match[3]}"

    return re.sub(r"^LINE (\d+):(.*)\n( *\^)", moved, str(error), flags=re.MULTILINE)


def answer(connection: duckdb.DuckDBPyConnection, sql: str, seconds: float) -> pa.Table:
    """Run one checked statement in a read-only transaction, within time and memory limits."""
    connection.execute("BEGIN TRANSACTION READ ONLY")
    with _interrupted_after(connection, seconds) as late:
        try:
            return _bounded(connection, sql)
        except FileNotFoundError:
            raise
        except (duckdb.Error, OSError) as error:
            # What goes wrong once rows are being read comes through Arrow, as an OSError with DuckDB's words.
            reason = _located(error, _begun(sql)[0])
            if late.is_set() or isinstance(error, duckdb.InterruptException) or reason.startswith("INTERRUPT"):
                raise QueryRefused(f"the query was stopped after {seconds:g} s") from error
            if isinstance(error, duckdb.OutOfMemoryException) or reason.startswith("Out of Memory"):
                raise QueryRefused(f"the query needs more than {MEMORY_LIMIT} of memory") from error
            if isinstance(error, duckdb.IOException) or reason.startswith("IO Error"):
                raise duckdb.IOException(reason) from error
            raise QueryRefused(reason) from error


@contextmanager
def _interrupted_after(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[threading.Event]:
    late = threading.Event()

    def stop() -> None:
        late.set()
        connection.interrupt()

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _bounded(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    import pyarrow as pa

    reader: pa.RecordBatchReader = _relation(connection, _begun(sql)[1]).to_arrow_reader(BATCH_ROWS)
    batches, size = [], 0
    for batch in reader:
        batches.append(batch)
        size += batch.nbytes
        if size > RESULT_LIMIT_BYTES:
            raise QueryRefused(f"the result is larger than {RESULT_LIMIT_BYTES // 10**6} MB; aggregate, or add a LIMIT")
    return pa.Table.from_batches(batches, schema=reader.schema)


def _relation(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    try:
        return connection.sql(sql)
    except (duckdb.BinderException, duckdb.CatalogException):
        connection.execute(sql)  # fails alike, but says the line
        raise
