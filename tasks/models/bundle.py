"""Add a trained model to the package, with its provenance and a model card.

These commands add the bundled model, and then a compressed form of it (`{step: prebuilt, name: slim}` in a recipe):

    slimline run pretrain
    python -m slimline.tasks.models.bundle model:<digest of its pretrain step>
    slimline run frontier
    python -m slimline.tasks.models.bundle model:<digest of its weight-only step> slim

A new name has to be one that `PrebuiltModel` allows. What is packed in integers stays so; other models are stored in
half precision.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.metrics.connection import fetch
from slimline.storage.metrics.rows import MeasurementRow
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.paths import BUNDLED, PREBUILT, home
from slimline.tasks.forms import KIND_OF
from slimline.tasks.models.checkpoint import read_gpt2_config
from slimline.tasks.models.loading import save_gpt2
from slimline.tasks.models.packed import is_packed, load_dense, save_low_bit
from slimline.tasks.specs import PrebuiltModel

_SHAPE = "{n_layer} layers x {n_embd}, {n_head} heads, {n_positions} positions"
_SCORES = """
    FROM measurements WHERE artifact = ? AND metric IN ('em', 'es') AND value IS NOT NULL
    ORDER BY time DESC, metric LIMIT 2
"""
_FORM_CARD = """# {name}: a compressed form of the bundled model

{parameters:.2f} M parameters ({shape}), vocabulary of {vocabulary:,} tokens, a stock GPT-2 stored in {precision}. A
recipe takes it with `{{step: prebuilt, name: {name}}}`. It was made by {studies}.

- **Recipe**, from the bundled model on:
{recipe}
- **Distillation**: {steps:,} steps, {tokens:,} tokens, {minutes:.1f} minutes on: {devices}. On held-out text
  {dev_bits_per_byte_before:.3f} -> {dev_bits_per_byte:.3f} bits per byte.
- **Quality**: {scores}, greedy, on held-out line-completion samples.
- **Artifact**: `{ref}`; `provenance.json` beside it has the parameters, versions and the whole loss curve.

| minutes | training loss |
|---:|---:|
{curve}
"""
_CARD = """# The bundled model

A GPT-2 of {parameters:.2f} M parameters ({shape}), byte-pair vocabulary of {vocabulary:,} tokens with
CodeXGLUE's literals as special tokens, trained from random weights on lexed Python (PY150 format) and stored in half
precision. It exists so that compression can be studied on a real code model with no network and no GPU.

- **Data**: `python-trees`, {files:,} files of the standard library and {packages} installed distributions
  ({corpus_tokens:,} tokens; {tokens:,} seen). Whole packages are held out by name, the same ones everywhere, so the
  model has seen no package of the test split, wherever it is tested. Their code keeps its own licences.
- **Training**: Muon for the blocks' matrices, AdamW for the rest, {steps:,} steps of {batch} windows of {window}
  tokens, {minutes:.1f} minutes on: {devices}. On held-out text {dev_bits_per_byte:.3f} bits per byte.
- **Quality**: {scores}, greedy, on held-out line-completion samples.
- **Rebuild**: `slimline run pretrain`, then `python -m slimline.tasks.models.bundle model:<digest>`.
- **Artifact**: `{ref}`; `provenance.json` beside it has the parameters, versions, packages and the whole loss curve.

| minutes | training loss |
|---:|---:|
{curve}
"""


def bundle(reference: str, source: ArtifactStore, metrics: MetricsStore, target: Path, name: str = "") -> ArtifactRef:
    """Publish a model in the store `target`, in place of the present one, and write its card.

    Args:
        reference: The trained model in `source`, as `kind:digest`.
        source: The store with the trained model.
        metrics: Where its scores are.
        target: Directory of the package's store.
        name: Name of the compressed form; empty for the bundled model.

    Returns:
        The new artifact.
    """
    ref = source.find(reference)
    provenance = source.provenance(ref)
    with metrics.connect() as connection:
        rows = fetch(connection, MeasurementRow, _SCORES, [ref.digest])
    scores = [row.model_dump(include={"metric", "value", "lo", "hi", "n"}) for row in rows]
    store = ArtifactStore(target)
    with store.stage() as directory:
        notes = {**_trained(ref, source), **provenance.notes, **_write(source.path(ref), directory, provenance.notes)}
        notes |= {"made_from": str(ref), "scores": scores, "studies": sorted({row.study for row in rows})}
        notes |= {"recipe": _recipe(ref, source)} if name else {}
        kind = KIND_OF["packed checkpoint"] if is_packed(directory) else ref.kind
        new = store.publish(directory, kind, provenance.model_copy(update={"notes": notes}))
    store.gc([new])
    card = _form_card if name else _card
    config = read_gpt2_config(store.path(new))
    (target / "README.md").write_text(card(new, store.provenance(new), {**config}, name), "utf8")
    return new


def _write(source: Path, target: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Write a model, of which there are notes, as it ships; returns its parameters and precision."""
    model = load_dense(source)
    parameters = sum(weight.numel() for weight in model.parameters())
    if is_packed(source):
        shutil.copytree(source, target, dirs_exist_ok=True)
        return {"parameters": parameters, "precision": f"{notes['weight_bits']}-bit integers"}
    if save_low_bit(model, source, target):
        names = {1: "1 bit a weight", 2: "1.6 bits a weight (ternary)", 8: "8-bit integers"}
        weights, tables = names[notes["trained_bits"]], names[notes["table_bits"]]
        return {"parameters": parameters, "precision": weights if weights == tables else f"{weights}, tables {tables}"}
    save_gpt2(model.half(), source, target)
    return {"parameters": parameters, "precision": "half precision"}


def _trained(ref: ArtifactRef, store: ArtifactStore) -> dict[str, Any]:
    """The notes of the last step that trained the model."""
    while "loss_curve" not in store.provenance(ref).notes:
        ref = store.provenance(ref).inputs[0]
    return store.provenance(ref).notes


def _recipe(ref: ArtifactRef, store: ArtifactStore) -> list[dict[str, Any]]:
    """The steps after the base, each with its seconds."""
    steps: list[dict[str, Any]] = []
    while (provenance := store.provenance(ref)).step["step"] != "base":
        steps.append({**provenance.step, "seconds": round(provenance.seconds)})
        ref = provenance.inputs[0]
    return steps[::-1]


def _card(ref: ArtifactRef, provenance: Provenance, config: dict[str, object], _: str) -> str:
    notes: dict[str, Any] = dict(provenance.notes)
    step: dict[str, Any] = dict(provenance.step)
    return _CARD.format(
        **{key: notes[key] for key in ("corpus_tokens", "tokens", "minutes", "steps", "dev_bits_per_byte")},
        devices=", ".join(notes["trained_on"]),
        parameters=notes["parameters"] / 1e6,
        shape=_SHAPE.format_map(config),
        vocabulary=config["vocab_size"],
        files=notes["files"],
        packages=len(notes["packages"]),
        batch=step["batch_size"],
        window=step["window"],
        scores=", ".join(map(_score, notes["scores"])),
        ref=ref,
        curve=_curve(notes),
    )


def _form_card(ref: ArtifactRef, provenance: Provenance, config: dict[str, object], name: str) -> str:
    notes: dict[str, Any] = dict(provenance.notes)
    return _FORM_CARD.format(
        **{key: notes[key] for key in ("tokens", "minutes", "steps", "dev_bits_per_byte", "dev_bits_per_byte_before")},
        devices=", ".join(notes["trained_on"]),
        name=name,
        studies=" and ".join(f"`slimline run {study}`" for study in notes["studies"]) or "its recipe",
        precision=notes["precision"],
        parameters=notes["parameters"] / 1e6,
        shape=_SHAPE.format_map(config),
        vocabulary=config["vocab_size"],
        recipe="\n".join(f"  - `{step}`" for step in notes["recipe"]),
        scores=", ".join(map(_score, notes["scores"])),
        ref=ref,
        curve=_curve(notes),
    )


def _curve(notes: dict[str, Any]) -> str:
    curve = list(notes["loss_curve"])
    points = curve[: -1 : max(1, len(curve) // 12)] + curve[-1:]
    return "\n".join(f"| {minutes:.1f} | {loss:.3f} |" for minutes, loss in points)


def _score(note: dict[str, Any]) -> str:
    return "{name} {value:.2f} % [{lo:.2f}, {hi:.2f}], n = {n}".format(name=str(note["metric"]).upper(), **note)


def main() -> None:
    """Bundle the model of the first argument; the second one is the name of a compressed form."""
    form = PrebuiltModel.model_validate({"name": sys.argv[2]}).name if len(sys.argv) > 2 else ""
    target = PREBUILT / form if form else BUNDLED
    print(bundle(sys.argv[1], ArtifactStore(home() / "artifacts"), MetricsStore(home() / "metrics"), target, form))


if __name__ == "__main__":
    main()
