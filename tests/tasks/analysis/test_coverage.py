"""What intervals of few pairs of processes are worth, by simulation from recorded noise: docs/data/pairs.csv."""

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.pairs import DRAWN, REPLICATES, SLOWDOWN, app, coverage, draw, read, share_flagged
from tests.command import ROOT

PATH = ROOT / "docs/data/pairs.csv"
RECORDED = {kind: seconds for kind, seconds in read(PATH).items() if kind.turn_samples == 1}
RUNS = 20_000


@pytest.fixture(scope="module", params=list(RECORDED), ids=lambda kind: f"{kind.recording}, {kind.engine}")
def ratios(request: pytest.FixtureRequest) -> np.ndarray:
    """[runs, pairs] of a variant that is as fast as its baseline."""
    rng = np.random.default_rng(1)
    return draw(RECORDED[request.param], DRAWN, (RUNS, max(REPLICATES)), rng)


@pytest.mark.parametrize("pairs", REPLICATES)
def test_intervals_hold_the_truth_as_often_as_they_say(ratios: np.ndarray, pairs: int) -> None:
    assert coverage(ratios[:, :pairs]) == pytest.approx(0.95, abs=0.02)


def test_equal_variants_are_rarely_flagged(ratios: np.ndarray) -> None:
    assert 200 * share_flagged(ratios[:, :5]) <= 10 + 2


@pytest.mark.parametrize("ratios", [kind for kind in RECORDED if kind.recording == "idle"], indirect=True, ids=str)
def test_on_an_idle_machine_a_planted_slowdown_is_found(ratios: np.ndarray) -> None:
    assert share_flagged(ratios[:, :5], SLOWDOWN) >= 0.95


def test_both_an_idle_and_a_busy_machine_were_recorded() -> None:
    assert {kind.engine for kind in RECORDED} == {"torch", "onnxruntime"}
    assert len({kind.recording for kind in RECORDED}) == 2


def test_the_documented_tables_are_those_of_the_recording() -> None:
    page = (ROOT / "docs/measuring.md").read_text("utf8")
    reported = CliRunner().invoke(app, ["report", str(PATH)]).stdout
    assert [line for line in reported.splitlines() if line not in page] == []
