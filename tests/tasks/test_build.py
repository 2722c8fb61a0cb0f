"""Steps from references to references: provenance, parity, and what a step's key depends on."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.tasks import build
from slimline.tasks.export.parity import Loadable, parity_in_new_process
from slimline.tasks.measurement import rounds
from slimline.tasks.specs import Engine, ExportOnnx, GroupLasso, OnnxInt8, RandomBase

NO_SLICE = ArtifactRef(kind="slice", digest="0" * 64)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store") / "artifacts")


@pytest.fixture(scope="module")
def base(store: ArtifactStore) -> ArtifactRef:
    made = Provenance(step={"step": "data"}, inputs=[], versions={}, host="h", created=datetime.now(UTC), seconds=0)
    with store.stage() as directory:
        (directory / "report.json").write_text("{}")
        slice_ = store.publish(directory, "slice", made)
    return build.make_base(RandomBase(architecture="tiny"), slice_, store)


def test_conversions_are_checked_and_remember_where_they_come_from(store: ArtifactStore, base: ArtifactRef) -> None:
    graph = build.apply_step(ExportOnnx(), base, store)
    int8 = build.apply_step(OnnxInt8(), graph, store)
    assert store.provenance(graph).inputs == [base] and store.provenance(int8).inputs == [graph]
    assert store.provenance(graph).notes["parity_max_abs"] <= 1e-3
    notes = rounds.all_notes(int8, store)
    assert (notes["int8_matmuls"], notes["matmuls"]) == (9, 9)
    assert all(rounds.has_random_weights(ref, store) for ref in (base, graph, int8))


def test_what_does_not_reload_is_an_error(store: ArtifactStore, base: ArtifactRef, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="does not reload"):
        parity_in_new_process(
            Loadable(Engine(name="torch"), store.path(base)), Loadable(Engine(name="onnxruntime"), tmp_path)
        )


def test_a_key_follows_the_spec_and_the_inputs(base: ArtifactRef) -> None:
    other = ArtifactRef(kind="model", digest="1" * 64)
    keys = {
        build.step_key(GroupLasso(), (base, NO_SLICE)),
        build.step_key(GroupLasso(sparsity=0.5), (base, NO_SLICE)),
        build.step_key(GroupLasso(), (other, NO_SLICE)),
        build.step_key(ExportOnnx(), (base,)),
    }
    assert len(keys) == 4
    assert build.step_key(GroupLasso(), (base, NO_SLICE)) in keys


def test_a_base_depends_on_the_slice_only_if_it_learns_from_it() -> None:
    other = ArtifactRef(kind="slice", digest="1" * 64)
    given, learnt = RandomBase(), RandomBase(tokenizer="train")
    assert build.step_key(given, (NO_SLICE,)) == build.step_key(given, (other,))
    assert build.step_key(learnt, (NO_SLICE,)) != build.step_key(learnt, (other,))
