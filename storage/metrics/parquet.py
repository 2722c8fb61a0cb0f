"""The metrics store's rows as the content of Parquet files, and back."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file; no two calls give the same bytes, so that a copy of a file is known as one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    unique = {**(table.schema.metadata or {}), b"file": uuid.uuid4().hex.encode()}
    pq.write_table(table.replace_schema_metadata(unique), sink, compression="zstd")
    return bytes(sink.getvalue())


def read_contents(contents: Iterable[bytes]) -> list[pa.Table | str]:
    """The rows of several files, or why one cannot be read."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(_rows, contents))


def _rows(content: bytes) -> pa.Table | str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"not a readable Parquet file ({str(error).splitlines()[0]})"
