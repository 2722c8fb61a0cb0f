"""Writes that survive a power cut, and scratch directories whose names tell whether their owner still runs."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

STAGING = ".staging"
# Whether a process of another host still runs cannot be found out here, so its scratch is kept this long.
FOREIGN_STALE_S = 7 * 24 * 3600.0
_OWNER = re.compile(r"(?P<host>[A-Za-z0-9_-]+)\.(?P<pid>[0-9]+)\.(?P<start>[0-9]+)\.[0-9a-f]{32}")


@cache
def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname()) or "_"


def scratch_name() -> str:
    """A unique name `<host>.<pid>.<start, s since the machine's>.<random>` that names this process as its owner."""
    pid = os.getpid()  # not cached: a forked child is an owner of its own
    return f"{_host()}.{pid}.{round(start_time(pid) or 0)}.{uuid.uuid4().hex}"


def is_stale(scratch: Path) -> bool:
    """Whether the process that made this scratch entry has ended, so that nobody will use it any more."""
    owner = _OWNER.match(scratch.name)
    if owner is None or owner["host"] != _host():
        return time.time() - scratch.stat().st_mtime > FOREIGN_STALE_S
    started = start_time(int(owner["pid"]))
    return started is None or round(started) != int(owner["start"])


def start_time(pid: int) -> float | None:
    """When a process started, s since the machine did; None if it has ended.

    With its identifier, which is used again, it names the process. The clock is no part of it: that may be set anew.
    """
    import psutil  # a reader, which never writes, starts without it

    try:
        return round(psutil.Process(pid).create_time() - psutil.boot_time(), 2)
    except psutil.NoSuchProcess:
        return None


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A fresh directory below `root`/.staging, on the file system of `root`; removed afterwards, if still there."""
    directory = root / STAGING / scratch_name()
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        remove_tree(directory)


def remove_stale(root: Path) -> None:
    """Remove the scratch entries below `root` whose processes have ended."""
    staging = root / STAGING
    for entry in list(staging.iterdir()) if staging.is_dir() else []:
        try:
            if is_stale(entry):
                remove_tree(entry)
        except FileNotFoundError:  # its owner has just removed it
            continue


def remove_tree(directory: Path) -> None:
    """Remove a directory, if it is there, whoever else is removing it."""
    shutil.rmtree(directory, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file's content, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents, durably."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a new file and make its content durable."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(root: Path, path: Path, content: bytes) -> None:
    """Put a file at `path` (below `root`) such that readers see all of it or nothing, even after a power cut."""
    make_directory(path.parent)
    with scratch(root) as directory:
        write_bytes(directory / "file", content)
        (directory / "file").rename(path)
    sync(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of the user's: beside it, then in its place, so that a full disk never costs what was there.

    What is no regular file, such as a pipe or /dev/stdout, is written to.

    Raises:
        OSError: it cannot be written; then what was there is unchanged.
    """
    place = path.resolve()
    if place.exists() and not place.is_file():
        place.write_bytes(content)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        write_bytes(draft, content)
        if place.exists():
            draft.chmod(place.stat().st_mode & 0o777)
        draft.replace(place)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # the file's own name, not the draft's
    finally:
        draft.unlink(missing_ok=True)


def require_room(directory: Path, setting: str, bytes_needed: int) -> None:
    """Make a directory, if it is not there, and see that files can be written to it.

    Args:
        directory: the directory.
        setting: where the user chose it, for the message.
        bytes_needed: how much has to be free at least.

    Raises:
        ValueError: it cannot be written to, or has less room; the message names it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".{uuid.uuid4().hex}.probe"
        write_bytes(probe, b"")
        probe.unlink()
    except OSError as error:
        reason = error.strerror if directory.is_dir() or not directory.exists() else "it is a file"
        raise ValueError(f"{setting}: {directory} cannot be written to: {reason}; choose another") from error
    free = shutil.disk_usage(directory).free
    if free < bytes_needed:
        need = f"{bytes_needed / 1e6:,.0f} MB are needed at least"
        raise ValueError(f"{setting}: {directory} has {free / 1e6:,.0f} MB left; {need}")
