"""Put a trained model into the package: half precision, with its provenance and a model card.

slimline run pretrain
python -m tasks.training.bundling model:<digest of its pretrain step>
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from storage import BUNDLED, home
from storage.artifacts import ArtifactRef, ArtifactStore, Provenance
from storage.metrics import MetricsStore
from tasks.training.checkpoint import load_gpt2, save_gpt2

_SCORES = """
    SELECT metric, value, lo, hi, n FROM measurements
    WHERE artifact = '{digest}' AND metric IN ('em', 'es') AND value IS NOT NULL
    ORDER BY time DESC, metric LIMIT 2
"""
_CARD = """# The bundled model

A GPT-2 of {parameters:.2f} M parameters ({shape}), byte-pair vocabulary of {vocabulary:,} tokens with
CodeXGLUE's literals as special tokens, trained from random weights on lexed Python (PY150 format) and stored in half
precision. It exists so that compression can be studied on a real code model with no network and no GPU.

- **Data**: `python-trees`, {files:,} files of the standard library and {packages} installed distributions
  ({corpus_tokens:,} tokens; {tokens:,} seen). Whole packages are held out by name, the same ones everywhere, so the
  model has seen no package of the test split, wherever it is tested. Their code keeps its own licences.
- **Training**: Muon for the blocks' matrices, AdamW for the rest, {minutes:.0f} minutes of two shared cores,
  {steps:,} steps of {batch} windows of {window} tokens. Dev loss {dev_loss:.3f} nats per token.
- **Quality**: {scores}, greedy, on held-out line-completion samples.
- **Rebuild**: `slimline run pretrain`, then `python -m tasks.training.bundling model:<digest>`.
- **Artifact**: `{ref}`; `provenance.json` beside it has the parameters, versions, packages and the whole loss curve.

| minutes | training loss |
|---:|---:|
{curve}
"""


def bundle(reference: str, source: ArtifactStore, metrics: MetricsStore, target: Path) -> ArtifactRef:
    """Publish the model below `target` in half precision, replacing what is bundled there, and write its card."""
    ref = source.find(reference)
    provenance = source.provenance(ref)
    scores = metrics.query(_SCORES.format(digest=ref.digest)).to_pylist()
    model = load_gpt2(source.path(ref))
    store = ArtifactStore(target)
    with store.stage() as directory:
        save_gpt2(model.half(), source.path(ref), directory)
        notes = {**provenance.notes, "precision": "float16", "made_from": str(ref), "scores": scores}
        new = store.publish(directory, "model", provenance.model_copy(update={"notes": notes}))
    store.gc([new])
    (target / "README.md").write_text(_card(new, store.provenance(new), model.config.to_dict()), "utf8")
    return new


def _card(ref: ArtifactRef, provenance: Provenance, config: dict[str, object]) -> str:
    notes: dict[str, Any] = dict(provenance.notes)
    step: dict[str, Any] = dict(provenance.step)
    curve = list(notes["loss_curve"])
    shown = curve[: -1 : max(1, len(curve) // 12)] + curve[-1:]
    return _CARD.format(
        **{key: notes[key] for key in ("corpus_tokens", "tokens", "minutes", "steps", "dev_loss")},
        parameters=notes["parameters"] / 1e6,
        shape="{n_layer} layers x {n_embd}, {n_head} heads, {n_positions} positions".format_map(config),
        vocabulary=config["vocab_size"],
        files=notes["files"],
        packages=len(notes["packages"]),
        batch=step["batch_size"],
        window=step["window"],
        scores=", ".join(map(_score, notes["scores"])),
        ref=ref,
        curve="\n".join(f"| {minutes:.1f} | {loss:.3f} |" for minutes, loss in shown),
    )


def _score(row: dict[str, Any]) -> str:
    return "{name} {value:.2f} % [{lo:.2f}, {hi:.2f}], n = {n}".format(name=str(row["metric"]).upper(), **row)


if __name__ == "__main__":
    print(bundle(sys.argv[1], ArtifactStore(home() / "artifacts"), MetricsStore(home() / "metrics"), BUNDLED))
