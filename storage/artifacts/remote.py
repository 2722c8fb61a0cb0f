"""Artifacts on any fsspec file system (S3, memory). manifest.json is uploaded last; without it there is no artifact."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from slimline.storage import fs
from slimline.storage.artifacts.local import LocalArtifacts
from slimline.storage.artifacts.manifest import (
    FILES,
    MANIFEST,
    PROVENANCE,
    ArtifactRef,
    CorruptArtifactError,
    FileEntry,
    Manifest,
    MissingArtifactError,
    Provenance,
    artifact_path,
    check_entry,
    check_paths,
    copy_and_hash,
    parse_manifest,
    parse_provenance,
    ref_at,
    sealed,
)
from slimline.storage.cache import cache_directory, remove_unused

# An upload without a manifest is no longer in progress after this time.
ABANDONED_AFTER = timedelta(days=1)


class RemoteArtifacts:
    """A store below a URL with the layout of a local store, and a local store as the cache of downloads."""

    def __init__(self, url: str) -> None:
        # Listings are not cached, because other hosts publish in the same store.
        filesystem, root = fsspec.url_to_fs(url, use_listings_cache=False)
        self.fs: Any = filesystem
        self.root = str(root).rstrip("/")
        self.url = url
        self.cache = LocalArtifacts(cache_directory(url))

    def stage(self) -> AbstractContextManager[Path]:
        """A local scratch directory, on the file system of the cache."""
        return self.cache.stage()

    def publish(self, directory: Path, paths: Iterable[str], kind: str, provenance: Provenance) -> ArtifactRef:
        """Upload files, provenance and manifest, unless there is a complete artifact with the same content."""
        paths = list(paths)
        manifest = Manifest(kind=kind, files=tuple(_entry(directory, path) for path in paths))
        if not self._holds(manifest.ref()):
            base = self._base(manifest.ref())
            there = {str(path): info["size"] for path, info in self.fs.find(base, detail=True).items()}
            for entry in manifest.files:
                if there.get(f"{base}/{FILES}/{entry.path}") != entry.size:  # else an upload that was cut off got it
                    self.fs.put_file(str(directory / entry.path), f"{base}/{FILES}/{entry.path}")
            self._create(f"{base}/{PROVENANCE}", sealed(manifest.ref(), provenance))
            self._create(f"{base}/{MANIFEST}", manifest.canonical())
        return manifest.ref()

    def _create(self, path: str, content: bytes) -> None:
        """Write a file unless there is one: another process may publish the same artifact at the same time."""
        try:
            self.fs.pipe_file(path, content, mode="create")
        except OSError:  # which one depends on the file system
            if not self.fs.exists(path):
                raise

    def _holds(self, ref: ArtifactRef) -> bool:
        try:
            self._check_listing(ref)
        except MissingArtifactError:
            return False
        except CorruptArtifactError:
            self.remove(ref)
            return False
        return True

    def read(self, ref: ArtifactRef, name: str) -> bytes:
        """The content of manifest.json or provenance.json."""
        try:
            return bytes(self.fs.cat_file(f"{self._base(ref)}/{name}"))
        except FileNotFoundError as error:
            if name == MANIFEST:
                raise MissingArtifactError(f"{ref} is not in {self.url}") from error
            raise CorruptArtifactError(f"{ref}: {name}: expected a file, found none") from error

    def path(self, ref: ArtifactRef) -> Path:
        """The local directory of the files, which are downloaded and verified unless the cache has them."""
        try:
            found = self.cache.path(ref)
        except MissingArtifactError:
            self._download(ref)
        except CorruptArtifactError:
            self.cache.remove(ref)
            self._download(ref)
        else:
            os.utime(found.parent)  # used now
            return found
        remove_unused(list(self.cache.root.glob("*/*")), fs.remove_tree)
        return self.cache.path(ref)

    def _download(self, ref: ArtifactRef) -> None:
        manifest = parse_manifest(ref, self.read(ref, MANIFEST))
        provenance = parse_provenance(ref, self.read(ref, PROVENANCE))
        with self.stage() as directory:
            for entry in manifest.files:
                (directory / entry.path).parent.mkdir(parents=True, exist_ok=True)
                with self._open(ref, entry) as file, (directory / entry.path).open("wb") as target:
                    check_entry(ref, entry, copy_and_hash(file, entry.path, target))
            self.cache.publish(directory, [entry.path for entry in manifest.files], ref.kind, provenance)

    def verify(self, ref: ArtifactRef) -> None:
        """Read every byte of the manifest's files from the remote store.

        Other files are not looked for: a listing takes longer than a small file, and they are never downloaded.

        Raises:
            MissingArtifactError: the artifact is not in the store.
            CorruptArtifactError: a file differs from the manifest.
        """
        for entry in parse_manifest(ref, self.read(ref, MANIFEST)).files:
            with self._open(ref, entry) as file:
                check_entry(ref, entry, copy_and_hash(file, entry.path))

    @contextmanager
    def _open(self, ref: ArtifactRef, entry: FileEntry) -> Iterator[BinaryIO]:
        try:
            with self.fs.open(f"{self._base(ref)}/{FILES}/{entry.path}", "rb") as file:
                yield file
        except FileNotFoundError as error:
            raise CorruptArtifactError(f"{ref}: {entry.path}: expected by the manifest, found no such file") from error

    def _check_listing(self, ref: ArtifactRef) -> None:
        """Check that there are exactly the manifest's files."""
        manifest = parse_manifest(ref, self.read(ref, MANIFEST))
        base = self._base(ref)
        found = {str(path).removeprefix(f"{base}/") for path in self.fs.find(base)} - {MANIFEST, PROVENANCE}
        check_paths(ref, manifest, {path.removeprefix(f"{FILES}/") for path in found})

    def refs(self) -> list[ArtifactRef]:
        """All published artifacts, in no particular order."""
        return [ref for ref, names in self._uploads().items() if MANIFEST in names]

    def without_manifest(self) -> list[ArtifactRef]:
        """Uploads without a manifest that are no longer in progress."""
        return [
            ref for ref, names in self._uploads().items() if MANIFEST not in names and self._is_abandoned(ref, names)
        ]

    def _is_abandoned(self, ref: ArtifactRef, names: Iterable[str]) -> bool:
        newest = max(self.fs.modified(f"{self._base(ref)}/{name}") for name in names)
        return bool(datetime.now(UTC) - newest > ABANDONED_AFTER)

    def remove(self, ref: ArtifactRef) -> None:
        """Unpublish an artifact by deleting its manifest, then delete the other files."""
        base = self._base(ref)
        for path in sorted(self.fs.find(base), key=lambda path: not str(path).endswith(f"{base}/{MANIFEST}")):
            self.fs.rm_file(path)

    def remove_stale(self) -> None:
        """Delete old uploads without a manifest, and the cache's scratch directories of processes that have ended."""
        self.cache.remove_stale()
        for ref in self.without_manifest():
            self.remove(ref)

    def _uploads(self) -> dict[ArtifactRef, list[str]]:
        uploads: dict[ArtifactRef, list[str]] = {}
        for path in self.fs.find(self.root):
            parts = str(path).removeprefix(f"{self.root}/").split("/")
            if ref := ref_at(parts):
                uploads.setdefault(ref, []).append("/".join(parts[2:]))
        return uploads

    def _base(self, ref: ArtifactRef) -> str:
        return f"{self.root}/{artifact_path(ref)}"


def _entry(directory: Path, path: str) -> FileEntry:
    with (directory / path).open("rb") as file:
        return copy_and_hash(file, path)
