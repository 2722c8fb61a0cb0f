"""The page Compare: two variants, or two runs, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import streamlit as st
from scipy import stats

from slimline.dashboards.app import data
from slimline.dashboards.app.components import chart, selection
from slimline.dashboards.app.components.source_code import as_source
from slimline.dashboards.app.data import Row
from slimline.dashboards.app.views import lineage
from slimline.dashboards.reports import charts

PER_PAGE = 5
DIFFER, ONLY_A, ONLY_B, ALL = "predictions differ", "only A matches", "only B matches", "all"
CONTEXT_LINES = 12
PREDICTED = """
    SELECT variant, host FROM predictions WHERE run = ? GROUP BY ALL
    ORDER BY bool_or(variant IN (SELECT baseline FROM runs)) DESC, variant, host
"""
SAME_RUN = "the same run"
PAIRS = """
    SELECT sample, target, a.prediction AS prediction_a, b.prediction AS prediction_b,
        a.es AS es_a, b.es AS es_b, a.em AS em_a, b.em AS em_b
    FROM (FROM predictions WHERE run = ? AND variant = ? AND host IS NOT DISTINCT FROM ?) AS a
    INNER JOIN (FROM predictions WHERE run = ? AND variant = ? AND host IS NOT DISTINCT FROM ?) AS b
        USING (sample, target)
    ORDER BY abs(a.es - b.es) DESC, sample
"""


class Side(NamedTuple):
    """What is compared: a variant's predictions in one run on one host."""

    run: str
    variant: str
    host: str | None


def page() -> None:
    """Draw it."""
    st.title("Compare")
    run = selection.choose_run()
    sides = _sides(run)
    pairs = data.ask(PAIRS, *sides[0], *sides[1])
    if not pairs:
        selection.empty("These two have completed no sample in common: the samples of their runs are others.")
    _summary(pairs)
    st.header("Exact matches")
    _matches(pairs)
    st.header("Edit similarity of the samples")
    chart.draw(_distribution(pairs), key="distribution")
    st.header("Sample by sample")
    _samples(pairs)


def _sides(run: str) -> tuple[Side, Side]:
    ours = data.ask(PREDICTED, run)
    if not ours:
        selection.empty("This run has no predictions: its models' weights are random, or it completed nothing.")
    host = selection.choose_host(selection.hosts_of(ours))
    variants = [row["variant"] for row in ours if row["host"] == host]
    with st.container(horizontal=True):
        first = st.selectbox("A: variant", variants, key="a", bind=selection.IN_ADDRESS)
        other = _other_run(run, host)
        theirs = [row["variant"] for row in data.ask(PREDICTED, other) if row["host"] == host]
        default = next((index for index, name in enumerate(theirs) if (other, name) != (run, first)), 0)
        second = st.selectbox("B: variant", theirs, default, key="b", bind=selection.IN_ADDRESS)
    return Side(run, first, host), Side(other, second, host)


def _other_run(run: str, host: str) -> str:
    """The run of side B."""
    sql = "SELECT DISTINCT run FROM predictions WHERE host IS NOT DISTINCT FROM ? AND run <> ? ORDER BY run DESC"
    others = [row["run"] for row in data.ask(sql, host, run)]
    chosen = st.selectbox("B: run", [SAME_RUN, *others], key="other", bind=selection.IN_ADDRESS)
    return run if chosen == SAME_RUN else chosen


def _summary(pairs: Sequence[Row]) -> None:
    mean = [sum(pair[f"es_{side}"] for pair in pairs) / len(pairs) for side in "ab"]
    exact = [100 * sum(pair[f"em_{side}"] for pair in pairs) / len(pairs) for side in "ab"]
    columns = st.columns(4)
    columns[0].metric("Samples in common", f"{len(pairs):,}")
    columns[1].metric("Predictions that differ", f"{sum(map(_differ, pairs)):,}")
    columns[2].metric("ES of B (A)", f"{mean[1]:.2f} ({mean[0]:.2f})", f"{mean[1] - mean[0]:+.2f} points")
    columns[3].metric("EM of B (A)", f"{exact[1]:.2f} ({exact[0]:.2f})", f"{exact[1] - exact[0]:+.2f} points")


def _differ(pair: Row) -> bool:
    return bool(pair["prediction_a"] != pair["prediction_b"])


def _matches(pairs: Sequence[Row]) -> None:
    """McNemar's table, and his exact test on the samples that only one of the two gets right."""
    counts = {(a, b): sum((pair["em_a"], pair["em_b"]) == (a, b) for pair in pairs) for a in (1, 0) for b in (1, 0)}
    st.table(
        {
            "samples": ["A matches", "A does not"],
            "B matches": [counts[1, 1], counts[0, 1]],
            "B does not": [counts[1, 0], counts[0, 0]],
        }
    )
    p_value = mcnemar(counts[1, 0], counts[0, 1])
    st.caption(f"McNemar's exact test: p = {p_value:.3g}, over {counts[1, 0] + counts[0, 1]} samples that one matches.")


def mcnemar(only_a: int, only_b: int) -> float:
    """The two-sided p value of McNemar's exact test (Psychometrika 12, 1947): 1 if neither is ever alone right."""
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _distribution(pairs: Sequence[Row]) -> alt.LayerChart:
    """How many samples have which edit similarity, ten points wide, the exact ones by themselves."""
    bins = range(0, 101, 10)
    rows = [
        {
            "es": "100" if low == 100 else f"{low} to {low + 9}",
            "low": low,
            "side": side.upper(),
            "samples": sum(low <= pair[f"es_{side}"] <= min(low + 9, 100) for pair in pairs),
        }
        for low in bins
        for side in "ab"
    ]
    colour = alt.Color("side:N", title=None, scale=alt.Scale(domain=["A", "B"], range=[charts.BLUE, charts.ORANGE]))
    bars = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar()
        .encode(
            alt.X("es:N", title="edit similarity (ES) of a sample, %", sort=alt.SortField("low")),
            alt.Y("samples:Q", title="samples"),
            colour,
            alt.XOffset("side:N"),
            tooltip=["side:N", "es:N", "samples:Q"],
        )
    )
    return alt.LayerChart(layer=[bars], width=charts.WIDTH, height=240, description="Samples by edit similarity")


def _samples(pairs: Sequence[Row]) -> None:
    shown = st.selectbox("Show", [DIFFER, ONLY_A, ONLY_B, ALL], key="samples", bind=selection.IN_ADDRESS)
    wanted = [pair for pair in pairs if _wanted(pair, shown)]
    st.caption(f"{len(wanted):,} samples, those first whose edit similarity differs most")
    if not wanted:
        return
    number = st.pagination(-(-len(wanted) // PER_PAGE), key="page", bind=selection.IN_ADDRESS)
    inputs = lineage.inputs_of(pairs)
    if inputs is None:
        st.info("The data slice of this run is no longer in the artifact store, so the context cannot be shown.")
    for pair in wanted[(number - 1) * PER_PAGE : number * PER_PAGE]:
        _sample(pair, inputs or {})


def _wanted(pair: Row, shown: str) -> bool:
    wanted = {DIFFER: _differ(pair), ONLY_A: pair["em_a"] > pair["em_b"], ONLY_B: pair["em_b"] > pair["em_a"]}
    return bool(wanted.get(shown, True))


def _sample(pair: Row, inputs: dict[int, Any]) -> None:
    st.markdown(f"**Sample {pair['sample']}**")
    if pair["sample"] in inputs:
        lines = as_source(inputs[pair["sample"]]).splitlines()
        _code("Context, its last lines" if len(lines) > CONTEXT_LINES else "Context", "\n".join(lines[-CONTEXT_LINES:]))
    _code("Target", as_source(pair["target"]))
    for column, side in zip(st.columns(2), "ab", strict=True):
        with column:
            exact = ", exact" if pair[f"em_{side}"] else ""
            _code(f"{side.upper()}: ES {pair[f'es_{side}']}{exact}", as_source(pair[f"prediction_{side}"]))
    st.divider()


def _code(title: str, text: str) -> None:
    st.caption(title)
    st.code(text or " ", language="python", wrap_lines=True)
