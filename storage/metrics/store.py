"""The metrics store: whole Parquet files that any number of processes append, read as SQL tables."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from slimline.storage.metrics import partitions
from slimline.storage.metrics.connection import VIEWS, connect
from slimline.storage.metrics.partitions import LocalPartitions, Partitions, RemotePartitions
from slimline.storage.metrics.rows import Row
from slimline.storage.metrics.schema import TABLES, arrow_schema, stored_values
from slimline.storage.metrics.user_sql import QueryError, answer, check_statement

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MetricsStore", "QueryError"]

TIME_LIMIT_S = 60.0
READ_ATTEMPTS = 5


class MetricsStore:
    """Tables below a local directory or any fsspec URL; storage/metrics/rows.py says which, with what columns."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        path = self.url.removeprefix("file://")
        self._remote = RemotePartitions(self.url) if "://" in path else None
        self._partitions: Partitions = self._remote or LocalPartitions(Path(path))

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows of one table as one whole file, durably. No rows, no file.

        Raises:
            ValueError: they are of several tables, or of one that cannot be appended to.
        """
        if not rows:
            return
        found = sorted({each.table for each in rows})
        if len(found) > 1 or found[0] not in TABLES:
            raise ValueError(f"rows: of the tables {', '.join(found)}; allowed: one of {', '.join(TABLES)}")
        import pyarrow as pa

        row = type(rows[0])
        content = parquet_bytes(pa.Table.from_pylist([stored_values(each) for each in rows], schema=arrow_schema(row)))
        month = datetime.now(UTC).strftime("month=%Y-%m")
        self._partitions.write(f"{row.table}/{month}/{uuid.uuid4().hex}{partitions.PARQUET}", content)

    def connect(self, views: Sequence[str] = VIEWS) -> duckdb.DuckDBPyConnection:
        """The tables and views as they are now, in a connection that can reach nothing else."""
        files = self.files()
        if self._remote:
            return connect({}, {table: _dataset(self._remote, names) for table, names in files.items() if names}, views)
        where = self._partitions.location
        return connect({table: [where(name) for name in names] for table, names in files.items()}, {}, views)

    def files(self) -> dict[str, list[str]]:
        """The files that hold each table's rows now: as long as they are the same, so is every answer."""
        files: dict[str, list[str]] = {table: [] for table in TABLES}
        for name in partitions.visible(self._partitions):
            files.setdefault(name.partition("/")[0], []).append(name)
        return {table: files[table] for table in TABLES}

    def query(self, sql: str, seconds: float = TIME_LIMIT_S) -> pa.Table:
        """The answer to one statement that only reads; QueryError says why there is none.

        It runs in this process, whose memory and time a single call of a function could exhaust: use `sandbox.ask` for
        SQL that a user wrote.
        """
        check_statement(sql)
        for _ in range(READ_ATTEMPTS):
            try:
                with self.connect() as connection:
                    return answer(connection, sql, seconds)
            except (duckdb.IOException, FileNotFoundError) as error:
                problem = error  # a merge may have replaced a file between the listing and the reading of it
        raise QueryError(f"the store cannot be read: {problem}") from problem

    def compact(self, table: str, grace: timedelta = partitions.GRACE) -> int:
        """Merge each month's files into one; return how many files were replaced. Readers never see a row twice.

        Replaced files are deleted by the first merge after `grace`: a reader may have listed them just before.
        """
        if table not in TABLES:
            raise ValueError(f"table: {table!r} is not a table of this store; allowed: {', '.join(TABLES)}")
        with self._partitions.merge_lock(table):
            partitions.finish(self._partitions, table, grace)
            months: dict[str, list[str]] = defaultdict(list)
            for name in partitions.visible(self._partitions, table):
                months[name.rpartition("/")[0]].append(name)
            several = {month: names for month, names in months.items() if len(names) > 1}
            for month, names in several.items():
                self._merge(month, names)
            partitions.finish(self._partitions, table, grace)
        return sum(len(names) for names in several.values())

    def _merge(self, month: str, names: list[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = [pq.ParquetFile(pa.BufferReader(self._partitions.read(name))).read() for name in names]
        content = parquet_bytes(pa.concat_tables(tables, promote_options="permissive"))
        partitions.replace(self._partitions, f"{month}/{uuid.uuid4().hex}{partitions.PARQUET}", content, names)


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _dataset(remote: RemotePartitions, names: Sequence[str]) -> object:
    import pyarrow.dataset as ds
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    files = [remote.location(name) for name in names]
    factory = ds.FileSystemDatasetFactory(PyFileSystem(FSSpecHandler(remote.fs)), files, ds.ParquetFileFormat())
    return factory.finish(factory.inspect(promote_options="permissive", fragments=None))
