"""What an artifact is: its reference, its manifest (which files, how long, which SHA-256) and its provenance."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
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
CHUNK = 1 << 20
MAX_NAME_BYTES = 255  # of one path component, on every file system in use

Kind = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ArtifactError(Exception):
    """Something is wrong with an artifact or with what is to become one."""


class ArtifactMissing(ArtifactError):  # noqa: N818 - read as a sentence
    """No artifact is published under this reference."""


class ArtifactCorrupt(ArtifactError):  # noqa: N818 - read as a sentence
    """A published artifact is not what its digest says: the message names the file, the expected and the found."""


class ArtifactRefused(ArtifactError):  # noqa: N818 - read as a sentence
    """A directory cannot be published as it is."""


def safe_path(path: str) -> str:
    """Return a relative POSIX path unchanged, or raise ValueError saying why it could escape or not be stored."""
    problem = _problem(path)
    if problem:
        raise ValueError(f"file path {path!r} {problem}; allowed: a relative path with '/' and no '.' or '..'")
    return path


def _problem(path: str) -> str | None:
    parts = path.split("/")
    if path.startswith("/"):
        return "is absolute"
    if ".." in parts:
        return "climbs out of the artifact"
    if "" in parts or "." in parts:
        return "has an empty or '.' component"
    if "\\" in path or any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        return "holds a backslash, a control character or bytes that are not UTF-8"
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return f"has a component longer than {MAX_NAME_BYTES} bytes"
    return None


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArtifactRef(_Frozen):
    """Names one artifact: what kind it is, and the SHA-256 of its manifest (64 hexadecimal digits)."""

    kind: Kind
    digest: Sha256

    def __str__(self) -> str:
        return f"{self.kind}:{self.digest[:12]}"


class FileEntry(_Frozen):
    """One file of an artifact: path below files/, size in bytes, SHA-256 of the content."""

    path: Annotated[str, AfterValidator(safe_path)]
    size: NonNegativeInt
    sha256: Sha256


class Manifest(_Frozen):
    """The kind and every file of an artifact, sorted by path. Its digest is the artifact's address."""

    kind: Kind
    files: tuple[FileEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _sorted_once(self) -> Self:
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("files must be sorted by path, each once")
        return self

    def canonical(self) -> bytes:
        """The bytes that are hashed and stored: JSON, keys sorted, no blanks, UTF-8."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()

    def ref(self) -> ArtifactRef:
        """The reference of the artifact this manifest describes."""
        return ArtifactRef(kind=self.kind, digest=hashlib.sha256(self.canonical()).hexdigest())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)


class Provenance(_Frozen):
    """How an artifact came to be: step spec, inputs, library versions, host, time (UTC), seconds, free notes."""

    step: dict[str, JsonValue]
    inputs: list[ArtifactRef]
    versions: dict[str, str]
    host: str
    created: Annotated[AwareDatetime, AfterValidator(lambda time: time.astimezone(UTC))]
    seconds: Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]
    notes: dict[str, JsonValue] = {}


def parse_manifest(ref: ArtifactRef, content: bytes) -> Manifest:
    """Read a stored manifest; raise ArtifactCorrupt unless it is exactly the one the reference's digest names."""
    found = hashlib.sha256(content).hexdigest()
    if found != ref.digest:
        raise ArtifactCorrupt(f"{ref}: {MANIFEST}: expected SHA-256 {ref.digest}, found {found}")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ArtifactCorrupt(f"{ref}: {MANIFEST}: {first_problem(error)}") from error
    if manifest.kind != ref.kind:
        raise ArtifactCorrupt(f"{ref}: {MANIFEST}: kind: expected {ref.kind!r}, found {manifest.kind!r}")
    return manifest


def parse_provenance(ref: ArtifactRef, content: bytes) -> Provenance:
    """Read a stored provenance; raise ArtifactCorrupt naming the field that is wrong."""
    try:
        return Provenance.model_validate_json(content)
    except ValidationError as error:
        raise ArtifactCorrupt(f"{ref}: {PROVENANCE}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first finding of a validation, as `field.path: what is wrong`."""
    finding = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in finding["loc"])
    return f"{where}: {finding['msg']}" if where else finding["msg"]


def walk(directory: Path) -> Iterator[str]:
    """The paths of all files below a directory, sorted; ValueError for a symlink, a device or an empty directory."""
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


def copy_hashed(source: BinaryIO, path: str, target: BinaryIO | None = None) -> FileEntry:
    """Read a file to its end, writing it to `target` if given; return its entry under the name `path`."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return FileEntry(path=path, size=size, sha256=digest.hexdigest())


def check_entry(ref: ArtifactRef, expected: FileEntry, found: FileEntry) -> None:
    """Raise ArtifactCorrupt if a file's size or content is not the manifest's."""
    check_size(ref, expected, found.size)
    if found.sha256 != expected.sha256:
        raise ArtifactCorrupt(f"{ref}: {expected.path}: expected SHA-256 {expected.sha256}, found {found.sha256}")


def check_size(ref: ArtifactRef, expected: FileEntry, found: int) -> None:
    """Raise ArtifactCorrupt if a file has not the manifest's number of bytes."""
    if found != expected.size:
        raise ArtifactCorrupt(f"{ref}: {expected.path}: expected {expected.size} bytes, found {found}")


def check_paths(ref: ArtifactRef, manifest: Manifest, found: set[str]) -> None:
    """Raise ArtifactCorrupt naming the first file that is missing, or that the manifest does not know."""
    expected = {entry.path for entry in manifest.files}
    if missing := sorted(expected - found):
        raise ArtifactCorrupt(f"{ref}: {missing[0]}: expected by the manifest, found no such file")
    if extra := sorted(found - expected):
        raise ArtifactCorrupt(f"{ref}: {extra[0]}: expected no such file, found one the manifest does not list")


def artifact_path(ref: ArtifactRef) -> PurePosixPath:
    """Where an artifact lies below its store's root: <kind>/<digest>."""
    return PurePosixPath(ref.kind, ref.digest)


def ref_at(parts: Sequence[str]) -> ArtifactRef | None:
    """The reference that belongs to a location <kind>/<digest>/... below a store's root, if it is one."""
    try:
        return ArtifactRef(kind=parts[0], digest=parts[1])
    except (IndexError, ValidationError):
        return None
