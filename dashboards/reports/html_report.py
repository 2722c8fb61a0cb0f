"""A run as one HTML page that needs nothing else: tables, figures, what to ship, its origin, how to redo it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence

import yaml

from slimline.dashboards.reports.charts import svg
from slimline.dashboards.reports.figures import Picture, pictures, sensitivity_pictures
from slimline.dashboards.reports.formats import render
from slimline.dashboards.reports.lineage import Origin, origins
from slimline.dashboards.reports.recommendation import HostResults, render_recommendation, results_by_host
from slimline.dashboards.reports.result_table import html as html_table
from slimline.dashboards.reports.result_table import sheets
from slimline.dashboards.reports.sensitivity import analyses
from slimline.storage.artifacts.store import ArtifactStore
from slimline.storage.metrics.metric import TABLE_METRICS
from slimline.storage.metrics.rows import HostRow
from slimline.storage.metrics.schema import stored_values
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import Figure, ResultRow
from slimline.storage.queries.runs import StudyRecord, run_hosts, study_record
from slimline.storage.text import NONE, clean

QUALITY = ("es_drop", "em_drop", "em_p_value")
# The policy forbids the page everything outside itself, should a name in it ever be more than text.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light dark; --faint: #ddd; --shade: #f4f4f4; }
@media (prefers-color-scheme: dark) { :root { --faint: #3a3f47; --shade: #1c2026; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; background: Canvas;
  color: CanvasText; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.3rem 0; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--faint); text-align: right; white-space: nowrap; }
th[scope=row], tfoot td, table.text td { text-align: left; }
td small { font-size: 0.85em; opacity: 0.85; }
tfoot td { white-space: normal; border: 0; }
tr.published { font-style: italic; }
tr.published th { padding-left: 1.8rem; font-weight: normal; }
pre { background: var(--shade); padding: 0.8rem; font-size: 0.85rem; overflow-x: auto; }
figure { margin: 1.5rem 0; }
figure svg { max-width: 100%; height: auto; }
figure svg text { fill: CanvasText; }
figure svg .role-axis-grid line { stroke: var(--faint); }
"""


def report(rows: Sequence[ResultRow], store: MetricsStore, artifacts: ArtifactStore) -> str:
    """The page of a run in HTML.

    Numbers are rounded as the result table rounds; "Every figure" has them all in full, and the element with the id
    `rows` holds what `slimline table --format json` prints.

    Args:
        rows: the result rows of the run.
        store: where they are from; it also has the run's study and hosts.
        artifacts: what was built.
    """
    first = rows[0]
    title = f"{clean(first.study)}: {clean(first.run)}"
    with store.connect() as connection:
        hosts, study = run_hosts(connection, first.run), study_record(connection, first.run)
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>Run of the study {_text(first.study)}, started {_text(first.flat()['started'])}; written by slimline.</p>",
        *map(_host, results_by_host(rows)),
        *_sensitivity(rows, artifacts),
        _lineage(rows, artifacts),
        _environment(hosts),
        _reproduction(study),
    ]
    return _page(title, parts, render(rows, "json"))


def _page(title: str, parts: Sequence[str], data: str) -> str:
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title>",
        f"<style>{STYLE}</style>",
    ]
    # "<" could begin "</script>"; as an escape it is the same JSON.
    rows = data.replace("<", "\\u003c")
    body = ["<main>", *parts, "</main>", f'<script type="application/json" id="rows">{rows}</script>']
    return "\n".join(
        ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body, "</body>"]
    ) + ("\n</html>\n")


def _text(value: object) -> str:
    return html.escape(clean(value))


def _references(rows: Sequence[ResultRow]) -> str:
    """What drops of quality are measured against."""
    baseline, control = rows[0].baseline or "the baseline", rows[0].control
    return f"{baseline}, of what was trained on against {control}" if control else baseline


def _host(found: HostResults) -> str:
    host, rows, recommendation = found
    parts = [
        f"<h2>On {_text(host)}</h2>",
        *(_wide(html_table(sheet), f"results on {host}") for sheet in sheets(rows)),
        "<h3>Which one to ship</h3>",
        f'<pre tabindex="0">{html.escape(render_recommendation(recommendation, "text"))}</pre>',
        "<h3>Figures</h3>",
        *map(_figure, pictures(rows, recommendation)),
        "<h3>Is the difference in quality more than chance?</h3>",
        f"<p>Drops against {_text(_references(rows))}, sample by sample, in points; the p-value is McNemar's, for "
        "exact matches.</p>",
        _figures(rows, QUALITY, f"drops in quality on {host}"),
        "<h3>Every figure</h3>",
        "<p>In full precision, with 95 % intervals.</p>",
        _figures(rows, TABLE_METRICS, f"every figure on {host}"),
    ]
    return "\n".join(parts)


def _wide(content: str, label: str) -> str:
    """Around what may be wider than the page: it scrolls, also by keyboard."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{_text(label)}">\n{content}</div>'


def _figure(picture: Picture) -> str:
    # A screen reader should announce one picture, not each line and point in it.
    text = re.sub(r' (?:role="graphics-\w+"|aria-roledescription="[^"]*"|aria-label="[^"]*")', "", svg(picture.chart))
    labelled = text.replace("<svg ", f'<svg role="img" aria-label="{_text(picture.chart.description)}" ', 1)
    return f"<figure>{labelled}<figcaption>{_text(picture.caption)}</figcaption></figure>"


def _figures(rows: Sequence[ResultRow], metrics: Iterable[str], label: str) -> str:
    """Variants across, metrics down: those that at least one variant has."""
    known = [metric for metric in metrics if any(row.value(metric) is not None for row in rows)]
    if not known:
        return "<p>Not measured in this run.</p>"
    head = ["metric", *(clean(row.variant) for row in rows)]
    return _table(head, [[metric, *(_in_full(row.figure(metric)) for row in rows)] for metric in known], label)


def _in_full(figure: Figure) -> str:
    if figure.value is None:
        return NONE
    value = json.dumps(figure.value)
    no_interval = figure.lo is None or figure.hi is None
    return value if no_interval else f"{value} [{json.dumps(figure.lo)}, {json.dumps(figure.hi)}]"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], label: str, kind: str = "figures") -> str:
    columns = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = [
        f'<tr><th scope="row">{_text(name)}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in lines
    ]
    parts = [f'<table class="{kind}">', f"<thead><tr>{columns}</tr></thead>", "<tbody>", *body, "</tbody>", "</table>"]
    return _wide("\n".join(parts), label)


def _sensitivity(rows: Sequence[ResultRow], store: ArtifactStore) -> list[str]:
    """Of each model whose tensors were rounded one by one: what each costs, as a figure and a table."""
    found = analyses(origins(rows, store))
    if not found:
        return []
    parts = ["<h2>What each tensor costs in 8 bits</h2>"]
    for analysis, picture in zip(found, sensitivity_pictures(rows, store), strict=True):
        lines = [[each.tensor, f"{each.divergence:.3g}", str(each.bits)] for each in analysis.tensors]
        head = ["tensor", "divergence if only it has 8 bits, nats per token", "bits"]
        parts += [_figure(picture), _table(head, lines, f"sensitivity of {', '.join(analysis.variants)}")]
    return parts


def _lineage(rows: Sequence[ResultRow], store: ArtifactStore) -> str:
    """A table of every artifact behind the rows."""
    found = origins(rows, store)
    head = ["artifact", "made by", "from", "is", "MB", "seconds", "when (UTC)"]
    gone = len({row.artifact for row in rows if row.artifact} - {origin.ref.digest for origin in found})
    note = f"<p>{gone} of the measured artifacts are no longer in the store.</p>" if gone else ""
    return f"<h2>What was made from what</h2>\n{_table(head, map(_origin_line, found), 'lineage', 'text')}{note}"


def _origin_line(origin: Origin) -> list[str]:
    provenance = origin.provenance
    settings = {name: value for name, value in provenance.step.items() if name != "step"}
    return [
        str(origin.ref),
        f"{origin.step} {json.dumps(settings, sort_keys=True) if settings else ''}".rstrip(),
        ", ".join(map(str, provenance.inputs)),
        ", ".join(origin.variants),
        f"{origin.size_mb:.2f}",
        f"{provenance.seconds:.1f}",
        f"{provenance.created:%Y-%m-%d %H:%M}",
    ]


def _environment(hosts: Sequence[HostRow]) -> str:
    """A table with a host a column, and what was recorded of each."""
    if not hosts:
        return "<h2>Where it ran</h2>\n<p>Not recorded.</p>"
    columns = [{name: _cell(value) for name, value in stored_values(host).items()} for host in hosts]
    lines = [[name, *(each[name] for each in columns)] for name in columns[0] if name not in ("host", "run")]
    return f"<h2>Where it ran</h2>\n{_table(['host', *(host.host for host in hosts)], lines, 'hosts', 'text')}"


def _cell(value: object) -> str:
    if value is None:
        return NONE
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _reproduction(record: StudyRecord) -> str:
    """The commands and the study with which the same can be measured again."""
    if record.spec is None:
        return "<h2>How to do it again</h2>\n<p>The study was not recorded.</p>"
    file = f"{re.sub(r'[^A-Za-z0-9-]+', '-', str(record.study))}.yaml"
    checkout = [f"git checkout {record.git_commit}"] if record.git_commit else []
    commands = "\n".join([*checkout, "make setup", f".venv/bin/slimline run {file}"])
    content = yaml.safe_dump(dict(record.spec), sort_keys=False, allow_unicode=True, width=110)
    parts = [
        "<h2>How to do it again</h2>",
        f"<p>In slimline's repository, with the study below saved as {_text(file)}:</p>",
        f'<pre tabindex="0">{html.escape(commands)}</pre>',
        f'<pre tabindex="0">{html.escape(content)}</pre>',
    ]
    return "\n".join(parts)
