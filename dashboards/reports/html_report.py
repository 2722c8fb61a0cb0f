"""A run as one HTML page that needs nothing else: tables, figures, what to ship, its origin, how to redo it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from slimline.dashboards.reports.charts import svg
from slimline.dashboards.reports.figures import Picture, hosts_of, pictures
from slimline.dashboards.reports.formats import render
from slimline.dashboards.reports.recommendation import render_recommendation
from slimline.dashboards.reports.result_table import html as html_table
from slimline.dashboards.reports.result_table import sheets
from slimline.storage.artifacts.lineage import ancestry
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import METRICS, result_rows
from slimline.storage.text import NONE, clean
from slimline.tasks.analysis.recommendation import recommend

Rows = Sequence[Mapping[str, Any]]

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


def report(store: MetricsStore, artifacts: ArtifactStore, study: str | None = None, run: str | None = None) -> str:
    """The page of a run, by default the newest, in HTML; NotMeasured names what there is.

    Shown numbers are rounded as the result table rounds; "Every figure" has them all in full, and the element with the
    id `rows` holds what `slimline table --format json` prints.
    """
    rows = result_rows(store, study, run)
    chosen = str(rows[0]["run"])
    title = f"{clean(rows[0]['study'])}: {clean(chosen)}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>Run of the study {_text(rows[0]['study'])}, started {_text(rows[0]['started'])}; written by slimline.</p>",
        *(_host(host, its_rows) for host, its_rows in hosts_of(rows).items()),
        _lineage(rows, artifacts),
        _environment(store, chosen),
        _reproduction(store, chosen),
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


def _host(host: str, rows: Rows) -> str:
    verdict = render_recommendation(recommend(rows), "text")
    parts = [
        f"<h2>On {_text(host)}</h2>",
        *(_wide(html_table(sheet), f"results on {host}") for sheet in sheets(rows)),
        "<h3>Which one to ship</h3>",
        f'<pre tabindex="0">{html.escape(verdict)}</pre>',
        "<h3>Figures</h3>",
        *map(_figure, pictures(rows)),
        "<h3>Is the difference in quality more than chance?</h3>",
        "<p>Drops against the baseline, sample by sample, in points; the p-value is McNemar's, for exact matches.</p>",
        _figures(rows, QUALITY, f"drops in quality on {host}"),
        "<h3>Every figure</h3>",
        "<p>In full precision, with 95 % intervals.</p>",
        _figures(rows, METRICS, f"every figure on {host}"),
    ]
    return "\n".join(parts)


def _wide(content: str, label: str) -> str:
    """What may be wider than the page scrolls, also from the keyboard."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{_text(label)}">\n{content}</div>'


def _figure(picture: Picture) -> str:
    # To a screen reader it is one picture: what Vega says of each line and point in it would be noise.
    drawn = re.sub(r' (?:role="graphics-\w+"|aria-roledescription="[^"]*"|aria-label="[^"]*")', "", svg(picture.chart))
    named = drawn.replace("<svg ", f'<svg role="img" aria-label="{_text(picture.chart.description)}" ', 1)
    return f"<figure>{named}<figcaption>{_text(picture.caption)}</figcaption></figure>"


def _figures(rows: Rows, metrics: Iterable[str], label: str) -> str:
    """Variants across, metrics down: those that at least one variant has."""
    shown = [metric for metric in metrics if any(row[metric] is not None for row in rows)]
    if not shown:
        return "<p>Not measured in this run.</p>"
    head = ["metric", *(clean(row["variant"]) for row in rows)]
    return _table(head, [[metric, *(_in_full(row, metric) for row in rows)] for metric in shown], label)


def _in_full(row: Mapping[str, Any], metric: str) -> str:
    value, lo, hi = (row[name] for name in (metric, f"{metric}_lo", f"{metric}_hi"))
    if value is None:
        return NONE
    return (
        json.dumps(value) if lo is None or hi is None else f"{json.dumps(value)} [{json.dumps(lo)}, {json.dumps(hi)}]"
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], label: str, kind: str = "figures") -> str:
    columns = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = [
        f'<tr><th scope="row">{_text(name)}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in lines
    ]
    parts = [f'<table class="{kind}">', f"<thead><tr>{columns}</tr></thead>", "<tbody>", *body, "</tbody>", "</table>"]
    return _wide("\n".join(parts), label)


def _lineage(rows: Rows, store: ArtifactStore) -> str:
    """Every artifact behind the rows, what it was made from before it."""
    measured: dict[str, list[str]] = {}
    for row in rows:
        names = measured.setdefault(row["artifact"], [])
        if row["variant"] not in names:
            names.append(row["variant"])
    published = [ref for ref in store.list() if ref.digest in measured]
    lines = [_made(ref, measured.get(ref.digest, ()), store) for ref in ancestry(published, store)]
    head = ["artifact", "made by", "from", "is", "MB", "seconds", "when (UTC)"]
    gone = len({digest for digest in measured if digest} - {ref.digest for ref in published})
    note = f"<p>{gone} of the measured artifacts are no longer in the store.</p>" if gone else ""
    return f"<h2>What was made from what</h2>\n{_table(head, lines, 'lineage', 'text')}{note}"


def _made(ref: ArtifactRef, variants: Sequence[str], store: ArtifactStore) -> list[str]:
    provenance = store.provenance(ref)
    step = {name: value for name, value in provenance.step.items() if name != "step"}
    settings = f" {json.dumps(step, sort_keys=True)}" if step else ""
    return [
        str(ref),
        f"{provenance.step['step']}{settings}",
        ", ".join(map(str, provenance.inputs)),
        ", ".join(variants),
        f"{store.summary(ref).size / 1e6:.2f}",
        f"{provenance.seconds:.1f}",
        f"{provenance.created:%Y-%m-%d %H:%M}",
    ]


def _environment(store: MetricsStore, run: str) -> str:
    with store.connect() as connection:
        answer = connection.execute("FROM hosts WHERE run = ? ORDER BY host, recorded", [run])
        names = [column[0] for column in answer.description or ()]
        hosts = {row[0]: row for row in answer.fetchall()}.values()
    if not hosts:
        return "<h2>Where it ran</h2>\n<p>Not recorded.</p>"
    columns = [[NONE if value is None else _shown(value) for value in host] for host in hosts]
    lines = [[name, *cells] for name, *cells in zip(names, *columns, strict=True) if name not in ("host", "run")]
    return f"<h2>Where it ran</h2>\n{_table(['host', *(str(host[0]) for host in hosts)], lines, 'hosts', 'text')}"


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _reproduction(store: MetricsStore, run: str) -> str:
    """The commands and the study with which the same can be measured again."""
    with store.connect() as connection:
        found = connection.execute(
            "SELECT any_value(git_commit), any_value(spec), any_value(study) FROM runs WHERE run = ?", [run]
        ).fetchone()
    commit, spec, study = found or (None, None, None)
    if spec is None:
        return "<h2>How to do it again</h2>\n<p>The study was not recorded.</p>"
    file = f"{re.sub(r'[^A-Za-z0-9-]+', '-', study)}.yaml"
    commands = [f"git checkout {commit}"] if commit else []
    commands += ["make setup", f".venv/bin/slimline run {file}"]
    content = yaml.safe_dump(json.loads(spec), sort_keys=False, allow_unicode=True, width=110)
    return "\n".join(
        [
            "<h2>How to do it again</h2>",
            f"<p>In slimline's repository, with the study below saved as {_text(file)}:</p>",
            f'<pre tabindex="0">{html.escape(chr(10).join(commands))}</pre>',
            f'<pre tabindex="0">{html.escape(content)}</pre>',
        ]
    )
