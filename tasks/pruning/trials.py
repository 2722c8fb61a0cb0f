"""Trials of smaller shapes: which layers to keep, and which of several shapes is the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from slimline.tasks.data.packing import Windows, calibration_windows, pack_split
from slimline.tasks.data.tokenizer import load_tokenizer
from slimline.tasks.pruning.shapes import Shape
from slimline.tasks.pruning.structures import (
    Member,
    Selection,
    channel_members,
    extract_model,
    group_norms,
    head_members,
    neuron_members,
)
from slimline.tasks.runtime.progress import progress_bar
from slimline.tasks.specs import Pretrain, Slim
from slimline.tasks.training.training_loop import mean_loss, nth_batch, optimizers, step, text_loss

_SHAPES = 6
_MOST_STEPS = 30
_DEV_WINDOWS = 16


class Goal(NamedTuple):
    """What remains of a model: the number of each structure, and which layers."""

    shape: Shape
    layers: list[int]


class TrialSetup(NamedTuple):
    """How candidates are trained and compared.

    Attributes:
        trial: Batch size and learning rates of the training.
        steps: Optimizer steps.
        train: Windows to train on.
        dev: Windows to compare the candidates on.
    """

    trial: Pretrain
    steps: int
    train: Windows
    dev: Windows


def trial_setup(spec: Slim, slice_dir: Path, model_dir: Path) -> TrialSetup:
    """Trials on the slice's files, a quarter as long as the training that follows, and at most 30 steps."""
    # Rates low enough to keep what the model has learnt, and high enough to compare shapes after a few steps.
    trial = Pretrain(
        batch_size=spec.batch_size, window=spec.window, seed=spec.seed, learning_rate=1e-3, muon_learning_rate=2e-3
    )
    steps = max(1, min(_MOST_STEPS, (spec.max_steps or 4 * _MOST_STEPS) // 4))
    tokenizer = load_tokenizer(model_dir)
    train = calibration_windows(slice_dir, tokenizer, steps * spec.batch_size, spec.window)
    return TrialSetup(trial, steps, train, pack_split(slice_dir, "dev", tokenizer, spec.window)[:_DEV_WINDOWS])


def prune_one_shot(model: GPT2LMHeadModel, goal: Goal) -> GPT2LMHeadModel:
    """The model pruned to the goal without training: the groups with the largest root mean square remain."""
    shape, blocks = goal.shape, [model.transformer.h[layer] for layer in goal.layers]
    selection = Selection(
        goal.layers,
        _largest(channel_members(model), shape.width),
        [_largest(head_members(block, model.config.n_head), shape.heads) for block in blocks],
        [_largest(neuron_members(block), shape.inner) for block in blocks],
    )
    return extract_model(model, selection)


def layers_by_importance(model: GPT2LMHeadModel, setup: TrialSetup) -> list[int]:
    """Layers by importance, which is the dev loss without that layer; the most important one first."""
    blocks = list(model.transformer.h)
    losses = []
    for layer in range(len(blocks)):
        model.transformer.h = nn.ModuleList(blocks[:layer] + blocks[layer + 1 :])
        losses.append(_loss(model, setup))
    model.transformer.h = nn.ModuleList(blocks)
    return sorted(range(len(blocks)), key=lambda layer: -losses[layer])


def layers_by_norm(model: GPT2LMHeadModel) -> list[int]:
    """Layers by the norm of their weights, the largest one first."""
    norms = [
        sum(float(weight.detach().square().sum()) for weight in block.parameters()) for block in model.transformer.h
    ]
    return sorted(range(len(norms)), key=lambda layer: -norms[layer])


def best_goal(model: GPT2LMHeadModel, goals: Sequence[Goal], setup: TrialSetup) -> tuple[Goal, list[dict[str, Any]]]:
    """Try the first goals: prune the model in one shot, train it for a few steps, and compare dev losses.

    Returns:
        The goal with the lowest loss; and for each trial its shape, layers (kept), and dev loss in nats per token
        before (cut) and after the training (trained).
    """
    trials: list[dict[str, Any]] = []
    with progress_bar() as progress:
        for goal in progress.track(goals[:_SHAPES], description="trying shapes"):
            small = prune_one_shot(model, goal)
            cut = _loss(small, setup)
            _train_briefly(small, setup)
            trials.append({**goal.shape._asdict(), "kept": goal.layers, "cut": cut, "trained": _loss(small, setup)})
    best = min(range(len(trials)), key=lambda number: trials[number]["trained"])
    return goals[best], trials


def _train_briefly(model: GPT2LMHeadModel, setup: TrialSetup) -> None:
    trial, steps = setup.trial, setup.steps
    trained = optimizers(model, trial)
    model.train()
    for number in range(steps):
        loss = text_loss(model, nth_batch(setup.train, number, trial))
        step(model, trained, loss, trial, share=min(1.0, (number + 1) / 10) * (1 - number / steps))


def _loss(model: GPT2LMHeadModel, setup: TrialSetup) -> float:
    model.loss_type = "ForCausalLM"  # transformers' default for GPT-2, which it would use with a warning
    return mean_loss(model, setup.dev, setup.trial.batch_size)


def _largest(members: Sequence[Member], count: int) -> Tensor:
    return group_norms(members).topk(count).indices.sort().values
