"""Tables as text: aligned for a terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def align_columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """One text a line, its cells as wide as the widest of their column, two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


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
