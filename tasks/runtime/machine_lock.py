"""The lock of everything that measures on this machine, for processes that share a state directory."""

from __future__ import annotations

import platform

from filelock import FileLock

from slimline.storage.paths import home

_POLL_S = 0.2


def measuring_lock() -> FileLock:
    """The machine's lock: whoever holds it measures undisturbed; a thread that holds it may take it again.

    The machine's name is in it, because the nodes of a cluster share the directory, not their processors.
    """
    home().mkdir(parents=True, exist_ok=True)
    return FileLock(home() / f"measuring-{platform.node()}.lock", is_singleton=True, poll_interval=_POLL_S)
