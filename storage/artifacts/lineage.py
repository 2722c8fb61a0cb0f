"""The ancestors of artifacts."""

from __future__ import annotations

from collections.abc import Iterable

from slimline.storage.artifacts.store import ArtifactError, ArtifactRef, ArtifactStore


def ancestry(refs: Iterable[ArtifactRef], store: ArtifactStore) -> list[ArtifactRef]:
    """The artifacts and all their ancestors, each once and after its inputs; missing and damaged ones are left out."""
    found: dict[ArtifactRef, None] = {}

    def follow(ref: ArtifactRef) -> None:
        if ref in found:
            return
        try:
            inputs = store.provenance(ref).inputs
        except ArtifactError:
            return
        for each in inputs:
            follow(each)
        found[ref] = None

    for ref in refs:
        follow(ref)
    return list(found)
