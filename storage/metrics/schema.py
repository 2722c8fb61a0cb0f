"""The metrics store's tables: every column with its type and meaning, and the check of rows against them.

Columns are described without pyarrow, because a reader needs only their SQL types and should start at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

ColumnType = Literal["string", "int", "float", "bool", "time", "json", "strings"]


class Column(NamedTuple):
    """One column. `required`: may be neither absent nor null, because rows are found by it."""

    name: str
    type: ColumnType
    doc: str
    required: bool = False


RUNS = (
    Column("run", "string", "Identifier of the run.", required=True),
    Column("study", "string", "Name of the study that was run.", required=True),
    Column("started", "time", "When the run started.", required=True),
    Column("finished", "time", "When it ended."),
    Column("host", "string", "Where it was measured.", required=True),
    Column("status", "string", "ok or failed."),
    Column("baseline", "string", "Name of the variant the others are compared with."),
    Column("rounds", "int", "Interleaved passes over all variants."),
    Column("samples", "int", "Line-completion samples behind ES and EM."),
    Column("seed", "int", "Seed of the order of the rounds."),
    Column("decoding", "json", "How completions were produced."),
    Column("noise_floor", "float", "Relative spread of the baseline against itself, e.g. 0.03."),
    Column("tainted", "bool", "Whether the noise floor was too high to trust the speeds."),
    Column("versions", "json", "Versions of the libraries."),
    Column("git_commit", "string", "Commit of slimline that ran."),
    Column("spec", "json", "The whole study."),
    Column("error", "string", "Why the run failed."),
    Column("flow_run", "string", "Prefect's identifier of the flow run."),
    Column("node", "string", "Name of the machine that measured."),
)
HOSTS = (
    Column("host", "string", "Name of the host.", required=True),
    Column("run", "string", "The run during which it was described.", required=True),
    Column("fingerprint", "string", "Hash of what makes timings comparable."),
    Column("cpu", "string", "Model of the processor."),
    Column("cores", "int", "Cores this process may use."),
    Column("threads", "int", "Threads used to measure."),
    Column("memory_mb", "float", "Main memory, 10^6 bytes."),
    Column("isa", "strings", "Instruction-set extensions that matter here."),
    Column("os", "string", "Operating system."),
    Column("python", "string", "Version of Python."),
    Column("versions", "json", "Versions of the libraries."),
    Column("recorded", "time", "When this was recorded."),
    Column("peak_fp32_gflops", "float", "Measured peak of fp32 matrix multiplication, 10^9 operations a second."),
    Column("peak_bf16_gflops", "float", "The same in bf16; null where the processor only emulates it."),
    Column("peak_int8_gops", "float", "The same in int8."),
    Column("peak_read_gb_s", "float", "Measured peak of reading memory, 10^9 bytes a second."),
    Column("peak_threads", "int", "Threads the peaks were measured with, and every variant is."),
    Column("peaks_measured", "time", "When the peaks were measured."),
    Column("node", "string", "Name of the machine that measured."),
    Column("slurm_job", "string", "Identifier of the Slurm job in which it measured; null outside Slurm."),
)
ROUNDS = (
    Column("run", "string", "Identifier of the run.", required=True),
    Column("host", "string", "Where it was measured.", required=True),
    Column("round", "int", "Number of the pass over all variants.", required=True),
    Column("position", "int", "Place of this process in the order of its round."),
    Column("variant", "string", "What was measured.", required=True),
    Column("replicate", "int", "0, or 1 for the baseline's second process in a round.", required=True),
    Column("pid", "int", "The process that measured."),
    Column("started", "time", "When the process started."),
    Column("finished", "time", "When it ended."),
    Column("samples", "int", "Samples timed."),
    Column("passes", "int", "How often each of them was timed, one pass over all after another."),
    Column("tokens", "int", "Tokens generated in one pass."),
    Column("prompt_tokens", "int", "Prompt tokens read in one pass."),
    Column("prefill_context", "float", "Positions a prompt token attends to in the mean, itself included."),
    Column("decode_context", "float", "Positions a decoded token attends to in the mean, itself included."),
    Column("wall_s", "float", "Seconds for all passes."),
    Column("samples_per_s", "float", "Samples per second, end to end, batch 1."),
    Column("undisturbed_per_s", "float", "Samples per second if each took as long as in the fastest of its passes."),
    Column("latency_p50_ms", "float", "Median latency of a sample, milliseconds."),
    Column("latency_p95_ms", "float", "95th percentile of the latency, milliseconds."),
    Column("latency_p99_ms", "float", "99th percentile of the latency, milliseconds."),
    Column("prefill_tokens_per_s", "float", "Prompt tokens read per second."),
    Column("decode_tokens_per_s", "float", "Tokens generated per second after the prompt."),
    Column("memory_mb", "float", "Peak resident memory, 10^6 bytes."),
    Column("memory_over_base_mb", "float", "Peak over the process before the model, 10^6 bytes."),
    Column("base_mb", "float", "Resident memory before the model is loaded, 10^6 bytes."),
    Column("energy_j_per_sample", "float", "Joules per sample; null where the host does not tell."),
    Column("energy_source", "string", "What the energy was read from."),
    Column("load_s", "float", "Seconds to load the model."),
    Column("error", "string", "Why this process measured nothing."),
    Column("node", "string", "Name of the machine that measured."),
    Column("slurm_job", "string", "Identifier of the Slurm job in which it measured; null outside Slurm."),
)
MEASUREMENTS = (
    Column("run", "string", "Identifier of the run.", required=True),
    Column("study", "string", "Name of the study.", required=True),
    Column("host", "string", "Where it was measured.", required=True),
    Column("variant", "string", "What was measured.", required=True),
    Column("metric", "string", "Which number this is.", required=True),
    Column("value", "float", "The number; null if it could not be measured."),
    Column("lo", "float", "Lower end of the 95 % interval."),
    Column("hi", "float", "Upper end of the 95 % interval."),
    Column("unit", "string", "Unit of value, lo and hi."),
    Column("n", "int", "Observations behind the value."),
    Column("metric_version", "int", "Raised when the metric's definition changes: versions do not compare."),
    Column("time", "time", "When it was measured.", required=True),
    Column("artifact", "string", "Digest of the artifact that was measured."),
    Column("label", "string", "What the variant claims to be: as published, repaired, baseline, ..."),
    Column("random_weights", "bool", "Whether the model is untrained, so that its ES and EM mean nothing."),
    Column("error", "string", "Why there is no value."),
)
PREDICTIONS = (
    Column("run", "string", "Identifier of the run.", required=True),
    Column("host", "string", "Where it was predicted."),
    Column("variant", "string", "What predicted.", required=True),
    Column("sample", "int", "Identifier of the sample.", required=True),
    Column("prediction", "string", "The completed line."),
    Column("target", "string", "The line as it was written."),
    Column("es", "int", "Edit similarity, 0 to 100."),
    Column("em", "bool", "Whether they match exactly."),
)
# What a nightly judgement made of one series: a variant's metric on one class of hosts, against its own history.
VERDICTS = (
    Column("run", "string", "The run that was judged.", required=True),
    Column("study", "string", "Name of its study.", required=True),
    Column("host", "string", "Where it was measured.", required=True),
    Column("host_class", "string", "Fingerprint of the host: its history is that of all hosts with the same."),
    Column("variant", "string", "What was measured.", required=True),
    Column("metric", "string", "Which number was judged.", required=True),
    Column("metric_version", "int", "Raised when the metric's definition changes: versions do not compare."),
    Column("time", "time", "When the judged run started.", required=True),
    Column(
        "verdict",
        "string",
        "ok, new, not-comparable, suspicious-unconfirmed, regression, improvement or failed.",
        required=True,
    ),
    Column("value", "float", "What was measured, in the metric's unit; after a re-run, by the re-run."),
    Column("reference", "float", "The level of the series before, in the same unit."),
    Column("ratio", "float", "value / reference."),
    Column("lo", "float", "Lower end of the ratio's interval, at the confidence that the verdict asks for."),
    Column("hi", "float", "Upper end of it."),
    Column("band", "float", "Noise band: how far from 1 the ratio of a run may be (0.04: 4 %)."),
    Column("history", "int", "Earlier runs behind the reference and the band."),
    Column("change_point", "string", "The first run at the new level, where the level has changed."),
    Column("change_time", "time", "When that run started."),
    Column("rerun", "strings", "The runs that measured it again before an alarm was raised."),
    Column("suspects", "json", "What differs since the last good run: [{library, before, after}]; git_commit is one."),
    Column("reason", "string", "The verdict in words."),
)
# Comes with slimline and is never appended to.
PUBLISHED = (
    Column("host", "string", "Short name of the host of the publication."),
    Column("host_description", "string", "The host as the publication describes it."),
    Column("variant", "string", "The variant of ours that reproduces the row."),
    Column("published_name", "string", "The row's name in the publication."),
    Column("disk_mb", "float", "Size of a gzip archive of the model, 10^6 bytes."),
    Column("memory_mb", "float", "Memory, 10^6 bytes."),
    Column("samples_per_s", "float", "Samples per second."),
    Column("es", "float", "Edit similarity, %."),
    Column("em", "float", "Exact match, %."),
    Column("params_m", "float", "Non-zero parameters, millions."),
    Column("source", "string", "The publication."),
)
TABLES: dict[str, tuple[Column, ...]] = {
    "runs": RUNS,
    "hosts": HOSTS,
    "rounds": ROUNDS,
    "measurements": MEASUREMENTS,
    "predictions": PREDICTIONS,
    "verdicts": VERDICTS,
}
SQL_TYPES: dict[ColumnType, str] = {
    "string": "VARCHAR",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "time": "TIMESTAMPTZ",
    "json": "VARCHAR",
    "strings": "VARCHAR[]",
}


class RowsRefused(ValueError):  # noqa: N818 - read as a sentence
    """Rows do not fit their table: the message names the table, the row, the column, the value and what is allowed."""


def columns_of(table: str) -> tuple[Column, ...]:
    """The columns of a table that can be appended to; RowsRefused naming the tables there are."""
    if table not in TABLES:
        raise RowsRefused(f"unknown table {table!r}; allowed: {', '.join(TABLES)}")
    return TABLES[table]


def arrow_schema(table: str) -> pa.Schema:
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
            for column in columns_of(table)
        ]
    )


def checked(table: str, rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The rows as they are stored, absent columns as None; RowsRefused for the first thing that does not fit."""
    columns = columns_of(table)
    return [_checked_row(f"{table}, row {number}", columns, row) for number, row in enumerate(rows)]


def _checked_row(where: str, columns: Sequence[Column], row: Mapping[str, object]) -> dict[str, object]:
    known = [column.name for column in columns]
    if unknown := [name for name in row if name not in known]:
        raise RowsRefused(f"{where}: unknown column {unknown[0]!r}; allowed: {', '.join(known)}")
    return {column.name: _checked_value(where, column, row.get(column.name)) for column in columns}


def _checked_value(where: str, column: Column, value: object) -> object:
    if value is None:
        if column.required:
            raise RowsRefused(f"{where}: {column.name} is missing; it is required")
        return None
    if column.type == "json" and not isinstance(value, str):
        value = _as_json(where, column, value)
    allowed, fits = _CHECKS[column.type]
    if not fits(value):
        raise RowsRefused(f"{where}: {column.name} is {value!r} ({type(value).__name__}); allowed: {allowed}")
    return value


def _as_json(where: str, column: Column, value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise RowsRefused(f"{where}: {column.name} is {value!r}; allowed: what JSON can hold ({error})") from error


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_float(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_time(value: object) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is not None


def _is_json(value: object) -> bool:
    try:
        json.loads(str(value))
    except ValueError:
        return False
    return _is_text(value)


def _is_strings(value: object) -> bool:
    return isinstance(value, list | tuple) and all(_is_text(item) for item in value)


_CHECKS: dict[ColumnType, tuple[str, Callable[[object], bool]]] = {
    "string": ("text", _is_text),
    "int": ("a whole number of 64 bits", _is_int),
    "float": ("a finite number, or null with the reason in error", _is_float),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "time": ("a datetime with a time zone", _is_time),
    "json": ("JSON text", _is_json),
    "strings": ("a list of text", _is_strings),
}
