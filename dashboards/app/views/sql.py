"""The page SQL: any question about what was measured."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import altair as alt
import streamlit as st

from slimline.dashboards.app import data
from slimline.dashboards.app.components import chart, selection
from slimline.dashboards.app.components.downloads import draw_downloads
from slimline.dashboards.app.components.query_job import LIMITS, Job
from slimline.dashboards.reports import charts
from slimline.dashboards.reports.query_answer import parquet, render_answer
from slimline.storage.metrics.catalog import ColumnDescription, Relation, relations
from slimline.storage.metrics.connection import MEMORY_LIMIT

if TYPE_CHECKING:
    import pyarrow as pa

QUICK_S = 1.0
"""Of a query that ends sooner, the page never says that it runs."""
TABLE_ROWS = 1_000
CHART_ROWS = 2_000
NO_CHART = "none"
MARKS = {"bar": alt.Chart.mark_bar, "line": alt.Chart.mark_line, "point": alt.Chart.mark_point}
EXAMPLES = {
    "The newest runs": "FROM runs SELECT run, study, host, started, noise_floor ORDER BY started DESC LIMIT 20",
    "The fastest variants of every host": (
        "SELECT host, study, variant, max(speed_ratio) AS speed_ratio\n"
        "FROM result_table GROUP BY ALL ORDER BY speed_ratio DESC NULLS LAST LIMIT 20"
    ),
    "What is on the Pareto frontier": (
        "SELECT run, host, variant, es, samples_per_s, disk_mb, memory_over_base_mb\n"
        "FROM pareto WHERE on_frontier ORDER BY run DESC, samples_per_s DESC LIMIT 50"
    ),
    "Beside the published figures": (
        "SELECT variant, published_host, speed_ratio, published_speed_ratio, es_drop, published_es_drop\n"
        "FROM versus_published WHERE published_host IS NOT NULL ORDER BY variant, published_host"
    ),
    "How speed has changed": (
        "SELECT time, host, variant, value, change, relative_change\n"
        "FROM history WHERE metric = 'samples_per_s' ORDER BY time DESC LIMIT 100"
    ),
    "Samples that every variant gets wrong": (
        "SELECT sample, any_value(target) AS target, max(es) AS best_es\n"
        "FROM predictions GROUP BY sample HAVING NOT bool_or(em) ORDER BY best_es LIMIT 20"
    ),
}


def page() -> None:
    """Draw it."""
    st.title("SQL")
    editor, schema = st.columns([3, 1])
    with schema:
        _schema()
    with editor:
        sql = _editor()
        if sql.strip():
            _answer(_job(sql))
        else:
            st.caption("Write a query and press Run, or choose an example.")


def _editor() -> str:
    example = st.selectbox("Examples", list(EXAMPLES), index=None, placeholder="Choose one", key="example")
    st.button("Take the example", disabled=example is None, on_click=_take, args=(example,))
    with st.form("query", border=False):
        sql = st.text_area(
            "Query: one statement of DuckDB's SQL that reads (Ctrl+Enter runs it)",
            height=180,
            key="sql",
            bind=selection.IN_ADDRESS,
        )
        pressed = st.form_submit_button("Run")
    st.caption(f"Queries only read, for at most {LIMITS.seconds:g} s, with at most {MEMORY_LIMIT} of memory.")
    if pressed:
        st.session_state.pop("job", None)  # the same text asks again
    return sql or ""


def _take(example: str | None) -> None:
    st.session_state["sql"] = EXAMPLES[example] if example else ""


def _schema() -> None:
    st.header("Schema")
    for relation in _relations():
        with st.expander(f"{relation.name} (view)" if relation.kind == "view" else relation.name):
            st.markdown("\n".join(map(_column_text, relation.columns)))


@st.cache_resource(show_spinner=False)
def _relations() -> list[Relation]:
    return relations()


def _column_text(column: ColumnDescription) -> str:
    return f"- `{column.name}` {column.type.lower()}{f': {column.doc}' if column.doc else ''}"


def _job(sql: str) -> Job:
    """The query's job: a new one for a new text, after stopping the one before."""
    job: Job | None = st.session_state.get("job")
    if job is None or job.sql != sql:
        if job is not None:
            job.cancel()
        job = st.session_state["job"] = Job(data.metrics(), sql)
    return job


def _answer(job: Job) -> None:
    if not job.wait(QUICK_S):
        _running(job)
    elif job.error is not None:
        st.error("The query was not answered.")
        st.code(job.error, language=None, wrap_lines=True)
    elif job.answer is not None:
        _show(job.answer, job.seconds)


@st.fragment(run_every=0.5)
def _running(job: Job) -> None:
    if job.wait(0.0):
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Cancel", on_click=job.cancel)
        st.markdown("Running …")


def _show(answer: pa.Table, seconds: float) -> None:
    part = f", the first {TABLE_ROWS:,} shown" if answer.num_rows > TABLE_ROWS else ""
    st.caption(f"{answer.num_rows:,} rows in {seconds:.2f} s{part}")
    st.dataframe(answer.slice(0, TABLE_ROWS), hide_index=True)
    _chart(answer)
    text = {form: partial(render_answer, answer, form) for form in ("csv", "json", "md")}
    draw_downloads("slimline-query", {**text, "parquet": lambda: parquet(answer)})


def _chart(answer: pa.Table) -> None:
    if not answer.num_rows or answer.num_columns < 2:
        return
    names = answer.column_names
    with st.container(horizontal=True):
        mark = st.selectbox("Quick chart", [NO_CHART, *MARKS], key="mark", bind=selection.IN_ADDRESS)
        x = st.selectbox("across", names, key="across", bind=selection.IN_ADDRESS)
        y = st.selectbox("up", names, len(names) - 1, key="up", bind=selection.IN_ADDRESS)
    if mark != NO_CHART:
        chart.draw(_quick_chart(answer.slice(0, CHART_ROWS), mark, x, y), key="quick")


def _quick_chart(answer: pa.Table, mark: str, x: str, y: str) -> alt.LayerChart:
    values = [
        {"x": _plain(across), "y": _plain(up)}
        for across, up in zip(answer[x].to_pylist(), answer[y].to_pylist(), strict=True)
    ]
    encoded = MARKS[mark](alt.Chart(alt.InlineData(values=values)), color=charts.BLUE).encode(
        alt.X("x", type=_vega_type(answer, x), title=x),
        alt.Y("y", type=_vega_type(answer, y), title=y),
        tooltip=["x:N", "y:N"],
    )
    return alt.LayerChart(layer=[encoded], width=charts.WIDTH, height=300, description=f"{y} against {x}")


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float) else str(value)


def _vega_type(answer: pa.Table, name: str) -> Any:
    import pyarrow as pa

    kind = answer.schema.field(name).type
    if pa.types.is_temporal(kind):
        return "temporal"
    return "quantitative" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "nominal"
