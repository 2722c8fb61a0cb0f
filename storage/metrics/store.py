"""The metrics store: whole Parquet files that any number of processes append, read as SQL tables."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from slimline.storage.metrics import partitions
from slimline.storage.metrics.connection import VIEWS, connect
from slimline.storage.metrics.integrity import (
    RECORD,
    Check,
    Record,
    Report,
    expected_checksum,
    inspect_files,
)
from slimline.storage.metrics.parquet import checksum, parquet_bytes, read_contents
from slimline.storage.metrics.partitions import Files, Listing, LocalPartitions, Partitions, RemotePartitions
from slimline.storage.metrics.rows import Row
from slimline.storage.metrics.schema import TABLES, arrow_schema, stored_values
from slimline.storage.metrics.user_sql import QueryError, answer, check_statement
from slimline.storage.text import clean

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MetricsStore", "QueryError"]

_log = logging.getLogger(__name__)

TIME_LIMIT_S = 60.0
READ_ATTEMPTS = 5
MOST_FILES = 500
"""Of one table, before a reader merges them."""
MERGED_BYTES = 24_000_000
"""The size of merged files: what they become in memory is some twenty times as much."""


class MetricsStore:
    """Tables below a local directory or any fsspec URL; storage/metrics/rows.py says which, with what columns."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        path = self.url.removeprefix("file://")
        self._partitions: Partitions = RemotePartitions(self.url) if "://" in path else LocalPartitions(Path(path))
        self._record = Record(self._partitions.own_directory / RECORD)

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
        name = _file_name(f"{row.table}/{month}", content)
        if stamp := self._partitions.write(name, content):
            self._record.add({name: Check(stamp, checksum(row.table, content))})
            if self._partitions.is_local:
                self._merge_if_due(partitions.listing(self._partitions, row.table))

    def connect(self, views: Sequence[str] = VIEWS) -> duckdb.DuckDBPyConnection:
        """The tables and views as they are now, in a connection that can reach nothing else."""
        return connect(self._paths(), views)

    def _paths(self) -> dict[str, list[str]]:
        """The local paths of the files of each table."""
        paths: dict[str, list[str]] = {table: [] for table in TABLES}
        for name, stamp in self.prepare().items():
            paths[name.partition("/")[0]].append(str(self._partitions.path(name, stamp)))
        return paths

    def prepare(self) -> Files:
        """The `files`, after those of tables that have very many were merged, which makes every answer quick."""
        now = partitions.listing(self._partitions)
        is_merged = self._partitions.is_local and self._merge_if_due(now)
        return self._whole(partitions.listing(self._partitions) if is_merged else now)

    def files(self) -> Files:
        """The files that hold the rows now, without those that are damaged, which are named in a warning.

        As long as they are the same, so is every answer.
        """
        return self._whole(partitions.listing(self._partitions))

    def _whole(self, now: Listing) -> Files:
        report = inspect_files(self._partitions, self._record, now, again=False)
        for name, problem in report.problems.items():
            _warn_once(clean(f"{self._partitions.shown(name)}: {problem}; it is left out"))
        return report.whole

    def inspect(self, again: bool = False) -> Report:
        """Check the files that hold rows: those that are new since the last check, or `again` all of them."""
        now = partitions.listing(self._partitions)
        return inspect_files(self._partitions, self._record, now, again=again)

    def query(self, sql: str, seconds: float = TIME_LIMIT_S) -> pa.Table:
        """The answer to one statement that only reads; QueryError says why there is none.

        It runs in this process, whose memory and time a single call of a function could exhaust: use `sandbox.ask` for
        SQL that a user wrote.
        """
        check_statement(sql)
        for _ in range(READ_ATTEMPTS):
            try:
                paths = self._paths()
                with connect(paths) as connection:
                    return answer(connection, sql, seconds)
            except duckdb.PermissionException as error:  # of a file that is gone as well as of one of the user's
                if all(Path(path).exists() for names in paths.values() for path in names):
                    raise QueryError(str(error)) from error
                problem: Exception = error
            except (duckdb.IOException, FileNotFoundError) as error:
                problem = error  # a merge may have replaced a file between the listing and the reading of it
        raise QueryError(f"the store cannot be read: {problem}") from problem

    def compact(self, table: str, grace: timedelta = partitions.GRACE, wait: bool = True) -> int:
        """Merge each month's small files; return how many files were replaced. Readers never see a row twice.

        Replaced files are deleted by the first merge after `grace`: a reader may have listed them just before. Files
        that are damaged stay as they are.

        Args:
            table: Whose files.
            grace: How long a file stays after it was replaced.
            wait: For another process that merges this table; otherwise there is nothing to do for this one.
        """
        if table not in TABLES:
            raise ValueError(f"table: {table!r} is not a table of this store; allowed: {', '.join(TABLES)}")
        try:
            with self._partitions.merge_lock(table, wait):
                partitions.finish(self._partitions, table, grace)
                files = {name: stamp for name, stamp in self.files().items() if name.startswith(f"{table}/")}
                merged = sum(self._merge(month, names) for month, names in _groups(files))
                partitions.finish(self._partitions, table, grace)
        except BlockingIOError:
            return 0
        return merged

    def _merge(self, month: str, names: list[str]) -> int:
        import pyarrow as pa

        known, table = self._record.read(), month.partition("/")[0]
        contents = {name: self._partitions.read(name) for name in names}
        whole = [
            name
            for name, content in contents.items()
            if expected_checksum(name, known.get(name)) in (None, checksum(table, content))
        ]
        if len(whole) < 2:
            return 0
        tables = read_contents(contents[name] for name in whole)
        content = parquet_bytes(pa.concat_tables(tables, promote_options="permissive"), whole)
        partitions.replace(self._partitions, _file_name(month, content, partitions.MERGED), content, whole)
        return len(whole)

    def _merge_if_due(self, now: Listing) -> bool:
        """Merge the files of tables that have very many: each costs a reader a millisecond. Whether there were any."""
        counts = Counter(name.partition("/")[0] for name in now.visible)
        due = [table for table in TABLES if counts[table] >= MOST_FILES]
        for table in due:
            _log.warning("%s: %d files, which are merged once", self._partitions.shown(table), counts[table])
            with suppress(OSError):  # a store that cannot be written to is read as it is
                self.compact(table, wait=False)
        return bool(due)


def _groups(files: Files) -> Iterator[tuple[str, list[str]]]:
    """Files of one month that become one: as many as fit into a size that a merge can hold in memory."""
    for month, names in groupby(files, lambda name: name.rpartition("/")[0]):
        group: list[str] = []
        size = 0
        for name in sorted(names, key=lambda name: partitions.size_in(files[name])):
            size += partitions.size_in(files[name])
            if size > MERGED_BYTES and group:
                yield month, group
                group, size = [], partitions.size_in(files[name])
            group.append(name)
        yield month, group


@cache
def _warn_once(text: str) -> None:
    """Say it once in a process: one command may ask the store several times."""
    _log.warning("%s", text)


def _file_name(month: str, content: bytes, ending: str = partitions.PARQUET) -> str:
    found = checksum(month.partition("/")[0], content)
    return f"{month}/{uuid.uuid4().hex}-{found}{ending}"
