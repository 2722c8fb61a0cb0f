"""Which layers, and which of several shapes, a model misses least: found by trying."""

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
    Kept,
    Member,
    channel_members,
    group_norms,
    head_members,
    neuron_members,
    take,
)
from slimline.tasks.runtime.progress import progress_bar
from slimline.tasks.specs import Pretrain, Slim
from slimline.tasks.training.timed import mean_loss, nth_batch, optimizers, step, text_loss

_SHAPES = 6
_MOST_STEPS = 30
_DEV_WINDOWS = 16


class Goal(NamedTuple):
    """What is to stay of a model: how many of each structure, and which layers."""

    shape: Shape
    layers: list[int]


class Ground(NamedTuple):
    """What candidates are tried on: steps and rates, windows to train on, and windows to compare them on."""

    trial: Pretrain
    steps: int
    train: Windows
    dev: Windows


def ground_of(spec: Slim, slice_dir: Path, model_dir: Path) -> Ground:
    """A trial a quarter as long as the training to come, 30 steps at most, on the slice's files."""
    # Gentle enough for what is left of a trained model, fast enough to tell shapes apart in a few steps.
    trial = Pretrain(
        batch_size=spec.batch_size, window=spec.window, seed=spec.seed, learning_rate=1e-3, muon_learning_rate=2e-3
    )
    steps = max(1, min(_MOST_STEPS, (spec.max_steps or 4 * _MOST_STEPS) // 4))
    tokenizer = load_tokenizer(model_dir)
    train = calibration_windows(slice_dir, tokenizer, steps * spec.batch_size, spec.window)
    return Ground(trial, steps, train, pack_split(slice_dir, "dev", tokenizer, spec.window)[:_DEV_WINDOWS])


def one_shot(model: GPT2LMHeadModel, goal: Goal) -> GPT2LMHeadModel:
    """The goal's shape cut out of the model: its largest groups by root mean square."""
    shape, blocks = goal.shape, [model.transformer.h[layer] for layer in goal.layers]
    kept = Kept(
        goal.layers,
        _largest(channel_members(model), shape.width),
        [_largest(head_members(block, model.config.n_head), shape.heads) for block in blocks],
        [_largest(neuron_members(block), shape.inner) for block in blocks],
    )
    return take(model, kept)


def layers_by_importance(model: GPT2LMHeadModel, ground: Ground) -> list[int]:
    """Layers, the most missed one first: by the dev loss without it, all others in place."""
    blocks = list(model.transformer.h)
    losses = []
    for left_out in range(len(blocks)):
        model.transformer.h = nn.ModuleList(blocks[:left_out] + blocks[left_out + 1 :])
        losses.append(_loss(model, ground))
    model.transformer.h = nn.ModuleList(blocks)
    return sorted(range(len(blocks)), key=lambda layer: -losses[layer])


def layers_by_norm(model: GPT2LMHeadModel) -> list[int]:
    """Layers, the one with the largest weights first."""
    norms = [
        sum(float(weight.detach().square().sum()) for weight in block.parameters()) for block in model.transformer.h
    ]
    return sorted(range(len(norms)), key=lambda layer: -norms[layer])


def best_goal(model: GPT2LMHeadModel, goals: Sequence[Goal], ground: Ground) -> tuple[Goal, list[dict[str, Any]]]:
    """The goal of the lowest dev loss once cut out and trained for a few steps, of the first ones given.

    Returns it and what was tried: shape, layers, loss when cut out, loss after the steps (nats per token).
    """
    tried: list[dict[str, Any]] = []
    with progress_bar() as progress:
        for goal in progress.track(goals[:_SHAPES], description="trying shapes"):
            small = one_shot(model, goal)
            cut = _loss(small, ground)
            _train_briefly(small, ground)
            tried.append({**goal.shape._asdict(), "kept": goal.layers, "cut": cut, "trained": _loss(small, ground)})
    best = min(range(len(tried)), key=lambda number: tried[number]["trained"])
    return goals[best], tried


def _train_briefly(model: GPT2LMHeadModel, ground: Ground) -> None:
    trial, steps = ground.trial, ground.steps
    trained = optimizers(model, trial)
    model.train()
    for number in range(steps):
        loss = text_loss(model, nth_batch(ground.train, number, trial))
        step(model, trained, loss, trial, share=min(1.0, (number + 1) / 10) * (1 - number / steps))


def _loss(model: GPT2LMHeadModel, ground: Ground) -> float:
    model.loss_type = "ForCausalLM"  # what transformers falls back to for GPT-2, with a warning each time
    return mean_loss(model, ground.dev, ground.trial.batch_size)


def _largest(members: Sequence[Member], count: int) -> Tensor:
    return group_norms(members).topk(count).indices.sort().values
