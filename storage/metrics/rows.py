"""The rows of the metrics store: one frozen model a table, with each column's type, unit and meaning.

The Parquet schema, the checks of what is written, docs/sql.md and the descriptions of the views' columns come from
these models. A field without a default is required: rows are found by it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, field_validator

from slimline.storage.metrics.names import Name

V = TypeVar("V")

Verdict = Literal["ok", "new", "not-comparable", "suspicious-unconfirmed", "regression", "improvement", "failed"]


def _parse(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
JsonObject = Annotated[Mapping[str, JsonValue], BeforeValidator(_parse)]
Versions = Annotated[Mapping[str, str], BeforeValidator(_parse)]


class Suspect(BaseModel):
    """A library whose version differs between two runs; a version is null where the library was not installed."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    library: str
    before: str | None
    after: str | None


Suspects = Annotated[tuple[Suspect, ...], BeforeValidator(_parse)]


def _texts(value: object) -> Iterator[str]:
    """All text of a value: itself, or what it contains."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.items()))
    elif isinstance(value, list | tuple | BaseModel):
        for part in value:
            yield from _texts(part)


class Row(BaseModel):
    """A row of a table. Values are checked when it is made: numbers are finite, times have a time zone, text is UTF-8.

    Raises:
        pydantic.ValidationError: a column is unknown or missing, or a value does not fit; the error names them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    table: ClassVar[str]

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: V) -> V:
        for text in _texts(value):
            text.encode()  # Parquet holds UTF-8, which has no lone surrogates; UnicodeEncodeError is a ValueError
        return value

    def replace(self, **values: object) -> Self:
        """A copy with other values, which are checked as well."""
        return self.model_validate({**dict(self), **values})


class RunRow(Row):
    """One row per run and host: when, of what study, with what noise."""

    table: ClassVar[str] = "runs"

    run: Name = Field(description="Identifier of the run.")
    study: Name = Field(description="Name of the study that was run.")
    started: AwareDatetime = Field(description="When the run started.")
    finished: AwareDatetime | None = Field(None, description="When it ended.")
    host: Name = Field(description="Where it was measured.")
    status: str | None = Field(None, description="ok or failed.")
    baseline: str | None = Field(None, description="Name of the variant the others are compared with.")
    control: str | None = Field(
        None, description="Variant that quality drops of trained ones are measured against; null: the baseline."
    )
    rounds: Int64 | None = Field(None, description="Interleaved passes over all variants.")
    samples: Int64 | None = Field(None, description="Line-completion samples behind ES and EM.")
    seed: Int64 | None = Field(None, description="Seed of the order of the rounds.")
    decoding: JsonObject | None = Field(None, description="How completions were produced.")
    noise_floor: float | None = Field(None, description="Relative spread of the baseline against itself, e.g. 0.03.")
    tainted: bool | None = Field(None, description="Whether the noise floor was too high to trust the speeds.")
    versions: Versions | None = Field(None, description="Versions of the libraries.")
    git_commit: str | None = Field(None, description="Commit of slimline that ran.")
    spec: JsonObject | None = Field(None, description="The whole study.")
    error: str | None = Field(None, description="Why the run failed.")
    flow_run: str | None = Field(None, description="Prefect's identifier of the flow run.")
    node: Name | None = Field(None, description="Name of the machine that measured.")


class HostRow(Row):
    """One row per run and host: the machine, its libraries and its measured peaks."""

    table: ClassVar[str] = "hosts"

    host: Name = Field(description="Name of the host.")
    run: Name = Field(description="The run during which it was described.")
    fingerprint: str | None = Field(None, description="Hash of what makes timings comparable.")
    cpu: str | None = Field(None, description="Model of the processor.")
    cores: Int64 | None = Field(None, description="Cores this process may use.")
    threads: Int64 | None = Field(None, description="Threads used to measure.")
    memory_mb: float | None = Field(None, description="Main memory, 10^6 bytes.")
    isa: tuple[str, ...] | None = Field(None, description="Instruction-set extensions that matter here.")
    os: str | None = Field(None, description="Operating system.")
    python: str | None = Field(None, description="Version of Python.")
    versions: Versions | None = Field(None, description="Versions of the libraries.")
    recorded: AwareDatetime | None = Field(None, description="When this was recorded.")
    peak_fp32_gflops: float | None = Field(
        None, description="Measured peak of fp32 matrix multiplication, 10^9 operations a second."
    )
    peak_bf16_gflops: float | None = Field(
        None, description="The same in bf16; null where the processor only emulates it."
    )
    peak_int8_gops: float | None = Field(None, description="The same in int8.")
    peak_read_gb_s: float | None = Field(None, description="Measured peak of reading memory, 10^9 bytes a second.")
    peak_threads: Int64 | None = Field(None, description="Threads the peaks were measured with, and every variant is.")
    peaks_measured: AwareDatetime | None = Field(None, description="When the peaks were measured.")
    node: Name | None = Field(None, description="Name of the machine that measured.")
    slurm_job: str | None = Field(
        None, description="Identifier of the Slurm job in which it measured; null outside Slurm."
    )


class RoundRow(Row):
    """Raw values: one row per process that measured a variant in one round."""

    table: ClassVar[str] = "rounds"

    run: Name = Field(description="Identifier of the run.")
    host: Name = Field(description="Where it was measured.")
    round: Int64 = Field(description="Number of the pass over all variants.")
    position: Int64 | None = Field(None, description="Place of this process in the order of its round.")
    variant: str = Field(description="What was measured.")
    replicate: Int64 = Field(description="0, or 1 for the baseline's second process in a round.")
    pid: Int64 | None = Field(None, description="The process that measured.")
    nice: Int64 | None = Field(
        None, description="Its niceness: -20 where it may run before others, 0 where the system does not allow that."
    )
    started: AwareDatetime | None = Field(None, description="When the process started.")
    finished: AwareDatetime | None = Field(None, description="When it ended.")
    samples: Int64 | None = Field(None, description="Samples timed.")
    passes: Int64 | None = Field(None, description="How often each of them was timed, one pass over all after another.")
    tokens: Int64 | None = Field(None, description="Tokens generated in one pass.")
    prompt_tokens: Int64 | None = Field(None, description="Prompt tokens read in one pass.")
    prefill_context: float | None = Field(
        None, description="Positions a prompt token attends to in the mean, itself included."
    )
    decode_context: float | None = Field(
        None, description="Positions a decoded token attends to in the mean, itself included."
    )
    wall_s: float | None = Field(None, description="Seconds for all passes.")
    samples_per_s: float | None = Field(None, description="Samples per second, end to end, batch 1.")
    undisturbed_per_s: float | None = Field(
        None, description="Samples per second if each took as long as in the fastest of its passes."
    )
    latency_p50_ms: float | None = Field(None, description="Median latency of a sample, milliseconds.")
    latency_p95_ms: float | None = Field(None, description="95th percentile of the latency, milliseconds.")
    latency_p99_ms: float | None = Field(None, description="99th percentile of the latency, milliseconds.")
    first_token_p50_ms: float | None = Field(None, description="Median time to the first token, milliseconds.")
    prefill_tokens_per_s: float | None = Field(None, description="Prompt tokens read per second.")
    decode_tokens_per_s: float | None = Field(None, description="Tokens generated per second after the prompt.")
    memory_mb: float | None = Field(None, description="Peak resident memory, 10^6 bytes.")
    memory_over_base_mb: float | None = Field(None, description="Peak over the process before the engine, 10^6 bytes.")
    memory_over_libraries_mb: float | None = Field(
        None, description="Peak over the process with the engine's libraries, before the model, 10^6 bytes."
    )
    base_mb: float | None = Field(None, description="Resident memory before the engine is loaded, 10^6 bytes.")
    energy_j_per_sample: float | None = Field(
        None, description="Joules per sample; null where the host does not report it."
    )
    energy_source: str | None = Field(None, description="What the energy was read from.")
    load_s: float | None = Field(None, description="Seconds to load the model.")
    pair_pid: Int64 | None = Field(None, description="The baseline's process with which it took turns at equal work.")
    pair_ratio: float | None = Field(
        None, description="How many times as fast it was there: the mean of the middle half of the samples' ratios."
    )
    pair_error: float | None = Field(
        None, description="That ratio's standard error, relative (0.02: 2 %): of the noise within the pair."
    )
    pair_passes: Int64 | None = Field(None, description="How often each sample was timed in turns.")
    pair_tokens: Int64 | None = Field(None, description="Tokens that it wrote in one pass of turns.")
    pair_s: float | None = Field(None, description="Seconds of one pass of turns, its own.")
    pair_baseline_s: float | None = Field(None, description="Seconds of one pass of turns, the baseline's.")
    error: str | None = Field(None, description="Why this process measured nothing.")
    node: Name | None = Field(None, description="Name of the machine that measured.")
    slurm_job: str | None = Field(
        None, description="Identifier of the Slurm job in which it measured; null outside Slurm."
    )


class MeasurementRow(Row):
    """One row per run, host, variant and metric: the value with its 95 % interval."""

    table: ClassVar[str] = "measurements"

    run: Name = Field(description="Identifier of the run.")
    study: Name = Field(description="Name of the study.")
    host: Name = Field(description="Where it was measured.")
    variant: str = Field(description="What was measured.")
    metric: str = Field(description="Which number this is.")
    value: float | None = Field(None, description="The number; null if it could not be measured.")
    lo: float | None = Field(None, description="Lower end of the 95 % interval.")
    hi: float | None = Field(None, description="Upper end of the 95 % interval.")
    unit: str | None = Field(None, description="Unit of value, lo and hi.")
    n: Int64 | None = Field(None, description="Observations behind the value.")
    metric_version: Int64 | None = Field(
        None, description="Raised when the metric's definition changes: versions do not compare."
    )
    time: AwareDatetime = Field(description="When it was measured.")
    artifact: str | None = Field(None, description="Digest of the artifact that was measured.")
    label: str | None = Field(None, description="What the variant claims to be: as published, repaired, baseline, ...")
    random_weights: bool | None = Field(
        None, description="Whether the model is untrained, so that its ES and EM mean nothing."
    )
    error: str | None = Field(None, description="Why there is no value.")


class PredictionRow(Row):
    """One row per run, variant and sample: what was completed, and how near it came."""

    table: ClassVar[str] = "predictions"

    run: Name = Field(description="Identifier of the run.")
    host: Name | None = Field(None, description="Where it was predicted.")
    variant: str = Field(description="What predicted.")
    sample: Int64 = Field(description="Identifier of the sample.")
    prediction: str | None = Field(None, description="The completed line.")
    target: str | None = Field(None, description="The line as it was written.")
    es: Int64 | None = Field(None, description="Edit similarity, 0 to 100.")
    em: bool | None = Field(None, description="Whether they match exactly.")


class VerdictRow(Row):
    """One row per judged run, host, variant and metric of a nightly study: whether it has changed."""

    table: ClassVar[str] = "verdicts"

    run: Name = Field(description="The run that was judged.")
    study: Name = Field(description="Name of its study.")
    host: Name = Field(description="Where it was measured.")
    host_class: str | None = Field(
        None, description="Fingerprint of the host: its history is that of all hosts with the same."
    )
    variant: str = Field(description="What was measured.")
    metric: str = Field(description="Which number was judged.")
    metric_version: Int64 | None = Field(
        None, description="Raised when the metric's definition changes: versions do not compare."
    )
    time: AwareDatetime = Field(description="When the judged run started.")
    verdict: Verdict = Field(
        description="ok, new, not-comparable, suspicious-unconfirmed, regression, improvement or failed."
    )
    value: float | None = Field(
        None, description="What was measured, in the metric's unit; after a re-run, by the re-run."
    )
    reference: float | None = Field(None, description="The level of the series before, in the same unit.")
    ratio: float | None = Field(None, description="value / reference.")
    lo: float | None = Field(
        None, description="Lower end of the ratio's interval, at the confidence that the verdict asks for."
    )
    hi: float | None = Field(None, description="Upper end of it.")
    band: float | None = Field(None, description="Noise band: how far from 1 the ratio of a run may be (0.04: 4 %).")
    history: Int64 | None = Field(None, description="Earlier runs behind the reference and the band.")
    change_point: str | None = Field(None, description="The first run at the new level, where the level has changed.")
    change_time: AwareDatetime | None = Field(None, description="When that run started.")
    rerun: tuple[str, ...] | None = Field(
        None, description="The runs that measured it again before an alarm was raised."
    )
    suspects: Suspects | None = Field(
        None, description="What differs since the last good run: [{library, before, after}]; git_commit is one."
    )
    reason: str | None = Field(None, description="The verdict in words.")


class PublishedRow(Row):
    """The figures of the publication that the default study reproduces."""

    table: ClassVar[str] = "published"

    host: Name | None = Field(None, description="Short name of the host of the publication.")
    host_description: str | None = Field(None, description="The host as the publication describes it.")
    variant: str | None = Field(None, description="The variant of ours that reproduces the row.")
    published_name: str | None = Field(None, description="The row's name in the publication.")
    disk_mb: float | None = Field(None, description="Size of a gzip archive of the model, 10^6 bytes.")
    memory_mb: float | None = Field(None, description="Memory, 10^6 bytes.")
    samples_per_s: float | None = Field(None, description="Samples per second.")
    es: float | None = Field(None, description="Edit similarity, %.")
    em: float | None = Field(None, description="Exact match, %.")
    params_m: float | None = Field(None, description="Non-zero parameters, millions.")
    source: str | None = Field(None, description="The publication.")


ROWS: tuple[type[Row], ...] = (RunRow, HostRow, RoundRow, MeasurementRow, PredictionRow, VerdictRow)
"""The tables that can be appended to. `published` comes with slimline."""
