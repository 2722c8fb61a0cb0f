"""Training for a fixed time with Muon and AdamW; after a kill it resumes from a safetensors file."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import TextColumn
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import GPT2LMHeadModel

from slimline.tasks.data.packing import Windows, bytes_per_token, pack_split
from slimline.tasks.data.parquet import read_codes
from slimline.tasks.runtime.host import has_bf16, isa_flags
from slimline.tasks.runtime.progress import progress_bar
from slimline.tasks.specs import Distill, Pretrain

Loss = Callable[[Windows], torch.Tensor]
Curve = list[list[float]]

WARMUP_STEPS = 100
# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LOG_EVERY = 20
_NUMBER_BYTES = 4
_MOST_TABLE_BYTES = 2**30


class Clock(NamedTuple):
    """Progress of a training: seconds, optimizer steps, and tokens so far."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0


def learning_rate_share(spent: float, step: int, warmup_steps: int = WARMUP_STEPS) -> float:
    """Share of the full rate after the share `spent` of the time: warm-up, plateau, linear decay to 0."""
    warmup = min(1.0, (step + 1) / warmup_steps)
    return warmup * min(1.0, max(0.0, 2.0 * (1.0 - spent)))


def optimizers(model: nn.Module, spec: Pretrain | Distill) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for embeddings, norms and biases.

    Muon's rate is matched to AdamW's update size (Liu et al. 2025, arXiv:2502.16982), which does not depend on whether
    a matrix is stored transposed, as GPT-2's Conv1D is.
    """
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for name, weight in weights if ".h." in name and name.endswith(".weight") and weight.ndim == 2]
    chosen = set(map(id, matrices))
    rest = [weight for _, weight in weights if id(weight) not in chosen]
    muon = {"weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    trained = [torch.optim.Muon(matrices, lr=spec.muon_learning_rate, **muon)] if matrices else []
    trained.append(torch.optim.AdamW(rest, lr=spec.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True))
    for optimizer in trained:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return trained


def choose_attention(model: GPT2LMHeadModel, spec: Pretrain | Distill) -> None:
    """Let a model attend by plain products, if the tables [heads, window, window] of a batch are small; else fused.

    On a processor with bf16, 7 M parameters and windows of 512 tokens this trains 9,100 tokens/s in place of 7,100.
    """
    config = model.config
    tables = _NUMBER_BYTES * config.n_layer * config.n_head * spec.batch_size * spec.window**2
    model.set_attn_implementation("eager" if tables <= _MOST_TABLE_BYTES else "sdpa")


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step, instead of returning it to the kernel.

    Otherwise the large tensors of each step are mapped and zeroed again: a third of the time of a small model's step.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def train_for(
    spec: Pretrain | Distill, model: nn.Module, loss: Loss, windows: Windows, work_dir: Path
) -> tuple[Clock, Curve]:
    """Minimise `loss` over batches of `windows` for `spec.minutes`, resuming from `work_dir`.

    Returns:
        The progress of the training, and its curve with pairs [minutes, mean loss since the last pair].
    """
    keep_freed_memory()
    trained = optimizers(model, spec)
    clock, curve = _restore(work_dir, model, trained)
    total = spec.minutes * 60
    limit = spec.max_steps if isinstance(spec, Distill) else None
    warmup_steps = min(WARMUP_STEPS, max(1, limit // 10)) if limit else WARMUP_STEPS
    saved = clock.seconds
    recent: list[float] = []
    model.train()
    with progress_bar(TextColumn("{task.fields[note]}")) as progress:
        bar = progress.add_task(f"{spec.step}, seconds", total=int(total), completed=int(clock.seconds), note="")
        while (spent := _spent(clock, total, limit)) < 1:
            started = time.monotonic()
            batch = nth_batch(windows, clock.steps, spec)
            share = learning_rate_share(spent, clock.steps, warmup_steps)
            recent.append(step(model, trained, loss(batch), spec, share))
            clock = Clock(clock.seconds + time.monotonic() - started, clock.steps + 1, clock.tokens + batch.size)
            if clock.steps % _LOG_EVERY == 0:
                curve.append([round(clock.seconds / 60, 2), round(sum(recent) / len(recent), 4)])
                recent.clear()
                note = f"step {clock.steps}, loss {curve[-1][1]:.3f}, {clock.tokens / clock.seconds:,.0f} tokens/s"
                progress.update(bar, completed=int(clock.seconds), note=note)
            if clock.seconds - saved >= spec.checkpoint_minutes * 60:
                _save(work_dir, model, trained, clock, curve)
                saved = clock.seconds
    return clock, curve


def _spent(clock: Clock, total: float, limit: int | None) -> float:
    """Finished share of the training: of the time, or of the steps if that is larger."""
    return max(clock.seconds / total, clock.steps / limit if limit else 0.0)


def step(
    model: nn.Module, trained: list[torch.optim.Optimizer], loss: torch.Tensor, spec: Pretrain | Distill, share: float
) -> float:
    """Do one optimizer step at `share` of the full learning rates; returns the loss.

    Raises:
        ValueError: the loss is not finite.
    """
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in trained:
        for group in optimizer.param_groups:
            group["lr"] = group["full_rate"] * share
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    value = float(loss.item())
    if not math.isfinite(value):
        raise ValueError(f"{spec.step}: the loss is {value}; lower learning_rate or muon_learning_rate")
    return value


def text_loss(model: nn.Module, batch: Windows) -> torch.Tensor:
    """Mean next-token cross-entropy of a batch [windows, window], in nats per token."""
    ids = torch.from_numpy(batch.astype(np.int64))
    with mixed_precision():
        loss: torch.Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return loss


def mixed_precision() -> torch.autocast:
    """A context in which matrix products are in bf16, if the processor supports it."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bf16(isa_flags()))


def mean_loss(model: nn.Module, windows: Windows, batch_size: int) -> float:
    """Mean next-token cross-entropy over windows, in nats per token."""
    model.eval()
    batches = [windows[start : start + batch_size] for start in range(0, len(windows), batch_size)]
    with torch.no_grad():
        losses = [text_loss(model, batch).item() * len(batch) for batch in batches]
    return float(sum(losses) / len(windows))


class DevText(NamedTuple):
    """Text to watch a loss on.

    Attributes:
        windows: Its tokens.
        bytes_per_token: Mean length of one of them.
    """

    windows: Windows
    bytes_per_token: float

    def losses(self, model: nn.Module, batch_size: int) -> dict[str, float]:
        """dev_loss, nats per token, and dev_bits_per_byte, which can be compared across vocabularies."""
        nats = mean_loss(model, self.windows, batch_size)
        return {"dev_loss": nats, "dev_bits_per_byte": self.bits_per_byte(nats)}

    def bits_per_byte(self, nats: float) -> float:
        """A loss in nats per token, in bits per byte of text."""
        return nats / math.log(2) / self.bytes_per_token


def dev_text(slice_dir: Path, tokenizer: Tokenizer, window: int) -> DevText:
    """The slice's dev split in a model's tokens.

    Raises:
        ValueError: it is too small for one window.
    """
    windows = pack_split(slice_dir, "dev", tokenizer, window)
    return DevText(windows, bytes_per_token(read_codes(slice_dir, "dev"), tokenizer))


def nth_batch(windows: Windows, step: int, spec: Pretrain | Distill) -> Windows:
    """The batch of an optimizer step, the same after a restart: each pass over the windows has its own order."""
    per_epoch = max(1, len(windows) // spec.batch_size)
    epoch, index = divmod(step, per_epoch)
    order = np.random.default_rng([spec.seed, epoch]).permutation(len(windows))
    return windows[order[index * spec.batch_size : (index + 1) * spec.batch_size]]


# ---------------------------------------------------------------------------------------------------------- checkpoints


def _save(work_dir: Path, model: nn.Module, trained: list[torch.optim.Optimizer], clock: Clock, curve: Curve) -> None:
    """Replace the checkpoint atomically: a safetensors file with weights, optimizer moments, clock and curve."""
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


def _restore(work_dir: Path, model: nn.Module, trained: list[torch.optim.Optimizer]) -> tuple[Clock, Curve]:
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
