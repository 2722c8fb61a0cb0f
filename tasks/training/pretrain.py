"""Pre-training of a small GPT-2 in a fixed time: Muon for the blocks' matrices, AdamW for the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import TextColumn
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.corpus.parquet import read_codes
from tasks.progress import progress_bar
from tasks.specs import Pretrain
from tasks.training.checkpoint import load_gpt2, save_gpt2
from tasks.training.packing import Windows, pack
from tasks.training.tokenizer import load_tokenizer

_WARMUP_STEPS = 100
_LOG_EVERY = 20


class Clock(NamedTuple):
    """How far a training has come: seconds of training spent, optimizer steps, tokens seen."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0


def learning_rate_share(spent: float, step: int) -> float:
    """Share of the full rate when `spent` (0..1) of the time is gone: warm-up, plateau, linear decay to 0."""
    warmup = min(1.0, (step + 1) / _WARMUP_STEPS)
    return warmup * min(1.0, max(0.0, 2.0 * (1.0 - spent)))


def optimizers(model: nn.Module, spec: Pretrain) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for embeddings, norms and biases.

    Muon's rate is matched to AdamW's update size (Liu et al. 2025, arXiv:2502.16982), which does not depend on whether
    a matrix is stored transposed, as GPT-2's Conv1D is.
    """
    matrices = [weight for name, weight in model.named_parameters() if ".h." in name and weight.ndim == 2]
    chosen = set(map(id, matrices))
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=spec.muon_learning_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=spec.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]


def pretrain(spec: Pretrain, model_dir: Path, slice_dir: Path, target: Path, work_dir: Path) -> dict[str, Any]:
    """Train the model of `model_dir` on the slice's training files for `spec.minutes`, resuming from `work_dir`.

    Returns:
        Steps, tokens, tokens/s, dev loss (nats per token) and the loss curve as [minutes, training loss] pairs.
    """
    torch.manual_seed(spec.seed)
    model = load_gpt2(model_dir)
    tokenizer = load_tokenizer(model_dir)
    codes = _shuffled(read_codes(slice_dir, "train"), spec.seed)
    training = pack(codes, tokenizer, spec.window)
    dev = pack(read_codes(slice_dir, "dev"), tokenizer, spec.window)
    trained = [*optimizers(model, spec)]
    clock, curve = _restore(work_dir, model, trained)
    clock = _train(spec, model, trained, training, clock, curve, work_dir)
    save_gpt2(model, model_dir, target)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "random_weights": False,
        "files": len(codes),
        "packages": sorted({f"{one.name} {one.version}" for one in distributions()}),
        "steps": clock.steps,
        "tokens": clock.tokens,
        "corpus_tokens": training.size,
        "train_tokens_per_s": clock.tokens / clock.seconds,
        "train_loss": curve[-1][1] if curve else None,
        "dev_loss": mean_loss(model, dev, spec.batch_size),
        "minutes": clock.seconds / 60,
        "loss_curve": curve,
    }


def mean_loss(model: nn.Module, windows: Windows, batch_size: int) -> float:
    """Mean next-token cross-entropy over windows, in nats per token."""
    model.eval()
    with torch.no_grad():
        losses = [_loss(model, batch).item() * len(batch) for batch in _batches(windows, batch_size)]
    return float(sum(losses) / len(windows))


def _train(
    spec: Pretrain,
    model: nn.Module,
    trained: list[torch.optim.Optimizer],
    windows: Windows,
    clock: Clock,
    curve: list[list[float]],
    work_dir: Path,
) -> Clock:
    total = spec.minutes * 60
    saved = clock.seconds
    recent: list[float] = []
    model.train()
    with progress_bar(TextColumn("{task.fields[note]}")) as progress:
        bar = progress.add_task("pre-training, seconds", total=int(total), completed=int(clock.seconds), note="")
        while clock.seconds < total:
            started = time.monotonic()
            batch = _nth_batch(windows, clock.steps, spec)
            share = learning_rate_share(clock.seconds / total, clock.steps)
            recent.append(_step(model, trained, batch, spec, share))
            clock = Clock(clock.seconds + time.monotonic() - started, clock.steps + 1, clock.tokens + batch.size)
            if clock.steps % _LOG_EVERY == 0:
                curve.append([round(clock.seconds / 60, 2), round(sum(recent) / len(recent), 4)])
                recent.clear()
                note = f"step {clock.steps}, loss {curve[-1][1]:.3f}, {clock.tokens / clock.seconds:,.0f} tokens/s"
                progress.update(bar, completed=int(clock.seconds), note=note)
            if clock.seconds - saved >= spec.checkpoint_minutes * 60:
                _save(work_dir, model, trained, clock, curve)
                saved = clock.seconds
    return clock


def _step(
    model: nn.Module, trained: list[torch.optim.Optimizer], batch: Windows, spec: Pretrain, share: float
) -> float:
    loss = _loss(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, rate in zip(trained, (spec.muon_learning_rate, spec.learning_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    value = float(loss.item())
    if not math.isfinite(value):
        raise ValueError(f"pretrain: the loss is {value}; lower learning_rate or muon_learning_rate")
    return value


def _loss(model: nn.Module, batch: Windows) -> torch.Tensor:
    ids = torch.from_numpy(batch.astype(np.int64))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
        loss: torch.Tensor = model(input_ids=ids, labels=ids).loss
    return loss


def _batches(windows: Windows, size: int) -> Iterator[Windows]:
    return (windows[start : start + size] for start in range(0, len(windows), size))


def _nth_batch(windows: Windows, step: int, spec: Pretrain) -> Windows:
    """The batch of an optimizer step, the same after a restart: each pass over the windows has its own order."""
    per_epoch = max(1, len(windows) // spec.batch_size)
    epoch, index = divmod(step, per_epoch)
    order = np.random.default_rng([spec.seed, epoch]).permutation(len(windows))
    return windows[order[index * spec.batch_size : (index + 1) * spec.batch_size]]


def _shuffled(codes: list[str], seed: int) -> list[str]:
    order = np.random.default_rng(seed).permutation(len(codes))
    return [codes[index] for index in order]


# ---------------------------------------------------------------------------------------------------------- checkpoints


def _save(
    work_dir: Path, model: nn.Module, trained: list[torch.optim.Optimizer], clock: Clock, curve: list[list[float]]
) -> None:
    """One safetensors file, replaced atomically: weights, optimizer moments, clock and curve."""
    tensors = {f"model/{name}": weight.detach() for name, weight in model.named_parameters()}
    for number, optimizer in enumerate(trained):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors["clock"] = torch.tensor(clock, dtype=torch.float64)
    tensors["curve"] = torch.tensor(curve, dtype=torch.float64).reshape(-1, 2)
    work_dir.mkdir(parents=True, exist_ok=True)
    unfinished = work_dir / "checkpoint.partial"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished)
    unfinished.replace(work_dir / "checkpoint.safetensors")


def _restore(work_dir: Path, model: nn.Module, trained: list[torch.optim.Optimizer]) -> tuple[Clock, list[list[float]]]:
    path = work_dir / "checkpoint.safetensors"
    if not path.exists():
        return Clock(), []
    tensors = load_file(path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[f"model/{name}"])
    for number, optimizer in enumerate(trained):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer/{number}/"):
                _, _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    seconds, steps, tokens = tensors["clock"].tolist()
    return Clock(seconds, int(steps), int(tokens)), tensors["curve"].tolist()
