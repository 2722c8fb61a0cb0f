"""Shares of the host's peaks, by hand, and runs that show that a peak is too low."""

from datetime import UTC, datetime

import pytest

from slimline.storage.metrics.metric import METRICS
from slimline.storage.metrics.rows import RoundRow
from slimline.tasks.measurement.limits import Limited, beaten_peaks, limit_measurements
from slimline.tasks.measurement.peaks import Peaks
from slimline.tasks.measurement.roofline import ModelWork

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
OURS = Limited(
    "ours",
    ModelWork(
        operations_per_token=900.0,
        operations_per_position=2.0,
        operations_per_prompt=99.0,
        weight_bytes=895.0,
        cache_bytes_per_position=1.0,
        precision="int8",
    ),
    beams=1,
    cache_bytes=0,
)
PEAKS = Peaks(
    fingerprint="f",
    cpu="c",
    threads=1,
    measured=NOON,
    versions={},
    fp32_gflops=1e-6,
    bf16_gflops=None,
    int8_gops=2e-3,
    read_gb_s=5e-4,
    kernels={},
)
OPERATIONS = 800 * (900 + 101 + 0.99)
READ = 144 * 1000


def row(number: int = 0, variant: str = "ours", **changes: float | None) -> RoundRow:
    """800 prompt tokens a second at 900 + 2 * 50.5 + 99 / 100 operations each; 144 passes at 895 + 105 bytes."""
    figures = {"prefill_tokens_per_s": 800.0, "decode_tokens_per_s": 144.0, "samples_per_s": 4.0}
    figures |= {"prefill_context": 50.5, "decode_context": 105.0}
    turn = {"run": "r", "host": "h", "round": number, "position": 0, "variant": variant, "replicate": 0}
    return RoundRow(**turn, started=NOON, finished=NOON, samples=4, prompt_tokens=400, **figures | changes)


def failed(number: int) -> RoundRow:
    return row(number, samples_per_s=None, prefill_tokens_per_s=None, decode_tokens_per_s=None)


def shares(rounds: list[RoundRow], limited: Limited = OURS, peaks: Peaks = PEAKS) -> dict[str, float | None]:
    return {each.metric: each.value for each in limit_measurements(rounds, limited, peaks)}


def test_limit_shares_by_hand() -> None:
    rounds = [row(0), row(1), failed(2), row(0, "other", decode_tokens_per_s=1e9)]
    measured = limit_measurements(rounds, OURS, PEAKS)
    assert {each.metric: each.value for each in measured} == {
        "prefill_limit_share": pytest.approx(100 * OPERATIONS / 2e6),
        "decode_limit_share": pytest.approx(100 * READ / 5e5),
    }
    assert [(each.variant, each.n) for each in measured] == [("ours", 2), ("ours", 2)]
    wider = shares(rounds, OURS._replace(beams=5))
    assert wider["decode_limit_share"] == pytest.approx(100 * 144 * (895 + 5 * 105) / 5e5)
    assert {each.metric for each in measured} < set(METRICS)


def test_what_has_no_rate_has_no_share() -> None:
    assert list(shares([row(decode_tokens_per_s=None, decode_context=None)])) == ["prefill_limit_share"]
    assert shares([failed(0)]) == {}


def test_what_a_cache_holds_has_no_share_of_memorys_rate() -> None:
    assert "decode_limit_share" in shares([row()], OURS._replace(cache_bytes=999))
    assert list(shares([row()], OURS._replace(cache_bytes=1000))) == ["prefill_limit_share"]
    longer = row(1, decode_context=106.0)
    assert "decode_limit_share" in shares([row(), longer], OURS._replace(cache_bytes=1000))


@pytest.mark.parametrize(("peak", "is_beaten"), [(1.2, False), (0.95, False), (0.9, True), (0.1, True)])
def test_operations_beyond_the_peak_show_that_it_is_too_low(peak: float, is_beaten: bool) -> None:
    peaks = PEAKS.model_copy(update={"int8_gops": peak * OPERATIONS / 1e9})
    slower = row(1, prefill_tokens_per_s=1.0)
    found = [(each.rate, each.value) for each in beaten_peaks([row(), slower], OURS, peaks)]
    assert found == ([("int8", pytest.approx(OPERATIONS / 1e9))] if is_beaten else [])


def test_emulated_bf16_raises_the_peak_of_fp32() -> None:
    emulated = OURS._replace(work=OURS.work._replace(precision="bfloat16"))
    (found,) = beaten_peaks([row()], emulated, PEAKS)
    assert found.rate == "fp32"
    native = PEAKS.model_copy(update={"bf16_gflops": 1e-6})
    assert [each.rate for each in beaten_peaks([row()], emulated, native)] == ["bf16"]


@pytest.mark.parametrize(("cache", "is_beaten"), [(0, False), (100, True), (500, True), (900, False), (2000, False)])
def test_only_bytes_beyond_the_cache_are_evidence_against_memorys_rate(cache: int, is_beaten: bool) -> None:
    """An unknown cache (0) might hold all of them; so might one larger than the model."""
    peaks = PEAKS.model_copy(update={"read_gb_s": 0.2 * READ / 1e9})
    limited = OURS._replace(cache_bytes=cache)
    found = {each.rate: each.value for each in beaten_peaks([row()], limited, peaks)}
    assert found == ({"read": pytest.approx(144 * (1000 - cache) / 1e9)} if is_beaten else {})


def test_estimated_passes_are_no_evidence() -> None:
    peaks = PEAKS.model_copy(update={"read_gb_s": READ / 1e12})
    drafts = OURS._replace(cache_bytes=10, counts_passes=False)
    assert beaten_peaks([row()], drafts, peaks) == []
