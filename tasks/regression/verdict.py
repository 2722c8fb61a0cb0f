"""Verdict rows: how one begins, how a change is written into it, and how it is put in words."""

from __future__ import annotations

from collections.abc import Sequence

from slimline.storage.metrics.rows import VerdictRow
from slimline.storage.queries.history import History, HostRun
from slimline.storage.text import counted
from slimline.tasks.regression.comparability import suspects


def new_verdict(now: HostRun, variant: str, metric: str, version: int | None) -> VerdictRow:
    """The row of a series about which nothing has been found yet."""
    return VerdictRow(
        run=now.run,
        study=now.study,
        host=now.host,
        host_class=now.host_class,
        time=now.started,
        variant=variant,
        metric=metric,
        metric_version=version,
        verdict="new",
    )


def change_starts(history: History, row: VerdictRow) -> set[str]:
    """The runs at which confirmed changes of a series began."""
    return {
        each.change_point
        for each in history.verdicts
        if each.change_point
        and (each.variant, each.metric, each.metric_version) == (row.variant, row.metric, row.metric_version)
    }


def with_change(row: VerdictRow, past: Sequence[HostRun], first: int, *, worse: bool, reason: str) -> VerdictRow:
    """The row as a regression or improvement that began with the `first` of the nights, or tonight."""
    at = past[first] if first < len(past) else None
    return row.replace(
        verdict="regression" if worse else "improvement",
        change_point=at.run if at else row.run,
        change_time=at.started if at else row.time,
        reason=reason,
    )


def with_suspects(row: VerdictRow, history: History) -> VerdictRow:
    """The row of a confirmed change, with what differs in software between the last run before it and its first."""
    if row.change_point is None or row.change_time is None:
        return row
    changed = row.change_time
    before = [each for each in history.past if each.started < changed]
    after = next((each for each in history.past if each.run == row.change_point), history.now)
    return row.replace(suspects=suspects(before[-1], after) if before else ())


def change_text(row: VerdictRow) -> str:
    """By how much a series has changed, for people."""
    assert row.ratio is not None and row.history is not None  # a row with a change has both
    return f"{100 * (row.ratio - 1):+.1f} % of {row.metric} against {counted(row.history, 'night')}"
