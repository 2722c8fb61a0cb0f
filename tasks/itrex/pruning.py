"""Group-lasso pruning by ITREX, of which slimline's own `group-lasso` is a reimplementation.

Its NLPTrainer trains with AdamW in fp32. To each gradient its pruner adds that of alpha times the sum of the blocks'
norms. At seven times of the training it sets the blocks with the smallest sums of absolute weights to zero, as many as
a linear schedule requires, and these stay there. A block is 4x1 of a matrix as it is stored: 4 tokens or positions of
an embedding, but 4 inputs of a projection, where the blocks of `group-lasso` are 4 outputs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from slimline.tasks.itrex.environment import ItrexError, library_versions
from slimline.tasks.itrex.process import run_worker
from slimline.tasks.itrex.worker import TILE_ROWS, WEIGHTS, Pruning
from slimline.tasks.models.loading import save_gpt2
from slimline.tasks.specs import ItrexPrune
from slimline.tasks.training.finetune import Material, Notes, load_material, micro_batch, total_steps

_TOLERANCE = 0.01


def prune(spec: ItrexPrune, model_dir: Path, slice_dir: Path, target: Path, work_dir: Path) -> Notes:
    """Have ITREX prune `model_dir` while training on the slice, and write the result to `target`.

    A training that was killed begins anew.

    Args:
        spec: Hyperparameters.
        model_dir: The checkpoint to prune.
        slice_dir: The training data.
        target: Where the result is written, once it is whole.
        work_dir: For scratch files.

    Returns:
        Notes for provenance: train_loss (mean over the training, nats per token), dev_loss and dev_bits_per_byte, both
        also with _before, steps, tokens, and loss_curve with pairs [step, mean loss since the last pair]; matrices,
        sparsity, block_sparsity (share of weights in 4x1 blocks of zeros), sparsity_min, sparsity_max and by_matrix, of
        the matrices that were pruned; not_pruned, names of those whose first dimension 4 does not divide, which ITREX
        cannot prune; and versions, of ITREX and its libraries.

    Raises:
        ValueError: the model does not fit the spec or its tokenizer, or the slice is too small.
        ItrexError: ITREX cannot run here or failed, or its result is not finite or misses the sparsity.
    """
    material = load_material(spec, model_dir, slice_dir)
    before = material.dev.losses(material.model, spec.batch_size)
    work_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=work_dir) as name:
        scratch = Path(name)
        request = _request(spec, material, model_dir, scratch)
        result = run_worker(request._asdict(), scratch)
        _fill(material.model, load_file(scratch / "output" / WEIGHTS))
        shares = _check_sparsity(material.model, result["pruned"], spec.sparsity)
        after = material.dev.losses(material.model, spec.batch_size)
        save_gpt2(material.model, model_dir, scratch / "pruned")
        shutil.copytree(scratch / "pruned", target, dirs_exist_ok=True)
    return {
        "train_loss": float(np.mean([loss for _, loss in result["loss_curve"]])),
        **after,
        **{f"{name}_before": loss for name, loss in before.items()},
        "steps": request.max_steps,
        "tokens": request.max_steps * spec.batch_size * spec.window,
        "loss_curve": result["loss_curve"],
        **shares,
        "not_pruned": result["not_pruned"],
        "versions": library_versions(),
    }


def _request(spec: ItrexPrune, material: Material, model_dir: Path, scratch: Path) -> Pruning:
    """What the worker is asked for; the model and the windows are in `scratch`, in the formats that it reads."""
    save_gpt2(material.model, model_dir, scratch / "model")
    save_file({"train": torch.from_numpy(material.train)}, scratch / "windows.safetensors")
    return Pruning(
        model=str(scratch / "model"),
        windows=str(scratch / "windows.safetensors"),
        max_steps=total_steps(spec, len(material.train)),
        batch_size=spec.batch_size,
        micro_batch=micro_batch(spec.batch_size, spec.window, material.model.config.vocab_size),
        learning_rate=spec.learning_rate,
        sparsity=spec.sparsity,
        alpha=spec.alpha,
        seed=spec.seed,
    )


def _fill(model: GPT2LMHeadModel, tensors: dict[str, Tensor]) -> None:
    """Give a model the weights of ITREX's result.

    Raises:
        ItrexError: they are not those of the model, or not finite; the message names one.
    """
    weights = dict(model.named_parameters())
    if wrong := sorted(weights.keys() ^ tensors.keys()):
        raise ItrexError(f"ITREX: its result has not the tensors of the model: {wrong[0]}")
    with torch.no_grad():
        for name, weight in weights.items():
            if tensors[name].shape != weight.shape:
                raise ItrexError(f"ITREX: {name} is {list(tensors[name].shape)}; allowed: {list(weight.shape)}")
            if not tensors[name].isfinite().all():
                raise ItrexError(f"ITREX: {name} is NaN or infinite; lower learning_rate or alpha")
            # ITREX makes -0.0 of negative weights, and sign bits do not compress.
            weight.copy_(tensors[name] + 0.0)


def _check_sparsity(model: GPT2LMHeadModel, names: list[str], sparsity: float) -> Notes:
    """Shares of zeros of the matrices that were pruned, with the names that `group-lasso` has for them.

    Raises:
        ItrexError: a matrix misses the sparsity by more than 1 % of its weights (or one block, where that is more).
    """
    by_matrix = {name: _shares(model.get_parameter(name)) for name in names}
    if not by_matrix:
        raise ItrexError(f"ITREX: no matrix can be pruned: {TILE_ROWS} divides the first dimension of none")
    for name, shares in by_matrix.items():
        if abs(shares["block_sparsity"] - sparsity) > max(_TOLERANCE, TILE_ROWS / shares["weights"]):
            raise ItrexError(f"ITREX: sparsity {sparsity} is missed by {name}: {shares['block_sparsity']:.4f}")
    weights = sum(shares["weights"] for shares in by_matrix.values())
    overall = {
        key: sum(shares[key] * shares["weights"] for shares in by_matrix.values()) / weights
        for key in ("sparsity", "block_sparsity")
    }
    each = [shares["sparsity"] for shares in by_matrix.values()]
    extremes = {"sparsity_min": min(each), "sparsity_max": max(each)}
    return {"matrices": len(by_matrix), **overall, **extremes, "by_matrix": by_matrix}


def _shares(matrix: Tensor) -> dict[str, float]:
    zeros = matrix == 0
    return {
        "sparsity": int(zeros.sum()) / matrix.numel(),
        "block_sparsity": float(zeros.unflatten(0, (-1, TILE_ROWS)).all(1).double().mean()),
        "weights": matrix.numel(),
        "blocks": matrix.numel() // TILE_ROWS,
    }
