"""Python source trees as a corpus: which files, of which package, in which split."""

from __future__ import annotations

import hashlib
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

Split = Literal["train", "dev", "test"]

MAX_BYTES = 200_000
_READERS = 8  # threads that wait for the disk: a fresh environment's files are not in memory yet
_VENDORED = {"_vendor", "vendor", "_vendored", "vendored", "_vendored_packages", "externals", "third_party"}
_SKIPPED = {"__pycache__", "site-packages", "node_modules"}
_GENERATED_NAME = re.compile(r"(_pb2(_grpc)?|_pb|parsetab|lextab)\.py$")
_GENERATED_TEXT = re.compile(
    rb"@generated|(auto[- ]?|machine[- ]?)generated|generated (by|from|automatically)|do not (edit|modify)", re.I
)
# The salt decides which packages are held out, for every study and every environment: the bundled model has never
# been trained on a package of the test split, whichever machine it is tested on. Changing it ends that.
_SPLIT_SALT = "slimline-py150-4"
_TEST_PERCENT, _DEV_PERCENT = 10, 3


class SourceFile(NamedTuple):
    """One candidate file of a tree."""

    path: Path
    name: str
    package: str
    size: int

    @property
    def split(self) -> Split:
        """The split of the file's whole top-level package."""
        return split_of(self.package)


def default_roots() -> tuple[Path, ...]:
    """The standard library and the site-packages of the running environment."""
    paths = sysconfig.get_paths()
    return tuple(dict.fromkeys(Path(paths[key]) for key in ("stdlib", "purelib", "platlib")))


def split_of(package: str) -> Split:
    """Deterministic split of a top-level package, the same in every environment."""
    point = int.from_bytes(hashlib.sha256(f"{_SPLIT_SALT}/{package}".encode()).digest()[:8], "big") % 100
    if point < _TEST_PERCENT:
        return "test"
    return "dev" if point < _TEST_PERCENT + _DEV_PERCENT else "train"


def package_of(relative: Path) -> str:
    """Top-level package of a file; a vendored copy belongs to the package it is a copy of.

    >>> package_of(Path("pip/_vendor/requests/api.py")), package_of(Path("bisect.py"))
    ('requests', 'bisect')
    """
    parts = relative.parts
    vendored = [index for index, part in enumerate(parts[:-1]) if part in _VENDORED]
    top = parts[vendored[-1] + 1] if vendored else parts[0]
    return top.removesuffix(".py").lower()


def find_files(roots: Sequence[Path]) -> list[SourceFile]:
    """Every Python file below the roots, ordered by name.

    Raises:
        ValueError: a root is not a directory, or no root holds a Python file.
    """
    found: dict[Path, SourceFile] = {}
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"data.origin.roots: {root} is not a directory")
        for entry in _walk(root):
            path = Path(entry.path)
            relative = path.relative_to(root)
            size = entry.stat(follow_symlinks=False).st_size
            found.setdefault(path, SourceFile(path, str(relative), package_of(relative), size))
    if not found:
        raise ValueError(f"data.origin.roots: no Python file below {', '.join(map(str, roots))}")
    return sorted(found.values(), key=lambda file: (file.name, str(file.path)))


def _walk(directory: Path | str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink() or entry.name in _SKIPPED:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            elif entry.name.endswith(".py"):
                yield entry


def looks_generated(name: str, content: bytes) -> bool:
    """Whether a file was written by a program: by its name, a notice in its head, or lines no person writes."""
    lines = content.count(b"\n") + 1
    return bool(_GENERATED_NAME.search(name) or _GENERATED_TEXT.search(content[:1500]) or len(content) / lines > 200)


class Selection(NamedTuple):
    """The files worth lexing, by split, and how many were left out for what reason."""

    files: dict[Split, list[SourceFile]]
    left_out: dict[str, int]


def select(files: Iterable[SourceFile]) -> Selection:
    """Leave out oversized, generated and duplicate files.

    A duplicate stays in one split only, the most held-out one, so that nothing trained on is ever tested on.
    """
    chosen: dict[Split, list[SourceFile]] = {"test": [], "dev": [], "train": []}
    left_out = {"oversized": 0, "generated": 0, "duplicate": 0}
    seen: set[bytes] = set()
    by_split = sorted(files, key=lambda file: list(chosen).index(file.split))
    with ThreadPoolExecutor(_READERS) as readers:
        for file, (reason, digest) in zip(by_split, readers.map(_examine, by_split), strict=True):
            if not reason and digest not in seen:
                chosen[file.split].append(file)
            else:
                left_out[reason or "duplicate"] += 1
            seen.add(digest)
    return Selection(chosen, left_out)


def _examine(file: SourceFile) -> tuple[str, bytes]:
    """Why to leave a file out whatever the others hold ("" for no reason), and the SHA-256 of its content."""
    if file.size > MAX_BYTES:
        return "oversized", file.name.encode()
    content = file.path.read_bytes()
    return "generated" if looks_generated(file.name, content) else "", hashlib.sha256(content).digest()


def listing_digest(files: Iterable[SourceFile]) -> str:
    """SHA-256 over names and sizes: what a cached slice of these trees depends on."""
    listing = hashlib.sha256()
    for file in files:
        listing.update(f"{file.name}\0{file.size}\n".encode())
    return listing.hexdigest()
