"""The `slimline` command. What is heavy is imported by the command that needs it: a table prints in a second."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from storage import home

if TYPE_CHECKING:
    from flows.study import Study
    from storage.artifacts import ArtifactRef, ArtifactStore
    from storage.metrics import MetricsStore
    from tasks.evaluation.peaks import Peaks

BAD_INPUT = 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Compress code-completion models for CPUs, measure every variant, and see which one to ship.",
    epilog="State lives in .slimline, or where SLIMLINE_HOME says. Start with: `slimline run`",
)
artifacts = typer.Typer(no_args_is_help=True, help="What was built: list, show, verify, remove.")
app.add_typer(artifacts, name="artifacts")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class TableFormat(StrEnum):
    """How a result table is printed."""

    TEXT = "text"
    MD = "md"
    CSV = "csv"
    JSON = "json"
    HTML = "html"
    LATEX = "latex"


@contextmanager
def _refusing() -> Iterator[None]:
    """Bad input ends in one clear message and exit status 2, not in a traceback."""
    try:
        yield
    except _refusals() as error:
        _fail(str(error))


def _refusals() -> tuple[type[Exception], ...]:
    # Asked for only once something was raised: naming these classes costs an import of DuckDB.
    from storage.artifacts import ArtifactError
    from storage.metrics import QueryRefused

    return ValueError, LookupError, OSError, ArtifactError, QueryRefused


def _fail(message: str, status: int = BAD_INPUT) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(status)


def _artifacts() -> ArtifactStore:
    from storage.artifacts import ArtifactStore

    return ArtifactStore(home() / "artifacts")


def _metrics() -> MetricsStore:
    from storage.metrics import MetricsStore

    return MetricsStore(home() / "metrics")


# ------------------------------------------------------------------------------------------------------------------ run


@app.command(
    epilog="Examples: `slimline run` | `slimline run smoke --variants original,int8` | `slimline run my-study.yaml`"
)
def run(
    study: Annotated[str, typer.Argument(help="A study's name, or the path of a YAML file.")] = "embedded",
    variants: Annotated[str | None, typer.Option(help="Only these, comma-separated; the baseline always runs.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Interleaved passes over all variants.")] = None,
    samples: Annotated[int | None, typer.Option(help="Line-completion samples.")] = None,
    host: Annotated[str | None, typer.Option(help="Where to measure: a host of flows/hosts.")] = None,
    as_json: Json = False,
) -> None:
    """Build every variant of a study, measure it, and print the result table, and which variant to ship.

    What is built already is not built again.
    """
    with _refusing():
        chosen = _study(study, variants, rounds, samples, host)
    home().mkdir(parents=True, exist_ok=True)  # before Prefect opens its database there
    from flows.running import run_benchmark
    from storage.verdicts import recommendations

    outcome = run_benchmark(chosen)
    if outcome.run:
        _print_table(None, outcome.run, TableFormat.JSON if as_json else TableFormat.TEXT)
        if not as_json:
            typer.echo()
            typer.echo("\n".join(recommendations(_metrics(), outcome.run, "text")), nl=False)
    for variant, reason in outcome.failed.items():
        typer.echo(f"failed: {variant}: {reason}", err=True)
    if outcome.failed:
        raise typer.Exit(1)


def _study(name: str, variants: str | None, rounds: int | None, samples: int | None, host: str | None) -> Study:
    from flows.hosts import load_host
    from flows.study import load_study, parse_study

    study = load_study(name)
    if variants is not None:
        study = study.only([variant.strip() for variant in variants.split(",")])
    content = study.model_dump()
    if rounds is not None:
        content["measuring"]["rounds"] = rounds
    if samples is not None:
        content["data"]["samples"] = samples
    if host is not None:
        content["hosts"] = [host]
    for each in content["hosts"]:
        load_host(each)
    return parse_study(content)


# ------------------------------------------------------------------------------------------------------------- reading


@app.command(epilog="Examples: `slimline table` | `slimline table --study smoke --format latex`")
def table(
    study: Annotated[str | None, typer.Option(help="The newest run of this study.")] = None,
    run: Annotated[str | None, typer.Option(help="This run.")] = None,
    form: Annotated[TableFormat, typer.Option("--format", help="How to print it.")] = TableFormat.TEXT,
) -> None:
    """Print the result table of a run, by default the newest, beside the published figures."""
    with _refusing():
        _print_table(study, run, form)


def _print_table(study: str | None, run: str | None, form: TableFormat) -> None:
    from storage.tables import render, result_rows

    typer.echo(render(result_rows(_metrics(), study, run), form.value), nl=False)


@app.command(
    epilog="Examples: `slimline recommend` | `slimline recommend --max-es-drop 1 --max-disk-mb 20` | "
    "`slimline recommend --study smoke --max-memory-mb 200 --min-samples-per-s 5 --json`"
)
def recommend(
    study: Annotated[str | None, typer.Option(help="The newest run of this study.")] = None,
    run: Annotated[str | None, typer.Option(help="This run.")] = None,
    host: Annotated[str | None, typer.Option(help="Where measured (`local`: here); needed if several.")] = None,
    max_es_drop: Annotated[
        float | None, typer.Option(help="ES points below the baseline; 2 without any constraint.")
    ] = None,
    max_em_drop: Annotated[float | None, typer.Option(help="EM points below the baseline.")] = None,
    max_memory_mb: Annotated[float | None, typer.Option(help="Peak resident memory, MB of 10^6 bytes.")] = None,
    max_disk_mb: Annotated[float | None, typer.Option(help="Size of the files, MB of 10^6 bytes.")] = None,
    min_samples_per_s: Annotated[float | None, typer.Option(help="Speed, end to end.")] = None,
    as_json: Json = False,
) -> None:
    """Name the variant to ship: the fastest of a run that surely keeps the constraints; and why the others lose.

    A constraint holds for the worse end of a 95 % interval. If speeds cannot be told apart, the smaller variant wins.
    Without any constraint, ES may drop by 2 points. Exit status 1 if no variant fits.
    """
    from storage.recommending import Constraints
    from storage.recommending import recommend as verdict
    from storage.tables import host_rows
    from storage.verdicts import render_recommendation

    with _refusing():
        constraints = Constraints(max_es_drop, max_em_drop, max_memory_mb, max_disk_mb, min_samples_per_s)
        where = platform.node() if host == "local" else host
        found = verdict(host_rows(_metrics(), study, run, where), constraints)
    typer.echo(render_recommendation(found, "json" if as_json else "text"), nl=False)
    if found.winner is None:
        raise typer.Exit(1)


class SqlFormat(StrEnum):
    """How a query's answer is printed."""

    TEXT = "text"
    MD = "md"
    CSV = "csv"
    JSON = "json"


@app.command(epilog='Examples: `slimline sql "from versus_published"` | `slimline sql "show tables" --format json`')
def sql(
    query: Annotated[str, typer.Argument(help="One statement that reads; DuckDB's SQL.")],
    form: Annotated[SqlFormat, typer.Option("--format", help="How to print the answer.")] = SqlFormat.TEXT,
) -> None:
    """Query everything that was ever measured: runs, hosts, rounds, measurements, predictions, and the views."""
    with _refusing():
        from storage.answers import render_answer

        typer.echo(render_answer(_metrics().query(query), form.value), nl=False)


@app.command(epilog="Example: `slimline score --answers test.json --predictions predictions.txt`")
def score(
    answers: Annotated[Path, typer.Option(help="JSON lines with the field gt, as CodeXGLUE's answers.json.")],
    predictions: Annotated[Path, typer.Option(help="Text, one prediction a line.")],
    as_json: Json = False,
) -> None:
    """Exact match and edit similarity of predictions, as CodeXGLUE's evaluator computes them."""
    from tasks.evaluation.score import score_files

    with _refusing():
        result = score_files(answers, predictions)
    if as_json:
        typer.echo(json.dumps({"es": round(result.es, 2), "em": round(result.em, 2), "samples": result.samples}))
    else:
        typer.echo(f"Edit sim: {round(result.es, 2)}, EM: {round(result.em, 2)} ({result.samples} samples)")


@app.command(epilog="Example: `slimline lex src/*.py > tokens.txt`")
def lex(files: Annotated[list[Path], typer.Argument(help="Python files.")]) -> None:
    """Print PY150 tokens as CodeXGLUE's preprocessing does, one line a file; `<s> </s>` for one that does not parse."""
    from tasks.corpus.lexing import EMPTY, lex_line

    with _refusing():
        for path in files:
            if not path.is_file():
                raise ValueError(f"FILE: {path} is not a file")
    for path in files:
        try:
            line = lex_line(path.read_text("utf8"))
        except ValueError as error:
            typer.echo(f"{path}: {error}", err=True)
            line = EMPTY
        sys.stdout.buffer.write(f"{line}\n".encode())


@app.command(epilog="Examples: `slimline doctor` | `slimline doctor --peaks --json`")
def doctor(
    peaks: Annotated[bool, typer.Option("--peaks", help="Also measure its peaks: arithmetic and memory.")] = False,
    as_json: Json = False,
) -> None:
    """Describe this machine: processor, instructions that matter, threads, versions, and what will be slow here."""
    from tasks.evaluation.host import Conditions, describe_host, warnings

    described = describe_host()
    problems = warnings(Conditions.now())
    if peaks:
        measured = _peaks()
        described["peaks"] = measured.model_dump(mode="json") if as_json else measured.shown()
    if as_json:
        typer.echo(json.dumps({**described, "warnings": problems}))
        return
    for key, value in described.items():
        shown = ", ".join(f"{name} {text}" for name, text in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{key:12} {', '.join(map(str, shown)) if isinstance(shown, list) else shown}")
    for problem in problems or ["nothing: this host measures well"]:
        typer.echo(f"slow here    {problem}")


def _peaks() -> Peaks:
    from tasks.evaluation.host import usable_threads
    from tasks.evaluation.peaks import PeaksFailed, host_peaks

    try:
        return host_peaks(usable_threads(), remeasure=True)
    except PeaksFailed as failure:
        _fail(str(failure), status=1)


# ------------------------------------------------------------------------------------------------------------ artifacts


@artifacts.command("list")
def list_artifacts(as_json: Json = False) -> None:
    """Everything that was built: reference, size, when, by which step."""
    from storage.artifacts import ArtifactError

    store = _artifacts()
    summaries, damaged = [], []
    for ref in store.list():
        try:
            summaries.append(store.summary(ref))
        except ArtifactError as error:
            damaged.append(str(error))
    if as_json:
        rows = [{**one._asdict(), "ref": str(one.ref), "created": one.created.isoformat()} for one in summaries]
        typer.echo(json.dumps(rows))
    else:
        for one in summaries:
            typer.echo(f"{one.ref!s:28} {one.size / 1e6:9.2f} MB  {one.created:%Y-%m-%d %H:%M}  {one.step}")
    if damaged:
        _fail("\n".join(damaged), status=1)


@artifacts.command("show", epilog="Example: `slimline artifacts show model:ab12`")
def show_artifact(reference: Annotated[str, typer.Argument(help="kind:digest, or the beginning of a digest.")]) -> None:
    """An artifact's files and provenance, as JSON."""
    with _refusing():
        store = _artifacts()
        ref = store.find(reference)
        shown = {
            "ref": ref.model_dump(),
            "path": str(store.path(ref)),
            "files": [entry.model_dump() for entry in store.manifest(ref).files],
            "provenance": store.provenance(ref).model_dump(mode="json"),
        }
    typer.echo(json.dumps(shown, indent=2))


@artifacts.command("verify")
def verify_artifacts() -> None:
    """Read every byte of every artifact and compare it with its manifest; exit status 1 if any is damaged."""
    from storage.artifacts import ArtifactError

    store = _artifacts()
    damaged = 0
    published = store.list()
    for ref in published:
        try:
            store.verify(ref)
        except ArtifactError as error:
            damaged += 1
            typer.echo(f"{ref}: {error}", err=True)
    typer.echo(f"{len(published) - damaged} of {len(published)} artifacts are whole")
    if damaged:
        raise typer.Exit(1)


_IN_USE = """
    SELECT DISTINCT artifact FROM measurements
    WHERE artifact IS NOT NULL AND run IN (SELECT arg_max(run, started) FROM runs GROUP BY study, host)
"""


@artifacts.command("gc")
def collect_garbage(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Keep what the newest run of every study on every host measured and was made of; remove everything else.

    Not while a run is building: what it has made is in no table yet.
    """
    with _refusing():
        store = _artifacts()
        used = {row["artifact"] for row in _metrics().query(_IN_USE).to_pylist()}
        removed = store.gc([ref for ref in store.list() if _is_in_use(ref, used, store)], dry_run=dry_run)
    for ref in removed:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {ref}")
    typer.echo(f"{len(removed)} artifacts {'would go' if dry_run else 'removed'}")


def _is_in_use(ref: ArtifactRef, used: set[str], store: ArtifactStore) -> bool:
    if ref.kind == "predictions":
        return any(model.digest in used for model in store.provenance(ref).inputs)
    return ref.digest in used


def main() -> None:
    """Entry point of the command."""
    app()


if __name__ == "__main__":
    main()
