"""Files of a directory that others made: each by a name within it, which is what an artifact gets a copy of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from slimline.tasks.models.checkpoint import CheckpointError, read_object
from slimline.tasks.models.external import Layout

_POSITIONS = (
    *("n_positions", "max_position_embeddings", "n_ctx", "max_sequence_length", "max_seq_len"),
    *("seq_length", "context_length"),
)
_NO_LIMIT = 10_000_000  # transformers writes 10^30 where a tokenizer has none


class Foreign(NamedTuple):
    """What is known of a model: how it is run, and notes for provenance: parameters, where they can be counted."""

    layout: Layout
    notes: dict[str, Any]


class ForeignDirectory:
    """A directory that others made, and which of its files have been asked for.

    A name that a file of the directory gives is never a path to somewhere else, and a link leads nowhere else, except
    into the blobs of the Hugging Face cache that the directory is a snapshot of.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._taken: dict[str, Path] = {}
        real = path.resolve()
        self._roots = [real, *(each.parent / "blobs" for each in real.parents if each.name == "snapshots")]

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).is_file()

    def take(self, name: str, why: str = "") -> Path:
        """The path of a file, which inference needs.

        Args:
            name: Relative to the directory.
            why: What to do if it is missing.

        Raises:
            CheckpointError: it is missing, or is not in the directory.
        """
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\\" in name or not place.parts:
            raise CheckpointError(f"{self.path}: {name!r} is not a file of the directory")
        path = self.path / place
        if not path.is_file():
            raise CheckpointError(f"{self.path}: {name} is missing{why and f'; {why}'}")
        if not any(path.resolve().is_relative_to(root) for root in self._roots):
            raise CheckpointError(
                f"{self.path}: {name} is a link to {path.resolve()}; allowed: a file of the directory"
            )
        self._taken[str(place)] = path
        return path

    def object(self, name: str) -> dict[str, Any]:
        """The JSON object in a file; empty if there is no such file.

        Raises:
            CheckpointError: it is not one, or is not in the directory.
        """
        return read_object(self.take(name)) if self.has(name) else {}

    def names(self, *patterns: str) -> list[str]:
        """The names of the files that fit one of the patterns."""
        return [path.relative_to(self.path).as_posix() for path in self._matches(patterns)]

    def _matches(self, patterns: tuple[str, ...]) -> Iterator[Path]:
        for pattern in patterns:
            yield from sorted(path for path in self.path.glob(pattern) if path.is_file())

    def copy_to(self, target: Path) -> None:
        """Copy what has been asked for."""
        for name, path in self._taken.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)


def positions(directory: ForeignDirectory, given: int | None, known: int | None = None) -> int:
    """The most tokens of a text.

    Args:
        directory: What may say it: `config.json`, or the tokenizer's configuration.
        given: What the step says.
        known: What the model says.

    Raises:
        CheckpointError: nothing says it, or the step says more than the model has.
    """
    config = directory.object("config.json")
    nested = config.get("text_config")
    fields = config | (nested if isinstance(nested, dict) else {})
    found = [known, *(fields.get(name) for name in _POSITIONS), _of_tokenizer(directory)]
    most = next((each for each in found if isinstance(each, int) and not isinstance(each, bool) and each > 0), None)
    if most is None and given is None:
        raise CheckpointError(
            f"{directory.path}: config.json has no number of positions ({', '.join(_POSITIONS)}); give n_positions"
        )
    if most is not None and given is not None and given > most:
        raise CheckpointError(f"n_positions: {given}; allowed: at most the model's {most}")
    return given or most or 0


def _of_tokenizer(directory: ForeignDirectory) -> int | None:
    path = directory.path / "tokenizer_config.json"
    value = read_object(path).get("model_max_length") if path.is_file() else None
    return value if isinstance(value, int) and value < _NO_LIMIT else None
