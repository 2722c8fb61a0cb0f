"""A data slice: what one study trains on and tests with, as Parquet files in one directory."""

from __future__ import annotations

import json
from pathlib import Path

from slimline.tasks.data.parquet import write_rows
from slimline.tasks.data.samples import CUT_VERSION, cut_samples
from slimline.tasks.data.source_trees import Split
from slimline.tasks.data.sources import read_corpus
from slimline.tasks.specs import Data


def prepare_slice(data: Data, target: Path) -> dict[str, object]:
    """Write train.parquet, dev.parquet, samples.parquet and report.json.

    Returns:
        Counts, for the provenance; report.json also names every file that did not parse.
    """
    limits: dict[Split, int] = {"train": data.train_files, "dev": data.dev_files, "test": data.samples}
    corpus = read_corpus(data.origin, limits, data.seed)
    samples = cut_samples(corpus.files["test"], data.samples, data.seed)
    write_rows(target / "train.parquet", corpus.files["train"])
    write_rows(target / "dev.parquet", corpus.files["dev"])
    write_rows(target / "samples.parquet", samples)
    (target / "report.json").write_text(json.dumps(corpus.report, indent=1, ensure_ascii=False), "utf8")
    counts = {split: len(files) for split, files in corpus.files.items()}
    return {"files": counts, "samples": len(samples), "cut_version": CUT_VERSION, "left_out": corpus.report["left_out"]}
