"""Descriptions of the store's tables and views: for the prompt of `slimline sql`, for docs/sql.md, for exports."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import NamedTuple

from slimline.storage.metrics.connection import VIEW_FILES, VIEWS, connect
from slimline.storage.metrics.metric import METRICS
from slimline.storage.metrics.schema import READABLE, SQL_TYPES, Column, columns
from slimline.storage.metrics.view_columns import view_column
from slimline.storage.text import escaped_markdown

ENDS = {"_lo": "Lower end of the 95 % interval of", "_hi": "Upper end of the 95 % interval of"}
OF_METRICS = ("result_table", "pareto", "versus_published")  # views whose columns are metrics
START, END = "<!-- schema -->", "<!-- /schema -->"


class ColumnDescription(NamedTuple):
    """A column: its name, its SQL type, and what it means where that is more than its name says."""

    name: str
    type: str
    doc: str


class Relation(NamedTuple):
    """A table or a view, with its columns."""

    name: str
    kind: str
    doc: str
    columns: list[ColumnDescription]


def relations() -> list[Relation]:
    """Every table, then every view."""
    tables = [
        Relation(name, "table", inspect.getdoc(row) or "", [_describe(column) for column in columns(row)])
        for name, row in READABLE.items()
    ]
    docs: dict[str, str] = {}
    for table in tables:
        for column in table.columns:
            docs.setdefault(column.name, column.doc)
    views = [
        Relation(
            view,
            "view",
            view_doc(view),
            [ColumnDescription(name, kind, _doc(view, name, docs)) for name, kind in found],
        )
        for view, found in _view_columns().items()
    ]
    return tables + views


def _describe(column: Column) -> ColumnDescription:
    return ColumnDescription(column.name, SQL_TYPES[column.type], column.doc)


def _view_columns() -> dict[str, list[tuple[str, str]]]:
    sql = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"
    with connect({}) as database:
        return {view: database.execute(sql, [view]).fetchall() for view in VIEWS}


def view_doc(view: str) -> str:
    """What a view is: the comment at the top of its file."""
    lines = (VIEW_FILES / f"{view}.sql").read_text("utf8").splitlines()
    comment = [line.removeprefix("--").strip() for line in lines]
    return " ".join(comment[: next(index for index, line in enumerate(lines) if not line.startswith("--"))])


def _doc(view: str, name: str, docs: dict[str, str]) -> str:
    for end, words in ENDS.items():
        if name.endswith(end):
            return f"{words} {name.removesuffix(end)}."
    metric = METRICS.get(name) if view in OF_METRICS else None
    return (metric and metric.doc) or view_column(view, name) or docs.get(name, "")


def schema_markdown() -> str:
    """The schema as docs/sql.md has it between its marks."""
    return "\n\n".join(map(_relation_markdown, relations()))


def _relation_markdown(relation: Relation) -> str:
    columns = [each for each in relation.columns if not each.name.endswith(tuple(ENDS)) or relation.kind == "table"]
    has_intervals = len(columns) < len(relation.columns)
    note = (
        ["", "Each metric's 95 % interval is beside it, as `<metric>_lo` and `<metric>_hi`."] if has_intervals else []
    )
    lines = [f"| `{each.name}` | {each.type.lower()} | {escaped_markdown(each.doc)} |" for each in columns]
    head = ["| column | type | meaning |", "| --- | --- | --- |"]
    return "\n".join([f"### {relation.name} ({relation.kind})", "", relation.doc, *note, "", *head, *lines])


def update_schema(page: str) -> str:
    """The page with today's schema between its marks."""
    before, rest = page.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{schema_markdown()}\n{END}{after}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(update_schema(file.read_text("utf8")), "utf8")
