"""Pre-training of a small GPT-2 in a fixed time."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimline.tasks.data.packing import pack
from slimline.tasks.data.parquet import read_codes
from slimline.tasks.data.tokenizer import load_tokenizer
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.specs import Pretrain
from slimline.tasks.training.training_loop import choose_attention, dev_text, text_loss, train_for, training_device


def pretrain(spec: Pretrain, model_dir: Path, slice_dir: Path, target: Path, work_dir: Path) -> dict[str, Any]:
    """Train the model of `model_dir` on the slice's training files as the spec says, resuming from `work_dir`.

    Returns:
        Notes for provenance: files, packages, corpus_tokens, dev_loss (nats per token), dev_bits_per_byte, and the
        training's progress.
    """
    torch.manual_seed(spec.seed)
    model = load_gpt2(model_dir).to(training_device())
    model.loss_type = "ForCausalLM"  # transformers' default for GPT-2, which it would use with a warning
    choose_attention(model, spec)
    tokenizer = load_tokenizer(model_dir)
    codes = shuffle(read_codes(slice_dir, "train"), spec.seed)
    training = pack(codes, tokenizer, spec.window)
    dev = dev_text(slice_dir, tokenizer, spec.window)
    progress = train_for(spec, model, lambda batch: text_loss(model, batch), training, work_dir)
    losses = dev.losses(model, spec.batch_size)
    save_gpt2(model.to("cpu"), model_dir, target)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "random_weights": False,
        "files": len(codes),
        "packages": sorted({f"{one.name} {one.version}" for one in distributions()}),
        "corpus_tokens": training.size,
        **losses,
        **progress.notes(),
    }


def shuffle(codes: list[str], seed: int) -> list[str]:
    """The files in seeded random order."""
    order = np.random.default_rng(seed).permutation(len(codes))
    return [codes[index] for index in order]
