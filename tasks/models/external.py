"""How a model that others made is run: names of its inputs and outputs, and its limits, in a file of its artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.specs import ForeignFormat

LAYOUT = "external.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Port(_Part):
    """An input of a graph: its name, and the type of its numbers."""

    name: str
    dtype: Literal["int64", "int32", "float32", "float16", "bool"]


class CachePort(Port):
    """A part of the key/value cache: an input, and the output that is the next run's input."""

    present: str
    shape: tuple[int, ...]
    """Of an empty cache of one row."""
    batch_axis: int


class GraphInputs(_Part):
    """The inputs of a graph by what they mean; None for those that it does not have.

    Attributes:
        tokens: Ids of the new tokens, [rows, new].
        mask: 1 for every token in the cache and every new one, [rows, cached + new].
        positions: Of the new tokens, [rows, new].
        kept: How many of the last tokens' logits are returned.
        has_cache: [1], whether the cache is used: false in the first run of optimum's merged decoders.
        parents: The previous row that each row continues, [rows], of a model whose cache is its state.
    """

    tokens: Port
    mask: Port | None = None
    positions: Port | None = None
    kept: Port | None = None
    has_cache: Port | None = None
    parents: Port | None = None


class Layout(_Part):
    """What an engine has to know of a model that others made.

    Attributes:
        format: Of its files.
        n_positions: The most tokens of a text.
        vocabulary: The number of logits of a token.
        graph: The file that the engine opens.
        first_graph: Another one for the first run, which has no cache; None if `graph` takes an empty one.
        inputs: Of `graph`; None where the format says it.
        logits: Name of the output.
        cache: Its parts; empty if it is the model's own state.
    """

    format: ForeignFormat
    n_positions: PositiveInt
    vocabulary: PositiveInt
    graph: str = ""
    first_graph: str | None = None
    inputs: GraphInputs | None = None
    logits: str = "logits"
    cache: tuple[CachePort, ...] = ()


def is_external(directory: Path) -> bool:
    """Whether an artifact is a model that others made."""
    return (directory / LAYOUT).is_file()


def read_layout(directory: Path) -> Layout:
    """The layout of the model in an artifact.

    Raises:
        CheckpointError: it is missing or not valid.
    """
    path = directory / LAYOUT
    try:
        return Layout.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path}: not the layout of an external model: {error}") from None


def write_layout(layout: Layout, directory: Path) -> None:
    """Write the layout beside the files of the model."""
    text = layout.model_dump_json(indent=1, exclude_none=True)
    (directory / LAYOUT).write_text(text + "\n", encoding="utf-8")


class Limits(NamedTuple):
    """The most tokens of a text, and the number of logits of a token."""

    n_positions: int
    vocabulary: int


def limits_of(directory: Path) -> Limits:
    """The limits of a model, of slimline's own or of others.

    Raises:
        CheckpointError: it has neither a layout nor the configuration of a GPT-2.
    """
    if is_external(directory):
        layout = read_layout(directory)
        return Limits(layout.n_positions, layout.vocabulary)
    config = read_gpt2_config(directory)
    return Limits(config["n_positions"], config["vocab_size"])
