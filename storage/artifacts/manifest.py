"""The data of an artifact: its reference, its manifest (files with sizes and SHA-256) and its provenance."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
FILES = "files"
_SEAL = "seal"
CHUNK = 1 << 20
MOST_FILES = 20_000  # of one artifact: with more, each look at it takes seconds
MOST_BYTES = 8_000_000  # of manifest.json or provenance.json
MAX_NAME_BYTES = 255  # of one path component, on all usual file systems

Kind = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ArtifactError(Exception):
    """An artifact, or a directory to publish as one, is not valid."""


class MissingArtifactError(ArtifactError):
    """There is no artifact with this reference."""


class CorruptArtifactError(ArtifactError):
    """A published artifact does not match its digest; the message has the file, what is expected and what was found."""


class InvalidArtifactError(ArtifactError):
    """A directory cannot be published; the message says why."""


def safe_path(path: str) -> str:
    """Return a relative POSIX path unchanged.

    Raises:
        ValueError: the path is not relative, leaves the directory, or cannot be stored everywhere.
    """
    problem = _problem(path)
    if problem:
        raise ValueError(f"file path {path!r} {problem}; allowed: a relative path with '/' and no '.' or '..'")
    return path


def _problem(path: str) -> str | None:
    parts = path.split("/")
    if path.startswith("/"):
        return "is absolute"
    if ".." in parts:
        return "leaves the artifact"
    if "" in parts or "." in parts:
        return "has an empty or '.' component"
    if "\\" in path or any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        return "has a backslash, a control character or bytes that are not UTF-8"
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return f"has a component longer than {MAX_NAME_BYTES} bytes"
    return None


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArtifactRef(_FrozenModel):
    """The reference of an artifact: its kind, and the SHA-256 of its manifest (64 hexadecimal digits)."""

    kind: Kind
    digest: Sha256

    def __str__(self) -> str:
        return f"{self.kind}:{self.digest[:12]}"


class FileEntry(_FrozenModel):
    """A file of an artifact: its path below files/, size in bytes, and SHA-256."""

    path: Annotated[str, AfterValidator(safe_path)]
    size: NonNegativeInt
    sha256: Sha256


class Manifest(_FrozenModel):
    """The kind and all files of an artifact, sorted by path; its digest is the artifact's address."""

    kind: Kind
    files: tuple[FileEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("files must be sorted by path, each once")
        return self

    def canonical(self) -> bytes:
        """The bytes that are hashed and stored: JSON with sorted keys and without blanks, in UTF-8."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()

    def ref(self) -> ArtifactRef:
        """The reference of the artifact this manifest describes."""
        return ArtifactRef(kind=self.kind, digest=hashlib.sha256(self.canonical()).hexdigest())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)


class Provenance(_FrozenModel):
    """How an artifact was made: spec of the step, inputs, library versions, host, time (UTC), seconds, and notes."""

    step: dict[str, JsonValue]
    inputs: list[ArtifactRef]
    versions: dict[str, str]
    host: str
    created: Annotated[AwareDatetime, AfterValidator(lambda time: time.astimezone(UTC))]
    seconds: Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]
    notes: dict[str, JsonValue] = {}


def parse_manifest(ref: ArtifactRef, content: bytes) -> Manifest:
    """Parse a stored manifest.

    Raises:
        CorruptArtifactError: it is not the manifest of the reference's digest, or not valid.
    """
    _check_length(ref, MANIFEST, content)
    found = hashlib.sha256(content).hexdigest()
    if found != ref.digest:
        raise CorruptArtifactError(f"{ref}: {MANIFEST}: expected SHA-256 {ref.digest}, found {found}")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise CorruptArtifactError(f"{ref}: {MANIFEST}: {first_problem(error)}") from error
    if manifest.kind != ref.kind:
        raise CorruptArtifactError(f"{ref}: {MANIFEST}: kind: expected {ref.kind!r}, found {manifest.kind!r}")
    return manifest


def _check_length(ref: ArtifactRef, name: str, content: bytes) -> None:
    if len(content) > MOST_BYTES:
        raise CorruptArtifactError(f"{ref}: {name}: {len(content):,} bytes; allowed: {MOST_BYTES:,}")


def sealed(ref: ArtifactRef, provenance: Provenance) -> bytes:
    """A provenance as it is stored: JSON, with a checksum over it and the artifact that it belongs to."""
    fields = provenance.model_dump(mode="json")
    return json.dumps({**fields, _SEAL: _seal(ref, fields)}, indent=2, ensure_ascii=False).encode()


def _seal(ref: ArtifactRef, fields: Mapping[str, object]) -> str:
    text = json.dumps([ref.kind, ref.digest, fields], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def parse_provenance(ref: ArtifactRef, content: bytes) -> Provenance:
    """Parse a stored provenance; one of a version before checksums is taken as it is.

    Raises:
        CorruptArtifactError: it is not what was written for this artifact, or a field is not valid.
    """
    _check_length(ref, PROVENANCE, content)
    try:
        fields = json.loads(content)
        if isinstance(fields, dict) and fields.pop(_SEAL, None) not in (None, _seal(ref, fields)):
            raise CorruptArtifactError(f"{ref}: {PROVENANCE}: not what was written: damaged, or another artifact's")
        return Provenance.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise CorruptArtifactError(f"{ref}: {PROVENANCE}: {first_problem(error)}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptArtifactError(f"{ref}: {PROVENANCE}: not JSON ({error})") from error


def first_problem(error: ValidationError) -> str:
    """The first error of a validation, as `field.path: message`."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else first["msg"]


def walk(directory: Path) -> Iterator[str]:
    """The paths of all files below a directory, sorted.

    Raises:
        ValueError: there is a symlink, a special file or an empty directory.
    """
    return iter(sorted(_walk(directory, "")))


def _walk(directory: Path, prefix: str) -> Iterator[str]:
    entries = list(os.scandir(directory))
    if not entries:
        raise ValueError(f"directory {prefix.rstrip('/') or '.'!r} is empty; expected at least one file in it")
    for entry in entries:
        path = prefix + entry.name
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(directory / entry.name, path + "/")
        elif stat.S_ISREG(mode):
            yield path
        else:
            found = "a symlink" if stat.S_ISLNK(mode) else "a special file"
            raise ValueError(f"{path!r}: expected a regular file or a directory, found {found}")


def copy_and_hash(source: BinaryIO, path: str, target: BinaryIO | None = None) -> FileEntry:
    """Read a file to its end, and write it to `target` if given; returns its entry with the path `path`."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return FileEntry(path=path, size=size, sha256=digest.hexdigest())


def check_entry(ref: ArtifactRef, expected: FileEntry, found: FileEntry) -> None:
    """Compare a file's size and content with the manifest.

    Raises:
        CorruptArtifactError: they differ.
    """
    check_size(ref, expected, found.size)
    if found.sha256 != expected.sha256:
        raise CorruptArtifactError(f"{ref}: {expected.path}: expected SHA-256 {expected.sha256}, found {found.sha256}")


def check_size(ref: ArtifactRef, expected: FileEntry, found: int) -> None:
    """Compare a file's size with the manifest.

    Raises:
        CorruptArtifactError: it differs.
    """
    if found != expected.size:
        raise CorruptArtifactError(f"{ref}: {expected.path}: expected {expected.size} bytes, found {found}")


def check_paths(ref: ArtifactRef, manifest: Manifest, found: set[str]) -> None:
    """Compare the paths of an artifact's files with the manifest.

    Raises:
        CorruptArtifactError: a file is missing or not in the manifest; the message names the first one.
    """
    expected = {entry.path for entry in manifest.files}
    if missing := sorted(expected - found):
        raise CorruptArtifactError(f"{ref}: {missing[0]}: expected by the manifest, found no such file")
    if extra := sorted(found - expected):
        raise CorruptArtifactError(f"{ref}: {extra[0]}: expected no such file, found one the manifest does not list")


def artifact_path(ref: ArtifactRef) -> PurePosixPath:
    """Path of an artifact below its store's root: <kind>/<digest>."""
    return PurePosixPath(ref.kind, ref.digest)


def ref_at(parts: Sequence[str]) -> ArtifactRef | None:
    """The reference of a path <kind>/<digest>/... below a store's root; None for other paths."""
    try:
        return ArtifactRef(kind=parts[0], digest=parts[1])
    except (IndexError, ValidationError):
        return None
