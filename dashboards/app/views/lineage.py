"""The page Lineage: from a row of the table back to the base model and the data it was made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from slimline.dashboards.app import data
from slimline.dashboards.app.components import selection
from slimline.storage.artifacts.lineage import ancestry
from slimline.storage.artifacts.store import ArtifactError, ArtifactRef, Manifest, Provenance
from slimline.storage.queries.predictions import PredictionPair
from slimline.storage.queries.runs import RecipeStep, recipe_steps

if TYPE_CHECKING:
    pass

SLICE, PREDICTIONS = "slice", "predictions"


class Artifact(NamedTuple):
    """An artifact of the store, its files, and how it was made."""

    ref: ArtifactRef
    manifest: Manifest
    provenance: Provenance


def page() -> None:
    """Draw it."""
    st.title("Lineage")
    found = selection.results_of(selection.choose_run())
    host = selection.choose_host(row.host for row in found)
    rows = {row.variant: row for row in found if row.host == host}
    variant = st.selectbox("Variant", list(rows), key="variant", bind=selection.IN_ADDRESS)
    digest, run = rows[variant].artifact, rows[variant].run
    if digest is None:
        selection.end_page(f"{variant} was not built in this run, so it has no lineage.")
    chain = lineage(digest)
    if not chain:
        selection.end_page(f"Artifact {digest} is no longer in the store; a run of the study builds it again.")
    _recipe(run, variant)
    st.graphviz_chart(graph(chain))
    _table(chain)
    for artifact in chain:
        _details(artifact)


def lineage(digest: str) -> list[Artifact]:
    """The artifact, its predictions, and all they were made of, each after its inputs; without what is gone."""
    everything = {artifact.ref.digest: artifact for artifact in _everything(_published())}
    if digest not in everything:
        return []
    scores = [
        artifact.ref
        for artifact in everything.values()
        if artifact.ref.kind == PREDICTIONS and digest in {ref.digest for ref in artifact.provenance.inputs}
    ]
    chain = ancestry([everything[digest].ref, *scores], data.artifacts())
    return [everything[ref.digest] for ref in chain if ref.digest in everything]


@st.cache_data(ttl=data.LISTING_S, show_spinner=False)
def _published() -> tuple[str, ...]:
    return tuple(ref.model_dump_json() for ref in data.artifacts().list())


@st.cache_resource(max_entries=2, show_spinner=False)
def _everything(published: Sequence[str]) -> list[Artifact]:
    """Every artifact that can be read. Provenance never changes, so the answer depends only on the listing."""
    store, found = data.artifacts(), []
    for text in published:
        ref = ArtifactRef.model_validate_json(text)
        try:
            found.append(Artifact(ref, store.manifest(ref), store.provenance(ref)))
        except ArtifactError:  # removed since, or damaged, which `slimline artifacts verify` reports
            continue
    return found


def inputs_of(pairs: Sequence[PredictionPair]) -> dict[int, str] | None:
    """The context of each sample, from the slice that has these samples' targets; null if no slice has."""
    targets = {(pair.sample, pair.target) for pair in pairs}
    for artifact in _everything(_published()):
        if artifact.ref.kind == SLICE:
            samples = _samples(artifact.ref.model_dump_json())
            if targets <= samples.keys():
                return {sample: text for (sample, _), text in samples.items()}
    return None


@st.cache_resource(max_entries=4, show_spinner=False)
def _samples(slice_: str) -> dict[tuple[int, str], str]:
    """The inputs of a slice by sample and target."""
    import pyarrow.parquet as pq

    directory = data.artifacts().path(ArtifactRef.model_validate_json(slice_))
    columns = pq.read_table(directory / "samples.parquet", columns=["id", "gt", "input"]).to_pydict()
    return dict(zip(zip(columns["id"], columns["gt"], strict=True), columns["input"], strict=True))


def graph(chain: Sequence[Artifact]) -> str:
    """The chain in Graphviz's language: an arrow from what was taken to what was made."""
    known = {artifact.ref.digest for artifact in chain}
    nodes = [f'"{artifact.ref.digest}" [label={json.dumps(_title(artifact))}]' for artifact in chain]
    arrows = [
        f'"{ref.digest}" -> "{artifact.ref.digest}"'
        for artifact in chain
        for ref in artifact.provenance.inputs
        if ref.digest in known
    ]
    style = 'rankdir=LR; bgcolor="transparent"; node [shape=box, style="rounded,filled", fillcolor="#F2F4F7"]; '
    return f'digraph {{ {style}edge [color="#8C8C8C"]; {"; ".join([*nodes, *arrows])} }}'


def _title(artifact: Artifact) -> str:
    return f"{_step(artifact)}\n{artifact.ref}\n{artifact.manifest.size / 1e6:.2f} MB"


def _step(artifact: Artifact) -> str:
    return str(artifact.provenance.step.get("step", artifact.ref.kind))


def _recipe(run: str, variant: str) -> None:
    """The variant's recipe, as the study of the run had it."""
    steps = data.ask(recipe_steps, run, variant)
    if steps:
        st.markdown("Recipe: " + " → ".join(f"`{_step_text(step)}`" for step in steps))


def _step_text(step: RecipeStep) -> str:
    return f"{step.step} {step.name}" if step.step == "engine" else step.step


def _table(chain: Sequence[Artifact]) -> None:
    st.header("Artifacts")
    rows = [
        {
            "step": _step(artifact),
            "artifact": str(artifact.ref),
            "MB": f"{artifact.manifest.size / 1e6:.2f}",
            "files": len(artifact.manifest.files),
            "made (UTC)": f"{artifact.provenance.created:%Y-%m-%d %H:%M:%S}",
            "seconds": f"{artifact.provenance.seconds:.1f}",
            "host": artifact.provenance.host,
        }
        for artifact in chain
    ]
    st.table(rows)


def _details(artifact: Artifact) -> None:
    with st.expander(f"{_step(artifact)}: {artifact.ref}"):
        st.code(f"{artifact.ref.kind}:{artifact.ref.digest}", language=None)
        st.json(json.loads(artifact.provenance.model_dump_json()), expanded=1)
        st.table([{"file": f.path, "bytes": f"{f.size:,}", "SHA-256": f.sha256} for f in artifact.manifest.files])
