"""Where the metrics store's Parquet files lie, locally or remotely: <table>/month=YYYY-MM/<unique>.parquet.

Readers need no lock while files are merged. Before a merged file appears, a list of the files that it replaces is
written beside it (<unique>.replaces.json); a reader who sees the merged file ignores those. They stay for a while,
because a reader who has listed them earlier may still open them.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from slimline.storage import fs

PARQUET = ".parquet"
REPLACES = ".replaces.json"
LOCK = ".merging"
GRACE = timedelta(minutes=15)
"""How long a replaced file stays for those who have listed it: far longer than a query may take."""


class Partitions(Protocol):
    """Whole files below one root, by path relative to it."""

    consistent_up_to: int
    """Files that one listing shows as they were at one moment; of more, some may be renamed while it is made."""

    def names(self, table: str | None = None) -> list[str]:
        """Every file of a table, or of all of them, as <table>/<month>/<name>, sorted."""

    def location(self, name: str) -> str:
        """The path that a reader opens."""

    def read(self, name: str) -> bytes:
        """A file's content."""

    def write(self, name: str, content: bytes) -> None:
        """Put a new file: others see all of it or nothing."""

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""

    def merge_lock(self, table: str) -> Any:
        """A context in which no other process merges this table."""


class LocalPartitions:
    """Below a local directory, durable against a power cut."""

    consistent_up_to = 0

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, table: str | None = None) -> list[str]:
        """Every file of a table, or of all of them, as <table>/<month>/<name>, sorted."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob(f"{table or '*'}/month=*/*"))

    def location(self, name: str) -> str:
        """The absolute path."""
        return str((self.root / name).absolute())

    def read(self, name: str) -> bytes:
        """A file's content."""
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Scratch file, fsync, rename, fsync."""
        fs.write_whole(self.root, self.root / name, content)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def merge_lock(self, table: str) -> Iterator[None]:
        """Hold the table's lock, which ends with this process; delete the files that killed writers left."""
        fs.make_directory(self.root / table)
        with (self.root / table / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fs.remove_stale(self.root)
            yield


class RemotePartitions:
    """Below an fsspec URL. An upload appears when it is complete."""

    consistent_up_to = 999  # S3 lists a thousand at a time

    def __init__(self, url: str) -> None:
        import fsspec

        self.fs, root = fsspec.url_to_fs(url, use_listings_cache=False)
        self.root = str(root).rstrip("/")

    def names(self, table: str | None = None) -> list[str]:
        """Every file of a table, or of all of them, as <table>/<month>/<name>, sorted."""
        found = self.fs.find(f"{self.root}/{table}" if table else self.root)
        return sorted(str(path).removeprefix(f"{self.root}/") for path in found)

    def location(self, name: str) -> str:
        """The path within the file system."""
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes:
        """A file's content."""
        return bytes(self.fs.cat_file(self.location(name)))

    def write(self, name: str, content: bytes) -> None:
        """One upload."""
        self.fs.pipe_file(self.location(name), content)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self.fs.exists(self.location(name)):
            self.fs.rm_file(self.location(name))

    @contextmanager
    def merge_lock(self, table: str) -> Iterator[None]:
        """Remote file systems have no lock: whoever schedules merging must run one at a time."""
        yield


def visible(partitions: Partitions, table: str | None = None) -> list[str]:
    """The files that hold a table's rows, or those of all tables: all but those that a merged file replaces."""
    names = _settled(partitions, table)
    gone = {old for merge in _merges(partitions, names) for old in merge.olds}
    return [name for name in names if name.endswith(PARQUET) and name not in gone]


def _settled(partitions: Partitions, table: str | None) -> list[str]:
    """A consistent listing: two in a row that agree, where one alone may miss what is renamed while it is made."""
    before, names = None, partitions.names(table)
    while names != before and len(names) > partitions.consistent_up_to:
        before, names = names, partitions.names(table)
    return names


class _Merge(NamedTuple):
    """What a merged file replaces, since when, and the name of the list that says so."""

    at: datetime
    name: str
    olds: list[str]


def _merges(partitions: Partitions, names: list[str]) -> list[_Merge]:
    """The merges whose merged file is there, the earliest first."""
    lists = [name for name in names if name.endswith(REPLACES) and _merged_by(name) in names]
    read = {name: json.loads(content) for name in lists if (content := _read_if_there(partitions, name))}
    return sorted(_Merge(datetime.fromisoformat(each["at"]), name, each["olds"]) for name, each in read.items())


def _merged_by(name: str) -> str:
    return name.removesuffix(REPLACES) + PARQUET


def _read_if_there(partitions: Partitions, name: str) -> bytes | None:
    try:
        return partitions.read(name)
    except FileNotFoundError:  # the merge has just been finished: what it replaced is deleted
        return None


def replace(partitions: Partitions, merged: str, content: bytes, olds: list[str]) -> None:
    """Put a merged file in place of `olds`, which `finish` deletes later."""
    listed = {"at": datetime.now(UTC).isoformat(), "olds": olds}
    partitions.write(merged.removesuffix(PARQUET) + REPLACES, json.dumps(listed).encode())
    partitions.write(merged, content)


def finish(partitions: Partitions, table: str, grace: timedelta) -> None:
    """Delete what was replaced `grace` ago or earlier, then the list of it; and lists of merges that never were."""
    names = partitions.names(table)
    for name in names:
        if name.endswith(REPLACES) and _merged_by(name) not in names:
            partitions.remove(name)
    ripe = datetime.now(UTC) - grace
    # The earliest first: a merged file that was merged again goes after what it hides, else that would come back.
    for merge in _merges(partitions, names):
        if merge.at > ripe:
            break
        for name in (*merge.olds, merge.name):
            partitions.remove(name)
