"""The parent flow: data and base, every variant, every host at once, the tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from prefect import flow, get_client, runtime
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import FlowRunContext
from pydantic import Field

from slimline.dashboards.reports.recommendation import HostResults, results_by_host
from slimline.flows.build import build
from slimline.flows.config.host import HostChoice
from slimline.flows.config.study import Study, StudyChoice, as_study
from slimline.flows.executors.dispatch import measure_everywhere
from slimline.flows.run import Order, Run, failure_reason, record_failure
from slimline.flows.ui.artifacts import show_progress, show_run
from slimline.flows.ui.progress import say
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import ResultRow, result_rows
from slimline.storage.queries.resume import failures
from slimline.storage.stores import artifact_store, metrics_store
from slimline.tasks import steps

DEFAULT_STUDY = "embedded"


class Outcome(NamedTuple):
    """A finished run: its identifier, why a variant of it failed, and its results by host."""

    run: str
    failed: dict[str, str]
    results: Sequence[HostResults] = ()

    @property
    def rows(self) -> list[ResultRow]:
        """The rows of all hosts."""
        return [row for each in self.results for row in each.rows]


def _run_name() -> str:
    given = runtime.flow_run.parameters
    study, hosts = given.get("study", DEFAULT_STUDY), given.get("hosts")
    name = study if isinstance(study, str) else dict(study)["name"]
    return f"benchmark {name}" + (f" on {', '.join(hosts)}" if hosts else "")


@flow(name="benchmark", flow_run_name=_run_name)
def benchmark(
    study: StudyChoice | Study = DEFAULT_STUDY,
    variants: list[str] | None = None,
    rounds: Annotated[int, Field(ge=1, le=1000)] | None = None,
    samples: Annotated[int, Field(ge=1, le=100_000)] | None = None,
    hosts: list[HostChoice] | None = None,
) -> Outcome:
    """Build every variant of a study, measure them all on every host, and show which one to ship.

    A variant that fails does not stop the others, nor does a host that is down: their rows say so. Started again after
    a kill, a flow run goes on with the same run.

    Args:
        study: What to run: the name of a study that ships, or a whole one.
        variants: Only these variants of it; its baseline always runs. Empty: all.
        rounds: Interleaved passes over all variants, 1 to 1000. Empty: as the study says.
        samples: Line-completion samples, 1 to 100,000. Empty: as the study says.
        hosts: Where to measure, all at once. Empty: as the study says.
    """
    chosen = as_study(study).with_options(variants or None, rounds, samples, hosts or None)
    run, targets = _identify_run(chosen), chosen.targets
    store, metrics = artifact_store(), metrics_store()
    try:
        with show_progress(f"{chosen.name}-building"):
            order = _build_order(run, store)
    except Exception as error:
        for host in targets:
            record_failure(run.at(host), failure_reason(error), metrics)
        raise
    measure_everywhere(order, targets)
    results = results_by_host(result_rows(metrics, run=run.run))
    show_run(run.run, chosen.name, results, store)
    return Outcome(run.run, _failure_reasons(run.run, len(targets) > 1, metrics), results)


def _identify_run(study: Study) -> Run:
    """The run that this flow run belongs to: the same one however often the flow run is started.

    A flow run within another flow is identified by its task run there, because the outer flow, started again, makes a
    new flow run of it.
    """
    context = FlowRunContext.get()
    assert context and context.flow_run  # this is called by the flow
    origin: FlowRun | TaskRun = context.flow_run
    if context.flow_run.parent_task_run_id:
        with get_client(sync_client=True) as client:
            origin = client.read_task_run(context.flow_run.parent_task_run_id)
    started = origin.expected_start_time or datetime.now(UTC)
    name = f"{started:%Y%m%dT%H%M%S}-{study.name}-{str(origin.id)[-6:]}"
    return Run(run=name, study=study, started=started, flow_run=str(context.flow_run.id))


def _build_order(run: Run, store: ArtifactStore) -> Order:
    say(f"run {run.run}: preparing data and base model")
    for caution in run.study.cautions:
        say(f"warning: {caution}")
    slice_ = steps.prepare_data(run.study.data, store)
    base = steps.make_base(run.study.base, slice_, store)
    artifacts, failed = _build_all(run.study, base, slice_, store)
    if run.study.baseline not in artifacts:
        raise RuntimeError(f"the baseline {run.study.baseline} could not be built: {failed[run.study.baseline]}")
    return Order.model_validate({**dict(run), "slice_": slice_, "artifacts": artifacts, "failed": failed})


def _build_all(
    study: Study, base: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore
) -> tuple[dict[str, ArtifactRef], dict[str, str]]:
    artifacts: dict[str, ArtifactRef] = {}
    failed: dict[str, str] = {}
    for variant in study.variants:
        say(f"building {variant}")
        try:  # not through the flow run's state: a busy server may answer with one that lacks the result
            artifacts[variant] = build(study, variant, base, slice_, store)
        except Exception as error:
            failed[variant] = failure_reason(error)
            say(f"{variant} failed: {failed[variant]}")
    return artifacts, failed


def _failure_reasons(run: str, on_several: bool, metrics: MetricsStore) -> dict[str, str]:
    """The reason of each failure, by variant; where there are several hosts, by variant and host."""
    return {
        f"{variant} on {host}" if on_several else variant: why
        for (host, variant), why in failures(metrics, run).items()
    }
