"""Three sources of PY150 code behind one question: the first n lexed files of each split, in a seeded order."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from slimline.storage.child_process import die_with
from slimline.tasks.data.lexer import END, EOL, START, lex_line
from slimline.tasks.data.samples import MOST_OF_A_PACKAGE, CodeFile
from slimline.tasks.data.source_trees import (
    SourceFile,
    Split,
    default_roots,
    find_files,
    read_source,
    select,
    tree_digest,
)
from slimline.tasks.runtime.progress import track
from slimline.tasks.specs import CodeXGlue, DataSource, HubData, PythonTrees

T = TypeVar("T")
MIN_TOKENS = 20
_DEV_SHARE_OF_TRAIN = 20  # CodeXGLUE takes 5,000 of PY150's 100,000 training files for dev: one in twenty


class Corpus(NamedTuple):
    """Lexed files by split, and a report of what was left out and why."""

    files: dict[Split, list[CodeFile]]
    report: dict[str, object]


def read_corpus(origin: DataSource, limits: Mapping[Split, int], seed: int) -> Corpus:
    """The first `limits[split]` files of every split after a seeded shuffle.

    Raises:
        ValueError: a source or one of its splits is missing or empty; the message names the field.
    """
    if isinstance(origin, PythonTrees):
        corpus = _read_trees(origin, limits, seed)
    elif isinstance(origin, CodeXGlue):
        corpus = _read_codexglue(origin, limits, seed)
    else:
        corpus = _read_hub(origin, limits, seed)
    for split, files in corpus.files.items():
        if not files and limits[split]:
            raise ValueError(
                f"data.origin: the {split} split of {origin.source} is empty; packages are split whole, so a source "
                f"needs several top-level packages or files ({corpus.report})"
            )
    return corpus


def source_digest(origin: DataSource) -> str:
    """What a cached slice depends on beyond its spec: the content of local files, and their names."""
    if isinstance(origin, PythonTrees):
        return tree_digest(find_files(origin.roots or default_roots()).files)
    if isinstance(origin, CodeXGlue):
        paths = [_split_file(origin, split) for split in ("train", "dev", "test")]
    else:
        paths = [path for path in sorted(Path(origin.id).rglob("*")) if path.is_file()]
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            digest.update(os.fsencode(path.name) + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------------- python-trees


def _read_trees(origin: PythonTrees, limits: Mapping[Split, int], seed: int) -> Corpus:
    tree = find_files(origin.roots or default_roots())
    selection = select(tree.files)
    unparsed: dict[str, str] = {}
    tiny = 0
    seen: set[str] = set()
    files: dict[Split, list[CodeFile]] = {"test": [], "dev": [], "train": []}
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Workers are spawned, not forked: the parent may hold torch's and Prefect's threads.
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawning, initializer=die_with, initargs=(os.getpid(),)) as pool:
        for split, chosen in files.items():
            for file, outcome in _lex_files(
                pool, _in_order(selection.files[split], limits[split], seed), limits[split], split
            ):
                if outcome.problem:
                    unparsed[file.name] = outcome.problem
                elif outcome.code.count(" ") < MIN_TOKENS or outcome.code in seen:
                    tiny += 1
                else:
                    seen.add(outcome.code)
                    chosen.append(CodeFile(file.name, outcome.code, file.package))
                if len(chosen) == limits[split]:
                    break
    if not any(files.values()) and unparsed:
        name, problem = next(iter(unparsed.items()))
        raise ValueError(f"data.origin.roots: none of {len(unparsed)} files is Python that parses; {name}: {problem}")
    left_out = {**selection.left_out, "tiny_or_same_code": tiny, "unparsed": len(unparsed)}
    report = {
        "found": len(tree.files),
        "left_out": {**left_out, "skipped": len(tree.skipped)},
        "skipped": tree.skipped,
        "unparsed": unparsed,
        "packages": {split: len({file.package for file in selection.files[split]}) for split in files},
    }
    return Corpus(files, report)


class LexResult(NamedTuple):
    """A lexed file's code, or why there is none."""

    code: str
    problem: str


def lex_file(path: Path) -> LexResult:
    """Lex one file; what cannot be read or parsed is reported, never raised."""
    try:
        return LexResult(lex_line(read_source(path)), "")
    except (ValueError, OSError) as error:
        return LexResult("", str(error))


def _lex_files(
    pool: ProcessPoolExecutor, files: Sequence[SourceFile], limit: int, split: Split
) -> Iterator[tuple[SourceFile, LexResult]]:
    remaining = iter(files)
    # A little more than the limit at a time: enough work for every core, little of it wasted.
    while batch := list(islice(remaining, max(64, min(limit + limit // 8, 4096)))):
        outcomes = pool.map(lex_file, [file.path for file in batch], chunksize=16)
        yield from zip(batch, track(outcomes, f"lexing {split}", len(batch)), strict=True)


def _in_order(files: Iterable[SourceFile], limit: int, seed: int) -> list[SourceFile]:
    """The files in seeded order; those of the test split last of which their package has enough for its samples."""
    shuffled = _shuffle(files, seed)
    most, seen = max(1, int(limit * MOST_OF_A_PACKAGE)), Counter[str]()
    first: list[SourceFile] = []
    last: list[SourceFile] = []
    for file in shuffled:
        seen[file.package] += 1
        (last if file.split == "test" and seen[file.package] > most else first).append(file)
    return first + last


def _shuffle(items: Iterable[T], seed: int) -> list[T]:
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    return shuffled


# ------------------------------------------------------------------------------------------------------------ codexglue


def _split_file(origin: CodeXGlue, split: Split) -> Path:
    path = origin.directory / f"{split}.txt"
    if not path.is_file():
        raise ValueError(
            f"data.origin.directory: {path} is missing; CodeXGLUE's layout has train.txt, dev.txt, test.txt"
        )
    return path


def _read_codexglue(origin: CodeXGlue, limits: Mapping[Split, int], seed: int) -> Corpus:
    return _from_lines({split: _lines(_split_file(origin, split)) for split in limits}, limits, seed)


def _lines(path: Path) -> list[str]:
    """The lexed files in a file of CodeXGLUE's, one a line.

    Raises:
        ValueError: it is not UTF-8, or a line is something else; the message names the line.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8; allowed: lexed files in UTF-8") from None
    # Where files were joined that each began with a byte order mark, lines do.
    lines = [line.removeprefix("\ufeff") for line in io.StringIO(text, newline=None).read().split("\n")]
    for number, lexed in enumerate(lines, 1):
        if problem := _no_lexed_file(lexed):
            raise ValueError(f"{path}:{number}: {problem}; allowed: a lexed file, as {START} import os {EOL} {END}")
    return [line for line in lines if line.strip()]


def _no_lexed_file(line: str) -> str:
    """What a line is instead of the tokens of a file; empty if it is that."""
    if "\0" in line:
        return "has a NUL"
    if line.lstrip()[:1] in ("{", "["):
        with suppress(ValueError):
            json.loads(line)
            return "is JSON"
    return ""


def _from_lines(lines: Mapping[Split, Sequence[str]], limits: Mapping[Split, int], seed: int) -> Corpus:
    """Lexed lines, in memory or in a memory-mapped column, to a corpus; only the chosen ones are touched."""
    files: dict[Split, list[CodeFile]] = {}
    unparsed = 0
    for split, texts in lines.items():
        files[split] = []
        for index in _shuffle(range(len(texts)), seed):
            if len(files[split]) == limits[split]:
                break
            code = _wrap(texts[index])
            if code.count(" ") >= MIN_TOKENS:
                files[split].append(CodeFile(f"{split}/{index}", code))
            else:
                unparsed += 1
    return Corpus(files, {"found": sum(map(len, lines.values())), "left_out": {"tiny_or_unparsed": unparsed}})


def _wrap(line: str) -> str:
    line = line.strip()
    return line if line.startswith(START) and line.endswith(END) else f"{START} {line} {END}"


# ------------------------------------------------------------------------------------------------------------------ hub


class _CodeColumn(Sequence[str]):
    """Token lists of a hub data set, joined only when looked at."""

    def __init__(self, rows: Sequence[Mapping[str, list[str]]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # nobody takes slices of it
        tokens = self._rows[index]["code"]
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ValueError(f"data.origin.id: row {index} of column `code` is not a list of strings, PY150's tokens")
        return " ".join(tokens)


def _read_hub(origin: HubData, limits: Mapping[Split, int], seed: int) -> Corpus:
    from datasets import DatasetDict, load_dataset

    local = Path(origin.id).is_dir()
    loaded = load_dataset(origin.id, origin.config, revision=None if local else origin.revision)
    if not isinstance(loaded, DatasetDict) or not {"train", "test"} <= set(loaded):
        raise ValueError(f"data.origin.id: {origin.id} has no train and test split")
    if "code" not in loaded["train"].column_names:
        raise ValueError(f"data.origin.id: {origin.id} has no column `code` (a list of PY150 tokens)")
    train, dev = loaded["train"], loaded.get("validation")
    if dev is None:
        last = len(train) - max(1, len(train) // _DEV_SHARE_OF_TRAIN)
        train, dev = train.select(range(last)), train.select(range(last, len(train)))
    columns: dict[Split, Sequence[str]] = {
        "train": _CodeColumn(train),
        "dev": _CodeColumn(dev),
        "test": _CodeColumn(loaded["test"]),
    }
    return _from_lines(columns, limits, seed)
