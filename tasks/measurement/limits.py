"""How close variants came to the host's peak rates, and when a run shows that a peak is too low.

A rate of memory says nothing of what the last-level cache can hold: that is read faster. So the share in decoding is
left out where weights and key/value cache fit into it, and only the bytes beyond it are evidence against the peak.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from slimline.storage.metrics.rows import RoundRow
from slimline.tasks.analysis.statistics import replicates_interval
from slimline.tasks.measurement.peaks import Beaten, Peaks
from slimline.tasks.measurement.roofline import ModelWork
from slimline.tasks.measurement.summary import Measurement

BEATEN_ABOVE = 1.1
"""Times the peak above which it is too low; less is within what peaks vary by."""


class Limited(NamedTuple):
    """What a variant must compute and read, by how many beams, on a host with so much last-level cache (0: unknown).

    `counts_passes` says that the passes of decoding are counted, not estimated: then its bytes are what was read.
    """

    variant: str
    work: ModelWork
    beams: int
    cache_bytes: int
    counts_passes: bool = True


def limit_measurements(rounds: Sequence[RoundRow], limited: Limited, peaks: Peaks) -> list[Measurement]:
    """Shares of the host's peaks that a variant reached, in percent, by the formulas of `tasks.measurement.roofline`.

    These are the share of the peak of matrix multiplication in the prefill, and of the memory bandwidth in decoding.
    The latter can exceed 100 %: a cache holds a part of the weights, and accepted drafts share one pass over them.
    """
    prefill = peaks.operations_per_s(limited.work.precision)
    shares = {
        "prefill_limit_share": [100 * each / prefill for each in _operations_per_s(rounds, limited)],
        "decode_limit_share": [
            100 * each.passes_per_s * each.bytes / (peaks.read_gb_s * 1e9)
            for each in _reads(rounds, limited)
            if each.bytes > limited.cache_bytes
        ],
    }
    found = [(name, replicates_interval(values)) for name, values in shares.items() if values]
    return [Measurement(limited.variant, name, each.value, each.lo, each.hi, each.n, None) for name, each in found]


def beaten_peaks(rounds: Sequence[RoundRow], limited: Limited, peaks: Peaks) -> list[Beaten]:
    """The peaks that the variant's fastest round shows to be too low by far."""
    read = [
        each.passes_per_s * (each.bytes - limited.cache_bytes)
        for each in _reads(rounds, limited)
        if limited.cache_bytes and limited.counts_passes
    ]
    reached = {
        peaks.rate_of(limited.work.precision): max(_operations_per_s(rounds, limited), default=0.0) / 1e9,
        "read": max(read, default=0.0) / 1e9,
    }
    by = f"{limited.variant} in a run"
    return [
        Beaten(name, value, by) for name, value in reached.items() if value > BEATEN_ABOVE * (peaks.rate(name) or value)
    ]


class _Read(NamedTuple):
    """What decoding read in a round: bytes a pass, and passes a second."""

    bytes: float
    passes_per_s: float


def _timed(rounds: Sequence[RoundRow], limited: Limited) -> list[RoundRow]:
    return [row for row in rounds if row.variant == limited.variant and row.samples_per_s is not None]


def _operations_per_s(rounds: Sequence[RoundRow], limited: Limited) -> list[float]:
    """Operations a second while prompts were read, of each round."""
    return [
        row.prefill_tokens_per_s * limited.work.prefill_operations(row.prefill_context, row.samples / row.prompt_tokens)
        for row in _timed(rounds, limited)
        if row.prefill_tokens_per_s and row.prompt_tokens and row.samples is not None and row.prefill_context
    ]


def _reads(rounds: Sequence[RoundRow], limited: Limited) -> Iterator[_Read]:
    for row in _timed(rounds, limited):
        if row.decode_tokens_per_s is not None and row.decode_context is not None:
            yield _Read(limited.work.decode_bytes(row.decode_context, limited.beams), row.decode_tokens_per_s)
