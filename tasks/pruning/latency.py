"""Latency tables: the seconds of each structure of a GPT-2 on this host and engine.

    python -m slimline.tasks.pruning.latency MODEL_DIR [--timed-on ENGINE] [--remeasure]

As in ZipLM (arXiv:2302.04089) a model's time is the sum of its structures' times: of the embedding with the head, of
each layer's attention, and of each layer's feed-forward part. Whole models are timed on the real engine, and a least
squares fit gives the parts. A table is measured once for a host, an engine and a model's shape, and stored as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationError, model_validator

from slimline.storage.fs import write_whole
from slimline.storage.paths import home
from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.pruning.shapes import Shape, shape_of
from slimline.tasks.pruning.timing import NEW_TOKENS, TimedOn, TimingRequest, time_shapes
from slimline.tasks.runtime.code_hash import code_hash, step_libraries
from slimline.tasks.runtime.host import describe_host, usable_cpus, usable_threads
from slimline.tasks.runtime.machine_lock import machine_lock

_MODULES: dict[TimedOn, tuple[str, ...]] = {
    "torch": ("slimline.tasks.engines.torch_engine",),
    "onnxruntime": ("slimline.tasks.engines.onnx_engine", "slimline.tasks.export.onnx_export"),
    "onnxruntime-int8": (
        "slimline.tasks.engines.onnx_engine",
        "slimline.tasks.quantization.onnx_int8",
        "slimline.tasks.export.onnx_export",
    ),
}
# In the exported graph, the last layer's feed-forward part runs on the prompt's last token only.
_SHORT_LAYERS: dict[TimedOn, int] = {"torch": 0, "onnxruntime": 1, "onnxruntime-int8": 1}
_HEAD_COUNTS = 5  # at most, from one to all; times between two of them are interpolated
_DEPTH = 6  # layers of the deep models, at most
_VOCABULARY = 8192  # at most, for all but one model: so many embeddings would fill the memory
_INNER_MULTIPLE = 32

Floats = NDArray[np.float64]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Setting(_Data):
    """What a table depends on; if anything of it changes, the table is measured again."""

    host: str = Field(description="Fingerprint of the hardware.")
    cpu: str
    threads: PositiveInt
    timed_on: TimedOn
    versions: dict[str, str] = Field(description="Of the libraries the engine imports.")
    code: str = Field(description="Hash of the engine's code and of ours.")
    original: Shape


class Seconds(_Data):
    """Seconds of a structure: `prefill_s` for a prompt of the table's length, `decode_s` for one further token."""

    prefill_s: NonNegativeFloat
    decode_s: NonNegativeFloat


class Structures(_Data):
    """Seconds of the parts of models with the same number of heads, and so the same width.

    Attributes:
        heads: Number of heads.
        width: Channels of the residual stream.
        base: Embedding, head, and everything else outside the layers.
        attention: One layer without its feed-forward neurons.
        feed_forward: One layer's feed-forward neurons, for each number of them in the table's `inner`.
    """

    heads: PositiveInt
    width: PositiveInt
    base: Seconds
    attention: Seconds
    feed_forward: tuple[Seconds, ...]


class LatencyTable(_Data):
    """Seconds by structure.

    Attributes:
        setting: What the table depends on.
        prompt_tokens: Tokens of the timed prompts.
        inner: Numbers of feed-forward neurons that were timed.
        structures: The parts for each number of heads, ascending.
        spread: Interquartile range of the timings, relative to their median. A few per cent are usual; with tens of per
            cent other work was running, and the table should be measured again.
    """

    setting: Setting
    prompt_tokens: PositiveInt
    inner: tuple[PositiveInt, ...] = Field(min_length=1)
    structures: tuple[Structures, ...] = Field(min_length=1)
    spread: NonNegativeFloat

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        for parts in self.structures:
            if len(parts.feed_forward) != len(self.inner):
                raise ValueError(f"feed_forward has {len(parts.feed_forward)} entries; allowed: {len(self.inner)}")
        return self

    def seconds(self, shape: Shape, prompt_tokens: int, new_tokens: int) -> float:
        """Seconds of one completion, batch 1: a prefill for the first new token, a decoding step for each further one.

        Times between measured numbers of heads and neurons are interpolated linearly; the layers' share of the prefill
        grows in proportion to the prompt.

        Raises:
            ValueError: the shape is neither the measured model's nor a smaller one of it.
        """
        self._check(shape)
        heads = [parts.heads for parts in self.structures]
        seconds = [self._completion(parts, shape, prompt_tokens, new_tokens) for parts in self.structures]
        return float(np.interp(shape.heads, heads, seconds))

    def _completion(self, parts: Structures, shape: Shape, prompt_tokens: int, new_tokens: int) -> float:
        sizes = (0, *self.inner)
        neurons = np.interp(shape.inner, sizes, [0.0, *(seconds.prefill_s for seconds in parts.feed_forward)])
        neurons_of_one = np.interp(shape.inner, sizes, [0.0, *(seconds.decode_s for seconds in parts.feed_forward)])
        short = _SHORT_LAYERS[self.setting.timed_on]
        layers = shape.layers * parts.attention.prefill_s + (shape.layers - short) * neurons
        prefill = parts.base.prefill_s + layers * prompt_tokens / self.prompt_tokens + short * neurons_of_one
        decode = parts.base.decode_s + shape.layers * (parts.attention.decode_s + neurons_of_one)
        return float(prefill + (new_tokens - 1) * decode)

    def _check(self, shape: Shape) -> None:
        original = self.setting.original
        head_width = original.width // original.heads
        is_smaller = all(1 <= size <= most for size, most in zip(shape[:4], original[:4], strict=True))
        if not is_smaller or shape.width != shape.heads * head_width or shape.vocabulary != original.vocabulary:
            raise ValueError(
                f"shape is {shape}; allowed: up to {original.layers} layers, {original.heads} heads of {head_width} "
                f"channels and {original.inner} neurons, with a vocabulary of {original.vocabulary}"
            )


def latency_table(
    original: Shape, timed_on: TimedOn, threads: int, directory: Path, remeasure: bool = False
) -> LatencyTable:
    """This host's table for `original` and all smaller shapes of it.

    It is read from `directory` if it was measured before with the same hardware, libraries and code. A table that is
    damaged or has another setting is measured again.

    Args:
        original: The shape of the model to prune.
        timed_on: The engine.
        threads: Intra-op threads.
        directory: Where tables are stored.
        remeasure: Measure even if there is a table.

    Raises:
        RuntimeError: no model of that shape runs on the engine.
    """
    setting = _setting(original, timed_on, threads)
    digest = hashlib.sha256(setting.model_dump_json().encode()).hexdigest()
    path = directory / f"{timed_on}-{digest[:16]}.json"
    table = None if remeasure else _read(path, setting)
    if table is None:
        table = _measure(setting)
        write_whole(directory, path, table.model_dump_json(indent=1).encode())
    return table


def _setting(original: Shape, timed_on: TimedOn, threads: int) -> Setting:
    host = describe_host()
    return Setting(
        host=host.fingerprint,
        cpu=host.cpu,
        threads=threads,
        timed_on=timed_on,
        versions=step_libraries(*_MODULES[timed_on]),
        code=code_hash("slimline.tasks.pruning.latency", *_MODULES[timed_on]),
        original=original,
    )


def _read(path: Path, setting: Setting) -> LatencyTable | None:
    try:
        table = LatencyTable.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return table if table.setting == setting else None


def _measure(setting: Setting) -> LatencyTable:
    prompt_tokens = max(1, setting.original.positions // 2)
    shapes = shapes_to_time(setting.original)
    request = TimingRequest(
        timed_on=setting.timed_on,
        threads=setting.threads,
        cpus=tuple(usable_cpus()[: setting.threads]),
        prompt_tokens=prompt_tokens,
        shapes=tuple(shape._replace(positions=prompt_tokens + NEW_TOKENS) for shape in shapes),
    )
    with machine_lock("measuring a latency table"):
        seconds = time_shapes(request)
    return fit_table(setting, prompt_tokens, shapes, seconds)


# -------------------------------------------------------------------------------------------------------- least squares


def shapes_to_time(original: Shape) -> list[Shape]:
    """The models to time: for some numbers of heads, models with one layer, and deep ones with few to all neurons."""
    head_width = original.width // original.heads
    head_counts = np.unique(np.linspace(1, original.heads, _HEAD_COUNTS).round().astype(int)).tolist()
    few, *more = _inner_sizes(original)
    depth = min(original.layers, _DEPTH)
    usual = min(original.vocabulary, _VOCABULARY)
    kinds = {(1, few, original.vocabulary): None, (1, few, usual): None}
    kinds |= {(depth, inner, usual): None for inner in (few, *more)}
    return [
        Shape(layers, heads, heads * head_width, inner, vocabulary, original.positions)
        for heads in head_counts
        for layers, inner, vocabulary in kinds
    ]


def _inner_sizes(original: Shape) -> list[int]:
    sizes = (-(-original.inner // (share * _INNER_MULTIPLE)) * _INNER_MULTIPLE for share in (8, 2))
    return sorted({original.inner, *(min(size, original.inner) for size in sizes)})


def fit_table(setting: Setting, prompt_tokens: int, shapes: Sequence[Shape], seconds: Floats) -> LatencyTable:
    """Fit the parts of a table to timings of whole models: non-negative least squares of the relative errors.

    The time of a layer without neurons counts as attention. Up to the second of the timed numbers of neurons, the time
    of the feed-forward part is proportional to their number.

    Args:
        setting: What the table depends on.
        prompt_tokens: Tokens of the timed prompts.
        shapes: The timed models.
        seconds: [shapes, rounds, 2]: of the prefill, and of one decoding step.
    """
    _, *more = sizes = _inner_sizes(setting.original)
    inner = more or sizes
    medians = np.median(seconds, axis=1)
    structures = []
    for heads in sorted({shape.heads for shape in shapes}):
        rows = [row for row, shape in enumerate(shapes) if shape.heads == heads]
        structures.append(_parts([shapes[row] for row in rows], medians[rows], setting, inner))
    return LatencyTable(
        setting=setting,
        prompt_tokens=prompt_tokens,
        inner=tuple(inner),
        structures=tuple(structures),
        spread=_spread(seconds),
    )


def _parts(shapes: Sequence[Shape], seconds: Floats, setting: Setting, inner: Sequence[int]) -> Structures:
    """The parts of models with the same heads, from seconds [shapes, 2]; neurons are fitted as a sum of increments."""
    short = _SHORT_LAYERS[setting.timed_on]
    layers = np.array([[shape.layers] for shape in shapes])
    whole = np.array([[shape.vocabulary == setting.original.vocabulary] for shape in shapes])
    fixed = [whole, ~whole, layers]
    starts = np.array([0, *inner[:-1]])
    neurons = np.clip((np.array([[shape.inner] for shape in shapes]) - starts) / (np.array(inner) - starts), 0, 1)
    decode = _solve(np.hstack([*fixed, layers * neurons]), seconds[:, 1])
    of_one_token = short * (neurons @ decode[3:])
    prefill = _solve(np.hstack([*fixed, (layers - short) * neurons]), seconds[:, 0], of_one_token)
    solved = np.stack([prefill, decode], axis=1)
    solved[3:] = solved[3:].cumsum(axis=0)
    base, _, attention, *feed_forward = (Seconds(prefill_s=row[0], decode_s=row[1]) for row in solved.tolist())
    heads, width = shapes[0].heads, shapes[0].width
    return Structures(heads=heads, width=width, base=base, attention=attention, feed_forward=tuple(feed_forward))


def _solve(counts: Floats, seconds: Floats, known: Floats | float = 0.0) -> Floats:
    """Non-negative parts with counts @ parts + known ~ seconds, by least squares of the relative errors."""
    from scipy.optimize import nnls

    parts: Floats = nnls(counts / seconds[:, None], (seconds - known) / seconds)[0]
    return parts


def _spread(seconds: Floats) -> float:
    low, middle, high = np.quantile(seconds @ (1, NEW_TOKENS - 1), (0.25, 0.5, 0.75), axis=1)
    return float(np.median((high - low) / middle))


# -------------------------------------------------------------------------------------------------------------- command


def table_lines(table: LatencyTable) -> Iterator[str]:
    """The table as text: a line with its setting, a header, and a line for each structure and size."""
    setting = table.setting
    yield f"{setting.timed_on}, {setting.threads} threads of {setting.cpu}, spread {100 * table.spread:.1f} %"
    yield f"{'structure':<20}{'size':>24}{f'prefill of {table.prompt_tokens}, ms':>24}{'decode of one, ms':>20}"
    for parts in table.structures:
        yield _line("embedding and head", f"{setting.original.vocabulary} x {parts.width}", parts.base)
        yield _line("attention", f"{parts.heads} heads, {parts.width}", parts.attention)
        for inner, seconds in zip(table.inner, parts.feed_forward, strict=True):
            yield _line("feed-forward", f"{parts.width} x {inner}", seconds)


def _line(structure: str, size: str, seconds: Seconds) -> str:
    return f"{structure:<20}{size:>24}{1e3 * seconds.prefill_s:>24.3f}{1e3 * seconds.decode_s:>20.3f}"


def main() -> None:
    """Print the latency table of a model, measuring it first if necessary."""
    parser = argparse.ArgumentParser(
        prog="python -m slimline.tasks.pruning.latency",
        description="Print how long each structure of a GPT-2, and of all smaller ones, takes on this host. A table is "
        "measured once (about a minute for a small model) and stored in .slimline/latency or SLIMLINE_HOME/latency.",
        epilog="example: python -m slimline.tasks.pruning.latency /path/to/a/gpt2/checkpoint --timed-on onnxruntime",
    )
    parser.add_argument("model_dir", type=Path, help="a GPT-2 checkpoint; only its config.json is read")
    parser.add_argument(
        "--timed-on", choices=get_args(TimedOn), default="onnxruntime-int8", help="default: %(default)s"
    )
    parser.add_argument("--remeasure", action="store_true", help="measure again, even if a table is stored")
    given = parser.parse_args()
    try:
        original = shape_of(read_gpt2_config(given.model_dir))
        table = latency_table(original, given.timed_on, usable_threads(), home() / "latency", given.remeasure)
    except (CheckpointError, RuntimeError) as error:
        parser.exit(2, f"error: {error}\n")
    print("\n".join(table_lines(table)))


if __name__ == "__main__":
    main()
