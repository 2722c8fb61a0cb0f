"""The metrics store's rows as the content of Parquet files, and back."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


_REPLACES = b"replaces"


def parquet_bytes(table: pa.Table, replaces: Sequence[str] = ()) -> bytes:
    """A table as a Parquet file; no two calls give the same bytes, so that a copy of a file is known as one.

    Args:
        table: The rows.
        replaces: The names of the files that it is merged from.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    unique = {**(table.schema.metadata or {}), b"file": uuid.uuid4().hex.encode()}
    if replaces:
        unique[_REPLACES] = json.dumps(list(replaces)).encode()
    pq.write_table(table.replace_schema_metadata(unique), sink, compression="zstd")
    return bytes(sink.getvalue())


def checksum(table: str, content: bytes) -> str:
    """The first half of a SHA-256 over a file's table and content, 32 hexadecimal digits."""
    return hashlib.sha256(table.encode() + b"\0" + content).hexdigest()[:32]


def merged_from(content: bytes) -> bytes:
    """The JSON list of the files that a file is merged from.

    Raises:
        ValueError: it is no merged file, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return bytes(pq.read_schema(pa.BufferReader(content)).metadata[_REPLACES])
    except (pa.ArrowException, OSError, LookupError, TypeError) as error:
        raise ValueError(f"it names no files: {error}") from error


def read_contents(contents: Iterable[bytes]) -> list[pa.Table | str]:
    """The rows of several files, or why one cannot be read."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(_rows, contents))


def _rows(content: bytes) -> pa.Table | str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
        rows.validate(full=True)  # such as that texts are UTF-8
        return rows
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"not a readable Parquet file ({str(error).splitlines()[0]})"
