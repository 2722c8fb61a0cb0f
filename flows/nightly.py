"""The nightly flow: a benchmark, its verdicts against history, and a second look before an alarm is raised."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from pydantic import Field

from slimline.dashboards.reports.regressions import render_verdicts
from slimline.flows.benchmark import DEFAULT_STUDY, benchmark
from slimline.flows.config.host import HostChoice, table_name
from slimline.flows.config.study import Study, StudyChoice, as_study
from slimline.flows.ui.progress import say
from slimline.storage.metrics.rows import VerdictRow
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.history import History, read_history, read_predictions, read_rounds, run_hosts
from slimline.storage.stores import metrics_store
from slimline.tasks.regression.detection import LOOKS, NIGHTS_KEPT
from slimline.tasks.regression.judge import JUDGED_METRICS, judge, verdict_rows
from slimline.tasks.regression.noisy_metrics import Judgement, settle

EVENT = "slimline.regression"
_PAYLOAD = {
    *("run", "study", "host", "variant", "metric", "value", "reference", "ratio", "lo", "hi", "reason", "suspects"),
}


class Verdicts(NamedTuple):
    """What a nightly run found: the benchmark's run, rows of `verdicts`, noise floors by host, why a variant failed."""

    run: str
    rows: list[VerdictRow]
    floors: dict[str, float | None]
    failed: dict[str, str]

    @property
    def regressions(self) -> list[VerdictRow]:
        """The confirmed regressions."""
        return [row for row in self.rows if row.verdict == "regression"]


class _JudgedHost(NamedTuple):
    """What is judged on one host: its history and its judgements so far."""

    history: History
    judgements: list[Judgement]

    @property
    def pending(self) -> set[str]:
        """The variants that have to be measured again."""
        return {each.row.variant for each in self.judgements if each.pending}


def _run_name() -> str:
    study = runtime.flow_run.parameters.get("study", DEFAULT_STUDY)
    return f"nightly {study if isinstance(study, str) else dict(study)['name']}"


@flow(name="nightly", flow_run_name=_run_name)
def nightly(
    study: StudyChoice | Study = DEFAULT_STUDY,
    variants: list[str] | None = None,
    rounds: Annotated[int, Field(ge=1, le=1000)] | None = None,
    samples: Annotated[int, Field(ge=1, le=100_000)] | None = None,
    hosts: list[HostChoice] | None = None,
) -> Verdicts:
    """Benchmark a study and judge it against its history: every variant's speed, memory, size and quality.

    What looks slower, larger or worse than the noise allows is measured again, in more rounds, before it counts. The
    verdicts are rows of the table `verdicts`; a confirmed regression is an event `slimline.regression` as well.

    Args:
        study: What to run: the name of a study that ships, or a whole one.
        variants: Only these variants of it; its baseline always runs. Empty: all.
        rounds: Interleaved passes over all variants, 1 to 1000. Empty: as the study says.
        samples: Line-completion samples, 1 to 100,000. Empty: as the study says.
        hosts: Where to measure, all at once. Empty: as the study says.
    """
    chosen = as_study(study).with_options(variants or None, rounds, samples, hosts or None)
    outcome = benchmark(chosen)
    metrics = metrics_store()
    judged = _measure_again(
        chosen, [_judge_host(metrics, outcome.run, host) for host in run_hosts(metrics, outcome.run)]
    )
    rows = [row for each in judged for row in verdict_rows(each.judgements, each.history)]
    metrics.append(rows)
    floors = {each.history.now.host: each.history.now.noise_floor for each in judged}
    found = Verdicts(outcome.run, rows, floors, outcome.failed)
    for row in found.regressions:
        _emit(row)
    verdict = render_verdicts(rows, floors, "md")
    create_markdown_artifact(key=f"{chosen.name}-verdicts", markdown=verdict, description=f"Verdicts on {outcome.run}")
    return found


def _judge_host(metrics: MetricsStore, run: str, host: str) -> _JudgedHost:
    history = read_history(metrics, run, host, JUDGED_METRICS, NIGHTS_KEPT)
    found = _JudgedHost(history, judge(history, partial(read_predictions, metrics)))
    for each in found.judgements:
        if each.pending:
            say(f"suspicious on {host}: {each.row.variant}: {each.row.reason}")
    return found


def _measure_again(study: Study, judged: list[_JudgedHost]) -> list[_JudgedHost]:
    """Measure again what is suspicious, in more and more rounds, until all is decided or no more are allowed."""
    reruns: list[str] = []
    for before, after in zip((0, *LOOKS), LOOKS, strict=False):
        variants = sorted(set().union(*(each.pending for each in judged)))
        if not variants:
            break
        say(f"measuring again, {after - before} rounds: {', '.join(variants)}")
        pending = {each.history.now.host for each in judged if each.pending}
        hosts = [name for name, host in zip(study.hosts, study.targets, strict=True) if table_name(host) in pending]
        reruns.append(benchmark(study.with_options(variants, rounds=after - before, hosts=hosts)).run)
        rounds = read_rounds(metrics_store(), reruns)
        judged = [
            _JudgedHost(each.history, [settle(one, reruns, rounds) for one in each.judgements]) for each in judged
        ]
    return judged


def _emit(row: VerdictRow) -> None:
    """Tell Prefect, so that an automation can tell people: docs/nightly.md has an example."""
    emit_event(
        event=EVENT,
        resource={
            "prefect.resource.id": f"slimline.series.{row.host}/{row.study}/{row.variant}/{row.metric}",
            "prefect.resource.name": f"{row.metric} of {row.variant} on {row.host}",
            "slimline.variant": row.variant,
            "slimline.metric": row.metric,
        },
        payload=row.model_dump(mode="json", include=_PAYLOAD) | {"rerun": list(row.rerun or ())},
    )
