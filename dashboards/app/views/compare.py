"""The page Compare: two variants, or two runs, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import streamlit as st

from slimline.dashboards.app import data
from slimline.dashboards.app.components import chart, selection
from slimline.dashboards.app.components.source_code import as_source
from slimline.dashboards.app.views import lineage
from slimline.dashboards.reports import charts
from slimline.storage.queries.predictions import (
    Completion,
    PredictionPair,
    PredictionSet,
    other_runs,
    prediction_pairs,
    prediction_sets,
)
from slimline.tasks.analysis.statistics import mcnemar

PER_PAGE = 5
DIFFER, ONLY_A, ONLY_B, ALL = "predictions differ", "only A matches", "only B matches", "all"
CONTEXT_LINES = 12
SAME_RUN = "the same run"


def page() -> None:
    """Draw it."""
    st.title("Compare")
    pairs = data.ask(prediction_pairs, *_choose_sides(selection.choose_run()))
    if not pairs:
        selection.end_page("These two have no sample in common: their runs have other samples.")
    _summary(pairs)
    st.header("Exact matches")
    _matches(pairs)
    st.header("Edit similarity of the samples")
    chart.draw(_distribution(pairs), key="distribution")
    st.header("Sample by sample")
    _samples(pairs)


def _choose_sides(run: str) -> tuple[PredictionSet, PredictionSet]:
    found = data.ask(prediction_sets, run)
    if not found:
        selection.end_page("This run has no predictions: its models' weights are random, or it completed nothing.")
    host = selection.choose_host(each.host for each in found)
    ours = {each.variant: each for each in found if each.host == host}
    with st.container(horizontal=True):
        first = st.selectbox("A: variant", list(ours), key="a", bind=selection.IN_ADDRESS)
        other = _choose_other_run(run, host)
        theirs = {each.variant: each for each in data.ask(prediction_sets, other) if each.host == host}
        default = next((index for index, name in enumerate(theirs) if (other, name) != (run, first)), 0)
        second = st.selectbox("B: variant", list(theirs), default, key="b", bind=selection.IN_ADDRESS)
    return ours[first], theirs[second]


def _choose_other_run(run: str, host: str | None) -> str:
    """The run of side B."""
    options = [SAME_RUN, *data.ask(other_runs, host, run)]
    chosen = st.selectbox("B: run", options, key="other", bind=selection.IN_ADDRESS)
    return run if chosen == SAME_RUN else chosen


def _summary(pairs: Sequence[PredictionPair]) -> None:
    es = [_mean([side.es for side in sides]) for sides in _sides(pairs)]
    em = [_mean([100 * side.em for side in sides]) for sides in _sides(pairs)]
    columns = st.columns(4)
    columns[0].metric("Samples in common", f"{len(pairs):,}")
    columns[1].metric("Predictions that differ", f"{sum(pair.differs for pair in pairs):,}")
    columns[2].metric("ES of B (A)", f"{es[1]:.2f} ({es[0]:.2f})", f"{es[1] - es[0]:+.2f} points")
    columns[3].metric("EM of B (A)", f"{em[1]:.2f} ({em[0]:.2f})", f"{em[1] - em[0]:+.2f} points")


def _sides(pairs: Sequence[PredictionPair]) -> tuple[list[Completion], list[Completion]]:
    """The completions of A, and those of B."""
    return [pair.a for pair in pairs], [pair.b for pair in pairs]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _matches(pairs: Sequence[PredictionPair]) -> None:
    """McNemar's table, and his exact test on the samples that only one of the two gets right."""
    counts = {
        (a, b): sum((pair.a.em, pair.b.em) == (a, b) for pair in pairs) for a in (True, False) for b in (True, False)
    }
    st.table(
        {
            "samples": ["A matches", "A does not"],
            "B matches": [counts[True, True], counts[False, True]],
            "B does not": [counts[True, False], counts[False, False]],
        }
    )
    p_value = mcnemar(*([side.em for side in sides] for sides in _sides(pairs)))
    one_matches = counts[True, False] + counts[False, True]
    st.caption(f"McNemar's exact test: p = {p_value:.3g}, over {one_matches} samples that one matches.")


def _distribution(pairs: Sequence[PredictionPair]) -> alt.LayerChart:
    """How many samples have which edit similarity, ten points wide, the exact ones by themselves."""
    bins = range(0, 101, 10)
    values = [
        {
            "es": "100" if low == 100 else f"{low} to {low + 9}",
            "low": low,
            "side": name,
            "samples": sum(low <= side.es <= min(low + 9, 100) for side in sides),
        }
        for low in bins
        for name, sides in zip("AB", _sides(pairs), strict=True)
    ]
    colour = alt.Color("side:N", title=None, scale=alt.Scale(domain=["A", "B"], range=[charts.BLUE, charts.ORANGE]))
    bars = (
        alt.Chart(alt.InlineData(values=values))
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


def _samples(pairs: Sequence[PredictionPair]) -> None:
    choice = st.selectbox("Show", [DIFFER, ONLY_A, ONLY_B, ALL], key="samples", bind=selection.IN_ADDRESS)
    chosen = [pair for pair in pairs if _is_chosen(pair, choice)]
    st.caption(f"{len(chosen):,} samples, those first whose edit similarity differs most")
    if not chosen:
        return
    number = st.pagination(-(-len(chosen) // PER_PAGE), key="page", bind=selection.IN_ADDRESS)
    inputs = lineage.inputs_of(pairs)
    if inputs is None:
        st.info("The data slice of this run is no longer in the artifact store, so the context cannot be shown.")
    for pair in chosen[(number - 1) * PER_PAGE : number * PER_PAGE]:
        _sample(pair, inputs or {})


def _is_chosen(pair: PredictionPair, choice: str) -> bool:
    a, b = pair.a.em, pair.b.em
    return {DIFFER: pair.differs, ONLY_A: a and not b, ONLY_B: b and not a}.get(choice, True)


def _sample(pair: PredictionPair, inputs: Mapping[int, str]) -> None:
    st.markdown(f"**Sample {pair.sample}**")
    if pair.sample in inputs:
        lines = as_source(inputs[pair.sample]).splitlines()
        _code("Context, its last lines" if len(lines) > CONTEXT_LINES else "Context", "\n".join(lines[-CONTEXT_LINES:]))
    _code("Target", as_source(pair.target))
    for column, name, side in zip(st.columns(2), "AB", (pair.a, pair.b), strict=True):
        with column:
            _code(f"{name}: ES {side.es}{', exact' if side.em else ''}", as_source(side.prediction))
    st.divider()


def _code(title: str, text: str) -> None:
    st.caption(title)
    st.code(text or " ", language="python", wrap_lines=True)
