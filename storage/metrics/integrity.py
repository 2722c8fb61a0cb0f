"""Which Parquet files of the metrics store are whole, and what is missing.

A file's name ends with a checksum of its content, so that it is known to be what was written. Each file is checked when
it is first read, and what was found is remembered, for as long as its size and time stay the same. Files of older
versions and of other programs have no checksum in their names: their content is read, and compared from then on with
what it was.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from slimline.storage.metrics.connection import read_problem
from slimline.storage.metrics.names import NAME_COLUMNS, name_problem
from slimline.storage.metrics.parquet import checksum, read_contents
from slimline.storage.metrics.partitions import REPLACED, Files, Listing, Partitions, replaced
from slimline.storage.metrics.schema import TABLES, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

RECORD = ".checked.jsonl"
_AT_ONCE_BYTES = 10_000_000
_OURS = re.compile(r"[0-9a-f]{32}(-(?P<checksum>[0-9a-f]{32})(\.merged)?)?\.parquet")
_HIDDEN_OR_COPY = re.compile(r"\..*|.*[0-9a-f]{32}.*")  # as other systems call what they keep beside a file


class Check(NamedTuple):
    """What was found out about a file: its stamp then, the checksum of its content, and what is wrong with it."""

    stamp: str
    checksum: str
    problem: str | None = None


class Report(NamedTuple):
    """The files that are whole, and by file what is wrong with the others; also with those that are gone."""

    whole: Files
    problems: dict[str, str]


class Record:
    """What is known of the whole files of one store: a file of JSON lines that any process appends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Check]:
        """What is known, by the files' names; of what cannot be read, nothing."""
        known = {}
        with suppress(OSError):
            for line in self.path.read_bytes().splitlines():
                with suppress(ValueError, TypeError, RecursionError):
                    name, stamp, found = json.loads(line)
                    if all(isinstance(each, str) for each in (name, stamp, found)):
                        known[name] = Check(stamp, found)
        return known

    def add(self, checks: Mapping[str, Check]) -> None:
        """Remember more. A store that cannot be written to is checked by each process."""
        lines = "".join(json.dumps([name, check.stamp, check.checksum]) + "\n" for name, check in checks.items())
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, lines.encode())
            finally:
                os.close(descriptor)

    def forget(self, names: Iterable[str]) -> None:
        """Drop what is known of files; what another process adds meanwhile may be lost, and is found out again."""
        gone = set(names)
        kept = {name: check for name, check in self.read().items() if name not in gone}
        lines = "".join(json.dumps([name, check.stamp, check.checksum]) + "\n" for name, check in kept.items())
        with suppress(OSError):
            draft = self.path.with_suffix(f".{os.getpid()}")
            draft.write_text(lines, "utf8")
            draft.replace(self.path)


def inspect_files(partitions: Partitions, record: Record, now: Listing, *, again: bool) -> Report:
    """Check the files that hold rows.

    Args:
        partitions: Where they are.
        record: What is known of them, and gets what is found out.
        now: The files.
        again: Read also what is known already.
    """
    known = record.read()
    checks = {
        name: check
        for name, stamp in now.visible.items()
        if (check := known.get(name)) and check.stamp == stamp and not again
    }
    unknown = {name: stamp for name, stamp in now.visible.items() if name not in checks}
    found = _check_all(partitions, unknown, known) if unknown else {}
    record.add(_news(found, known))
    checks |= found
    problems = {name: check.problem for name, check in checks.items() if check.problem}
    problems |= _copies(checks, problems, _merged_checksums(partitions, now))
    problems |= dict.fromkeys(_lost(partitions, record, known, now.files), "it is gone, and its rows with it")
    return Report({name: stamp for name, stamp in now.visible.items() if name not in problems}, problems)


def _news(found: Mapping[str, Check], known: Mapping[str, Check]) -> dict[str, Check]:
    """What to remember; of what is wrong no stamp, so that it is read again: the reading itself may have failed."""
    news = {name: check for name, check in found.items() if not check.problem}
    news |= {name: known[name]._replace(stamp="") for name, check in found.items() if check.problem and name in known}
    return {name: check for name, check in news.items() if check != known.get(name)}


def _check_all(partitions: Partitions, files: Files, known: Mapping[str, Check]) -> dict[str, Check]:
    """Read files; of those without a checksum the content is checked, many at a time."""
    checks: dict[str, Check] = {}
    unnamed: dict[str, bytes] = {}
    size = 0
    for name, stamp in files.items():
        checks[name], content = _check(partitions, name, stamp, known.get(name))
        if content is not None:
            unnamed[name] = content
            size += len(content)
        if size > _AT_ONCE_BYTES:
            _check_contents(partitions, checks, unnamed)
            unnamed, size = {}, 0
    _check_contents(partitions, checks, unnamed)
    return checks


def _check(partitions: Partitions, name: str, stamp: str, before: Check | None) -> tuple[Check, bytes | None]:
    """What is known of a file, and its content if that is still to be checked."""
    table, _, file = name.partition("/")
    if table not in TABLES:
        return Check(stamp, "", f"no table is called {table}; allowed: {', '.join(TABLES)}"), None
    file = file.rpartition("/")[2]
    if _HIDDEN_OR_COPY.fullmatch(file) and not _OURS.fullmatch(file):
        return Check(stamp, "", "not a file of this store: its name is that of a copy, or begins with a dot"), None
    if not file.isascii() and file != file.encode("utf8", "replace").decode():
        return Check(stamp, "", "its name is not UTF-8"), None
    try:
        content = partitions.read(name)
    except OSError as error:
        return Check("", "", f"cannot be read: {error.strerror or error}"), None
    found, expected = checksum(table, content), expected_checksum(name, before)
    if expected and found != expected:
        return Check(stamp, expected, "its content is not what was written: damaged, or copied in part"), None
    return Check(stamp, found), None if expected else content


def _check_contents(partitions: Partitions, checks: dict[str, Check], contents: Mapping[str, bytes]) -> None:
    """Check files of older versions, or of someone else; those with the same columns together."""
    if not contents:
        return
    import pyarrow as pa

    alike: dict[tuple[str, str], dict[str, pa.Table]] = {}
    problems: dict[str, str | None] = {}
    for name, rows in zip(contents, read_contents(contents.values()), strict=True):
        if isinstance(rows, str):
            problems[name] = rows
            continue
        key = (name.partition("/")[0], rows.schema.remove_metadata().to_string(show_field_metadata=False))
        alike.setdefault(key, {})[name] = rows
    for (table, _), files in alike.items():
        if _content_problem(table, pa.concat_tables(files.values())):
            problems |= {name: _content_problem(table, rows) for name, rows in files.items()}
    paths = {name: partitions.path(name, checks[name].stamp) for name in contents if not problems.get(name)}
    problems |= _unreadable(paths)
    checks |= {name: checks[name]._replace(problem=problem) for name, problem in problems.items()}


def _unreadable(paths: Mapping[str, Path]) -> dict[str, str]:
    """By file, why queries cannot read it: DuckDB refuses some that Arrow reads."""
    if not paths or not read_problem(list(paths.values())):
        return {}
    return {name: found for name, path in paths.items() if (found := read_problem([path]))}


def expected_checksum(name: str, before: Check | None) -> str | None:
    """What a file's checksum has to be: by its name, or by what was found when it was first read; None if unknown."""
    return _checksum_in(name) or (before.checksum if before else None)


def _checksum_in(name: str) -> str | None:
    match = _OURS.fullmatch(name.rpartition("/")[2])
    return match["checksum"] if match else None


def _content_problem(table: str, rows: pa.Table) -> str | None:
    """What is wrong with rows of a table."""
    if twice := next((name for name, count in Counter(rows.column_names).items() if count > 1), None):
        return f"column {twice} is there twice"
    return next(filter(None, (_column_problem(rows, field) for field in arrow_schema(TABLES[table]))), None)


def _column_problem(rows: pa.Table, field: pa.Field) -> str | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if field.name not in rows.column_names:
        return None if field.nullable else f"column {field.name} is missing"
    column = rows.column(field.name)
    if not field.nullable and column.null_count:
        return f"column {field.name} is null in {column.null_count} of {len(column)} rows"
    if not _fits(column.type, field.type):
        return f"column {field.name} is {column.type}; allowed: {field.type}"
    if pa.types.is_floating(column.type) and (
        bad := len(column) - column.null_count - (pc.sum(pc.is_finite(column)).as_py() or 0)
    ):
        return f"column {field.name} is not a number in {bad} of {len(column)} rows"
    if field.name in NAME_COLUMNS and _is_text(column.type):
        return next(
            filter(None, (name_problem(field.name, name) for name in pc.unique(column).to_pylist() if name)), None
        )
    return None


def _fits(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a column of one type can be read as one of the other."""
    import pyarrow as pa

    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_timestamp, pa.types.is_list)
    if pa.types.is_null(found) or (pa.types.is_floating(expected) and pa.types.is_integer(found)):
        return True
    if _is_text(expected):
        return _is_text(found)
    return any(is_kind(found) and is_kind(expected) for is_kind in kinds)


def _merged_checksums(partitions: Partitions, now: Listing) -> dict[str, str]:
    """By the checksum of each file whose rows are in a merged file now, its name."""
    if all(_checksum_in(name) for name in now.visible):
        return {}
    return {
        found: name for name in {*now.replaced, *_histories(partitions, now.files)} if (found := _checksum_in(name))
    }


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _copies(checks: Mapping[str, Check], problems: Mapping[str, str], merged: Mapping[str, str]) -> dict[str, str]:
    """Files with the content of another one, or of one that was merged, whose rows would count twice."""
    first = dict(merged)
    copies = {}
    for name, check in sorted(checks.items(), key=lambda item: (not _checksum_in(item[0]), item[0])):
        if name not in problems and (original := first.setdefault(check.checksum, name)) != name:
            copies[name] = f"a copy of {original}"
    return copies


def _lost(partitions: Partitions, record: Record, known: Mapping[str, Check], found: Files) -> list[str]:
    """Files that were there and whole, and that no merge has replaced."""
    gone = known.keys() - found.keys()
    if not gone:
        return []
    merged = _histories(partitions, found)
    if expected := gone & merged:
        record.forget(expected)
    return sorted(gone - merged)


def _histories(partitions: Partitions, files: Files) -> set[str]:
    """The files that merged files have replaced for good."""
    return {name for history in files if history.endswith(REPLACED) for name in replaced(partitions, history)}
