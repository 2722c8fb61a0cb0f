"""How far a variant that takes turns with itself seems from itself: the noise that docs/measuring.md reports.

    python -m benchmarks.pairs record docs/data/pairs.csv idle --pairs 10
    python -m benchmarks.pairs record docs/data/pairs.csv idle --pairs 14 --turn 1
    python -m benchmarks.pairs report docs/data/pairs.csv

`record` appends; while it runs, nothing else should, but what the recording is named after. `report` prints the tables.
"""

from __future__ import annotations

import csv
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from slimline.tasks.analysis.statistics import equal_speed_p_value, replicates_interval
from slimline.tasks.data.tokenizer import encode_prompts, load_tokenizer
from slimline.tasks.export.onnx_export import export_onnx
from slimline.tasks.measurement.completions import request_for
from slimline.tasks.measurement.pairs import Schedule, Seconds, compare, take_turns
from slimline.tasks.measurement.probe import ProbeRequest
from slimline.tasks.measurement.probe_process import ProbeProcess
from slimline.tasks.models.bases import make_base
from slimline.tasks.quantization.onnx_int8 import quantize_onnx
from slimline.tasks.runtime.host import usable_cpus, usable_threads
from slimline.tasks.specs import BundledBase, Decoding, Engine, EngineName

SAMPLES = 10
TURNS = (1, 5, 10)
PASSES = 4
DRAWN = 3  # passes of a simulated pair, one less than were recorded: so that more than a few differ
REPLICATES = (2, 3, 5, 10)
SLOWDOWN = 1.05
SURE_BELOW = 0.05
TIMEOUT_S = 600.0
HEAD = ("recording", "engine", "turn_samples", "pair", "pass", "sample", "seconds", "baseline_seconds")

app = typer.Typer(add_completion=False)


class Kind(NamedTuple):
    """What else the machine did, the engine, and the samples in a turn."""

    recording: str
    engine: str
    turn_samples: int


Recording = Mapping[Kind, NDArray[np.float64]]
"""Seconds by kind: [pairs, passes, samples, 2]."""


@app.command()
def record(
    path: Annotated[Path, typer.Argument(help="The CSV file to append to.")],
    recording: Annotated[str, typer.Argument(help="What else the machine does meanwhile.")],
    pairs: Annotated[int, typer.Option(help="Pairs of processes of each engine.")] = 24,
    turn: Annotated[list[int] | None, typer.Option(help="Samples in a turn; may be repeated.")] = None,
) -> None:
    """Let new processes of the bundled model take turns with themselves, and append their seconds."""
    turns = tuple(turn or TURNS)
    before = _recorded_pairs(path, recording)
    with tempfile.TemporaryDirectory() as directory, path.open("a", newline="", encoding="utf8") as file:
        table = csv.writer(file, lineterminator="\n")
        if not path.stat().st_size:
            table.writerow(HEAD)
        models = _models(Path(directory))
        for pair in range(before, before + pairs):
            for engine, model in models.items():
                for in_turn, seconds in _pair(_request(engine, model), turns, f"{recording}/{pair}").items():
                    for (number, sample), (ours, theirs) in _cells(seconds):
                        kind = Kind(recording, engine, in_turn)
                        table.writerow([*kind, pair, number, sample, f"{ours:.6f}", f"{theirs:.6f}"])
                file.flush()
            typer.echo(f"{recording}: pair {pair - before + 1} of {pairs}", err=True)


def _recorded_pairs(path: Path, recording: str) -> int:
    """The number that the next pair of a recording gets."""
    if not path.exists():
        return 0
    with path.open(newline="", encoding="utf8") as file:
        return max((int(row["pair"]) + 1 for row in csv.DictReader(file) if row["recording"] == recording), default=0)


def _cells(seconds: Seconds) -> Iterable[tuple[tuple[int, ...], NDArray[np.float64]]]:
    return ((place, seconds[place]) for place in np.ndindex(seconds.shape[:2]))


def _models(directory: Path) -> dict[EngineName, Path]:
    """The bundled model for torch, and in int8 for onnxruntime."""
    paths = {name: directory / name for name in ("slice", "model", "onnx", "int8")}
    for path in paths.values():
        path.mkdir()
    make_base(BundledBase(), paths["slice"], paths["model"])
    export_onnx(paths["model"], paths["onnx"])
    quantize_onnx(paths["onnx"], paths["int8"], per_channel=True)
    return {"torch": paths["model"], "onnxruntime": paths["int8"]}


def _request(engine: EngineName, directory: Path) -> ProbeRequest:
    """Lines of this file, after the 40 lines before them."""
    lines = Path(__file__).read_text("utf8").splitlines()
    chosen = sorted(random.Random(0).sample(range(40, len(lines)), SAMPLES))
    texts = [" <EOL> ".join(lines[line - 40 : line]) for line in chosen]
    new = [max(1, len(ids)) for ids in encode_prompts(load_tokenizer(directory), [lines[line] for line in chosen], 100)]
    threads = usable_threads()
    return request_for(
        directory,
        texts,
        Engine(name=engine),
        Decoding(),
        threads,
        mode="speed",
        cpus=tuple(usable_cpus()[:threads]),
        new_tokens=tuple(new),
    )


def _pair(request: ProbeRequest, turns: Sequence[int], seed: str) -> dict[int, Seconds]:
    """The seconds of a new pair of processes, by the samples in a turn."""
    found = {turn: np.empty((0, SAMPLES, 2)) for turn in turns}
    with ProbeProcess(request) as theirs, ProbeProcess(request) as ours:
        for process in (theirs, ours):
            process.result(TIMEOUT_S)
        for number in range(PASSES):
            for turn in random.Random(f"{seed}/{number}").sample(turns, len(turns)):
                schedule = Schedule(SAMPLES, turn, 0, TIMEOUT_S)
                one_pass = take_turns(ours, theirs, schedule, f"{seed}/{number}/{turn}")
                found[turn] = np.concatenate([found[turn], one_pass])
    return found


def read(path: Path) -> Recording:
    """A recording from its file."""
    found: dict[Kind, dict[tuple[int, int, int], tuple[float, float]]] = defaultdict(dict)
    with path.open(newline="", encoding="utf8") as file:
        for row in csv.DictReader(file):
            kind = Kind(row["recording"], row["engine"], int(row["turn_samples"]))
            place = int(row["pair"]), int(row["pass"]), int(row["sample"])
            found[kind][place] = float(row["seconds"]), float(row["baseline_seconds"])
    return {kind: _array(cells) for kind, cells in found.items()}


def _array(cells: Mapping[tuple[int, int, int], tuple[float, float]]) -> NDArray[np.float64]:
    pairs = {number: place for place, number in enumerate(sorted({pair for pair, _, _ in cells}))}
    passes, samples = (1 + max(place[axis] for place in cells) for axis in (1, 2))
    array = np.full((len(pairs), passes, samples, 2), np.nan)
    for (pair, *place), seconds in cells.items():
        array[pairs[pair], *place] = seconds
    return array


def draw(
    seconds: NDArray[np.float64], passes: int, size: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Ratios of new pairs with the recorded noise: a recorded pair, and of it as many of its passes, each drawn anew.

    Which of the two processes is ours is drawn as well, so that the true ratio is 1. A smoothed bootstrap, of the same
    variance (Silverman, Density Estimation, 1986, section 6.4): few recorded pairs do not tell what lies between them.

    Args:
        seconds: A recording of one kind.
        passes: Passes of a pair, no more than were recorded.
        size: Shape of what is returned.
        rng: Where the luck comes from.
    """
    chosen = list(combinations(range(seconds.shape[1]), passes))
    logs = np.log([compare(pair[list(each)]).ratio for pair in seconds for each in chosen])
    both = np.concatenate([logs, -logs])
    width = 1.06 * len(seconds) ** -0.2  # of the kernel, in standard deviations: equation 3.28 there
    smoothed = rng.choice(both, size) + rng.normal(0, width * both.std(), size)
    found: NDArray[np.float64] = np.exp(smoothed / np.sqrt(1 + width**2))
    return found


def coverage(ratios: NDArray[np.float64]) -> float:
    """How often the interval holds the truth, 1; `ratios` are [runs, pairs]."""
    intervals = [replicates_interval(run.tolist()) for run in ratios]
    return sum(lo <= 1 <= hi for _, lo, hi, _ in intervals if lo is not None and hi is not None) / len(intervals)


def share_flagged(ratios: NDArray[np.float64], slowdown: float = 1.0) -> float:
    """How often a variant that is so much slower surely differs; `ratios` are [runs, pairs]."""
    p_values = [equal_speed_p_value((run / slowdown).tolist()) for run in ratios]
    return sum(p is not None and p < SURE_BELOW for p in p_values) / len(ratios)


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="What `record` has written.")],
    runs: Annotated[int, typer.Option(help="Simulated runs for each figure.")] = 4_000,
) -> None:
    """Print the spread of a pair's ratio, and what intervals of few pairs are worth, as Markdown tables."""
    recorded = read(path)
    rng = np.random.default_rng(0)
    passes = range(1, PASSES + 1)
    typer.echo(_head(["machine", "engine", "samples a turn", "pairs", *(f"passes: {each}" for each in passes)]))
    for kind, seconds in recorded.items():
        spreads = [_spread([compare(pair[:each]).ratio for pair in seconds]) for each in passes]
        typer.echo(_line([kind.recording, kind.engine, str(kind.turn_samples), str(len(seconds)), *spreads]))
    columns = [*(f"{each} pairs" for each in REPLICATES), "flagged of 200 equal ones", "5 % slower flagged"]
    typer.echo("\n" + _head(["machine", "engine", *columns]))
    for kind, seconds in recorded.items():
        if kind.turn_samples == 1:
            drawn = draw(seconds, DRAWN, (runs, max(REPLICATES)), rng)
            held = [f"{100 * coverage(drawn[:, :each]):.1f} %" for each in REPLICATES]
            of_five = drawn[:, :5]
            flagged = [f"{200 * share_flagged(of_five):.0f}", f"{100 * share_flagged(of_five, SLOWDOWN):.0f} %"]
            typer.echo(_line([kind.recording, kind.engine, *held, *flagged]))


def _spread(ratios: Sequence[float]) -> str:
    return f"{100 * np.log(ratios).std(ddof=1):.1f} %"


def _head(columns: Sequence[str]) -> str:
    return f"{_line(columns)}\n{_line(['---'] * len(columns))}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    app()
