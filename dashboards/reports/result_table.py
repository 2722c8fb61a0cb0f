"""The result table on paper: one sheet per host, rendered as text, Markdown, HTML or LaTeX."""

from __future__ import annotations

import html as html_escapes
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from slimline.storage.text import NONE, clean, escaped_markdown
from slimline.tasks.analysis.significance import MEANING, QUALITY, Rows, best_of, surely_differs


class Column(NamedTuple):
    """One column: which figure of a row, and how it is shown. An optional one is left out where nothing fills it.

    Its interval stands beside the figure, or is left to HTML, which has room beneath.
    """

    key: str
    heading: str
    decimals: int
    interval: Literal["beside", "beneath"] | None = None
    optional: bool = False


COLUMNS = (
    Column("disk_mb", "disk MB", 2),
    Column("disk_gzip_mb", "disk gzip MB", 2),
    Column("memory_mb", "memory MB", 0),
    Column("memory_over_base_mb", "over base MB", 0),
    Column("samples_per_s", "samples/s", 2, interval="beside"),
    Column("speed_ratio", "speed ratio", 2, interval="beside"),
    Column("es", "ES %", 2, interval="beneath"),
    Column("em", "EM %", 2, interval="beneath"),
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


class Cell(NamedTuple):
    """A figure, its 95 % interval where it has one, and what stands out about it."""

    figure: str
    interval: str = ""
    best: bool = False
    sure: bool = False

    @property
    def starred(self) -> str:
        """The figure, with a star if it surely differs from the baseline's."""
        return self.figure + ("*" if self.sure else "")


class Line(NamedTuple):
    """One line of a sheet: the model's name, then a cell per column; published lines stand beneath ours."""

    name: str
    cells: list[Cell]
    published: bool


class Sheet(NamedTuple):
    """One host's table: a caption of what was measured how, its columns, the lines, and notes beneath."""

    caption: str
    columns: list[Column]
    lines: list[Line]
    notes: list[str]


def sheets(rows: Rows) -> list[Sheet]:
    """One sheet per host, in the order of the rows."""
    hosts = dict.fromkeys(row["host"] for row in rows)
    return [_sheet([row for row in rows if row["host"] == host]) for host in hosts]


def _sheet(rows: Rows) -> Sheet:
    columns = [column for column in COLUMNS if not column.optional or any(row[column.key] is not None for row in rows)]
    best = {column.key: best_of(rows, column.key) for column in columns}
    lines = [
        line
        for row in rows
        for line in (_ours(row, columns, best), *(_theirs(figures, columns) for figures in row["published"]))
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


def _ours(row: Mapping[str, Any], columns: Sequence[Column], best: Mapping[str, float | None]) -> Line:
    marks = [mark for mark, holds in (("failed", row["error"]), ("random weights", row["random_weights"])) if holds]
    label = f", {clean(row['label'])}" if row["label"] else ""
    name = clean(row["variant"]) + label + (f" ({', '.join(marks)})" if marks else "")
    return Line(name, [_cell(row, column, best[column.key]) for column in columns], published=False)


def _cell(row: Mapping[str, Any], column: Column, best: float | None) -> Cell:
    key, decimals = column.key, column.decimals
    if row[key] is None or (key in QUALITY and row["random_weights"]):
        return Cell(NONE)
    figure = f"{row[key]:.{decimals}f}"
    if key == "matmuls":
        figure = f"{row['int8_matmuls'] or 0:.0f}/{figure}"
    ends = [row.get(f"{key}_{end}") for end in ("lo", "hi")] if column.interval else [None]
    interval = "" if None in ends else f"[{', '.join(f'{end:.{decimals}f}' for end in ends)}]"
    return Cell(figure, interval, row[key] == best and not row["error"], surely_differs(row, key))


def _theirs(figures: Mapping[str, Any], columns: Sequence[Column]) -> Line:
    values = [(figures.get(PUBLISHED_AS.get(each.key, each.key) or ""), each.decimals) for each in columns]
    cells = [Cell(NONE if value is None else f"{value:.{decimals}f}") for value, decimals in values]
    return Line(f"poster, {clean(figures['host'])}", cells, published=True)


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
        cells = [_beside(cell.figure, cell, column) for cell, column in zip(line.cells, sheet.columns, strict=True)]
        table.add_row(Text(indent + line.name), *map(Text, cells))
    out = io.StringIO()
    wide = 50 * sum(len(line.name) + len(line.cells) for line in sheet.lines) + 1000
    Console(file=out, width=wide, color_system=None).print(table)
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join([text, *sheet.notes]) + "\n"


def _beside(figure: str, cell: Cell, column: Column) -> str:
    return f"{figure} {cell.interval}" if cell.interval and column.interval == "beside" else figure


def markdown(sheet: Sheet) -> str:
    """A pipe table, with the caption above and the notes beneath."""
    head = ["model", *(column.heading for column in sheet.columns)]
    lines = [
        [
            ("&nbsp;&nbsp;" if line.published else "") + escaped_markdown(line.name),
            *map(_markdown_cell, line.cells, sheet.columns),
        ]
        for line in sheet.lines
    ]
    rule = ["---"] + ["---:"] * len(sheet.columns)
    table = ["| " + " | ".join(cells) + " |" for cells in (head, rule, *lines)]
    notes = [f"\n{escaped_markdown(note)}" for note in (*_meaning(sheet), *sheet.notes)]
    return "\n".join([escaped_markdown(sheet.caption), "", *table, *notes]) + "\n"


def _markdown_cell(cell: Cell, column: Column) -> str:
    figure = cell.starred.replace("*", r"\*")
    return _beside(f"**{figure}**" if cell.best else figure, cell, column)


def html(sheet: Sheet) -> str:
    """A <table>, intervals beneath their figures, with the notes in its foot."""
    escape = html_escapes.escape
    head = "".join(
        f'<th scope="col">{escape(name)}</th>' for name in ("model", *(column.heading for column in sheet.columns))
    )
    body = [_html_line(line) for line in sheet.lines]
    span = len(sheet.columns) + 1
    foot = [f'<tr><td colspan="{span}">{escape(note)}</td></tr>' for note in (*_meaning(sheet), *sheet.notes)]
    caption = f"<caption>{escape(sheet.caption)}</caption>"
    parts = ["<table>", caption, f"<thead><tr>{head}</tr></thead>", "<tbody>", *body, "</tbody>"]
    return "\n".join([*parts, *(["<tfoot>", *foot, "</tfoot>"] if foot else []), "</table>"]) + "\n"


def _html_line(line: Line) -> str:
    start = '<tr class="published">' if line.published else "<tr>"
    cells = "".join(f"<td>{_html_cell(cell)}</td>" for cell in line.cells)
    return f'{start}<th scope="row">{html_escapes.escape(line.name)}</th>{cells}</tr>'


def _html_cell(cell: Cell) -> str:
    figure = html_escapes.escape(cell.starred)
    shown = f"<strong>{figure}</strong>" if cell.best else figure
    return f"{shown}<br><small>{cell.interval}</small>" if cell.interval else shown


def _meaning(sheet: Sheet) -> list[str]:
    marked = any(cell.best or cell.sure for line in sheet.lines for cell in line.cells)
    return [MEANING] if marked else []


def latex(sheet: Sheet) -> str:
    """A table environment, ready for a paper that has \\usepackage{booktabs} and T1 fonts."""
    head = " & ".join(["model", *(_tex(column.heading) for column in sheet.columns)])
    body = [
        " & ".join(
            [(r"\quad " if line.published else "") + _tex(line.name), *map(_tex_cell, line.cells, sheet.columns)]
        )
        + r" \\"
        for line in sheet.lines
    ]
    notes = [r"\par " + _tex(note) for note in (*_meaning(sheet), *sheet.notes)]
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


def _tex_cell(cell: Cell, column: Column) -> str:
    figure = _tex(cell.starred)
    return _beside(rf"\textbf{{{figure}}}" if cell.best else figure, cell, column)


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
