"""Flows that keep the stores small. They run as deployments, by hand."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from slimline.flows.ui.progress import say
from slimline.storage.metrics.schema import TABLES
from slimline.storage.retention import collect_garbage
from slimline.storage.stores import artifact_store, metrics_store


@flow(name="compact", flow_run_name="merge the files of the metrics store")
def compact() -> dict[str, int]:
    """Merge the many small files that runs append into one a month, so that queries stay fast.

    Readers and writers may continue meanwhile.

    Returns:
        How many files were replaced, by table.
    """
    store = metrics_store()
    replaced = {table: store.compact(table) for table in TABLES}
    for table, files in replaced.items():
        say(f"{table}: {files} files merged")
    return replaced


@flow(name="gc", flow_run_name="remove artifacts no newest run needs")
def gc(
    keep_hours: Annotated[float, Field(ge=0)] = 24,
    dry_run: bool = False,
) -> list[str]:
    """Remove artifacts that no newest run of a study on a host measured or was made of; measurements stay for ever.

    What is removed can be built again from its recipe.

    Args:
        keep_hours: Keep what is younger, hours: a run may be using it.
        dry_run: Only list what would be removed.
    """
    removed = [str(ref) for ref in collect_garbage(artifact_store(), metrics_store(), keep_hours, dry_run)]
    summary = f"{len(removed)} artifacts {'would be removed' if dry_run else 'removed'}"
    say(summary)
    create_markdown_artifact(key="gc", markdown="\n".join([summary, "", *(f"- {ref}" for ref in removed)]))
    return removed
