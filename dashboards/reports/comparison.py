"""Every published system beside ours, as published and repaired, and what explains the differences; in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from slimline.dashboards.reports.result_table import rows_by_host
from slimline.dashboards.reports.text_tables import markdown_table
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.claims import Claim, claims_of
from slimline.storage.queries.comparison import RecordedVariant, recorded_variants, similarities
from slimline.storage.queries.results import Figure, PublishedFigures, ResultRow
from slimline.storage.text import NONE, clean, escaped_markdown
from slimline.tasks.analysis.statistics import paired_difference

_HEAD = ("system", "whose", "disk MB", "in gzip", "memory MB", "times as fast", "ES %", "ES drop", "EM %", "non-zero M")
_RULE = ("---", "---", *["---:"] * (len(_HEAD) - 2))
_METRICS = (
    ("disk_mb", 2),
    ("disk_gzip_mb", 2),
    ("memory_mb", 0),
    ("speed_ratio", 2),
    ("es", 2),
    ("es_drop", 1),
    ("em", 1),
    ("params_nonzero_m", 2),
)
# A poster's disk size is that of an archive, its parameters are those that are not zero, its speed is until lines end.
_PUBLISHED = {
    "disk_gzip_mb": "disk_mb",
    "memory_mb": "memory_mb",
    "speed_ratio": "line_speed_ratio",
    "es": "es",
    "em": "em",
    "params_nonzero_m": "params_m",
}
_WITH_INTERVAL = ("speed_ratio", "es_drop")


class _Run(NamedTuple):
    """What is known of one run on one host."""

    rows: Sequence[ResultRow]
    variants: Mapping[str, RecordedVariant]
    similarities: Mapping[str, Sequence[int]]

    def row(self, variant: str) -> ResultRow | None:
        """The results of a variant."""
        return next((row for row in self.rows if row.variant == variant), None)


def comparison(rows: Sequence[ResultRow], store: MetricsStore) -> str:
    """The comparison of a run, a section a host.

    Args:
        rows: The result rows of the run.
        store: Where they are from; it has the run's study and predictions.
    """
    run = rows[0].run
    with store.connect() as connection:
        variants = recorded_variants(connection, run)
        found = [_Run(own, variants, similarities(connection, run, host)) for host, own in rows_by_host(rows).items()]
    return "\n\n".join(part for each in found for part in _sections(each)) + "\n"


def _sections(run: _Run) -> list[str]:
    first = run.rows[0]
    noise = "not measured" if first.noise_floor is None else f"{100 * first.noise_floor:.1f} %"
    tainted = ", TAINTED: too noisy to trust the speeds" if first.tainted else ""
    names = f"Study {_text(first.study)}, run {_text(first.run)}, host {_text(first.host)}"
    counts = f"{first.samples or NONE} samples, {first.rounds or NONE} rounds, noise floor {noise}{tainted}"
    meaning = "95 % intervals; published speeds are until lines end, ours at equal work"
    caption = f"{names}, {counts}. {meaning}."
    return [caption, _systems(run), *_explanations(run)]


def _systems(run: _Run) -> str:
    """The one table: what is published, ours as published, ours repaired."""
    lines: list[list[str]] = []
    for row in run.rows:
        variant = run.variants.get(row.variant, RecordedVariant(label=row.label or "ours"))
        claims = claims_of(row.variant)
        if not (row.published or claims) and variant.label not in ("baseline", "control", "as published"):
            continue
        lines += [*map(_published_line, row.published), *map(_claim_line, claims)]
        lines.append(_line(row, variant.label))
        lines += [
            _line(repaired, f"repaired: {row.variant}")
            for name, other in run.variants.items()
            if row.variant in other.repairs and (repaired := run.row(name))
        ]
    return markdown_table(_HEAD, lines, _RULE)


def _line(row: ResultRow, whose: str) -> list[str]:
    failed = " (failed)" if row.error else ""
    cells = [_cell(row.figure(metric), decimals, metric in _WITH_INTERVAL) for metric, decimals in _METRICS]
    return [f"**{_text(row.variant)}**{failed}", _text(whose), *cells]


def _published_line(published: PublishedFigures) -> list[str]:
    name = f"{_text(published.published_name)} ({_text(published.host)})"
    values = [(published.figures.get(_PUBLISHED.get(metric, "")), decimals) for metric, decimals in _METRICS]
    return [name, "published", *("" if value is None else f"{value:.{decimals}f}" for value, decimals in values)]


def _claim_line(claim: Claim) -> list[str]:
    return [f"{_text(claim.system)} ({_text(claim.author)})", f"published: {_text(claim.claim)}", *[""] * len(_METRICS)]


def _cell(figure: Figure, decimals: int, with_interval: bool) -> str:
    if figure.value is None:
        return NONE
    text = f"{figure.value:.{decimals}f}"
    if figure.lo is None or figure.hi is None or not with_interval:
        return text
    return f"{text} [{figure.lo:.{decimals}f}, {figure.hi:.{decimals}f}]"


def _text(value: object) -> str:
    return escaped_markdown(clean(value))


# --------------------------------------------------------------------------------------------------------- explanations


def _explanations(run: _Run) -> list[str]:
    """What explains the differences, each with its measurement; a part without one is left out."""
    parts = (
        ("What is really executed in int8", _operators(run)),
        ("What the last step of a recipe costs", _steps(run)),
        ("ES against bits", _bits(run)),
        ("What longer training alone brings", _control(run)),
    )
    return [text for title, body in parts if body for text in (f"### {title}", body)]


def _operators(run: _Run) -> str:
    """Matrix products in int8, of all."""
    lines = []
    for row in run.rows:
        if matmuls := row.value("matmuls"):
            share = f"{row.value('int8_matmuls') or 0:.0f} of {matmuls:.0f}"
            lines.append([_text(row.variant), share, _cell(row.figure("es"), 2, False)])
    return _table(("variant", "matrix products in int8", "ES %"), lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text, and whose others are numbers; empty without lines."""
    return markdown_table(head, lines, ["---", *["---:"] * (len(head) - 1)]) if lines else ""


def _steps(run: _Run) -> str:
    """For each variant that is another one and a step more: the paired difference of their ES."""
    lines = []
    for name, variant in run.variants.items():
        parent = _without_last_step(name, run.variants)
        if parent is None or name not in run.similarities or parent not in run.similarities:
            continue
        drop = paired_difference(run.similarities[parent], run.similarities[name])
        step = str(variant.steps[-1].get("step"))
        lines.append([_text(name), _text(parent), f"`{step}`", _cell(Figure(drop.value, drop.lo, drop.hi), 2, True)])
    head = ("variant", "is, and a step more", "the step", "ES points that it costs")
    return _table(head, lines)


def _without_last_step(name: str, variants: Mapping[str, RecordedVariant]) -> str | None:
    steps = variants[name].steps
    return next((other for other, each in variants.items() if steps and each.steps == steps[:-1]), None)


def _bits(run: _Run) -> str:
    """Bits of a file for each parameter of its model, and ES."""
    found = sorted(
        (
            (8 * disk / parameters, row)
            for row in run.rows
            if (disk := row.value("disk_mb")) and (parameters := row.value("params_m")) and row.value("es") is not None
        ),
        key=lambda each: -each[0],
    )
    lines = [
        [_text(row.variant), f"{bits:.1f}", *(_cell(row.figure(name), 2, True) for name in ("es", "es_drop"))]
        for bits, row in found
    ]
    head = ("variant", "bits of the files for a parameter, tokenizer included", "ES %", "ES drop")
    return _table(head, lines)


def _control(run: _Run) -> str:
    """The control against the baseline."""
    control = next((row for row in run.rows if row.variant == row.control), None)
    if control is None or control.baseline is None or control.variant not in run.similarities:
        return ""
    gain = paired_difference(run.similarities[control.variant], run.similarities[control.baseline])
    tokens = control.value("train_tokens")
    trained = NONE if tokens is None else f"{tokens / 1e6:.1f} M"
    points = _cell(Figure(gain.value, gain.lo, gain.hi), 2, True)
    return (
        f"{_text(control.variant)} is {_text(control.baseline)} after {trained} more tokens of the text alone: its ES "
        f"is {points} points higher. What was trained on is compared with it."
    )
