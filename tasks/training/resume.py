"""Checkpoints of the Trainer, from which a training resumes after its process was killed."""

from __future__ import annotations

import shutil
from pathlib import Path

from slimline.storage.fs import sync

_COMPLETE = "complete"


def mark_complete(checkpoint: Path) -> None:
    """Mark a checkpoint of the Trainer as complete, once all its bytes are on the disk."""
    for path in sorted(checkpoint.iterdir()):
        sync(path)
    (checkpoint / _COMPLETE).touch()
    sync(checkpoint)


def last_checkpoint(work_dir: Path) -> Path | None:
    """The newest complete `checkpoint-<step>` of `work_dir`; incomplete ones are removed."""
    complete = []
    for path in work_dir.glob("checkpoint-*"):
        if (path / _COMPLETE).is_file():
            complete.append(path)
        else:
            shutil.rmtree(path)
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
