"""The result table on paper: one sheet per host, rendered as text, Markdown, HTML or LaTeX."""

from __future__ import annotations

import html as html_escapes
import io
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from slimline.dashboards.reports.text_tables import markdown_table
from slimline.storage.queries.claims import claims_of
from slimline.storage.queries.results import PublishedFigures, ResultRow
from slimline.storage.text import NONE, clean, escaped_markdown
from slimline.tasks.analysis.significance import (
    MEANING,
    NOT_ENOUGH,
    QUALITY,
    best_value,
    has_one_pair,
    surely_differs,
)


class FigureColumn(NamedTuple):
    """A column of figures: of which metric, and how they are written. An optional one is left out where it is empty.

    An interval is written beside its figure, or only in HTML, beneath it.
    """

    metric: str
    heading: str
    decimals: int
    interval: Literal["beside", "beneath"] | None = None
    optional: bool = False


COLUMNS = (
    FigureColumn("disk_mb", "disk MB", 2),
    FigureColumn("disk_gzip_mb", "disk gzip MB", 2),
    FigureColumn("memory_mb", "memory MB", 0),
    FigureColumn("memory_over_base_mb", "over base MB", 0),
    FigureColumn("memory_over_libraries_mb", "over libs MB", 0, optional=True),
    FigureColumn("speed_ratio", "times as fast", 2, interval="beside"),
    FigureColumn("samples_per_s", "samples/s to line end", 2, interval="beside"),
    FigureColumn("line_speed_ratio", "its ratio", 2, interval="beneath"),
    FigureColumn("tokens_per_sample", "tokens/ sample", 1, optional=True),
    FigureColumn("first_token_p50_ms", "first token ms", 1, optional=True),
    FigureColumn("prefill_tokens_per_s", "prefill tokens/s", 0),
    FigureColumn("decode_tokens_per_s", "decode tokens/s", 0),
    FigureColumn("es", "ES %", 2, interval="beneath"),
    FigureColumn("em", "EM %", 2, interval="beneath"),
    FigureColumn("params_m", "params M", 2),
    FigureColumn("params_nonzero_m", "non-zero M", 2),
    FigureColumn("matmuls", "int8 ops", 0, optional=True),
    FigureColumn("greedy_agreement", "greedy same", 2, optional=True),
    FigureColumn("line_agreement", "lines same %", 1, interval="beneath", optional=True),
    FigureColumn("prefill_limit_share", "prefill limit %", 0, optional=True),
    FigureColumn("decode_limit_share", "decode limit %", 0, optional=True),
)
# Notes beneath every table that has one of these columns.
MEANINGS = {
    "memory_over_libraries_mb": (
        "over base, over libs: peak memory less that of a process without the engine, and with its libraries but no "
        "model; of torch's memory most is its libraries"
    ),
    "speed_ratio": (
        "times as fast: in turns with the baseline's process, at equal work: the same prompts, and as many tokens as "
        "its own tokenizer needs for the target line"
    ),
    "line_speed_ratio": (
        "samples/s to line end, and its ratio: as published; who ends lines early (tokens/ sample) looks faster"
    ),
    "matmuls": "int8 ops: matrix multiplications that are really executed in int8, of all that the model has",
    "greedy_agreement": "greedy same: share of random prompts continued with the same tokens as before the conversion",
    "line_agreement": "lines same: share of the samples that are completed exactly as by the baseline",
    "prefill_limit_share": (
        "prefill limit: operations a second while prompts are read, of this host's measured peak in the same precision"
    ),
    "decode_limit_share": (
        "decode limit: bytes a second that decoding has to read, of this host's measured peak; "
        "none where the last-level cache holds the model, above 100 % where it holds a part or drafts share a pass"
    ),
}
# The published figures by the column of ours that has the same meaning: see PUBLISHED_NOTE.
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
    """A figure, its 95 % interval where it has one, whether it is the best, and whether it surely differs."""

    figure: str
    interval: str = ""
    best: bool = False
    sure: bool = False

    @property
    def figure_with_star(self) -> str:
        """The figure, with a star if it surely differs from the baseline's."""
        return self.figure + ("*" if self.sure else "")


class Line(NamedTuple):
    """One line of a sheet: the model's name, then a cell a column; published lines follow ours."""

    name: str
    cells: list[Cell]
    published: bool


class Sheet(NamedTuple):
    """The table of one host: a caption that says what was measured how, columns, lines, and notes beneath."""

    caption: str
    columns: list[FigureColumn]
    lines: list[Line]
    notes: list[str]


def rows_by_host(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    """The rows of each host, in their order."""
    return {host: [row for row in rows if row.host == host] for host in dict.fromkeys(row.host for row in rows)}


def sheets(rows: Sequence[ResultRow]) -> list[Sheet]:
    """One sheet a host, in the order of the rows."""
    return [_sheet(its_rows) for its_rows in rows_by_host(rows).values()]


def _sheet(rows: Sequence[ResultRow]) -> Sheet:
    columns = [
        column for column in COLUMNS if not column.optional or any(row.value(column.metric) is not None for row in rows)
    ]
    best = {column.metric: best_value(rows, column.metric) for column in columns}
    lines = []
    for row in rows:
        lines += [_our_line(row, columns, best), *(_published_line(figures, columns) for figures in row.published)]
    return Sheet(_caption(rows[0]), columns, lines, _notes(rows, columns))


def _caption(row: ResultRow) -> str:
    noise = "not measured" if row.noise_floor is None else f"{100 * row.noise_floor:.1f} %"
    parts = [
        f"study {clean(row.study)}",
        f"run {clean(row.run)}",
        f"host {clean(row.host)}",
        f"{NONE if row.samples is None else row.samples} samples",
        f"noise floor {noise}",
    ]
    return ", ".join([*parts, *(["TAINTED: too noisy to trust the speeds"] if row.tainted else [])])


def _notes(rows: Sequence[ResultRow], columns: Sequence[FigureColumn]) -> list[str]:
    notes = [f"{clean(row.variant)} failed: {clean(row.error)}" for row in rows if row.error]
    if has_one_pair(rows):
        notes.append(NOT_ENOUGH)
    if any(row.random_weights for row in rows):
        notes.append("random weights: for size, memory and speed only")
    if any(row.published for row in rows):
        notes.append(PUBLISHED_NOTE)
    notes += [
        f"{clean(row.variant)}: {each.system}, {each.author}, as the poster has it: {each.claim}"
        for row in rows
        if row.label == "as published"
        for each in claims_of(row.variant)
    ]
    controls = dict.fromkeys(clean(row.control) for row in rows if row.control)
    notes += [f"ES and EM of what was trained on: compared with {name}, which was trained as long" for name in controls]
    return (
        notes
        + _half_precision_notes(rows)
        + _training_notes(rows)
        + [MEANINGS[column.metric] for column in columns if column.metric in MEANINGS]
    )


def _half_precision_notes(rows: Sequence[ResultRow]) -> list[str]:
    """How large checkpoints in fp32 are as they are usually shipped: what a smaller one has to be compared with."""
    sizes = ((clean(row.variant), row.value("disk_half_mb")) for row in rows)
    halves = [f"{name} {size:.2f}" for name, size in sizes if size is not None]
    return [f"disk in half precision, as checkpoints ship, MB: {', '.join(halves)}"] if halves else []


def _training_notes(rows: Sequence[ResultRow]) -> list[str]:
    """How long variants were trained after the base, and what it did to their loss; a line for all that are alike."""
    alike: dict[str, list[str]] = {}
    for row in rows:
        tokens, before, after = (
            row.value(name) for name in ("train_tokens", "dev_bits_per_byte_before", "dev_bits_per_byte")
        )
        if tokens and after is not None:
            change = f"{NONE if before is None else f'{before:.3f}'} -> {after:.3f}"
            text = f"trained on {tokens / 1e6:.2f} M tokens after the base, held-out text {change} bits per byte"
            alike.setdefault(text, []).append(clean(row.variant))
    return [f"{', '.join(names)}: {text}" for text, names in alike.items()]


def _our_line(row: ResultRow, columns: Sequence[FigureColumn], best: Mapping[str, float | None]) -> Line:
    marks = [mark for mark, holds in (("failed", row.error), ("random weights", row.random_weights)) if holds]
    label = f", {clean(row.label)}" if row.label else ""
    name = clean(row.variant) + label + (f" ({', '.join(marks)})" if marks else "")
    return Line(name, [_cell(row, column, best[column.metric]) for column in columns], published=False)


def _cell(row: ResultRow, column: FigureColumn, best: float | None) -> Cell:
    metric, decimals = column.metric, column.decimals
    figure = row.figure(metric)
    if figure.value is None or (metric in QUALITY and row.random_weights):
        return Cell(NONE)
    text = f"{figure.value:.{decimals}f}"
    if metric == "matmuls":
        text = f"{row.value('int8_matmuls') or 0:.0f}/{text}"
    without_interval = figure.lo is None or figure.hi is None or column.interval is None
    interval = "" if without_interval else f"[{figure.lo:.{decimals}f}, {figure.hi:.{decimals}f}]"
    return Cell(text, interval, figure.value == best and not row.error, surely_differs(row, metric))


def _published_line(published: PublishedFigures, columns: Sequence[FigureColumn]) -> Line:
    values = [
        (published.figures.get(PUBLISHED_AS.get(each.metric, each.metric) or ""), each.decimals) for each in columns
    ]
    cells = [Cell(NONE if value is None else f"{value:.{decimals}f}") for value, decimals in values]
    return Line(f"poster, {clean(published.host)}", cells, published=True)


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


def _beside(figure: str, cell: Cell, column: FigureColumn) -> str:
    return f"{figure} {cell.interval}" if cell.interval and column.interval == "beside" else figure


def markdown(sheet: Sheet) -> str:
    """A pipe table, with the caption above and the notes beneath."""
    lines = [
        [
            ("&nbsp;&nbsp;" if line.published else "") + escaped_markdown(line.name),
            *map(_markdown_cell, line.cells, sheet.columns),
        ]
        for line in sheet.lines
    ]
    table = markdown_table(_head(sheet), lines, ["---"] + ["---:"] * len(sheet.columns))
    notes = [f"\n{escaped_markdown(note)}" for note in (*_meaning(sheet), *sheet.notes)]
    return "\n".join([escaped_markdown(sheet.caption), "", table, *notes]) + "\n"


def _head(sheet: Sheet) -> list[str]:
    return ["model", *(column.heading for column in sheet.columns)]


def _markdown_cell(cell: Cell, column: FigureColumn) -> str:
    figure = cell.figure_with_star.replace("*", r"\*")
    return _beside(f"**{figure}**" if cell.best else figure, cell, column)


def html(sheet: Sheet) -> str:
    """A <table>, intervals beneath their figures, with the notes in its foot."""
    escape = html_escapes.escape
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in _head(sheet))
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
    figure = html_escapes.escape(cell.figure_with_star)
    text = f"<strong>{figure}</strong>" if cell.best else figure
    return f"{text}<br><small>{cell.interval}</small>" if cell.interval else text


def _meaning(sheet: Sheet) -> list[str]:
    marked = any(cell.best or cell.sure for line in sheet.lines for cell in line.cells)
    return [MEANING] if marked else []


def latex(sheet: Sheet) -> str:
    """A table environment, ready for a paper with the package booktabs and T1 fonts."""
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\small",
        rf"\caption{{{_tex(sheet.caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(sheet.columns)}}}",
        r"\toprule",
        " & ".join(map(_tex, _head(sheet))) + r" \\",
        r"\midrule",
        *(_tex_line(line, sheet.columns) for line in sheet.lines),
        r"\bottomrule",
        r"\end{tabular}",
        *(r"\par " + _tex(note) for note in (*_meaning(sheet), *sheet.notes)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex_line(line: Line, columns: Sequence[FigureColumn]) -> str:
    indent = r"\quad " if line.published else ""
    return " & ".join([indent + _tex(line.name), *map(_tex_cell, line.cells, columns)]) + r" \\"


def _tex_cell(cell: Cell, column: FigureColumn) -> str:
    figure = _tex(cell.figure_with_star)
    return _beside(rf"\textbf{{{figure}}}" if cell.best else figure, cell, column)


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
