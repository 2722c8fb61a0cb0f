"""CodeXGLUE's tools: `slimline score` and `slimline lex`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from slimline.flows.cli.options import Json, exit_on_bad_input

app = typer.Typer()


@app.command(epilog="Example: `slimline score --answers test.json --predictions predictions.txt`")
def score(
    answers: Annotated[Path, typer.Option(help="JSON lines with the field gt, as CodeXGLUE's answers.json.")],
    predictions: Annotated[Path, typer.Option(help="Text, one prediction a line.")],
    as_json: Json = False,
) -> None:
    """Exact match and edit similarity of predictions, as CodeXGLUE's evaluator computes them."""
    from slimline.tasks.measurement.score import score_files

    with exit_on_bad_input():
        result = score_files(answers, predictions)
    if result.blank:
        typer.echo(f"warning: {result.blank} of {result.samples} answers are empty: are they withheld?", err=True)
    if as_json:
        typer.echo(json.dumps({"es": round(result.es, 2), "em": round(result.em, 2), "samples": result.samples}))
    else:
        typer.echo(f"Edit sim: {round(result.es, 2)}, EM: {round(result.em, 2)} ({result.samples} samples)")


@app.command(epilog="Example: `slimline lex src/*.py > tokens.txt`")
def lex(files: Annotated[list[Path], typer.Argument(help="Python files.")]) -> None:
    """Print PY150 tokens as CodeXGLUE's preprocessing does, one line a file; `<s> </s>` for one that does not parse."""
    from slimline.tasks.data.lexer import EMPTY, lex_line
    from slimline.tasks.data.source_trees import read_source

    with exit_on_bad_input():
        for path in files:
            if not path.is_file():
                raise ValueError(f"FILE: {path} is not a file")
    for path in files:
        try:
            line = lex_line(read_source(path))
        except (ValueError, OSError) as error:
            typer.echo(f"{path}: {error}", err=True)
            line = EMPTY
        sys.stdout.buffer.write(f"{line}\n".encode())
