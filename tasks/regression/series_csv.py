"""Series of anybody's benchmark, read from a CSV file: a row a value, several rows a run where it was repeated.

docs/judge.md describes the columns. What cannot be right is refused, with the line and the column.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

Better = Literal["higher", "lower"]
NEEDED = ("time", "series", "value")
KNOWN = (*NEEDED, "run", "replicate", "rerun", "better", "unit", "relevant", "setup")
"""The columns that mean something; what is in any other one may be to blame for a change, such as a version."""
SMALLEST, LARGEST = 1e-150, 1e150
"""Bounds of a value, so that every ratio of two is a number."""
LONGEST_RUN = timedelta(days=1)
"""From a run's first measured row to its last: a name that is there for longer is not that of one run."""
LEAST_RELEVANT, MOST_RELEVANT = 0.1, 90.0  # per cent
_NUMBER = re.compile(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")
_DELIMITERS = ",;\t"


class SeriesError(ValueError):
    """The series cannot be read; the message names the line and the column."""


class Choices(NamedTuple):
    """What holds where the file does not say it: which way is better, the least change that matters (in per cent)."""

    better: Better = "lower"
    relevant: float = 5.0


class Run(NamedTuple):
    """One run of a series: its values, and those that were measured again because they looked different."""

    run: str
    time: datetime
    values: tuple[float, ...]
    again: tuple[float, ...]
    unit: str
    setup: str
    blame: dict[str, str]


class Series(NamedTuple):
    """The runs of a series, oldest first."""

    name: str
    better: Better
    relevant: float
    runs: tuple[Run, ...]


class _Row(NamedTuple):
    """A line of the file with its checked cells."""

    line: int
    time: datetime
    series: str
    value: float
    run: str
    rerun: bool
    better: Better
    relevant: float
    unit: str
    setup: str
    blame: dict[str, str]
    replicate: str
    written: str
    """The time as it is in the file."""


def read_series(content: bytes, choices: Choices, names: Mapping[str, str] | None = None) -> list[Series]:
    """The series of a CSV file, by name.

    Args:
        content: The file: UTF-8, separated by commas, semicolons or tabs.
        choices: What holds where the file does not say it.
        names: What the file calls a column, by its name here.

    Raises:
        SeriesError: something in it cannot be right; the message names the line and the column.
    """
    rows = _with_runs_named(_rows(content, choices, dict(names or {})))
    if not rows:
        raise SeriesError("line 2: there is no row")
    _refuse_repeated(rows)
    _refuse_contradictions(rows)
    _refuse_runs_of_one_name(rows)
    by_series: dict[str, list[_Row]] = {}
    for row in rows:
        by_series.setdefault(row.series, []).append(row)
    return [_series(name, by_series[name]) for name in sorted(by_series)]


# -------------------------------------------------------------------------------------------------------------- lines


def _rows(content: bytes, choices: Choices, names: Mapping[str, str]) -> Iterator[_Row]:
    lines = _lines(content)
    _, head = next(lines, (1, []))
    columns = _columns(head, names)
    for line, cells in lines:
        if len(cells) != len(head):
            raise SeriesError(f"line {line}: it has {len(cells)} cells; allowed: {len(head)}, as the first line has")
        yield _row(line, {name: cells[place].strip() for name, place in columns.items()}, choices)


def _lines(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Every line that is not blank, with its number and its cells."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SeriesError(f"line {line}: byte {content[error.start]:#04x} is not UTF-8") from None
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise SeriesError(f"line {reader.line_num}: not CSV: {error}") from None


def _columns(head: Sequence[str], names: Mapping[str, str]) -> dict[str, int]:
    """The place of every column, by its name here."""
    found = [name.strip() for name in head]
    for name in found:
        if found.count(name) > 1:
            raise SeriesError(f"line 1, column {name or '(no name)'}: it is there {found.count(name)} times")
    ours = {theirs: name for name, theirs in names.items()}
    for theirs in ours:
        if theirs not in found:
            raise SeriesError(f"line 1, column {theirs}: it is missing; there are: {', '.join(found) or 'none'}")
    places = {ours.get(name, name): place for place, name in enumerate(found) if name not in names or name in ours}
    for name in NEEDED:
        if name not in places:
            raise SeriesError(f"line 1, column {name}: it is missing; there are: {', '.join(found) or 'none'}")
    return places


# -------------------------------------------------------------------------------------------------------------- cells


def _row(line: int, cells: Mapping[str, str], choices: Choices) -> _Row:
    time, value = _time(line, cells["time"]), _value(line, cells["value"])
    if not cells["series"]:
        raise _refusal(line, "series", "", "a name")
    return _Row(
        line=line,
        time=time,
        series=cells["series"],
        value=value,
        run=cells.get("run", ""),
        rerun=_is_rerun(line, cells.get("rerun", "")),
        better=_better(line, cells.get("better") or choices.better),
        relevant=_relevant(line, cells.get("relevant") or str(choices.relevant)),
        unit=cells.get("unit", ""),
        setup=cells.get("setup", ""),
        blame={name: text for name, text in cells.items() if name not in KNOWN},
        replicate=cells.get("replicate", ""),
        written=cells["time"],
    )


def _refusal(line: int, column: str, text: str, allowed: str) -> SeriesError:
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    return SeriesError(f"line {line}, column {column}: {shown!r}; allowed: {allowed}")


def _time(line: int, text: str) -> datetime:
    allowed = "a time such as 2026-11-22T03:00:00+01:00 or 2026-11-22"
    try:
        time = datetime.fromisoformat(text)
        return time if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _refusal(line, "time", text, allowed) from None


def _value(line: int, text: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else 0.0
    if not SMALLEST <= number <= LARGEST:
        raise _refusal(line, "value", text, f"a number from {SMALLEST:g} to {LARGEST:g}, with a decimal point")
    return number


def _relevant(line: int, text: str) -> float:
    number = text.removesuffix("%").strip()
    if not _NUMBER.fullmatch(number) or not LEAST_RELEVANT <= float(number) <= MOST_RELEVANT:
        raise _refusal(line, "relevant", text, f"{LEAST_RELEVANT:g} to {MOST_RELEVANT:g}, in per cent")
    return float(number)


def _better(line: int, text: str) -> Better:
    ways: dict[str, Better] = {"higher": "higher", "lower": "lower"}
    if text.lower() in ways:
        return ways[text.lower()]
    raise _refusal(line, "better", text, "higher, lower")


def _is_rerun(line: int, text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise _refusal(line, "rerun", text, f"{', '.join(_YES)}; 0, false, no, or nothing")
    return text.lower() in _YES


# --------------------------------------------------------------------------------------------------------------- runs


def _with_runs_named(rows: Iterable[_Row]) -> list[_Row]:
    """The rows; those without the name of a run have their time as it is written first, however it is written later."""
    written: dict[datetime, str] = {}
    return [row if row.run else row._replace(run=written.setdefault(row.time, row.written)) for row in rows]


def _refuse_repeated(rows: Sequence[_Row]) -> None:
    """Refuse a row that is there twice: the same replicate, or, without numbers, a run all of whose rows are.

    Two equal values of a run are no error: there are only so many digits.
    """
    lines: dict[tuple[object, ...], dict[object, list[int]]] = {}
    for row in rows:
        key = (row.time, row.value) if not row.replicate else row.replicate
        lines.setdefault((row.series, row.run, row.rerun, bool(row.replicate)), {}).setdefault(key, []).append(row.line)
    for (*_, is_numbered), found in lines.items():
        repeated = [each for each in found.values() if len(each) > 1]
        if repeated and (is_numbered or len(repeated) == len(found)):
            first, second, *_ = repeated[0]
            column, hint = (
                ("replicate", "each once") if is_numbered else ("value", "a column replicate, if it is right")
            )
            raise SeriesError(f"line {second}, column {column}: the same row as line {first}; allowed: {hint}")


def _refuse_contradictions(rows: Sequence[_Row]) -> None:
    """Refuse what no row has by itself: times with and without a zone, two answers to one question."""
    first = rows[0]
    of_series: dict[str, _Row] = {}
    of_run: dict[tuple[str, str], _Row] = {}
    for row in rows:
        if (row.time.tzinfo is None) != (first.time.tzinfo is None):
            raise _conflict(row, "time", first, "with a zone, the other without: give all or none of them one")
        known = of_series.setdefault(row.series, row)
        for column in ("better", "relevant"):
            if getattr(row, column) != getattr(known, column):
                raise _conflict(row, column, known, "of the same series")
        same = of_run.setdefault((row.series, row.run), row)
        for column in ("unit", "setup"):
            if getattr(row, column) != getattr(same, column):
                raise _conflict(row, column, same, "of the same run")
    measured = {(row.series, row.run) for row in rows if not row.rerun}
    for row in rows:
        if (row.series, row.run) not in measured:
            raise _refusal(row.line, "rerun", "yes", f"no, or a run that has other rows than {row.run!r} has")


def _refuse_runs_of_one_name(rows: Sequence[_Row]) -> None:
    """Refuse a name that several runs of a series have, such as a constant or a number that begins anew every night.

    They would be one run, with one verdict. A run's rows lie within a day, and no other run begins between them.
    """
    allowed = "a name that no other run of the series has, or no such column"
    of_series: dict[str, list[_Row]] = {}
    for row in sorted((row for row in rows if not row.rerun), key=lambda row: row.time):
        of_series.setdefault(row.series, []).append(row)
    for found in of_series.values():
        first: dict[str, _Row] = {}
        newest = found[0]
        for row in found:
            began = first.setdefault(row.run, row)
            if row.time - began.time > LONGEST_RUN or began.time < first[newest.run].time < row.time:
                raise _refusal(row.line, "run", row.run, allowed)
            newest = max(newest, began, key=lambda each: each.time)


def _conflict(row: _Row, column: str, other: _Row, why: str) -> SeriesError:
    return SeriesError(f"line {row.line}, column {column}: it is not as in line {other.line}, {why}")


def _series(name: str, rows: Sequence[_Row]) -> Series:
    by_run: dict[str, list[_Row]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    runs = sorted((_run(run, found) for run, found in by_run.items()), key=lambda each: (each.time, each.run))
    return Series(name, rows[0].better, rows[0].relevant, tuple(runs))


def _run(run: str, rows: Sequence[_Row]) -> Run:
    measured = [row for row in rows if not row.rerun]
    time = min(row.time for row in measured)
    return Run(
        run=run,
        time=time if time.tzinfo else time.replace(tzinfo=UTC),
        values=tuple(row.value for row in measured),
        again=tuple(row.value for row in rows if row.rerun),
        unit=measured[0].unit,
        setup=measured[0].setup,
        blame=measured[0].blame,
    )
