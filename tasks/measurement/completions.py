"""Completions of a slice's samples by a model, as an artifact: EM and ES are computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from slimline.tasks.data.parquet import read_samples, write_rows
from slimline.tasks.data.tokenizer import decode_line, encode_prompts, load_tokenizer, stop_ids
from slimline.tasks.engines.base import new_tokens
from slimline.tasks.measurement.probe import ProbeRequest
from slimline.tasks.measurement.probe_process import run_probe
from slimline.tasks.measurement.score import Score, score_pairs
from slimline.tasks.models.external import limits_of
from slimline.tasks.runtime.progress import progress_bar
from slimline.tasks.specs import Decoding, Engine, ScoreStep

_SECONDS_PER_SAMPLE = 120.0
_SECONDS_TO_LOAD = 600.0


class Prediction(NamedTuple):
    """A completed line.

    Attributes:
        sample: Identifier of the sample.
        prediction: The line that the model predicted.
        target: The line that the sample's author wrote.
        es: Edit similarity, 0 to 100.
        em: Whether it is an exact match.
    """

    sample: int
    prediction: str
    target: str
    es: int
    em: bool


def prompts_of(artifact: Path, texts: Sequence[str], decoding: Decoding) -> tuple[tuple[int, ...], ...]:
    """Token ids of each text, truncated on the left so that the new tokens fit into the model's positions.

    Raises:
        ValueError: the new tokens alone need all positions.
    """
    positions, new = limits_of(artifact).n_positions, new_tokens(decoding)
    if new >= positions:
        raise ValueError(f"decoding: {new} new tokens; allowed: fewer than the model's {positions} positions")
    return tuple(map(tuple, encode_prompts(load_tokenizer(artifact), texts, positions - new)))


def target_tokens(artifact: Path, targets: Sequence[str], decoding: Decoding) -> tuple[int, ...]:
    """How many tokens the artifact's tokenizer needs for each line: one or more, and no more than allowed.

    The same line takes more tokens of a smaller vocabulary: that is part of what compressing it costs.
    """
    most = decoding.fixed_new_tokens or decoding.max_new_tokens
    if decoding.fixed_new_tokens:
        return (most,) * len(targets)
    needed = encode_prompts(load_tokenizer(artifact), targets, most)
    return tuple(max(1, len(ids)) for ids in needed)


def request_for(
    artifact: Path, texts: Sequence[str], engine: Engine, decoding: Decoding, threads: int, **rest: Any
) -> ProbeRequest:
    """A request for a probe to complete the texts with the artifact; `rest` are further fields of the request."""
    return ProbeRequest(
        directory=artifact,
        engine=engine,
        threads=threads,
        prompts=prompts_of(artifact, texts, decoding),
        stop=() if decoding.fixed_new_tokens else tuple(stop_ids(load_tokenizer(artifact))),
        decoding=decoding,
        **rest,
    )


def timeout_for(samples: int) -> float:
    """Seconds after which a probe is stopped: far more than the slowest host needs for that many samples."""
    return _SECONDS_TO_LOAD + _SECONDS_PER_SAMPLE * samples


def complete_samples(spec: ScoreStep, artifact: Path, slice_dir: Path, target: Path) -> dict[str, object]:
    """Complete the samples of a slice and write predictions.parquet, one `Prediction` per sample.

    Returns:
        Notes for provenance: es, em (percent), samples.
    """
    samples = read_samples(slice_dir)
    lines = _complete_lines(spec, artifact, [sample.input for sample in samples])
    score = score_pairs([(line, sample.gt) for line, sample in zip(lines, samples, strict=True)])
    predictions = [
        Prediction(sample.id, line, sample.gt, es, em)
        for sample, line, es, em in zip(samples, lines, score.similarities, score.exact, strict=True)
    ]
    write_rows(target / "predictions.parquet", predictions)
    return {"es": score.es, "em": score.em, "samples": score.samples}


def _complete_lines(spec: ScoreStep, artifact: Path, texts: Sequence[str]) -> list[str]:
    settings = {"mode": "quality", "batch_size": spec.batch_size}
    request = request_for(artifact, texts, spec.engine, spec.decoding, spec.threads, **settings)
    with progress_bar() as progress:
        bar = progress.add_task("completing lines", total=len(texts))
        result = run_probe(
            request, timeout_for(len(texts)), lambda done, total: progress.update(bar, completed=done, total=total)
        )
    tokenizer = load_tokenizer(artifact)
    return [decode_line(tokenizer, tokens) for tokens in result.completions]


def read_predictions(directory: Path) -> list[Prediction]:
    """The predictions that `complete_samples` wrote, with their scores."""
    return [Prediction(**row) for row in pq.read_table(directory / "predictions.parquet").to_pylist()]


def score_of(predictions: Sequence[Prediction]) -> Score:
    """EM and ES over predictions, from their own scores."""
    similarities, exact = zip(*((each.es, each.em) for each in predictions), strict=True)
    count = len(predictions)
    blank = sum(not each.target.strip() for each in predictions)
    lines = tuple(each.prediction.strip() for each in predictions)
    return Score(sum(similarities) / count, 100 * sum(exact) / count, count, similarities, exact, blank, lines)
