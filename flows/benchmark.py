"""The parent flow: data and base, every variant, every host, the tables."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.build import build
from flows.measure import Built, Report, measure
from flows.progress import say
from flows.study import Study
from storage import home
from storage.artifacts import ArtifactRef, ArtifactStore
from storage.metrics import MetricsStore
from storage.tables import render, result_rows
from storage.verdicts import recommendations
from tasks import steps
from tasks.evaluation.host import library_versions


class Outcome(NamedTuple):
    """A finished run: its identifier, and why a variant of it failed."""

    run: str
    failed: dict[str, str]


@flow(name="benchmark", flow_run_name="benchmark {study.name}: {study.measuring.rounds} rounds")
def benchmark(study: Study) -> Outcome:
    """Build and measure every variant of a study; a variant that fails does not stop the others.

    Args:
        study: What to run: base model, data, variants and their recipes, hosts, rounds.
    """
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{study.name}-{uuid4().hex[:6]}"
    store, metrics = ArtifactStore(home() / "artifacts"), MetricsStore(home() / "metrics")
    started = datetime.now(UTC)
    try:
        report = _run(run, study, store, metrics)
    except BaseException as error:
        metrics.append("runs", [_run_row(run, study, started, None, f"{type(error).__name__}: {error}")])
        raise
    metrics.append("runs", [_run_row(run, study, started, report, "; ".join(report.failed.values()) or None)])
    _publish_tables(run, study, metrics)
    return Outcome(run, report.failed)


def _run(run: str, study: Study, store: ArtifactStore, metrics: MetricsStore) -> Report:
    say(f"run {run}: preparing data and base model")
    slice_ = steps.prepare_data(study.data, store)
    base = steps.make_base(study.base, slice_, store)
    artifacts, failed = _build_all(study, base, slice_, store)
    if study.baseline not in artifacts:
        raise RuntimeError(f"the baseline {study.baseline} could not be built: {failed[study.baseline]}")
    return measure(Built(run, study, slice_, artifacts, failed), store, metrics)


def _build_all(
    study: Study, base: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore
) -> tuple[dict[str, ArtifactRef], dict[str, str]]:
    artifacts: dict[str, ArtifactRef] = {}
    failed: dict[str, str] = {}
    for variant in study.variants:
        say(f"building {variant}")
        result = build(study, variant, base, slice_, store, return_state=True).result(raise_on_failure=False)
        if isinstance(result, ArtifactRef):
            artifacts[variant] = result
        else:
            failed[variant] = f"{type(result).__name__}: {result}"
            say(f"{variant} failed: {failed[variant]}")
    return artifacts, failed


def _run_row(
    run: str, study: Study, started: datetime, report: Report | None, error: str | None
) -> Mapping[str, object]:
    return {
        "run": run,
        "study": study.name,
        "started": started,
        "finished": datetime.now(UTC),
        "host": report.host if report else study.hosts[0],
        "status": "failed" if error else "ok",
        "baseline": study.baseline,
        "rounds": study.measuring.rounds,
        "samples": study.data.samples,
        "seed": study.seed,
        "decoding": study.measuring.decoding.model_dump_json(),
        "noise_floor": report.noise_floor if report else None,
        "tainted": report.tainted if report else None,
        "versions": library_versions(),
        "git_commit": _git_commit(),
        "spec": study.model_dump_json(),
        "error": error,
    }


def _git_commit() -> str | None:
    """Commit of the code that runs, where it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


def _publish_tables(run: str, study: Study, metrics: MetricsStore) -> None:
    rows = result_rows(metrics, study=None, run=run)
    create_table_artifact(key=f"{study.name}-results", table=rows, description=f"Results of {run}")
    create_markdown_artifact(
        key=f"{study.name}-table", markdown=render(rows, "md"), description=f"Result table of {run}"
    )
    create_markdown_artifact(
        key=f"{study.name}-recommendation",
        markdown="\n".join(recommendations(metrics, run, "md")),
        description=f"What to ship, by {run}",
    )
