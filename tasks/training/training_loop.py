"""Training for a fixed time with Muon and AdamW; after a kill it resumes from a safetensors file."""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import TextColumn
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import GPT2LMHeadModel

from slimline.tasks.data.packing import Windows, bytes_per_token, pack_split
from slimline.tasks.data.parquet import read_codes
from slimline.tasks.runtime.host import cpu_model, has_bf16, isa_flags
from slimline.tasks.runtime.progress import progress_bar
from slimline.tasks.specs import TimedTraining, Training
from slimline.tasks.training.muon import Float32Muon
from slimline.tasks.training.pruned import PrunedWeights

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


class Progress(NamedTuple):
    """What a training has done so far: pairs [minutes, mean loss since the last pair], and on which devices."""

    clock: Clock
    curve: Curve
    devices: list[str]

    def notes(self) -> dict[str, Any]:
        """Notes for provenance."""
        clock = self.clock
        return {
            "steps": clock.steps,
            "tokens": clock.tokens,
            "train_tokens_per_s": clock.tokens / clock.seconds if clock.seconds else None,
            "train_loss": self.curve[-1][1] if self.curve else None,
            "minutes": clock.seconds / 60,
            "trained_on": self.devices,
            "loss_curve": self.curve,
        }


def training_device() -> torch.device:
    """The first NVIDIA GPU that torch sees, or the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What a training ran on, for its provenance."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def learning_rate_share(spent: float, step: int, warmup_steps: int = WARMUP_STEPS) -> float:
    """Share of the full rate after the share `spent` of the time: warm-up, plateau, linear decay to 0."""
    warmup = min(1.0, (step + 1) / warmup_steps)
    return warmup * min(1.0, max(0.0, 2.0 * (1.0 - spent)))


def optimizers(model: nn.Module, spec: TimedTraining) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for embeddings, norms and biases.

    Muon's rate is matched to AdamW's update size (Liu et al. 2025, arXiv:2502.16982), which does not depend on whether
    a matrix is stored transposed, as GPT-2's Conv1D is.
    """
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for name, weight in weights if ".h." in name and name.endswith(".weight") and weight.ndim == 2]
    chosen = set(map(id, matrices))
    rest = [weight for _, weight in weights if id(weight) not in chosen]
    muon = torch.optim.Muon if can_use_bf16(training_device()) else Float32Muon
    options = {"weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    trained = [muon(matrices, lr=spec.muon_learning_rate, **options)] if matrices else []
    trained.append(torch.optim.AdamW(rest, lr=spec.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True))
    for optimizer in trained:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return trained


def choose_attention(model: GPT2LMHeadModel, spec: Training) -> None:
    """Let a model attend by plain products on a processor, if the tables [heads, window, window] are small; else fused.

    On a processor with bf16, 7 M parameters and windows of 512 tokens this trains 9,100 tokens/s in place of 7,100.
    """
    config = model.config
    tables = _NUMBER_BYTES * config.n_layer * config.n_head * spec.batch_size * spec.window**2
    is_plain = model.device.type == "cpu" and tables <= _MOST_TABLE_BYTES
    model.set_attn_implementation("eager" if is_plain else "sdpa")


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step, instead of returning it to the kernel.

    Otherwise the large tensors of each step are mapped and zeroed again: a third of the time of a small model's step.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def train_for(spec: TimedTraining, model: nn.Module, loss: Loss, windows: Windows, work_dir: Path) -> Progress:
    """Minimise `loss` over batches of `windows` for `spec.minutes` or `spec.max_steps`, resuming from `work_dir`.

    Weights that were pruned stay zero.
    """
    keep_freed_memory()
    trained = optimizers(model, spec)
    clock, curve, devices = _restore(work_dir, model, trained)
    total, limit = spec.minutes * 60, spec.max_steps
    warmup_steps = min(WARMUP_STEPS, max(1, limit // 10)) if limit else WARMUP_STEPS
    if _spent(clock, total, limit) < 1:
        devices = list(dict.fromkeys([*devices, device_name(next(model.parameters()).device)]))
    pruned = PrunedWeights(model)
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
            pruned.to_zero()
            clock = Clock(clock.seconds + time.monotonic() - started, clock.steps + 1, clock.tokens + batch.size)
            if clock.steps % _LOG_EVERY == 0:
                curve.append([round(clock.seconds / 60, 2), round(sum(recent) / len(recent), 4)])
                recent.clear()
                note = f"step {clock.steps}, loss {curve[-1][1]:.3f}, {clock.tokens / clock.seconds:,.0f} tokens/s"
                progress.update(bar, completed=int(clock.seconds), note=note)
            if clock.seconds - saved >= spec.checkpoint_minutes * 60:
                _save(work_dir, model, trained, Progress(clock, curve, devices))
                saved = clock.seconds
    return Progress(clock, curve, devices)


def _spent(clock: Clock, total: float, limit: int | None) -> float:
    """Finished share of the training: of the time, or of the steps if that is larger."""
    return max(clock.seconds / total, clock.steps / limit if limit else 0.0)


def step(
    model: nn.Module, trained: list[torch.optim.Optimizer], loss: torch.Tensor, spec: TimedTraining, share: float
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


def text_loss(model: nn.Module, batch: Windows, exact: bool = False) -> torch.Tensor:
    """Mean next-token cross-entropy of a batch [windows, window], in nats per token; `exact`: in single precision."""
    device = next(model.parameters()).device
    ids = torch.from_numpy(batch.astype(np.int64)).to(device)
    with nullcontext() if exact else mixed_precision(device):
        loss: torch.Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return loss


def mixed_precision(device: torch.device) -> torch.autocast:
    """A context in which matrix products are in bf16, if the device supports it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=can_use_bf16(device))


def can_use_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16, and does not only imitate it."""
    return bool(torch.cuda.is_bf16_supported()) if device.type == "cuda" else has_bf16(isa_flags())


def mean_loss(model: nn.Module, windows: Windows, batch_size: int, exact: bool = False) -> float:
    """Mean next-token cross-entropy over windows, in nats per token; `exact`: all in single precision."""
    model.eval()
    batches = [windows[start : start + batch_size] for start in range(0, len(windows), batch_size)]
    with torch.no_grad():
        losses = [text_loss(model, batch, exact).item() * len(batch) for batch in batches]
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


def nth_batch(windows: Windows, step: int, spec: TimedTraining) -> Windows:
    """The batch of an optimizer step, the same after a restart: each pass over the windows has its own order."""
    per_epoch = max(1, len(windows) // spec.batch_size)
    epoch, index = divmod(step, per_epoch)
    order = np.random.default_rng([spec.seed, epoch]).permutation(len(windows))
    return windows[order[index * spec.batch_size : (index + 1) * spec.batch_size]]


# ---------------------------------------------------------------------------------------------------------- checkpoints


def _save(work_dir: Path, model: nn.Module, trained: list[torch.optim.Optimizer], progress: Progress) -> None:
    """Replace the checkpoint atomically: a safetensors file with weights, optimizer moments, clock and curve."""
    tensors = {f"model/{name}": weight.detach() for name, weight in model.named_parameters()}
    for number, optimizer in enumerate(trained):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors["clock"] = torch.tensor(progress.clock, dtype=torch.float64)
    tensors["curve"] = torch.tensor(progress.curve, dtype=torch.float64).reshape(-1, 2)
    work_dir.mkdir(parents=True, exist_ok=True)
    unfinished = work_dir / "checkpoint.partial"
    metadata = {"devices": json.dumps(progress.devices)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, metadata)
    unfinished.replace(work_dir / "checkpoint.safetensors")


def _restore(work_dir: Path, model: nn.Module, trained: list[torch.optim.Optimizer]) -> Progress:
    path = work_dir / "checkpoint.safetensors"
    if not path.exists():
        return Progress(Clock(), [], [])
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        devices: list[str] = json.loads((file.metadata() or {}).get("devices", "[]"))
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
    return Progress(Clock(seconds, int(steps), int(tokens)), tensors["curve"].tolist(), devices)
