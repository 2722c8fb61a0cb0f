"""Local copies of files in remote stores, of which the longest unused go when they become too large."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from slimline.storage import fs

LIMIT = "SLIMLINE_CACHE_GB"
_DEFAULT_GB = 20.0
_IN_USE_S = 3600


def cache_directory(url: str) -> Path:
    """Directory for local copies of what is below a URL: in $XDG_CACHE_HOME (default ~/.cache)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "slimline" / hashlib.sha256(url.encode()).hexdigest()[:16]


def cache_limit() -> float:
    """The most bytes of a cache: SLIMLINE_CACHE_GB, by default 20 GB.

    Raises:
        ValueError: it is no number of gigabytes.
    """
    text = os.environ.get(LIMIT, str(_DEFAULT_GB))
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < float("inf"):
        raise ValueError(f"{LIMIT}: {text!r}; allowed: a number of gigabytes, 0 or more")
    return gigabytes * 1e9


class ReadCache:
    """Copies of immutable files, by a key that is another one if the content is another one."""

    def __init__(self, url: str) -> None:
        self.root = cache_directory(url)
        self._is_shrunk = False

    def path(self, key: str, read: Callable[[], bytes]) -> Path:
        """The copy of a file; `read` gets its content if there is none, and then the cache is kept within its limit."""
        path = self.root / "files" / hashlib.sha256(key.encode()).hexdigest()
        with suppress(FileNotFoundError):
            os.utime(path)  # used now
            return path
        if not self._is_shrunk:  # once a process: what it reads itself stays for an hour
            remove_unused(list((self.root / "files").glob("*")), lambda copy: copy.unlink(missing_ok=True))
            self._is_shrunk = True
        fs.write_whole(self.root, path, read())
        return path


def remove_unused(copies: Iterable[Path], remove: Callable[[Path], object]) -> None:
    """Remove those of some files and directories that were used longest ago, while all take more than the limit.

    When one was used is its time of modification. Those of the last hour stay: a process may be reading them.
    """
    limit, found = cache_limit(), []
    for path in copies:
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, _size(path), path))
    size = sum(each for _, each, _ in found)
    for used, each, path in sorted(found):
        if size <= limit or used > time.time() - _IN_USE_S:
            return
        remove(path)
        size -= each


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file())
