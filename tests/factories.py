"""Rows that tests of several packages need."""

from typing import Any

from slimline.storage.queries.results import Figure, ResultRow

FigureValue = Figure | float | tuple[float | None, float | None, float | None] | None


def result_row(variant: str, figures: dict[str, FigureValue] | None = None, **values: Any) -> ResultRow:
    """A variant's results in the run `r1` of the study `embedded` on the host `box`; its baseline is `original`.

    Args:
        variant: its name.
        figures: by metric the value, or the value with both ends of its interval.
        values: other fields of the row; names of metrics are figures, too.
    """
    fields = {name: values.pop(name) for name in list(values) if name in ResultRow.model_fields}
    given = {**(figures or {}), **values}
    row = {
        "host": "box",
        "study": "embedded",
        "run": "r1",
        "baseline": "original",
        "noise_floor": 0.02,
        "tainted": False,
    }
    return ResultRow(
        variant=variant, figures={name: as_figure(value) for name, value in given.items()}, **(row | fields)
    )


def as_figure(value: FigureValue) -> Figure:
    """A value, or a value with its interval, as a figure."""
    if isinstance(value, Figure):
        return value
    return Figure(*value) if isinstance(value, tuple) else Figure(value)


def with_figures(row: ResultRow, **figures: FigureValue) -> ResultRow:
    """The row with other figures."""
    return row.model_copy(
        update={"figures": {**row.figures, **{name: as_figure(value) for name, value in figures.items()}}}
    )
