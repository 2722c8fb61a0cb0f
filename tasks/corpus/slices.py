"""A data slice: what one study trains on and tests with, as Parquet files in one directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.corpus.samples import CUT_VERSION, Sample, cut_samples
from tasks.corpus.sources import read_corpus
from tasks.specs import Data


def prepare_slice(data: Data, target: Path) -> dict[str, object]:
    """Write train.parquet and dev.parquet (name, code), samples.parquet (id, name, input, gt) and report.json.

    Returns:
        Counts, for the provenance; report.json also names every file that did not parse.
    """
    limits = {"train": data.train_files, "dev": data.dev_files, "test": data.samples}
    corpus = read_corpus(data.origin, limits, data.seed)  # type: ignore[arg-type]
    samples = cut_samples(corpus.files["test"], data.samples, data.seed)
    _write(target / "train.parquet", corpus.files["train"])
    _write(target / "dev.parquet", corpus.files["dev"])
    _write(target / "samples.parquet", samples)
    (target / "report.json").write_text(json.dumps(corpus.report, indent=1, ensure_ascii=False), "utf8")
    counts = {split: len(files) for split, files in corpus.files.items()}
    return {"files": counts, "samples": len(samples), "cut_version": CUT_VERSION, "left_out": corpus.report["left_out"]}


def _write(path: Path, rows: Sequence[NamedTuple]) -> None:
    pq.write_table(pa.Table.from_pylist([row._asdict() for row in rows]), path, compression="zstd")


def read_codes(slice_dir: Path, split: str) -> list[str]:
    """The lexed files of the train or dev split."""
    codes: list[str] = pq.read_table(slice_dir / f"{split}.parquet", columns=["code"]).column("code").to_pylist()
    return codes


def read_samples(slice_dir: Path) -> list[Sample]:
    """The lines to complete, in order of their id."""
    return [Sample(**row) for row in pq.read_table(slice_dir / "samples.parquet").to_pylist()]
