"""`slimline judge`: the judge of nightly runs, for the series of anybody's benchmark."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimline.flows.cli.options import Json, exit_on_bad_input

if TYPE_CHECKING:
    from slimline.tasks.regression.series_judge import SeriesVerdict

app = typer.Typer()

STDIN = "-"
_ORDER = ("regression", "suspicious-unconfirmed", "improvement", "not-comparable", "new", "ok")
_HEAD = ("verdict", "series", "value", "reference", "change", "band", "runs", "newest run", "since", "why")


class BetterWay(StrEnum):
    """Which way a value is better."""

    LOWER = "lower"
    HIGHER = "higher"


@app.command(
    epilog="Examples: `slimline judge times.csv` | `slimline judge rates.csv --better higher --relevant 10 --json` | "
    "`slimline judge export.csv --column time=date --column value=ms` | `./my-export | slimline judge -`"
)
def judge(
    file: Annotated[str, typer.Argument(metavar="SERIES.csv", help="The file; - for standard input.")],
    better: Annotated[BetterWay, typer.Option(help="Which way is better, without such a column.")] = BetterWay.LOWER,
    relevant: Annotated[float, typer.Option(help="Least change that matters, in %, without such a column.")] = 5.0,
    lasting: Annotated[int, typer.Option(min=2, max=20, help="Runs in a row before a change is confirmed.")] = 3,
    column: Annotated[list[str] | None, typer.Option(metavar="NAME=YOURS", help="What you call a column.")] = None,
    is_open: Annotated[bool, typer.Option("--open", help="Status 1 until a regression is undone.")] = False,
    as_json: Json = False,
) -> None:
    """Judge the newest run of every series of a CSV file against the runs before it; exit status 1 on a regression.

    The file has the columns `time`, `series` and `value`; several rows a run where it was repeated. docs/judge.md
    describes the other columns, and has the measured rate of false alarms. Nothing is stored.
    """
    with exit_on_bad_input():
        from slimline.tasks.regression.series_csv import Choices, read_series
        from slimline.tasks.regression.series_judge import judge_series

        if not 0.1 <= relevant <= 90:
            raise ValueError(f"--relevant: {relevant:g}; allowed: 0.1 to 90, in per cent")
        content = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        series = read_series(content, Choices(better.value, relevant), _names(column or []))
        found = [judge_series(each, lasting) for each in series]
        found.sort(key=lambda each: (_ORDER.index(each.verdict), each.series))
        # Here, as output that cannot be written must not look like a regression.
        if as_json:
            typer.echo(json.dumps({"verdicts": [each.model_dump(mode="json") for each in found]}, indent=2))
        else:
            typer.echo("\n".join(_text(found)))
    if any(each.verdict == "regression" or (is_open and each.open) for each in found):
        raise typer.Exit(1)


def _names(columns: Sequence[str]) -> dict[str, str]:
    from slimline.tasks.regression.series_csv import KNOWN

    names = {}
    for each in columns:
        name, _, yours = each.partition("=")
        names[name] = yours
        if name not in KNOWN or not yours:
            raise ValueError(f"--column: {name}={yours}; allowed: NAME=YOURS, where NAME is {', '.join(KNOWN)}")
    return names


def _text(found: Sequence[SeriesVerdict]) -> list[str]:
    from slimline.dashboards.reports.text_tables import align_columns

    counts = [f"{sum(each.verdict == verdict for each in found)} {verdict}" for verdict in _ORDER]
    summary = ", ".join(count for count in counts if not count.startswith("0 "))
    return [summary, *_notes(found), "", *align_columns([_HEAD, *map(_cells, found)])]


def _notes(found: Sequence[SeriesVerdict]) -> list[str]:
    """A sentence for each change that is confirmed by the newest run, and each regression that is still open."""
    from slimline.storage.text import clean

    lines = []
    for each in found:
        if each.verdict in ("regression", "improvement"):
            blamed = ", ".join(f"{clean(s.column)} {clean(s.before)} -> {clean(s.after)}" for s in each.suspects)
            what = f"{each.verdict} of {clean(each.series)} since {clean(each.since)}: {clean(each.reason)}"
            lines.append(f"{what}; suspects: {blamed or 'none, no other column has changed'}")
        elif each.open:
            change = f"{100 * (each.open.ratio - 1):+.1f} % since {clean(each.open.since)}"
            lines.append(f"open regression of {clean(each.series)}: {change}, confirmed by {clean(each.open.run)}")
        if each.crept:
            change = f"{100 * (each.crept - 1):+.1f} %"
            lines.append(f"drift of {clean(each.series)}: its reference has moved by {change}, and no run confirmed it")
    return lines


def _cells(each: SeriesVerdict) -> list[str]:
    from slimline.storage.text import clean

    change = "" if each.ratio is None else f"{_percent(each.ratio - 1)}{_interval(each)}"
    band = "" if each.band is None else f"{100 * each.band:.1f} %"
    values = [f"{number:.4g} {each.unit}" if number is not None else "" for number in (each.value, each.reference)]
    words = [change, band, str(each.runs), each.run, each.since or "", each.reason]
    return [each.verdict, *(clean(word) for word in (each.series, *values, *words))]


def _interval(each: SeriesVerdict) -> str:
    if each.lo is None or each.hi is None:
        return ""
    return f" [{_percent(each.lo - 1)}, {_percent(each.hi - 1)}]"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %" if abs(share) < 10 or not math.isfinite(share) else f"{share + 1:.3g} times"
