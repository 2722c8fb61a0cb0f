"""`slimline artifacts`: what was built."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from slimline.flows.cli.options import Json, described, exit_on_bad_input, fail
from slimline.storage.stores import artifact_store, metrics_store

if TYPE_CHECKING:
    from slimline.storage.artifacts.store import ArtifactStore

app = typer.Typer(no_args_is_help=True, help="What was built: list, show, verify, remove, push, pull.")


@app.command("list", epilog="Examples: `slimline artifacts list` | `slimline artifacts list --json`")
def list_artifacts(as_json: Json = False) -> None:
    """Everything that was built: reference, size, when, by which step."""
    from slimline.storage.artifacts.store import ArtifactError

    store = artifact_store()
    summaries, damaged = [], []
    for ref in store.list():
        try:
            summaries.append(store.summary(ref))
        except (ArtifactError, OSError) as error:
            damaged.append(f"{ref}: {described(error)}" if isinstance(error, OSError) else str(error))
    if as_json:
        rows = [{**one._asdict(), "ref": str(one.ref), "created": one.created.isoformat()} for one in summaries]
        typer.echo(json.dumps(rows))
    else:
        for one in summaries:
            typer.echo(f"{one.ref!s:28} {one.size / 1e6:9.2f} MB  {one.created:%Y-%m-%d %H:%M}  {one.step}")
    if damaged:
        fail("\n".join(damaged), status=1)


@app.command("show", epilog="Example: `slimline artifacts show model:ab12`")
def show_artifact(reference: Annotated[str, typer.Argument(help="kind:digest, or the beginning of a digest.")]) -> None:
    """An artifact's files and provenance, as JSON."""
    with exit_on_bad_input():
        store = artifact_store()
        ref = store.find(reference)
        shown = {
            "ref": ref.model_dump(),
            "path": str(store.path(ref)),
            "files": [entry.model_dump() for entry in store.manifest(ref).files],
            "provenance": store.provenance(ref).model_dump(mode="json"),
        }
    typer.echo(json.dumps(shown, indent=2))


@app.command("verify", epilog="Example: `slimline artifacts verify`")
def verify_artifacts() -> None:
    """Read every byte of every artifact and compare it with its manifest; exit status 1 if any is damaged."""
    whole = damaged = 0
    with exit_on_bad_input():
        for _, problem in artifact_store().verify_all():
            if problem:
                typer.echo(problem, err=True)
            damaged += bool(problem)
            whole += not problem
    typer.echo(f"{whole} of {whole + damaged} artifacts are whole")
    if damaged:
        raise typer.Exit(1)


Other = Annotated[str, typer.Argument(help="The other store, as SLIMLINE_STORE names one: a directory, or a URL.")]
References = Annotated[
    list[str] | None, typer.Argument(help="Only these and what they were made of; by default all artifacts.")
]


@app.command(
    "push",
    epilog="Examples: `slimline artifacts push s3://bucket/slimline` | `slimline artifacts push /mnt/us model:ab12`",
)
def push(other: Other, references: References = None) -> None:
    """Copy artifacts to another store. What is there already is not sent again, so a push that was cut off goes on."""
    with exit_on_bad_input():
        _send(artifact_store(), artifact_store(other), references)


@app.command("pull", epilog="Example: `slimline artifacts pull s3://bucket/slimline model:ab12`")
def pull(other: Other, references: References = None) -> None:
    """Copy artifacts from another store. What is here already is not fetched again."""
    with exit_on_bad_input():
        _send(artifact_store(other), artifact_store(), references)


def _send(source: ArtifactStore, target: ArtifactStore, references: list[str] | None) -> None:
    from slimline.storage.artifacts.lineage import ancestry

    refs = [source.find(each) for each in references] if references else source.list()
    counts = Counter[bool]()
    for ref, is_new in source.send(ancestry(refs, source), target):
        typer.echo(f"{'sent' if is_new else 'there'} {ref}")
        counts[is_new] += 1
    typer.echo(f"{counts[True]} sent, {counts[False]} there already: {target.url}")


@app.command("gc", epilog="Examples: `slimline artifacts gc --dry-run` | `slimline artifacts gc --keep-hours 1`")
def remove_unused(
    keep_hours: Annotated[float, typer.Option(min=0, help="Keep what is younger: a run may be using it.")] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete old artifacts, but those that the newest run of every study on every host measured, and their inputs."""
    from slimline.storage.retention import collect_garbage

    with exit_on_bad_input():
        removed = collect_garbage(artifact_store(), metrics_store(), keep_hours, dry_run)
    for ref in removed:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {ref}")
    typer.echo(f"{len(removed)} artifacts {'would go' if dry_run else 'removed'}")
