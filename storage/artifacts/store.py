"""The artifact store: immutable directories, addressed by their content, each with its provenance."""

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
    MOST_FILES,
    PROVENANCE,
    ArtifactError,
    ArtifactRef,
    CorruptArtifactError,
    FileEntry,
    InvalidArtifactError,
    Manifest,
    MissingArtifactError,
    Provenance,
    parse_manifest,
    parse_provenance,
    safe_path,
    walk,
)

if TYPE_CHECKING:
    from slimline.storage.artifacts.remote import RemoteArtifacts

__all__ = [
    "ArtifactError",
    "ArtifactRef",
    "ArtifactStore",
    "ArtifactSummary",
    "CorruptArtifactError",
    "FileEntry",
    "InvalidArtifactError",
    "Manifest",
    "MissingArtifactError",
    "Provenance",
]

Refs = list[ArtifactRef]  # the class below has a method of the name `list`

_PREFIX = re.compile(r"(?:(?P<kind>[a-z0-9-]+):)?(?P<digest>[0-9a-f]{1,64})")


class ArtifactSummary(NamedTuple):
    """An artifact in a listing: its bytes and number of files, when and where it was made, and by which step."""

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
        """An empty directory in which an artifact is made; it is removed at the end, or by `gc` after a crash."""
        with self._backend.stage() as directory:
            yield directory

    def publish(self, directory: Path, kind: str, provenance: Provenance) -> ArtifactRef:
        """Publish copies of the files below `directory` as one artifact, durably and atomically.

        The same content gives the same reference; the provenance is that of the first publication.

        Raises:
            InvalidArtifactError: there is an empty directory, a symlink, a special file or a name that is not allowed;
                then nothing is copied.
        """
        try:
            paths = [safe_path(path) for path in walk(directory)]
            if len(paths) > MOST_FILES:
                raise ValueError(f"{len(paths):,} files; allowed: {MOST_FILES:,}")
            ArtifactRef(kind=kind, digest="0" * 64)
        except (ValueError, NotADirectoryError, FileNotFoundError) as error:
            raise InvalidArtifactError(f"cannot publish {directory} as {kind!r}: {error}") from error
        return self._backend.publish(directory, paths, kind, provenance)

    def path(self, ref: ArtifactRef) -> Path:
        """The local directory of the files; a remote artifact is downloaded, verified and cached.

        Raises:
            MissingArtifactError: the artifact is not in the store.
            CorruptArtifactError: a name or a size differs from the manifest.
        """
        return self._backend.path(ref)

    def verify(self, ref: ArtifactRef) -> None:
        """Read every byte from the store itself, not from a cache.

        Raises:
            MissingArtifactError: the artifact is not in the store.
            CorruptArtifactError: a file differs from the manifest; the message names it.
        """
        self._backend.verify(ref)
        self.provenance(ref)

    def verify_all(self) -> Iterator[tuple[ArtifactRef, str | None]]:
        """Verify every artifact, and what has lost its manifest; each with what is wrong with it, or None."""
        for ref in self.list():
            try:
                self.verify(ref)
            except ArtifactError as error:
                yield ref, str(error)
            except OSError as error:
                yield ref, f"{ref}: {error.filename or 'a file'} cannot be read: {error.strerror or error}"
            else:
                yield ref, None
        for ref in self._backend.without_manifest():
            yield ref, f"{ref}: {MANIFEST} is missing"

    def send(self, refs: Collection[ArtifactRef], other: ArtifactStore) -> Iterator[tuple[ArtifactRef, bool]]:
        """Publish artifacts in another store; those that it holds already are not sent again.

        Yields:
            Each artifact once it is there, inputs before what was made of them, and whether it was sent now.

        Raises:
            MissingArtifactError: one is not in this store.
            CorruptArtifactError: one is damaged here; it is not sent.
        """
        there = set(other.list())
        for ref in refs:
            if ref not in there:
                self.verify(ref)
                other.publish(self.path(ref), ref.kind, self.provenance(ref))
            yield ref, ref not in there

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """The files, their sizes and digests."""
        return parse_manifest(ref, self._backend.read(ref, MANIFEST))

    def provenance(self, ref: ArtifactRef) -> Provenance:
        """How the artifact was made."""
        self.manifest(ref)
        return parse_provenance(ref, self._backend.read(ref, PROVENANCE))

    def summary(self, ref: ArtifactRef) -> ArtifactSummary:
        """The data of an artifact in a listing."""
        manifest, provenance = self.manifest(ref), self.provenance(ref)
        step = str(provenance.step.get("step", ""))
        return ArtifactSummary(ref, manifest.size, len(manifest.files), provenance.created, provenance.host, step)

    def list(self) -> Refs:
        """All artifacts, sorted by kind and digest."""
        return sorted(self._backend.refs(), key=lambda ref: (ref.kind, ref.digest))

    def find(self, prefix: str) -> ArtifactRef:
        """The artifact whose digest has the given beginning, for example "model:ab12" or "ab12".

        Raises:
            MissingArtifactError: there is none, or more than one.
        """
        match = _PREFIX.fullmatch(prefix)
        if match is None:
            raise MissingArtifactError(f"{prefix!r} is not valid; allowed: 'kind:digest' or 'digest', hexadecimal")
        published = self.list()
        same_kind = [ref for ref in published if match["kind"] in (None, ref.kind)]
        matches = [ref for ref in same_kind if ref.digest.startswith(match["digest"])]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise MissingArtifactError(f"{prefix!r} is ambiguous in {self.url}: {_names(matches)}")
        raise MissingArtifactError(f"no artifact {prefix!r} in {self.url}; there are: {_names(same_kind or published)}")

    def gc(self, keep: Collection[ArtifactRef], dry_run: bool = False) -> Refs:
        """Remove all artifacts that are neither in `keep` nor among its ancestors, and stale scratch directories.

        Nothing else may publish an artifact outside `keep` at the same time.

        Args:
            keep: Artifacts that remain, with their ancestors.
            dry_run: Remove nothing.

        Returns:
            The artifacts that were removed, or that a real run would remove.

        Raises:
            MissingArtifactError: one of `keep` is not in the store; then nothing is removed.
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
    # Imported here, because importing fsspec takes longer than most operations of a local store.
    from slimline.storage.artifacts.remote import RemoteArtifacts

    return RemoteArtifacts(url)


def _names(refs: Collection[ArtifactRef], most: int = 10) -> str:
    names = [str(ref) for ref in list(refs)[:most]]
    more = [f"and {len(refs) - most} more"] if len(refs) > most else []
    return ", ".join(names + more) or "none"
