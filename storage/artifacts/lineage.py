"""The ancestors of artifacts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from slimline.storage.artifacts.store import ArtifactError, ArtifactRef, ArtifactStore


def ancestry(refs: Iterable[ArtifactRef], store: ArtifactStore) -> list[ArtifactRef]:
    """The artifacts and all their ancestors, each once and after its inputs; missing and damaged ones are left out."""
    found: dict[ArtifactRef, None] = {}
    seen: set[ArtifactRef] = set()
    waiting = [(ref, False) for ref in reversed(list(refs))]
    while waiting:
        ref, is_followed = waiting.pop()
        if is_followed:
            found[ref] = None
        elif ref not in seen:
            seen.add(ref)
            with suppress(ArtifactError):
                inputs = store.provenance(ref).inputs
                waiting += [(ref, True), *((each, False) for each in reversed(inputs))]
    return list(found)
