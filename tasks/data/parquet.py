"""A slice's Parquet files: train.parquet and dev.parquet (name, code), samples.parquet (id, name, input, gt)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from slimline.tasks.data.samples import Sample


def write_rows(path: Path, rows: Sequence[NamedTuple]) -> None:
    """Write rows of one kind, columns by their field names."""
    pq.write_table(pa.Table.from_pylist([row._asdict() for row in rows]), path, compression="zstd")


def read_codes(slice_dir: Path, split: str) -> list[str]:
    """The lexed files of the train or dev split."""
    codes: list[str] = pq.read_table(slice_dir / f"{split}.parquet", columns=["code"]).column("code").to_pylist()
    return codes


def read_samples(slice_dir: Path) -> list[Sample]:
    """The lines to complete, in order of their id."""
    return [Sample(**row) for row in pq.read_table(slice_dir / "samples.parquet").to_pylist()]
