"""A model's completions of a slice's samples, as an artifact: what EM and ES are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from slimline.tasks.data.parquet import read_samples
from slimline.tasks.data.tokenizer import decode_line, encode_prompts, load_tokenizer, stop_ids
from slimline.tasks.engines.base import new_tokens
from slimline.tasks.measurement.probe import ProbeRequest, run_probe
from slimline.tasks.measurement.score import Score, score_pairs
from slimline.tasks.models.checkpoint import read_gpt2_config
from slimline.tasks.runtime.progress import progress_bar
from slimline.tasks.specs import Decoding, Engine, Scoring

_SECONDS_PER_SAMPLE = 120.0
_SECONDS_TO_LOAD = 600.0


class Prediction(NamedTuple):
    """A completed line: the sample's identifier, what was predicted and what was written, and the scores."""

    sample: int
    prediction: str
    target: str
    es: int
    em: bool


def prompts_of(artifact: Path, texts: Sequence[str], decoding: Decoding) -> tuple[tuple[int, ...], ...]:
    """Token ids of each text, cut on the left so that the new tokens still fit into the model's positions."""
    room = read_gpt2_config(artifact)["n_positions"] - new_tokens(decoding)
    if room < 1:
        raise ValueError(f"decoding: {new_tokens(decoding)} new tokens leave no room for a prompt")
    return tuple(map(tuple, encode_prompts(load_tokenizer(artifact), texts, room)))


def request_for(
    artifact: Path, texts: Sequence[str], engine: Engine, decoding: Decoding, threads: int, **rest: Any
) -> ProbeRequest:
    """A probe's request to complete the texts with the artifact."""
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
    """Seconds after which a probe counts as hung: far above what the slowest host needs."""
    return _SECONDS_TO_LOAD + _SECONDS_PER_SAMPLE * samples


def complete_samples(spec: Scoring, artifact: Path, slice_dir: Path, target: Path) -> dict[str, object]:
    """Write predictions.parquet, a `Prediction` a line to complete; returns EM and ES for the provenance."""
    samples = read_samples(slice_dir)
    request = request_for(
        artifact,
        [sample.input for sample in samples],
        spec.engine,
        spec.decoding,
        spec.threads,
        mode="quality",
        batch_size=spec.batch_size,
    )
    with progress_bar() as progress:
        bar = progress.add_task("completing lines", total=len(samples))
        result = run_probe(
            request, timeout_for(len(samples)), lambda done, total: progress.update(bar, completed=done, total=total)
        )
    tokenizer = load_tokenizer(artifact)
    lines = [decode_line(tokenizer, tokens) for tokens in result.completions]
    score = score_pairs([(line, sample.gt) for line, sample in zip(lines, samples, strict=True)])
    predictions = [
        Prediction(sample.id, line, sample.gt, es, em)
        for sample, line, es, em in zip(samples, lines, score.similarities, score.exact, strict=True)
    ]
    table = pa.Table.from_pylist([each._asdict() for each in predictions])
    pq.write_table(table, target / "predictions.parquet", compression="zstd")
    return {"es": score.es, "em": score.em, "samples": score.samples}


def read_predictions(directory: Path) -> list[Prediction]:
    """The predictions that `complete_samples` wrote, with their scores."""
    return [Prediction(**row) for row in pq.read_table(directory / "predictions.parquet").to_pylist()]


def score_of(predictions: Sequence[Prediction]) -> Score:
    """EM and ES of predictions that were scored when they were made."""
    similarities, exact = zip(*((each.es, each.em) for each in predictions), strict=True)
    count = len(predictions)
    return Score(sum(similarities) / count, 100 * sum(exact) / count, count, similarities, exact)
