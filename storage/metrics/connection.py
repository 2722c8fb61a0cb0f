"""A DuckDB connection that can read the store's tables and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import duckdb
from pydantic import BaseModel

from slimline.storage.metrics.metric import WIDE_METRICS
from slimline.storage.metrics.rows import MeasurementRow, PublishedRow, Row
from slimline.storage.metrics.schema import SQL_TYPES, TABLES, columns
from slimline.storage.metrics.sql_text import quote_list, quote_name, quote_text

M = TypeVar("M", bound=BaseModel)

PUBLISHED_CSV = Path(__file__).with_name("published.csv")
VIEW_FILES = Path(__file__).with_name("views")
# In the order in which they depend on each other.
VIEWS = ("result_figures", "result_table", "pareto", "versus_published", "history", "paired_rounds", "regressions")
# What queries over all measurements read: their order in their file as `written`, the order of a study's variants.
_NUMBERED = "numbered_measurements"
# DuckDB takes the smaller side of a join into memory; the limit tells it that the runs are few.
_OF_NEWEST_RUNS = "(FROM numbered_measurements WHERE run IN (SELECT DISTINCT run FROM newest LIMIT 100000))"
MEMORY_LIMIT = "1GB"
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "memory_limit": MEMORY_LIMIT,
    "temp_directory": "",
}


def connect(files: Mapping[str, Sequence[str]], views: Sequence[str] = VIEWS) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database with the tables and views, which can reach no file and change no setting.

    Args:
        files: the local Parquet files with each table's rows.
        views: the views to make, each after those that it reads; making all of them takes as long as a small query.
    """
    connection = duckdb.connect(":memory:", config=CONFIG)
    connection.execute("SET parquet_metadata_cache = true")
    # Of any other zone, DuckDB asks pytz, which opens the files of all 600 there are.
    connection.execute("SET TimeZone = 'UTC'")
    for table, row in TABLES.items():
        connection.execute(f"CREATE VIEW {table} AS {_rows_sql(row, files.get(table, ()))}")
    connection.execute(f"CREATE VIEW {_NUMBERED} AS {_rows_sql(MeasurementRow, files.get('measurements', ()), True)}")
    connection.execute(f"CREATE TABLE published AS FROM {_published_sql()}")
    for view in views:
        connection.execute(f"CREATE VIEW {view} AS {_view_sql(view)}")
    paths = [path for table in files.values() for path in table]
    connection.execute(f"SET allowed_paths = {quote_list(paths)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _view_sql(view: str, measurements: str = _NUMBERED) -> str:
    """A view's query: its file, with what its file leaves open filled in.

    Args:
        view: Its name.
        measurements: What stands for {measurements}: the rows that the view's figures come from.
    """
    text = (VIEW_FILES / f"{view}.sql").read_text("utf8")
    parts: dict[str, Callable[[], str]] = {
        "{metrics}": _metric_columns,
        "{measurements}": lambda: measurements,
        "{figures}": lambda: f"({_view_sql('result_figures', measurements)})",
        "{results_of_newest}": lambda: f"({_view_sql('result_table', _OF_NEWEST_RUNS)})",
    }
    for name, part in parts.items():
        text = text.replace(name, part()) if name in text else text
    return text


def _metric_columns() -> str:
    ends = {"value": "", "lo": "_lo", "hi": "_hi"}
    return ",\n".join(
        f"figures['{metric}'].{end} AS {metric}{suffix}" for metric in WIDE_METRICS for end, suffix in ends.items()
    )


def _rows_sql(row: type[Row], files: Sequence[str], is_numbered: bool = False) -> str:
    """A table's rows: `is_numbered` adds, as `written`, each one's place in its file."""
    # A union by name with an empty table of today's columns: columns that old files lack are NULL, and columns that
    # newer files add are kept.
    typed = ", ".join(f"NULL::{SQL_TYPES[column.type]} AS {quote_name(column.name)}" for column in columns(row))
    empty = f"SELECT {typed}{', NULL::BIGINT AS written' if is_numbered else ''} WHERE false"
    if not files:
        return empty
    rows = f"read_parquet({quote_list(files)}, union_by_name = true, hive_partitioning = false)"
    numbers = "SELECT *, file_row_number AS written " if is_numbered else ""
    return f"FROM ({empty}) UNION ALL BY NAME {numbers}FROM {rows}"


def _published_sql() -> str:
    types = ", ".join(
        f"{quote_text(column.name)}: {quote_text(SQL_TYPES[column.type])}" for column in columns(PublishedRow)
    )
    return f"read_csv({quote_text(str(PUBLISHED_CSV))}, header = true, columns = {{{types}}})"


def read_problem(files: Sequence[Path]) -> str | None:
    """Why Parquet files cannot be read by queries; None if every value of them can."""
    with duckdb.connect(":memory:", config=CONFIG) as connection:
        try:
            rows = connection.read_parquet(list(map(str, files)), union_by_name=True, hive_partitioning=False)
            rows.aggregate("count(COLUMNS(*))").fetchall()
        except duckdb.Error as error:
            return f"not a readable Parquet file ({str(error).splitlines()[0]})"
    return None


def fetch(
    connection: duckdb.DuckDBPyConnection,
    model: type[M],
    sql: str,
    values: Sequence[object] | Mapping[str, object] = (),
) -> list[M]:
    """Run one of our own queries; return its rows as models, without the columns that the model does not have."""
    found = connection.execute(sql, values)
    names = [column[0] for column in found.description or ()]
    known = [name in model.model_fields for name in names]
    return [
        model.model_validate(
            {name: value for name, value, kept in zip(names, row, known, strict=True) if kept}, strict=False
        )
        for row in found.fetchall()
    ]
