"""The checkpoints that a training which may be killed resumes from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_COMPLETE = "complete"


def seal(checkpoint: Path) -> None:
    """Mark a Trainer checkpoint as whole, once every byte of it is on the disk."""
    for path in sorted(checkpoint.iterdir()):
        _sync(path)
    (checkpoint / _COMPLETE).touch()
    _sync(checkpoint)


def last_checkpoint(work_dir: Path) -> Path | None:
    """The newest sealed `checkpoint-<step>` of `work_dir`; what a killed process left unfinished is removed."""
    sealed = []
    for path in work_dir.glob("checkpoint-*"):
        if (path / _COMPLETE).is_file():
            sealed.append(path)
        else:
            shutil.rmtree(path)
    return max(sealed, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
