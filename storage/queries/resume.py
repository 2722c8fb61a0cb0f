"""What a run has stored of a host already, so that a killed one goes on instead of measuring twice."""

from __future__ import annotations

from typing import Any, NamedTuple

from slimline.storage.metrics.store import MetricsStore


class Stored(NamedTuple):
    """Rows of one run on one host: its rounds, who has predictions, and whether the other tables have theirs."""

    rounds: list[dict[str, Any]]
    predicted: frozenset[str]
    described: bool
    measured: bool
    recorded: bool


def stored_rows(metrics: MetricsStore, run: str, host: str) -> Stored:
    """What the store has of this run on this host."""
    condition = f"run = {_literal(run)} AND host = {_literal(host)}"

    def found(what: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = metrics.query(f"SELECT {what} WHERE {condition}").to_pylist()
        return rows

    counts = {table: found(f"count(*) AS n FROM {table}")[0]["n"] for table in ("hosts", "measurements", "runs")}
    return Stored(
        rounds=found("* FROM rounds"),
        predicted=frozenset(row["variant"] for row in found("DISTINCT variant FROM predictions")),
        described=counts["hosts"] > 0,
        measured=counts["measurements"] > 0,
        recorded=counts["runs"] > 0,
    )


def failures(metrics: MetricsStore, run: str) -> dict[tuple[str, str], str]:
    """Why what of a run failed, by host and variant: its first reason, without a traceback's middle."""
    wanted = f"run = {_literal(run)} AND error IS NOT NULL"
    rows = metrics.query(
        f"SELECT host, variant, error FROM result_table WHERE {wanted} "  # noqa: S608
        f"UNION ALL SELECT host, variant, error FROM rounds WHERE {wanted}"
    ).to_pylist()
    return {(row["host"], row["variant"]): row["error"] for row in reversed(rows)}


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
