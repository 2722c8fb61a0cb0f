"""The secret that lets people and programs in: a file that only its owner reads, made when it is first needed."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

_BYTES = 32
_MODE = 0o600


def token(path: Path) -> str:
    """The token in a file, which is made where it is missing.

    Raises:
        ValueError: others may read the file, or it holds no token.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        write_private(path, secrets.token_urlsafe(_BYTES), exclusive=True)
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path}: others may read it; delete it, and a new one is made")
    text = path.read_text("utf8").strip()
    if len(text) < _BYTES:
        raise ValueError(f"{path} holds no token; delete it, and a new one is made")
    return text


def write_private(path: Path, text: str, exclusive: bool = False) -> None:
    """Write a file that only its owner reads; FileExistsError if it is there and `exclusive`."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if exclusive else os.O_TRUNC)
    with os.fdopen(os.open(path, flags, _MODE), "w", encoding="utf8") as file:
        os.fchmod(file.fileno(), _MODE)
        file.write(text)
