"""What a run's variants are to each other, by the study that was asked for and by their completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from slimline.storage.metrics.rows import JsonObject
from slimline.storage.queries.runs import study_record

if TYPE_CHECKING:
    import duckdb

_SIMILARITIES = """
SELECT variant, list(es ORDER BY sample) FROM predictions
WHERE run = ? AND host IS NOT DISTINCT FROM ? GROUP BY variant
"""


class RecordedVariant(BaseModel, frozen=True):
    """A variant as the study of a run had it: its label, its whole recipe, and which variants it is the repair of."""

    label: str = "ours"
    recipe: tuple[JsonObject, ...] = ()
    repairs: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[JsonObject, ...]:
        """The recipe without its engine."""
        return tuple(step for step in self.recipe if step.get("step") != "engine")


class _RecordedStudy(BaseModel):
    variants: dict[str, RecordedVariant] = {}


def recorded_variants(connection: duckdb.DuckDBPyConnection, run: str) -> dict[str, RecordedVariant]:
    """The variants of a run by name, in the order of the study; none where the study was not recorded."""
    return _RecordedStudy.model_validate(study_record(connection, run).spec or {}).variants


def similarities(connection: duckdb.DuckDBPyConnection, run: str, host: str | None) -> dict[str, list[int]]:
    """The edit similarity of every sample, 0 to 100, by variant; sample by sample in the same order for all."""
    return {variant: list(found) for variant, found in connection.execute(_SIMILARITIES, [run, host]).fetchall()}
