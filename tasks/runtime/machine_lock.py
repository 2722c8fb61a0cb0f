"""The machine lock: whoever holds it builds or measures alone on this machine.

It is one file for every state directory, every Prefect server and every user of the machine. The kernel frees it when
its holder ends, however that happens.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

LOCK_DIRECTORY = "SLIMLINE_LOCK_DIR"
LOCK_FILE = "slimline.lock"

# Local to the machine, emptied when it starts, and the same for a user's service, which may have a /tmp of its own.
_CANDIDATES = (Path("/run/lock"), Path("/tmp"))  # noqa: S108 - the file is opened without following links
_SHARED_MODE = stat.S_ISVTX | stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO
_FILE_MODE = 0o666
_POLL_S = 0.2
_TELL_AFTER_S = 1.0  # a shorter wait is not worth a line
_LONGEST_HOLDER = 500

_log = logging.getLogger(__name__)
_thread = threading.local()


class MachineLockError(RuntimeError):
    """The lock file cannot be used; the message names it, and how to choose another."""


@contextmanager
def machine_lock(purpose: str) -> Iterator[None]:
    """Hold the machine lock; a thread that holds it already goes on at once.

    Args:
        purpose: What the machine is needed for; processes that wait are told.

    Raises:
        MachineLockError: the lock file cannot be opened, or is not a regular file.
    """
    if getattr(_thread, "holder", None) == os.getpid():  # a forked child has the variable, but not the lock
        yield
        return
    lock = _acquire(lock_directory() / LOCK_FILE, purpose)
    _thread.holder = os.getpid()
    try:
        yield
    finally:
        _thread.holder = None
        lock.release()


def lock_directory() -> Path:
    """The directory of the lock file, the same for every user of this machine.

    Raises:
        MachineLockError: SLIMLINE_LOCK_DIR is not the absolute path of a directory.
    """
    chosen = os.environ.get(LOCK_DIRECTORY)
    if not chosen:
        return next(filter(_is_shared, _CANDIDATES), Path(tempfile.gettempdir()))
    directory = Path(chosen)
    if not (directory.is_absolute() and directory.is_dir()):
        allowed = "the absolute path of a directory on this machine that every user who measures may write to"
        raise MachineLockError(f"{LOCK_DIRECTORY} is {chosen!r}; allowed: {allowed}")
    return directory


def _is_shared(directory: Path) -> bool:
    """Whether every user may write there, but not replace the files of others; root must choose as users do."""
    try:
        mode = directory.stat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and mode & _SHARED_MODE == _SHARED_MODE


def _acquire(path: Path, purpose: str) -> FileLock:
    # The mode is set whatever the umask is. Without flock, there is no lock that the kernel frees: better none.
    write_holder = partial(_write_holder, purpose)
    lock = FileLock(path, mode=_FILE_MODE, poll_interval=_POLL_S, fallback_to_soft=False, on_acquired=write_holder)
    try:
        try:
            lock.acquire(timeout=_TELL_AFTER_S)
        except Timeout:
            if not path.exists():  # as in /proc, where opening says no more
                raise OSError("it cannot be created") from None
            _log.warning("%s waits for this machine: it is used by %s", purpose, _read_holder(path))
            lock.acquire()
    except OSError as error:
        reason = f"the machine lock {path} cannot be used: {error.strerror or error}"
        raise MachineLockError(f"{reason}; choose another directory by {LOCK_DIRECTORY}") from error
    return lock


def _write_holder(purpose: str, descriptor: int) -> None:
    """Say in the lock file who holds it; a file of another kind, or with a second name, could be somebody else's."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise OSError("it is not a regular file with one name")
    holder = f"process {os.getpid()} of {psutil.Process().username()}: {purpose}"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, holder.encode()[:_LONGEST_HOLDER], 0)


def _read_holder(path: Path) -> str:
    """Who holds the lock; anybody may have written the file, so nothing in it reaches the terminal but plain text."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(_LONGEST_HOLDER).decode("utf8", "replace")
    except OSError:
        text = ""
    return "".join(filter(str.isprintable, text)) or "another process"
