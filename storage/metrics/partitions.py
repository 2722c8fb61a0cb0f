"""Where the metrics store's Parquet files lie, locally or remotely: <table>/month=YYYY-MM/<unique>-<checksum>.parquet.

Readers need no lock while files are merged. Before a merged file (<unique>-<checksum>.merged.parquet) appears, a list
of the files that it replaces is written beside it (.replaces.json); a reader who sees the merged file ignores those.
The merged file itself holds the same list, for when the one beside it is lost. They stay for a while, because a reader
who has listed them earlier may still open them. Once they are deleted, the list goes too, and .replaced.json says what
they were called: their absence is no loss.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from slimline.storage import fs
from slimline.storage.metrics.parquet import checksum, merged_from

_log = logging.getLogger(__name__)

PARQUET = ".parquet"
MERGED = ".merged.parquet"
REPLACES = ".replaces.json"
REPLACED = ".replaced.json"
LOCK = ".merging"
GRACE = timedelta(minutes=15)
"""How long a replaced file stays for those who have listed it: far longer than a query may take."""
_NEVER, _LONG_AGO = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)


Files = dict[str, str]
"""Files by name, <table>/<month>/<file>, in the order of their names, each with a stamp that changes as it does."""


class Partitions(Protocol):
    """Whole files below one root, by path relative to it."""

    own_directory: Path
    """A local directory for what is known of the files."""
    is_local: bool
    consistent_up_to: int
    """Files that one listing shows as they were at one moment; of more, some may be renamed while it is made."""

    def files(self, table: str | None = None) -> Files:
        """Every file of a table, or of all of them."""

    def path(self, name: str, stamp: str) -> Path:
        """A local file with that content, which is downloaded if need be."""

    def shown(self, name: str) -> str:
        """A file in messages."""

    def read(self, name: str) -> bytes:
        """A file's content."""

    def write(self, name: str, content: bytes) -> str | None:
        """Put a new file: others see all of it or nothing. Returns its stamp, where that is known."""

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""

    def merge_lock(self, table: str, wait: bool = True) -> AbstractContextManager[None]:
        """A context in which no other process merges this table.

        Raises:
            BlockingIOError: one does, and this one does not `wait`.
        """


class LocalPartitions:
    """Below a local directory, durable against a power cut."""

    is_local = True
    consistent_up_to = 0

    def __init__(self, root: Path) -> None:
        self.root = self.own_directory = root

    def files(self, table: str | None = None) -> Files:
        """Every file of a table, or of all of them, with its size and when it was changed."""
        found: Files = {}
        for month in self.root.glob(f"{table or '*'}/month=*"):
            prefix = month.relative_to(self.root).as_posix()
            try:
                with os.scandir(month) as entries:
                    names = [entry.name for entry in entries]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:  # reading what could be in it will say why
                names = [f"*{PARQUET}"]
            found |= {f"{prefix}/{name}": stamp for name in names if (stamp := _stamp(month / name))}
        return dict(sorted(found.items()))

    def path(self, name: str, stamp: str) -> Path:
        """The absolute path."""
        return (self.root / name).absolute()

    def shown(self, name: str) -> str:
        """The path."""
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        """A file's content."""
        path = self.root / name
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return path.read_bytes()

    def write(self, name: str, content: bytes) -> str:
        """Scratch file, fsync, rename, fsync."""
        fs.write_whole(self.root, self.root / name, content)
        return _stamp(self.root / name)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there, or what somebody has put in its place."""
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            fs.remove_tree(path)
        path.unlink(missing_ok=True)

    @contextmanager
    def merge_lock(self, table: str, wait: bool = True) -> Iterator[None]:
        """Hold the table's lock, which ends with this process; delete the files that killed writers left."""
        fs.make_directory(self.root / table)
        with (self.root / table / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            fs.remove_stale(self.root)
            yield


def _stamp(path: Path) -> str:
    """A file's size and time; of what cannot be looked at, none; empty if it is gone."""
    try:
        seen = path.stat()
    except OSError as error:
        return "" if isinstance(error, FileNotFoundError) and not path.is_symlink() else "0-0"
    return f"{seen.st_size}-{seen.st_mtime_ns}"


def size_in(stamp: str) -> int:
    """The bytes of a file, of which its stamp begins."""
    return int(stamp.partition("-")[0])


class RemotePartitions:
    """Below an fsspec URL. An upload appears when it is complete."""

    is_local = False
    consistent_up_to = 999  # S3 lists a thousand at a time

    def __init__(self, url: str) -> None:
        import fsspec

        from slimline.storage.cache import ReadCache

        self.fs, root = fsspec.url_to_fs(url, use_listings_cache=False)
        self.url, self.root = url, str(root).rstrip("/")
        self.cache = ReadCache(url)
        self.own_directory = self.cache.root

    def files(self, table: str | None = None) -> Files:
        """Every file of a table, or of all of them, with its size and its ETag where it has one."""
        found = self.fs.find(f"{self.root}/{table}" if table else self.root, detail=True)
        stamps = {path: f"{info['size']}-{str(info.get('ETag', '')).strip(chr(34))}" for path, info in found.items()}
        return {str(path).removeprefix(f"{self.root}/"): stamp for path, stamp in sorted(stamps.items())}

    def shown(self, name: str) -> str:
        """The URL."""
        return f"{self.url}/{name}"

    def path(self, name: str, stamp: str) -> Path:
        """A copy in the read cache."""
        return self.cache.path(f"{name}-{stamp}", lambda: self.read(name))

    def read(self, name: str) -> bytes:
        """A file's content."""
        return bytes(self.fs.cat_file(self._place(name)))

    def write(self, name: str, content: bytes) -> None:
        """One upload."""
        self.fs.pipe_file(self._place(name), content)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self.fs.exists(self._place(name)):
            self.fs.rm_file(self._place(name))

    @contextmanager
    def merge_lock(self, table: str, wait: bool = True) -> Iterator[None]:
        """Remote file systems have no lock: whoever schedules merging must run one at a time."""
        yield

    def _place(self, name: str) -> str:
        return f"{self.root}/{name}"


class Listing(NamedTuple):
    """The files at one moment, and the names of those that a merged file replaces."""

    files: Files
    replaced: set[str]

    @property
    def visible(self) -> Files:
        """The files that hold rows."""
        files = self.files.items()
        return {name: stamp for name, stamp in files if name.endswith(PARQUET) and name not in self.replaced}


def listing(partitions: Partitions, table: str | None = None) -> Listing:
    """The files of a table, or of all tables."""
    files = _settled(partitions, table)
    return Listing(files, {old for merge in _merges(partitions, files) for old in merge.olds})


def _settled(partitions: Partitions, table: str | None) -> Files:
    """A consistent listing: two in a row that agree, where one alone may miss what is renamed while it is made."""
    before, files = None, partitions.files(table)
    while files != before and len(files) > partitions.consistent_up_to:
        before, files = files, partitions.files(table)
    return files


class _Merge(NamedTuple):
    """What a merged file replaces, since when, and the name of the list that says so."""

    at: datetime
    name: str
    olds: list[str]


def _merges(partitions: Partitions, names: Collection[str]) -> list[_Merge]:
    """The merges whose merged file is there, the earliest first."""
    lists = {name for name in names if name.endswith(REPLACES) and _merged_by(name) in names}
    merged = {name for name in names if name.endswith(MERGED) and _history(name) not in names}
    lists |= {_list_of(name) for name in merged}
    return sorted(merge for name in lists if (merge := _read_merge(partitions, name)))


def _merged_by(name: str) -> str:
    return name.removesuffix(REPLACES) + PARQUET


def _list_of(merged: str) -> str:
    return merged.removesuffix(PARQUET) + REPLACES


def _read_merge(partitions: Partitions, name: str) -> _Merge | None:
    """What a list says; if it is lost or damaged, what the merged file itself says, unless an older version made it."""
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        listed = json.loads(partitions.read(name))
        olds, at = _names(listed["olds"]), datetime.fromisoformat(listed["at"]).astimezone(UTC)
        if listed.get("checksum", _checksum(olds)) == _checksum(olds):
            return _Merge(at, name, olds)
    merged = _merged_by(name)
    if not merged.endswith(MERGED) and name not in partitions.files(merged.partition("/")[0]):
        return None  # the merge has just been finished: what it replaced is deleted
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        content = partitions.read(merged)
        if checksum(merged.partition("/")[0], content) in merged:
            # Long ago, so that what it replaces goes before itself may be replaced.
            return _Merge(_LONG_AGO, name, _names(json.loads(merged_from(content))))
    # Without its list the merged file would count all rows twice: what it replaces is still there.
    _log.warning("%s: not readable, so what it merged is read instead", partitions.shown(name))
    return _Merge(_NEVER, name, [merged])


def _names(listed: object) -> list[str]:
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise TypeError("not a list of names")
    return listed


def _checksum(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode("utf8", "surrogateescape")).hexdigest()


def replace(partitions: Partitions, merged: str, content: bytes, olds: list[str]) -> None:
    """Put a merged file in place of `olds`, which `finish` deletes later."""
    listed = {"at": datetime.now(UTC).isoformat(), "olds": olds, "checksum": _checksum(olds)}
    partitions.write(_list_of(merged), json.dumps(listed).encode())
    partitions.write(merged, content)


def finish(partitions: Partitions, table: str, grace: timedelta) -> None:
    """Delete what was replaced `grace` ago or earlier, then the list of it; and lists of merges that never were."""
    files = partitions.files(table)
    for name in files:
        if name.endswith(REPLACES) and _merged_by(name) not in files:
            partitions.remove(name)
    ripe = datetime.now(UTC) - grace
    # The earliest first: a merged file that was merged again goes after what it hides, else that would come back.
    for merge in _merges(partitions, files):
        if merge.at > ripe:
            break
        _finish(partitions, merge)


def _finish(partitions: Partitions, merge: _Merge) -> None:
    """Delete what a merge replaced, once it is written down what is gone; `merge.name`, which hides it, goes last."""
    histories = [_history(old) for old in merge.olds]
    gone = {*merge.olds, *(name for history in histories for name in replaced(partitions, history))}
    own = _history(_merged_by(merge.name))
    partitions.write(own, json.dumps(sorted(gone.union(replaced(partitions, own)))).encode())
    for name in (*merge.olds, *histories, merge.name):
        partitions.remove(name)


def _history(name: str) -> str:
    return name.removesuffix(PARQUET) + REPLACED


def replaced(partitions: Partitions, history: str) -> list[str]:
    """The files that a merged file has replaced for good, from the list with that name; none if it is not there."""
    try:
        return _names(json.loads(partitions.read(history)))
    except (OSError, ValueError, TypeError, RecursionError):
        return []
