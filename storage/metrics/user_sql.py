"""SQL that users write: only statements that read are answered, within limits of time and memory."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from slimline.storage.metrics.connection import MEMORY_LIMIT

if TYPE_CHECKING:
    import pyarrow as pa

RESULT_LIMIT_BYTES = 500_000_000
BATCH_ROWS = 10_000
ALLOWED = "allowed: one statement of SELECT, WITH, FROM, VALUES, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN"


class QueryError(Exception):
    """A query was not answered; the message says why."""


def check_statement(sql: str) -> None:
    """Check that a text is exactly one statement that only reads.

    Raises:
        QueryError: it is not.
    """
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"not valid text: {error}") from error
    kind = _statement_type(sql)
    inner = _inner_statement(sql) if kind == duckdb.StatementType.EXPLAIN else sql
    if inner is not sql:
        kind = _statement_type(inner)
    if kind != duckdb.StatementType.SELECT:
        raise QueryError(f"{kind.name} is refused: queries only read; {ALLOWED}{_hint(kind)}")


def _statement_type(sql: str) -> duckdb.StatementType:
    before, begun = _skip_comments(sql)
    try:
        kinds = [statement.type for statement in duckdb.extract_statements(begun)]
    except duckdb.Error as error:
        raise QueryError(f"not valid SQL: {_correct_position(error, before)}") from error
    except ValueError as error:  # of a type that DuckDB's Python has no name for
        raise QueryError(f"this statement is refused: queries only read; {ALLOWED}") from error
    if len(kinds) != 1:
        raise QueryError(f"found {len(kinds)} statements; {ALLOWED}")
    return kinds[0]


def _hint(kind: duckdb.StatementType) -> str:
    return "; PIVOT only with its values listed: ON column IN (...)" if kind == duckdb.StatementType.MULTI else ""


def _tokens(sql: str) -> list[int]:
    """Where each token that is not a comment begins, in bytes."""
    return [start for start, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment]


def _inner_statement(sql: str) -> str:
    """The statement after EXPLAIN [ANALYZE | (options)]: EXPLAIN ANALYZE runs it, so it must be allowed by itself."""
    text, tokens = sql.encode(), _tokens(sql)
    after = 1
    if text[tokens[after] :].startswith(b"("):
        after = 1 + next(index for index, start in enumerate(tokens) if text[start:].startswith(b")"))
    elif text[tokens[after] :].lower().startswith(b"analyze"):
        after += 1
    return text[tokens[after] :].decode()


def _skip_comments(sql: str) -> tuple[int, str]:
    """The lines before the first token, and the text from there: DuckDB points to the wrong place otherwise."""
    text, tokens = sql.encode(), _tokens(sql)
    start = tokens[0] if tokens else 0
    return text[:start].count(b"\n"), text[start:].decode()


def _correct_position(error: Exception, before: int) -> str:
    """DuckDB's message, its line and its caret moved to where they are in the whole text."""

    def moved(match: re.Match[str]) -> str:
        line = f"LINE {int(match[1]) + before}:"
        return f"{line}{match[2]}\n{' ' * (len(line) - len(f'LINE {match[1]}:'))}{match[3]}"

    return re.sub(r"^LINE (\d+):(.*)\n( *\^)", moved, str(error), flags=re.MULTILINE)


def answer(connection: duckdb.DuckDBPyConnection, sql: str, seconds: float) -> pa.Table:
    """Run one checked statement in a read-only transaction.

    Raises:
        QueryError: it is wrong, or needs more time or memory than allowed.
        duckdb.IOException: a file could not be read.
        duckdb.PermissionException: the statement names a file, or one of the store's is gone.
        FileNotFoundError: a file is gone.
    """
    connection.execute("BEGIN TRANSACTION READ ONLY")
    with _interrupt_after(connection, seconds) as late:
        try:
            return _read_result(connection, sql)
        except FileNotFoundError:
            raise
        except (duckdb.Error, OSError) as error:
            # An error while rows are read comes through Arrow: an OSError with DuckDB's message.
            reason = _correct_position(error, _skip_comments(sql)[0])
            if late.is_set() or isinstance(error, duckdb.InterruptException) or reason.startswith("INTERRUPT"):
                raise QueryError(f"the query was stopped after {seconds:g} s") from error
            if isinstance(error, duckdb.OutOfMemoryException) or reason.startswith("Out of Memory"):
                raise QueryError(f"the query needs more than {MEMORY_LIMIT} of memory") from error
            if isinstance(error, duckdb.PermissionException):
                raise
            if isinstance(error, duckdb.IOException) or reason.startswith("IO Error"):
                raise duckdb.IOException(reason) from error
            raise QueryError(reason) from error


@contextmanager
def _interrupt_after(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[threading.Event]:
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


def _read_result(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    import pyarrow as pa

    reader: pa.RecordBatchReader = _relation(connection, _skip_comments(sql)[1]).to_arrow_reader(BATCH_ROWS)
    batches, size = [], 0
    for batch in reader:
        batches.append(batch)
        size += batch.nbytes
        if size > RESULT_LIMIT_BYTES:
            raise QueryError(f"the result is larger than {RESULT_LIMIT_BYTES // 10**6} MB; aggregate, or add a LIMIT")
    return pa.Table.from_batches(batches, schema=reader.schema)


def _relation(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    try:
        return connection.sql(sql)
    except (duckdb.BinderException, duckdb.CatalogException):
        connection.execute(sql)  # fails in the same way, but its message has the line
        raise
