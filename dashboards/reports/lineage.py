"""Where the measured artifacts of a run came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from slimline.storage.artifacts.lineage import ancestry
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.queries.results import ResultRow


class Origin(NamedTuple):
    """An artifact behind the rows of a run: how it was made, its size, and the variants that were measured with it."""

    ref: ArtifactRef
    provenance: Provenance
    size_mb: float
    variants: tuple[str, ...]

    @property
    def step(self) -> str:
        """The kind of the step that made it."""
        return str(self.provenance.step["step"])


def origins(rows: Sequence[ResultRow], store: ArtifactStore) -> list[Origin]:
    """Every artifact behind the rows, each once and after what it was made from; without what is no longer stored."""
    stored = {ref.digest: ref for ref in store.list()}
    variants: dict[ArtifactRef, dict[str, None]] = {}
    for row in rows:
        if row.artifact in stored:
            variants.setdefault(stored[row.artifact], {})[row.variant] = None
    return [
        Origin(ref, store.provenance(ref), store.summary(ref).size / 1e6, tuple(variants.get(ref, ())))
        for ref in ancestry(variants, store)
    ]
