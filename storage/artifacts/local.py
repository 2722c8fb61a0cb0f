"""Artifacts in a local directory. They are published by one rename, so that there are no incomplete artifacts."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from slimline.storage import fs
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
    check_size,
    copy_and_hash,
    parse_manifest,
    ref_at,
    sealed,
    walk,
)

READ_ONLY = 0o444


class LocalArtifacts:
    """A directory of artifacts: <root>/<kind>/<digest>/{manifest.json, provenance.json, files/...}."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stage(self) -> AbstractContextManager[Path]:
        """A scratch directory on the file system of the store."""
        return fs.scratch(self.root)

    def publish(self, directory: Path, paths: Iterable[str], kind: str, provenance: Provenance) -> ArtifactRef:
        """Copy the files below `directory` durably, unless there is a complete artifact with the same content."""
        with self.stage() as build:
            entries = tuple(_copy(directory, path, build / FILES) for path in paths)
            manifest = Manifest(kind=kind, files=entries)
            fs.write_bytes(build / PROVENANCE, sealed(manifest.ref(), provenance))
            fs.write_bytes(build / MANIFEST, manifest.canonical())
            for folder, _, _ in os.walk(build, topdown=False):
                fs.sync(Path(folder))
            self._install(build, manifest.ref())
        return manifest.ref()

    def _install(self, build: Path, ref: ArtifactRef) -> None:
        target = self._directory(ref)
        fs.make_directory(target.parent)
        try:
            build.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._replace_if_corrupt(build, ref)
        fs.sync(target.parent)

    def _replace_if_corrupt(self, build: Path, ref: ArtifactRef) -> None:
        try:
            self.verify(ref)
        except CorruptArtifactError:
            self.remove(ref)
            self._install(build, ref)

    def read(self, ref: ArtifactRef, name: str) -> bytes:
        """The content of manifest.json or provenance.json."""
        try:
            return (self._directory(ref) / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            if name == MANIFEST and not self._directory(ref).exists():
                raise MissingArtifactError(f"{ref} is not in {self.root}") from error
            raise CorruptArtifactError(f"{ref}: {name}: expected a file, found none") from error

    def path(self, ref: ArtifactRef) -> Path:
        """The directory of the files, after a check of their names and sizes; `verify` also reads every byte."""
        files = self._directory(ref) / FILES
        for entry in self._read_manifest(ref).files:
            check_size(ref, entry, (files / entry.path).stat().st_size)
        return files

    def verify(self, ref: ArtifactRef) -> None:
        """Read every byte.

        Raises:
            MissingArtifactError: the artifact is not in the store.
            CorruptArtifactError: a file differs from the manifest.
        """
        files = self._directory(ref) / FILES
        for entry in self._read_manifest(ref).files:
            with (files / entry.path).open("rb") as file:
                check_entry(ref, entry, copy_and_hash(file, entry.path))

    def _read_manifest(self, ref: ArtifactRef) -> Manifest:
        manifest = parse_manifest(ref, self.read(ref, MANIFEST))
        try:
            found = set(walk(self._directory(ref)))
        except ValueError as error:
            raise CorruptArtifactError(f"{ref}: {error}") from error
        inside = {path.removeprefix(f"{FILES}/") for path in found if path.startswith(f"{FILES}/")}
        check_paths(ref, manifest, inside | {path for path in found if not path.startswith(f"{FILES}/")} - _OWN)
        return manifest

    def refs(self) -> list[ArtifactRef]:
        """All published artifacts, in no particular order."""
        return [ref for ref in self._directories() if (self._directory(ref) / MANIFEST).exists()]

    def without_manifest(self) -> list[ArtifactRef]:
        """Directories of artifacts whose manifest is gone, so that they are no artifacts any more."""
        return [ref for ref in self._directories() if not (self._directory(ref) / MANIFEST).exists()]

    def _directories(self) -> list[ArtifactRef]:
        found = (ref_at(path.relative_to(self.root).parts) for path in self.root.glob("*/*"))
        return [ref for ref in found if ref]

    def remove(self, ref: ArtifactRef) -> None:
        """Unpublish an artifact by one rename, then delete it."""
        with self.stage() as directory:
            self._directory(ref).rename(directory / ref.digest)

    def remove_stale(self) -> None:
        """Delete the scratch directories of processes that have ended, and what has lost its manifest."""
        fs.remove_stale(self.root)
        for ref in self.without_manifest():
            self.remove(ref)

    def _directory(self, ref: ArtifactRef) -> Path:
        return self.root / artifact_path(ref)


_OWN = {MANIFEST, PROVENANCE}


def _copy(directory: Path, path: str, files: Path) -> FileEntry:
    target = files / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with (directory / path).open("rb") as source, target.open("xb") as copy:
        entry = copy_and_hash(source, path, copy)
    fs.sync(target)
    target.chmod(READ_ONLY)
    return entry
