"""The artifact store: immutable directories, addressed by what is in them, each with its provenance."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from slimline.storage.artifacts.local import LocalArtifacts
from slimline.storage.artifacts.manifest import (
    MANIFEST,
    PROVENANCE,
    ArtifactCorrupt,
    ArtifactError,
    ArtifactMissing,
    ArtifactRef,
    ArtifactRefused,
    FileEntry,
    Manifest,
    Provenance,
    parse_manifest,
    parse_provenance,
    safe_path,
    walk,
)

if TYPE_CHECKING:
    from slimline.storage.artifacts.remote import RemoteArtifacts

__all__ = [
    "ArtifactCorrupt",
    "ArtifactError",
    "ArtifactMissing",
    "ArtifactRef",
    "ArtifactRefused",
    "ArtifactStore",
    "ArtifactSummary",
    "FileEntry",
    "Manifest",
    "Provenance",
]

Refs = list[ArtifactRef]  # the class below has a method of the name `list`

_PREFIX = re.compile(r"(?:(?P<kind>[a-z0-9-]+):)?(?P<digest>[0-9a-f]{1,64})")


class ArtifactSummary(NamedTuple):
    """One line of a listing: bytes and number of files, when and where it was made, and by which step."""

    ref: ArtifactRef
    size: int
    files: int
    created: datetime
    host: str
    step: str


class ArtifactStore:
    """Artifacts below a local directory or any fsspec URL (s3://bucket/prefix, memory://name)."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        self._backend = _backend(self.url)

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """Lend an empty directory to make an artifact in; it is removed afterwards, and by gc after a crash."""
        with self._backend.stage() as directory:
            yield directory

    def publish(self, directory: Path, kind: str, provenance: Provenance) -> ArtifactRef:
        """Publish the files below `directory` as one artifact: copied, durable, visible all at once.

        The same content gives the same reference, and keeps the provenance it was first published with. Raises
        ArtifactRefused, before anything is copied, for an empty directory, a symlink, a special file or a bad name.
        """
        try:
            paths = [safe_path(path) for path in walk(directory)]
            ArtifactRef(kind=kind, digest="0" * 64)
        except (ValueError, NotADirectoryError, FileNotFoundError) as error:
            raise ArtifactRefused(f"cannot publish {directory} as {kind!r}: {error}") from error
        return self._backend.publish(directory, paths, kind, provenance)

    def path(self, ref: ArtifactRef) -> Path:
        """The local directory that holds the files; a remote artifact is downloaded, verified and cached.

        Raises ArtifactMissing, or ArtifactCorrupt if a name or a size is not the manifest's.
        """
        return self._backend.path(ref)

    def verify(self, ref: ArtifactRef) -> None:
        """Read every byte where it is stored; raise ArtifactMissing, or ArtifactCorrupt naming the file."""
        self._backend.verify(ref)
        self.provenance(ref)

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """The files, their sizes and digests."""
        return parse_manifest(ref, self._backend.read(ref, MANIFEST))

    def provenance(self, ref: ArtifactRef) -> Provenance:
        """How the artifact came to be."""
        self.manifest(ref)
        return parse_provenance(ref, self._backend.read(ref, PROVENANCE))

    def summary(self, ref: ArtifactRef) -> ArtifactSummary:
        """What a listing shows of an artifact."""
        manifest, provenance = self.manifest(ref), self.provenance(ref)
        step = str(provenance.step.get("step", ""))
        return ArtifactSummary(ref, manifest.size, len(manifest.files), provenance.created, provenance.host, step)

    def list(self) -> Refs:
        """Everything published, by kind and digest."""
        return sorted(self._backend.refs(), key=lambda ref: (ref.kind, ref.digest))

    def find(self, prefix: str) -> ArtifactRef:
        """The one artifact whose digest starts as given: "model:ab12" or "ab12". Raises ArtifactMissing otherwise."""
        wanted = _PREFIX.fullmatch(prefix)
        if wanted is None:
            raise ArtifactMissing(f"{prefix!r} names no artifact; allowed: 'kind:digest' or 'digest', hexadecimal")
        published = self.list()
        same_kind = [ref for ref in published if wanted["kind"] in (None, ref.kind)]
        matches = [ref for ref in same_kind if ref.digest.startswith(wanted["digest"])]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ArtifactMissing(f"{prefix!r} is ambiguous in {self.url}: {_names(matches)}")
        raise ArtifactMissing(f"no artifact {prefix!r} in {self.url}; there are: {_names(same_kind or published)}")

    def gc(self, keep: Collection[ArtifactRef], dry_run: bool = False) -> Refs:
        """Remove every artifact that is neither in `keep` nor among its ancestors, and dead processes' leftovers.

        Returns what was removed, or in a dry run what would be. Raises ArtifactMissing, before removing anything, if
        one of `keep` is not there.
        Nothing may publish meanwhile what is not in `keep`.
        """
        published = self.list()
        reachable = self._with_ancestors(keep, set(published))
        removed = [ref for ref in published if ref not in reachable]
        if not dry_run:
            for ref in removed:
                self._backend.remove(ref)
            self._backend.remove_stale()
        return removed

    def _with_ancestors(self, keep: Collection[ArtifactRef], published: set[ArtifactRef]) -> set[ArtifactRef]:
        reachable: set[ArtifactRef] = set()
        waiting = list(keep)
        while waiting:
            ref = waiting.pop()
            if ref not in reachable:
                reachable.add(ref)
                waiting += [parent for parent in self.provenance(ref).inputs if parent in published]
        return reachable


def _backend(url: str) -> LocalArtifacts | RemoteArtifacts:
    path = url.removeprefix("file://")
    if "://" not in path:
        return LocalArtifacts(Path(path))
    from slimline.storage.artifacts.remote import (
        RemoteArtifacts,  # importing fsspec costs more than a local store's whole answer
    )

    return RemoteArtifacts(url)


def _names(refs: Collection[ArtifactRef], most: int = 10) -> str:
    names = [str(ref) for ref in list(refs)[:most]]
    more = [f"and {len(refs) - most} more"] if len(refs) > most else []
    return ", ".join(names + more) or "none"
