"""How far a variant that takes turns with itself seems from itself: the noise that docs/measuring.md reports.

    python -m benchmarks.pairs record docs/data/pairs.csv "idle" --pairs 40
    python -m benchmarks.pairs report docs/data/pairs.csv

`record` appends; while it runs, nothing else should, but what the recording is named after. `report` prints two tables:
the spread of a pair's ratio, and how often intervals of a few pairs hold the truth.
"""

from __future__ import annotations

import csv
import math
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from slimline.tasks.analysis.statistics import replicates_interval
from slimline.tasks.data.tokenizer import encode_prompts, load_tokenizer
from slimline.tasks.export.onnx_export import export_onnx
from slimline.tasks.measurement.completions import request_for
from slimline.tasks.measurement.pairs import Schedule, compare, take_turns
from slimline.tasks.measurement.probe import ProbeRequest
from slimline.tasks.measurement.probe_process import ProbeProcess
from slimline.tasks.models.bases import make_base
from slimline.tasks.quantization.onnx_int8 import quantize_onnx
from slimline.tasks.runtime.host import usable_cpus, usable_threads
from slimline.tasks.specs import BundledBase, Decoding, Engine, EngineName

SAMPLES = 20
TURNS = (1, 4, 20)
LONGEST_S = 8.0
SECONDS = (0.0, 2.0, 4.0, 8.0)
PAIRS = (2, 3, 5, 10)
DRAWS = 20_000
TIMEOUT_S = 600.0

app = typer.Typer(add_completion=False)


class PassRow(NamedTuple):
    """What a pair of processes said after some passes.

    Attributes:
        recording: What else the machine did.
        engine: The engine.
        turn_samples: Samples in a turn.
        pair: Number of the pair.
        passes: Passes over the samples so far.
        seconds: Seconds of both so far.
        ratio: The pair's ratio so far; 1 would be right.
    """

    recording: str
    engine: str
    turn_samples: int
    pair: int
    passes: int
    seconds: float
    ratio: float


@app.command()
def record(
    path: Annotated[Path, typer.Argument(help="The CSV file to append to.")],
    recording: Annotated[str, typer.Argument(help="What else the machine does meanwhile.")],
    pairs: Annotated[int, typer.Option(help="Pairs of processes of each kind.")] = 40,
) -> None:
    """Let new processes of the bundled model take turns with themselves, and append what each pair says."""
    with tempfile.TemporaryDirectory() as directory, path.open("a", newline="", encoding="utf8") as file:
        table = csv.writer(file)
        if not path.stat().st_size:
            table.writerow(PassRow._fields)
        models = _models(Path(directory))
        for pair in range(pairs):
            for engine, turn_samples in ((name, turn) for name in models for turn in TURNS):
                request = _request(engine, models[engine])
                table.writerows(_pair(request, PassRow(recording, engine, turn_samples, pair, 0, 0.0, 1.0)))
                file.flush()
            typer.echo(f"{recording}: pair {pair + 1} of {pairs}", err=True)


def _models(directory: Path) -> dict[EngineName, Path]:
    """The bundled model for torch, and in int8 for onnxruntime: ten times as fast."""
    paths = {name: directory / name for name in ("slice", "model", "onnx", "int8")}
    for path in paths.values():
        path.mkdir()
    make_base(BundledBase(), paths["slice"], paths["model"])
    export_onnx(paths["model"], paths["onnx"])
    quantize_onnx(paths["onnx"], paths["int8"], per_channel=True)
    return {"torch": paths["model"], "onnxruntime": paths["int8"]}


def _request(engine: EngineName, directory: Path) -> ProbeRequest:
    """Lines of this file, after different numbers of lines before them."""
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


def _pair(request: ProbeRequest, row: PassRow) -> Iterator[PassRow]:
    schedule = Schedule(SAMPLES, row.turn_samples, LONGEST_S, TIMEOUT_S)
    with ProbeProcess(request) as theirs, ProbeProcess(request) as ours:
        for process in (theirs, ours):
            process.result(TIMEOUT_S)
        seconds = take_turns(ours, theirs, schedule, f"{row.recording}/{row.pair}")
    for passes in range(1, len(seconds) + 1):
        so_far = seconds[:passes]
        yield row._replace(passes=passes, seconds=float(so_far.sum()), ratio=compare(so_far).ratio)


def read(path: Path) -> list[PassRow]:
    """The rows of a recording."""
    with path.open(newline="", encoding="utf8") as file:
        return [
            PassRow(recording, engine, int(turn), int(pair), int(passes), float(seconds), float(ratio))
            for recording, engine, turn, pair, passes, seconds, ratio in list(csv.reader(file))[1:]
        ]


def ratios(rows: Iterable[PassRow], seconds: float) -> list[float]:
    """What each pair said when it had lasted that long."""
    found = []
    for _, of_pair in groupby(rows, key=lambda row: row[:4]):
        in_order = list(of_pair)
        found.append(next((row.ratio for row in in_order if row.seconds >= seconds), in_order[-1].ratio))
    return found


def coverage(values: Sequence[float], pairs: int, draws: int = DRAWS) -> float:
    """How often the interval of so many pairs, drawn from these ratios, holds their geometric mean."""
    rng = np.random.default_rng(0)
    truth = math.exp(float(np.mean(np.log(values))))
    drawn: NDArray[np.float64] = rng.choice(np.asarray(values), (draws, pairs))
    intervals = [replicates_interval(each) for each in drawn]
    return sum(lo <= truth <= hi for _, lo, hi, _ in intervals if lo is not None and hi is not None) / draws


@app.command()
def report(path: Annotated[Path, typer.Argument(help="What `record` has written.")]) -> None:
    """Print the spread of a pair's ratio, and the coverage of the intervals, as Markdown tables."""
    rows = read(path)
    kinds = list(dict.fromkeys((row.recording, row.engine) for row in rows))
    typer.echo(_head(["machine", "engine", "samples a turn", *(f"{each:g} s a pair" for each in SECONDS)]))
    for kind in kinds:
        for turn in TURNS:
            chosen = [row for row in rows if row[:3] == (*kind, turn)]
            typer.echo(_line([*kind, str(turn), *(_spread(ratios(chosen, each)) for each in SECONDS)]))
    typer.echo("\n" + _head(["machine", "engine", *(f"{each} pairs" for each in PAIRS)]))
    for kind in kinds:
        found = ratios([row for row in rows if row[:3] == (*kind, 4)], 4.0)
        typer.echo(_line([*kind, *(f"{100 * coverage(found, each):.1f} %" for each in PAIRS)]))


def _spread(values: Sequence[float]) -> str:
    logs = np.log(values)
    return f"{100 * logs.std(ddof=1):.2f} ({100 * logs.mean():+.2f})"


def _head(columns: Sequence[str]) -> str:
    return f"{_line(columns)}\n{_line(['---'] * len(columns))}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    app()
