"""The columns of the tables in SQL and in Parquet, derived from the models of their rows.

pyarrow is imported where it is needed only: a reader needs no more than the SQL types, and should start at once.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import AwareDatetime

from slimline.storage.metrics.rows import ROWS, PublishedRow, Row

if TYPE_CHECKING:
    import pyarrow as pa

ColumnType = Literal["string", "int", "float", "bool", "time", "json", "strings"]
SQL_TYPES: dict[ColumnType, str] = {
    "string": "VARCHAR",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "time": "TIMESTAMPTZ",
    "json": "VARCHAR",
    "strings": "VARCHAR[]",
}
_PYTHON_TYPES: dict[Any, ColumnType] = {
    str: "string",
    int: "int",
    float: "float",
    bool: "bool",
    AwareDatetime: "time",
    tuple[str, ...]: "strings",
}
TABLES: dict[str, type[Row]] = {row.table: row for row in ROWS}
"""The tables that can be appended to, by name."""
READABLE: dict[str, type[Row]] = {**TABLES, PublishedRow.table: PublishedRow}
"""Those and what comes with slimline."""


class Column(NamedTuple):
    """A column of a table. `required`: it is never null."""

    name: str
    type: ColumnType
    doc: str
    required: bool


@cache
def columns(row: type[Row]) -> tuple[Column, ...]:
    """The columns of a row's table, in their order."""
    return tuple(
        Column(name, _column_type(field.annotation), field.description or "", field.is_required())
        for name, field in row.model_fields.items()
    )


def _column_type(annotation: Any) -> ColumnType:
    """The type of a field, null aside; whatever has no type of its own in SQL is stored as JSON text."""
    if annotation in _PYTHON_TYPES:
        return _PYTHON_TYPES[annotation]
    if get_origin(annotation) is Literal:
        return "string"
    if get_origin(annotation) is Annotated:
        return _column_type(get_args(annotation)[0])
    if type(None) in get_args(annotation):
        return _column_type(next(each for each in get_args(annotation) if each is not type(None)))
    return "json"


def stored_values(row: Row) -> dict[str, Any]:
    """A row's values by column, as Parquet holds them: what has no type of its own as JSON text."""
    values = row.model_dump()
    for column in columns(type(row)):
        if column.type == "json" and values[column.name] is not None:
            values[column.name] = json.dumps(values[column.name], allow_nan=False, sort_keys=True)
    return values


def arrow_schema(row: type[Row]) -> pa.Schema:
    """The table's schema in Parquet files, each column's meaning in its metadata under `doc`."""
    import pyarrow as pa

    types: dict[ColumnType, pa.DataType] = {
        "string": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
        "json": pa.string(),
        "strings": pa.list_(pa.string()),
    }
    return pa.schema(
        [
            pa.field(column.name, types[column.type], nullable=not column.required, metadata={"doc": column.doc})
            for column in columns(row)
        ]
    )
