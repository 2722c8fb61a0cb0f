"""The store as one plain DuckDB file that any client opens."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from slimline.storage.metrics.catalog import relations
from slimline.storage.metrics.sql_text import quote_name, quote_text

if TYPE_CHECKING:
    from slimline.storage.metrics.store import MetricsStore

# The oldest format that DuckDB still writes: what is older than this release of it can read the file too.
STORAGE = "v1.0.0"
BATCH_ROWS = 100_000


def export_duckdb(store: MetricsStore, file: Path) -> dict[str, int]:
    """Write every table, and every view as a table, with comments that say what they are.

    The file appears complete or not at all.

    Returns:
        The number of rows of each.

    Raises:
        FileExistsError: the file exists; nothing is overwritten.
    """
    if file.exists():
        raise FileExistsError(f"{file} exists already; remove it, or choose another name")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as directory:
        draft = Path(directory) / "draft.duckdb"
        counts = _write(store, draft)
        os.link(draft, file)  # unlike a rename, this never overwrites a file that appeared meanwhile
    return counts


def _write(store: MetricsStore, draft: Path) -> dict[str, int]:
    counts = {}
    with duckdb.connect(draft, config={"storage_compatibility_version": STORAGE}) as target, store.connect() as source:
        for relation in relations():
            rows = source.sql(f"FROM {relation.name}").to_arrow_reader(BATCH_ROWS)
            target.register("rows_of_it", rows)
            target.execute(f"CREATE TABLE {relation.name} AS FROM rows_of_it")
            target.unregister("rows_of_it")
            counts[relation.name] = len(target.table(relation.name))
            target.execute(f"COMMENT ON TABLE {relation.name} IS {quote_text(relation.doc)}")
            for column in relation.columns:
                target.execute(
                    f"COMMENT ON COLUMN {relation.name}.{quote_name(column.name)} IS {quote_text(column.doc)}"
                )
    return counts
