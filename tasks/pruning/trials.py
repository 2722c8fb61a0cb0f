"""The best of the shapes that meet a target: by the loss right after the cut, and then after a few steps of training.

Depth, heads, channels and neurons compete for the same budget: every shape is cut and its loss measured. The few best
are trained briefly, since some recover faster than others (as Minitron, arXiv:2407.14679, ranks its candidates).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from transformers import GPT2LMHeadModel

from slimline.tasks.data.packing import Windows, calibration_windows, pack_split
from slimline.tasks.data.tokenizer import load_tokenizer
from slimline.tasks.models.checkpoint import read_gpt2_config
from slimline.tasks.pruning.cuts import Cutter, rank_layers
from slimline.tasks.pruning.shapes import Shape
from slimline.tasks.runtime.progress import progress_bar
from slimline.tasks.specs import Pretrain, Slim
from slimline.tasks.training.training_loop import mean_loss, nth_batch, optimizers, step, text_loss

_TRIALS = 3
_DEV_WINDOWS = 16
_BATCH = 8


class TrialSetup(NamedTuple):
    """What shapes are compared on.

    Attributes:
        steps: Optimizer steps of a trial.
        calibration: Windows whose moments decide what is cut.
        train: Windows to train on.
        dev: Windows to compare the candidates on.
    """

    steps: int
    calibration: Windows
    train: Windows
    dev: Windows

    def loss(self, model: GPT2LMHeadModel) -> float:
        """Mean loss on the dev windows, in nats per token; exact, as a cut model may have large weights."""
        model.loss_type = "ForCausalLM"  # transformers' default for GPT-2, which it would use with a warning
        return mean_loss(model, self.dev, _BATCH, exact=True)


class Cut(NamedTuple):
    """A model that was cut, and what led to its shape: dev losses in nats per token."""

    model: GPT2LMHeadModel
    notes: dict[str, Any]


class _Candidate(NamedTuple):
    loss: float
    shape: Shape
    layers: list[int]
    cutter: Cutter


def trial_setup(spec: Slim, slice_dir: Path, model_dir: Path) -> TrialSetup:
    """The windows of a slice that the spec asks for.

    Raises:
        ValueError: the slice has fewer, or they are longer than the model's positions.
    """
    positions = read_gpt2_config(model_dir)["n_positions"]
    if spec.window > positions:
        raise ValueError(f"slim.window: {spec.window}; allowed: at most the model's {positions} positions")
    tokenizer = load_tokenizer(model_dir)
    count = spec.calibration_windows + spec.trial_steps * _BATCH
    field = f"slim.calibration_windows + {_BATCH} * slim.trial_steps"
    windows = calibration_windows(slice_dir, tokenizer, count, spec.window, field)
    dev = pack_split(slice_dir, "dev", tokenizer, spec.window)[:_DEV_WINDOWS]
    return TrialSetup(spec.trial_steps, windows[: spec.calibration_windows], windows[spec.calibration_windows :], dev)


def best_cut(model: GPT2LMHeadModel, shapes: Sequence[Shape], setup: TrialSetup) -> Cut:
    """The model cut to the best of `shapes`.

    Returns:
        The cut model, untrained; and notes: whole (the loss before), shapes (of each that was cut its sizes, its layers
        and loss), trials (of the best ones the loss when cut, and when trained) and kept (the layers).
    """
    candidates = sorted(_cut_all(model, shapes, setup), key=lambda one: one.loss)
    notes = [{**one.shape._asdict(), "kept": one.layers, "cut": one.loss} for one in candidates]
    tried = candidates[: _TRIALS if setup.steps else 1]
    trained = _trained_losses(tried, setup) if len(tried) > 1 else [tried[0].loss]
    best = tried[min(range(len(tried)), key=trained.__getitem__)]
    trials = [{**note, "trained": loss} for note, loss in zip(notes, trained, strict=False)] if len(tried) > 1 else []
    found = {"whole": setup.loss(model), "shapes": notes, "trials": trials, "kept": best.layers}
    return Cut(best.cutter.cut(best.shape), found)


def _cut_all(model: GPT2LMHeadModel, shapes: Sequence[Shape], setup: TrialSetup) -> list[_Candidate]:
    """Cut to the shapes, the deepest first, until fewer layers make the best loss worse."""
    deepest_first = sorted(shapes, key=lambda shape: (-shape.layers, -shape.heads))
    order = rank_layers(model, setup.loss, fewest=deepest_first[-1].layers)
    total = model.config.n_layer
    found: list[_Candidate] = []
    for depth, group in groupby(deepest_first, key=lambda shape: shape.layers):
        same_depth = list(group)
        layers = sorted(set(range(total)) - set(order[: total - depth]))
        cutter = Cutter(model, layers, setup.calibration, min(shape.inner for shape in same_depth))
        new = [_Candidate(setup.loss(cutter.cut(shape)), shape, layers, cutter) for shape in same_depth]
        is_worse = bool(found) and min(one.loss for one in new) > min(one.loss for one in found)
        found += new
        if is_worse:
            break
    return found


def _trained_losses(candidates: Sequence[_Candidate], setup: TrialSetup) -> list[float]:
    losses = []
    with progress_bar() as progress:
        for candidate in progress.track(candidates, description="trying shapes"):
            small = candidate.cutter.cut(candidate.shape)
            train_briefly(small, setup.train, setup.steps)
            losses.append(setup.loss(small))
    return losses


def train_briefly(model: GPT2LMHeadModel, windows: Windows, steps: int) -> None:
    """Train a model on windows for some steps, at rates that keep what it has learnt."""
    model.loss_type = "ForCausalLM"
    trial = Pretrain(batch_size=_BATCH, window=windows.shape[1], learning_rate=1e-3, muon_learning_rate=2e-3)
    trained = optimizers(model, trial)
    model.train()
    for number in range(steps):
        loss = text_loss(model, nth_batch(windows, number, trial))
        step(model, trained, loss, trial, share=min(1.0, (number + 1) / 10) * (1 - number / steps))
    model.eval()
