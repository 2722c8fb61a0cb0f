"""The runs that were stored, and what was recorded of one: its study, its hosts, how its variants were made."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel

from slimline.storage.metrics.connection import fetch
from slimline.storage.metrics.rows import HostRow, JsonObject

if TYPE_CHECKING:
    import duckdb

_SUMMARIES = """
SELECT run, any_value(study) AS study, min(started) AS started,
    run IN (SELECT DISTINCT run FROM measurements) AS has_results
FROM runs GROUP BY run ORDER BY started DESC, run DESC
"""
_STUDY = """
SELECT any_value(study) AS study, any_value(git_commit) AS git_commit, any_value(spec) AS spec FROM runs WHERE run = ?
"""


class RunSummary(BaseModel, frozen=True):
    """A run: of which study, when it started, and whether it measured anything."""

    run: str
    study: str
    started: datetime
    has_results: bool


class StudyRecord(BaseModel, frozen=True):
    """The study that a run was asked for, and the commit of slimline that ran it; null where not recorded."""

    study: str | None
    git_commit: str | None
    spec: JsonObject | None


class RecipeStep(BaseModel, frozen=True):
    """A step of a variant's recipe; `name` is that of an engine."""

    step: str
    name: str | None = None


class _Variant(BaseModel):
    recipe: tuple[RecipeStep, ...] = ()


class _Study(BaseModel):
    variants: dict[str, _Variant]


def run_summaries(connection: duckdb.DuckDBPyConnection) -> list[RunSummary]:
    """Every run, the newest first."""
    return fetch(connection, RunSummary, _SUMMARIES)


def study_record(connection: duckdb.DuckDBPyConnection, run: str) -> StudyRecord:
    """The study of a run; all nulls for a run that is not stored."""
    return fetch(connection, StudyRecord, _STUDY, [run])[0]


def recipe_steps(connection: duckdb.DuckDBPyConnection, run: str, variant: str) -> list[RecipeStep]:
    """The recipe of a variant, as the study of the run has it; empty where none was recorded."""
    spec = study_record(connection, run).spec
    variants = _Study.model_validate(spec).variants if spec is not None else {}
    return list(variants[variant].recipe) if variant in variants else []


def run_hosts(connection: duckdb.DuckDBPyConnection, run: str) -> list[HostRow]:
    """What a run recorded of each of its hosts, the newest description of each."""
    rows = fetch(connection, HostRow, "FROM hosts WHERE run = ? ORDER BY host, recorded", [run])
    return list({row.host: row for row in rows}.values())
