"""Tables as text: aligned for a terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from rich.cells import cell_len


def align_columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """One text a line, its cells as wide as the widest of their column on a terminal, two blanks apart."""
    taken = [[cell_len(cell) for cell in line] for line in lines]
    widths = [max(column) for column in zip(*taken, strict=True)]
    return [
        "  ".join(cell + " " * (width - own) for cell, width, own in zip(line, widths, owns, strict=True)).rstrip()
        for line, owns in zip(lines, taken, strict=True)
    ]


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]], rule: Sequence[str] = ()) -> str:
    """A pipe table of cells that are Markdown already, without a line break at its end.

    Args:
        head: the first line.
        lines: the others.
        rule: the alignment of each column, such as `---:`; by default all as the renderer likes.
    """
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule or ["---"] * len(head), *lines))


def csv_text(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """CSV with a head; null is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return out.getvalue()
