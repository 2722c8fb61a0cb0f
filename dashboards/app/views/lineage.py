"""The page Lineage: from a row of the table back to the base model and the data it was made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import streamlit as st

from slimline.dashboards.app import data
from slimline.dashboards.app.components import selection
from slimline.dashboards.app.data import Row
from slimline.storage.artifacts.lineage import ancestry
from slimline.storage.artifacts.store import ArtifactError, ArtifactRef, Manifest, Provenance

if TYPE_CHECKING:
    import pyarrow as pa

SLICE, PREDICTIONS = "slice", "predictions"


class Made(NamedTuple):
    """An artifact of the store, and how it came to be."""

    ref: ArtifactRef
    manifest: Manifest
    provenance: Provenance


def page() -> None:
    """Draw it."""
    st.title("Lineage")
    found = selection.results_of(selection.choose_run())
    host = selection.choose_host(selection.hosts_of(found))
    rows = [row for row in found if row["host"] == host]
    variant = st.selectbox("Variant", [row["variant"] for row in rows], key="variant", bind=selection.IN_ADDRESS)
    run = rows[0]["run"]
    sql = "SELECT any_value(artifact) AS digest FROM measurements WHERE run = ? AND host = ? AND variant = ?"
    digest = data.ask(sql, run, host, variant)[0]["digest"]
    if digest is None:
        selection.empty(f"{variant} was not built in this run, so there is nothing to trace.")
    chain = lineage(digest)
    if not chain:
        selection.empty(f"Artifact {digest} is no longer in the store; a run of the study builds it again.")
    _recipe(run, variant)
    st.graphviz_chart(graph(chain))
    _table(chain)
    for made in chain:
        _details(made)


def lineage(digest: str) -> list[Made]:
    """The artifact, its predictions, and all they were made of, each after its inputs; without what is gone."""
    everything = {made.ref.digest: made for made in _everything(_published())}
    if digest not in everything:
        return []
    scores = [
        made.ref
        for made in everything.values()
        if made.ref.kind == PREDICTIONS and digest in {ref.digest for ref in made.provenance.inputs}
    ]
    chain = ancestry([everything[digest].ref, *scores], data.artifacts())
    return [everything[ref.digest] for ref in chain if ref.digest in everything]


@st.cache_data(ttl=data.LISTED_FOR_S, show_spinner=False)
def _published() -> tuple[str, ...]:
    return tuple(ref.model_dump_json() for ref in data.artifacts().list())


@st.cache_resource(max_entries=2, show_spinner=False)
def _everything(published: Sequence[str]) -> list[Made]:
    """Every artifact that can be read. Provenance never changes, so that a listing is all there is to know."""
    store, found = data.artifacts(), []
    for text in published:
        ref = ArtifactRef.model_validate_json(text)
        try:
            found.append(Made(ref, store.manifest(ref), store.provenance(ref)))
        except ArtifactError:  # removed since, or damaged: `slimline artifacts verify` tells
            continue
    return found


def inputs_of(pairs: Sequence[Row]) -> dict[int, Any] | None:
    """The context of each sample, from the slice that has these samples' targets; null if no slice has."""
    targets = {int(pair["sample"]): str(pair["target"]) for pair in pairs}
    for made in _everything(_published()):
        if made.ref.kind == SLICE:
            samples = _samples(made.ref.model_dump_json()).to_pylist()
            known = {row["id"]: row for row in samples}
            if all(known.get(sample, {}).get("gt") == target for sample, target in targets.items()):
                return {sample: row["input"] for sample, row in known.items()}
    return None


@st.cache_resource(max_entries=4, show_spinner=False)
def _samples(slice_: str) -> pa.Table:
    import pyarrow.parquet as pq

    directory = data.artifacts().path(ArtifactRef.model_validate_json(slice_))
    return pq.read_table(directory / "samples.parquet", columns=["id", "input", "gt"])


def graph(chain: Sequence[Made]) -> str:
    """The chain in Graphviz's language: an arrow from what was taken to what was made."""
    known = {made.ref.digest for made in chain}
    nodes = [f'"{made.ref.digest}" [label={json.dumps(_title(made))}]' for made in chain]
    arrows = [
        f'"{ref.digest}" -> "{made.ref.digest}"'
        for made in chain
        for ref in made.provenance.inputs
        if ref.digest in known
    ]
    style = 'rankdir=LR; bgcolor="transparent"; node [shape=box, style="rounded,filled", fillcolor="#F2F4F7"]; '
    return f'digraph {{ {style}edge [color="#8C8C8C"]; {"; ".join([*nodes, *arrows])} }}'


def _title(made: Made) -> str:
    return f"{_step(made)}\n{made.ref}\n{made.manifest.size / 1e6:.2f} MB"


def _step(made: Made) -> str:
    return str(made.provenance.step.get("step", made.ref.kind))


def _recipe(run: str, variant: str) -> None:
    """The variant's recipe, as the study of the run had it."""
    specs = data.ask("SELECT spec FROM runs WHERE run = ? AND spec IS NOT NULL LIMIT 1", run)
    recipe = json.loads(specs[0]["spec"])["variants"].get(variant, {}).get("recipe", []) if specs else []
    if recipe:
        st.markdown("Recipe: " + " → ".join(f"`{_named(step)}`" for step in recipe))


def _named(step: Row) -> str:
    return f"{step['step']} {step['name']}" if step["step"] == "engine" else str(step["step"])


def _table(chain: Sequence[Made]) -> None:
    st.header("Artifacts")
    rows = [
        {
            "step": _step(made),
            "artifact": str(made.ref),
            "MB": f"{made.manifest.size / 1e6:.2f}",
            "files": len(made.manifest.files),
            "made (UTC)": f"{made.provenance.created:%Y-%m-%d %H:%M:%S}",
            "seconds": f"{made.provenance.seconds:.1f}",
            "host": made.provenance.host,
        }
        for made in chain
    ]
    st.table(rows)


def _details(made: Made) -> None:
    with st.expander(f"{_step(made)}: {made.ref}"):
        st.code(f"{made.ref.kind}:{made.ref.digest}", language=None)
        st.json(json.loads(made.provenance.model_dump_json()), expanded=1)
        st.table([{"file": f.path, "bytes": f"{f.size:,}", "SHA-256": f.sha256} for f in made.manifest.files])
