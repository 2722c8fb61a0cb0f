"""Python source trees as a corpus: which files, of which package, in which split."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from slimline.tasks.data.overlap import Hashes, shared_parts, window_hashes

Split = Literal["train", "dev", "test"]
T = TypeVar("T")

MAX_BYTES = 200_000
_READERS = 8  # threads that wait for the disk: a fresh environment's files are not in memory yet
_FILES_AT_ONCE = 64  # handing over a single file takes as long as reading it
_VENDORED = {"_vendor", "vendor", "_vendored", "vendored", "_vendored_packages", "externals", "third_party"}
_SKIPPED = {"__pycache__", "site-packages", "node_modules"}
_SECOND_GENERATION = re.compile(r"(?<=[a-z])[23]$")  # of httpx2, urllib3, jinja2
_GENERATED_NAME = re.compile(r"(_pb2(_grpc)?|_pb|parsetab|lextab)\.py$")
_GENERATED_TEXT = re.compile(
    rb"@generated|(auto[- ]?|machine[- ]?)generated|generated (by|from|automatically)|do not (edit|modify)", re.I
)
# The salt decides which packages are held out, for every study and every environment: the bundled model has never
# been trained on a package of the test split, whichever machine it is tested on. Changing it ends that.
_SPLIT_SALT = "slimline-py150-4"
_TEST_PERCENT, _DEV_PERCENT = 10, 3
# Most of a file's windows that may occur in other splits. Names tell vendored copies, but not every fork.
_MOST_SHARED = 0.15


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
    """Top-level package of a file; a vendored copy belongs to the package it is a copy of, and a fork to its origin.

    >>> package_of(Path("pip/_vendor/requests/api.py")), package_of(Path("_bisect.py")), package_of(Path("httpx2/x.py"))
    ('requests', 'bisect', 'httpx')
    """
    parts = relative.parts
    vendored = [index for index, part in enumerate(parts[:-1]) if part in _VENDORED]
    top = parts[vendored[-1] + 1] if vendored else parts[0]
    name = top.removesuffix(".py").lower()
    return _SECOND_GENERATION.sub("", name.lstrip("_")) or name


class Tree(NamedTuple):
    """The Python files below some roots, ordered by name, and what was skipped, with the reason."""

    files: list[SourceFile]
    skipped: dict[str, str]


def find_files(roots: Sequence[Path]) -> Tree:
    """Every Python file below the roots. What is no regular file, or cannot be read, is skipped.

    Raises:
        ValueError: a root is not a directory, or no root holds a Python file.
    """
    found: dict[Path, SourceFile] = {}
    skipped: dict[str, str] = {}
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"data.origin.roots: {root} is not a directory")
        for entry in _walk(root, skipped):
            path = Path(entry.path)
            relative = path.relative_to(root)
            size = entry.stat(follow_symlinks=False).st_size
            found.setdefault(path, SourceFile(path, str(relative), package_of(relative), size))
    if not found:
        raise ValueError(f"data.origin.roots: no Python file below {', '.join(map(str, roots))}{_examples(skipped)}")
    return Tree(sorted(found.values(), key=lambda file: (file.name, str(file.path))), skipped)


def _examples(skipped: dict[str, str]) -> str:
    if not skipped:
        return ""
    path, reason = next(iter(skipped.items()))
    return f"; skipped: {len(skipped)}, such as {path} ({reason})"


def _walk(directory: Path | str, skipped: dict[str, str]) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as listing:
            entries = list(listing)
    except OSError as error:
        skipped[_printable(directory)] = error.strerror or str(error)
        return
    for entry in entries:
        if entry.is_symlink() or entry.name in _SKIPPED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, skipped)
        elif entry.name.endswith(".py"):
            if problem := _problem(entry):
                skipped[_printable(entry.path)] = problem
            else:
                yield entry


def _problem(entry: os.DirEntry[str]) -> str:
    """Why a file cannot be part of a corpus, before it is opened: opening a pipe waits for its writer."""
    if not entry.is_file(follow_symlinks=False):
        return "not a regular file"
    if _printable(entry.path) != entry.path:
        return "its name is not UTF-8"
    return "" if os.access(entry.path, os.R_OK) else "Permission denied"


def _printable(path: Path | str) -> str:
    return os.fsencode(path).decode("utf8", "backslashreplace")


def read_source(path: Path) -> str:
    """The text of a Python file in the encoding that it declares (PEP 263), UTF-8 by default, without a BOM.

    Raises:
        ValueError: it is not in that encoding, which may be unknown, or holds a NUL.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    except SyntaxError as error:
        if "missing" not in str(error):  # an encoding that is unknown, or contradicts the byte order mark
            raise ValueError(str(error)) from None
        encoding = "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not {encoding.upper()} (byte {error.start})") from None
    except LookupError as error:  # such as rot13, which turns text into text
        raise ValueError(str(error)) from None
    if "\0" in text:
        raise ValueError(f"has a NUL (character {text.index(chr(0))})")
    return io.StringIO(text, newline=None).read()


def looks_generated(name: str, content: bytes) -> bool:
    """Whether a file was written by a program: by its name, a notice in its head, or lines no person writes."""
    lines = content.count(b"\n") + 1
    return bool(_GENERATED_NAME.search(name) or _GENERATED_TEXT.search(content[:1500]) or len(content) / lines > 200)


class Selection(NamedTuple):
    """The files worth lexing, by split, and how many were left out for what reason."""

    files: dict[Split, list[SourceFile]]
    left_out: dict[str, int]


def select(files: Iterable[SourceFile]) -> Selection:
    """Leave out oversized, generated and duplicate files, and those much of which is in another split.

    A duplicate stays in one split only, the most held-out one, so that nothing trained on is ever tested on.
    """
    chosen: dict[Split, list[SourceFile]] = {"test": [], "dev": [], "train": []}
    left_out = {"oversized": 0, "generated": 0, "duplicate": 0, "unreadable": 0}
    seen: set[str] = set()
    by_split = sorted(files, key=lambda file: list(chosen).index(file.split))
    for file, (reason, digest) in zip(by_split, _map(_examine, by_split), strict=True):
        if not reason and digest not in seen:
            chosen[file.split].append(file)
        else:
            left_out[reason or "duplicate"] += 1
        seen.add(digest)
    return _without_shared(Selection(chosen, left_out))


def _without_shared(selection: Selection) -> Selection:
    """Without the training files much of which is in held-out ones, and without the held-out ones still much in others.

    The second is needed where lines of a held-out file are spread over several training files.
    """
    files = dict(selection.files)
    windows = {split: [_windows(file) for file in found] for split, found in files.items()}
    order: tuple[tuple[Split, tuple[Split, ...]], ...] = (
        ("train", ("test", "dev")),
        ("dev", ("train",)),
        ("test", ("train", "dev")),
    )
    for split, others in order:
        shares = shared_parts(windows[split], (hashes for other in others for hashes in windows[other]))
        kept = [number for number, share in enumerate(shares) if share <= _MOST_SHARED]
        files[split] = [files[split][number] for number in kept]
        windows[split] = [windows[split][number] for number in kept]
    shared = sum(map(len, selection.files.values())) - sum(map(len, files.values()))
    return Selection(files, {**selection.left_out, "shared": shared})


def _windows(file: SourceFile) -> Hashes:
    try:
        return window_hashes(file.path.read_bytes())
    except OSError:  # it has gone since it was examined, and will be reported when it is read
        return window_hashes(b"")


def _map(of_file: Callable[[SourceFile], T], files: Sequence[SourceFile]) -> Iterator[T]:
    """What a function that reads one file says of each, in their order."""
    groups = [files[start : start + _FILES_AT_ONCE] for start in range(0, len(files), _FILES_AT_ONCE)]
    with ThreadPoolExecutor(_READERS) as readers:
        for found in readers.map(lambda group: [of_file(file) for file in group], groups):
            yield from found


def _examine(file: SourceFile) -> tuple[str, str]:
    """Why to leave a file out whatever the others hold ("" for no reason), and its digest."""
    reason, content = _read(file)
    if not reason and looks_generated(file.name, content):
        reason = "generated"
    return reason, hashlib.sha256(content).hexdigest()


def _digest(file: SourceFile) -> str:
    return hashlib.sha256(_read(file)[1]).hexdigest()


def _read(file: SourceFile) -> tuple[str, bytes]:
    """Why a file is not read ("" if it is), and its content, or what tells it from others instead."""
    if file.size > MAX_BYTES:
        return "oversized", f"{file.name} {file.size}".encode()
    try:
        return "", file.path.read_bytes()
    except OSError:  # it has gone since it was found
        return "unreadable", file.name.encode()


def tree_digest(files: Sequence[SourceFile]) -> str:
    """SHA-256 over names and contents: what a cached slice of these trees depends on."""
    digest = hashlib.sha256()
    for file, content in zip(files, _map(_digest, files), strict=True):
        digest.update(f"{file.name}\0{content}\n".encode())
    return digest.hexdigest()
