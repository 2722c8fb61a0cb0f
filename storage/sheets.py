"""The result table on paper: one sheet per host, rendered as text, Markdown, HTML or LaTeX."""

from __future__ import annotations

import html as html_escapes
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NONE = "–"  # noqa: RUF001 - the sign for "no figure"


class Column(NamedTuple):
    """One column: which figure of a row, and how it is shown. An optional one is left out where nothing fills it."""

    key: str
    heading: str
    decimals: int
    interval: bool = False
    optional: bool = False


COLUMNS = (
    Column("disk_mb", "disk MB", 2),
    Column("disk_gzip_mb", "disk gzip MB", 2),
    Column("memory_mb", "memory MB", 0),
    Column("memory_over_base_mb", "over base MB", 0),
    Column("samples_per_s", "samples/s", 2, interval=True),
    Column("speed_ratio", "speed ratio", 2, interval=True),
    Column("es", "ES %", 2),
    Column("em", "EM %", 2),
    Column("params_m", "params M", 2),
    Column("params_nonzero_m", "non-zero M", 2),
    Column("matmuls", "int8 ops", 0, optional=True),
    Column("greedy_agreement", "greedy same", 2, optional=True),
    Column("prefill_limit_share", "prefill limit %", 0, optional=True),
    Column("decode_limit_share", "decode limit %", 0, optional=True),
)
# What the columns that need a word mean, beneath every table that has one of them.
MEANINGS = {
    "matmuls": "int8 ops: matrix multiplications that are really executed in int8, of all that the model has",
    "greedy_agreement": "greedy same: share of random prompts continued with the same tokens as before the conversion",
    "prefill_limit_share": (
        "prefill limit: operations a second while prompts are read, of this host's measured peak in the same precision"
    ),
    "decode_limit_share": (
        "decode limit: bytes a second that decoding has to read, of this host's measured peak; "
        "above 100 % where a cache holds the model, or drafted tokens share a pass"
    ),
}
QUALITY = ("es", "em")
# What the published columns really hold stands in ours of the same meaning.
PUBLISHED_AS = {"disk_gzip_mb": "disk_mb", "params_nonzero_m": "params_m", "disk_mb": None, "params_m": None}
PUBLISHED_NOTE = "poster: its disk size is that of a gzip archive, its parameters are the non-zero ones"
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    NONE: "--",
}


class Line(NamedTuple):
    """One line of a sheet: the model's name, then a cell per column; published lines stand beneath ours."""

    name: str
    cells: list[str]
    published: bool


class Sheet(NamedTuple):
    """One host's table: a caption of what was measured how, its columns, the lines, and notes beneath."""

    caption: str
    columns: list[Column]
    lines: list[Line]
    notes: list[str]


def sheets(rows: Sequence[Mapping[str, Any]]) -> list[Sheet]:
    """One sheet per host, in the order of the rows."""
    hosts = dict.fromkeys(row["host"] for row in rows)
    return [_sheet([row for row in rows if row["host"] == host]) for host in hosts]


def _sheet(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    columns = [column for column in COLUMNS if not column.optional or any(row[column.key] is not None for row in rows)]
    lines = [
        line
        for row in rows
        for line in (_ours(row, columns), *(_theirs(figures, columns) for figures in row["published"]))
    ]
    notes = [f"{clean(row['variant'])} failed: {clean(row['error'])}" for row in rows if row["error"]]
    if any(row["random_weights"] for row in rows):
        notes.append("random weights: for size, memory and speed only")
    if any(row["published"] for row in rows):
        notes.append(PUBLISHED_NOTE)
    notes += [MEANINGS[column.key] for column in columns if column.key in MEANINGS]
    return Sheet(_caption(rows[0]), columns, lines, notes)


def _caption(row: Mapping[str, Any]) -> str:
    noise = "not measured" if row["noise_floor"] is None else f"{100 * row['noise_floor']:.1f} %"
    parts = [
        f"study {clean(row['study'])}",
        f"run {clean(row['run'])}",
        f"host {clean(row['host'])}",
        f"{NONE if row['samples'] is None else row['samples']} samples",
        f"noise floor {noise}",
    ]
    tainted = ["TAINTED: too noisy to trust the speeds"] if row["tainted"] else []
    return ", ".join(parts + tainted)


def _ours(row: Mapping[str, Any], columns: Sequence[Column]) -> Line:
    marks = [mark for mark, holds in (("failed", row["error"]), ("random weights", row["random_weights"])) if holds]
    label = f", {clean(row['label'])}" if row["label"] else ""
    name = clean(row["variant"]) + label + (f" ({', '.join(marks)})" if marks else "")
    hidden = QUALITY if row["random_weights"] else ()
    return Line(name, [NONE if column.key in hidden else _cell(row, column) for column in columns], published=False)


def _cell(row: Mapping[str, Any], column: Column) -> str:
    key, decimals = column.key, column.decimals
    if row[key] is None:
        return NONE
    value = f"{row[key]:.{decimals}f}"
    if key == "matmuls":
        return f"{row['int8_matmuls'] or 0:.0f}/{value}"
    if column.interval and row[f"{key}_lo"] is not None and row[f"{key}_hi"] is not None:
        return f"{value} [{row[f'{key}_lo']:.{decimals}f}, {row[f'{key}_hi']:.{decimals}f}]"
    return value


def _theirs(figures: Mapping[str, Any], columns: Sequence[Column]) -> Line:
    values = [(figures.get(PUBLISHED_AS.get(each.key, each.key) or ""), each.decimals) for each in columns]
    cells = [NONE if value is None else f"{value:.{decimals}f}" for value, decimals in values]
    return Line(f"poster, {clean(figures['host'])}", cells, published=True)


def clean(value: object) -> str:
    """On one line, and without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in str(value)).strip()


def plain_text(sheet: Sheet) -> str:
    """A table for the terminal, as wide as its content needs."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=Text(sheet.caption), caption_justify="left")
    table.add_column("model", no_wrap=True)
    for column in sheet.columns:
        table.add_column(column.heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for line in sheet.lines:
        indent = "  " if line.published else ""
        table.add_row(Text(indent + line.name), *(Text(cell) for cell in line.cells))
    out = io.StringIO()
    wide = 10 * sum(len(line.name) + sum(map(len, line.cells)) for line in sheet.lines) + 1000
    Console(file=out, width=wide, color_system=None).print(table)
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join([text, *sheet.notes]) + "\n"


def markdown(sheet: Sheet) -> str:
    """A pipe table, with the caption above and the notes beneath."""
    head = ["model", *(column.heading for column in sheet.columns)]
    lines = [
        [("&nbsp;&nbsp;" if line.published else "") + escaped_markdown(line.name), *line.cells] for line in sheet.lines
    ]
    rule = ["---"] + ["---:"] * len(sheet.columns)
    table = ["| " + " | ".join(cells) + " |" for cells in (head, rule, *lines)]
    notes = [f"\n{escaped_markdown(note)}" for note in sheet.notes]
    return "\n".join([escaped_markdown(sheet.caption), "", *table, *notes]) + "\n"


def escaped_markdown(text: str) -> str:
    """As the same characters in a Markdown paragraph or table cell."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", text)


def html(sheet: Sheet) -> str:
    """A <table>, with the notes in its foot."""
    escape = html_escapes.escape
    head = "".join(
        f'<th scope="col">{escape(name)}</th>' for name in ("model", *(column.heading for column in sheet.columns))
    )
    body = [_html_line(line) for line in sheet.lines]
    span = len(sheet.columns) + 1
    foot = [f'<tr><td colspan="{span}">{escape(note)}</td></tr>' for note in sheet.notes]
    caption = f"<caption>{escape(sheet.caption)}</caption>"
    parts = ["<table>", caption, f"<thead><tr>{head}</tr></thead>", "<tbody>", *body, "</tbody>"]
    return "\n".join([*parts, *(["<tfoot>", *foot, "</tfoot>"] if foot else []), "</table>"]) + "\n"


def _html_line(line: Line) -> str:
    start = '<tr class="published">' if line.published else "<tr>"
    cells = "".join(f"<td>{html_escapes.escape(cell)}</td>" for cell in line.cells)
    return f'{start}<th scope="row">{html_escapes.escape(line.name)}</th>{cells}</tr>'


def latex(sheet: Sheet) -> str:
    """A table environment, ready for a paper that has \\usepackage{booktabs} and T1 fonts."""
    head = " & ".join(["model", *(_tex(column.heading) for column in sheet.columns)])
    body = [
        " & ".join([(r"\quad " if line.published else "") + _tex(line.name), *map(_tex, line.cells)]) + r" \\"
        for line in sheet.lines
    ]
    notes = [r"\par " + _tex(note) for note in sheet.notes]
    return (
        "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                r"\small",
                rf"\caption{{{_tex(sheet.caption)}}}",
                rf"\begin{{tabular}}{{l{'r' * len(sheet.columns)}}}",
                r"\toprule",
                head + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                *notes,
                r"\end{table}",
            ]
        )
        + "\n"
    )


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
