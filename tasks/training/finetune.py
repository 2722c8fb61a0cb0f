"""Fine-tuning of a GPT-2 checkpoint with the Hugging Face Trainer on the CPU, which can resume after a kill."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import (
    GPT2LMHeadModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from slimline.tasks.data.packing import Windows, pack_split
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.runtime.host import has_bf16, isa_flags
from slimline.tasks.specs import EpochTraining
from slimline.tasks.training.callbacks import LossBar, ProgressReport, TimedCheckpoints
from slimline.tasks.training.pruned import StayPruned
from slimline.tasks.training.resume import last_checkpoint
from slimline.tasks.training.training_loop import DevText, choose_attention, dev_text, keep_freed_memory

Notes = dict[str, object]

_CHECKPOINT_MINUTES = 5.0
_LOSS_POINTS = 50
# Adam's second moments start at zero, so that its first steps would be too long at the full rate.
_RATE_WARMUP_SHARE = 0.03
# The logits are the largest tensor of a training step: 2^26 of them are 256 MB in fp32, and there are a few copies.
_LOGITS_AT_ONCE = 2**26


class Material(NamedTuple):
    """A model, and what it is trained on and watched with."""

    model: GPT2LMHeadModel
    train: Windows
    dev: DevText


def fine_tune(
    spec: EpochTraining,
    model_dir: Path,
    slice_dir: Path,
    target: Path,
    work_dir: Path,
    callbacks: Sequence[TrainerCallback] = (),
    decay_share: float = 1.0,
) -> Notes:
    """Train `model_dir` on the slice's train.parquet and write the result to `target` as a standard checkpoint.

    This uses AdamW without weight decay; the model keeps its own configuration, including dropout.

    Args:
        spec: Hyperparameters.
        model_dir: The checkpoint to train.
        slice_dir: The training data.
        target: Where the result is written.
        work_dir: For checkpoints, from which the training resumes; the caller removes it after publishing `target`.
        callbacks: Further callbacks of the Trainer; without any, weights that were pruned stay zero.
        decay_share: Last share of the steps in which the learning rate falls linearly to zero.

    Returns:
        Notes for provenance: train_loss (mean over the training, nats per token), dev_loss and dev_bits_per_byte, both
        also with _before, train_tokens_per_s (of this process), steps, tokens, bf16, and loss_curve with pairs [step,
        mean loss since the last pair].

    Raises:
        ValueError: the model does not fit the spec or its tokenizer, or the slice is too small.
        FloatingPointError: the loss is not finite at the end.
    """
    set_seed(spec.seed)
    keep_freed_memory()
    material = load_material(spec, model_dir, slice_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    use_cache = material.model.config.use_cache
    before = material.dev.losses(material.model, spec.batch_size)
    callbacks = callbacks or [StayPruned(material.model)]
    trainer = _trainer(_arguments(spec, material, work_dir, decay_share), material, callbacks)
    notes = _run(trainer, last_checkpoint(work_dir)) | {f"{name}_before": loss for name, loss in before.items()}
    notes["dev_bits_per_byte"] = material.dev.bits_per_byte(float(str(notes["dev_loss"])))
    # The Trainer turns the key/value cache off in the model's configuration.
    material.model.config.use_cache = use_cache
    save_gpt2(material.model, model_dir, target)
    return notes


def total_steps(spec: EpochTraining, windows: int) -> int:
    """Number of optimizer steps of a training with `windows` packed windows."""
    whole = math.ceil(spec.epochs * math.ceil(windows / spec.batch_size))
    return min(whole, spec.max_steps or whole)


def micro_batch(batch_size: int, window: int, vocabulary: int) -> int:
    """The largest divisor of `batch_size` whose logits [batch, window, vocabulary] are within the memory limit."""
    fitting = max(1, _LOGITS_AT_ONCE // (window * vocabulary))
    return max(size for size in range(1, min(batch_size, fitting) + 1) if batch_size % size == 0)


def load_material(spec: EpochTraining, model_dir: Path, slice_dir: Path) -> Material:
    """Load the checkpoint `model_dir` and the slice in its tokens.

    Raises:
        ValueError: the model does not fit the spec or its tokenizer, or the slice is too small.
    """
    model = load_gpt2(model_dir)
    model.loss_type = "ForCausalLM"  # transformers' default for GPT-2, which it would use with a warning
    choose_attention(model, spec)
    if spec.window > model.config.n_positions:
        raise ValueError(f"window: {spec.window}; allowed: at most the model's {model.config.n_positions} positions")
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    if tokenizer.get_vocab_size() > model.config.vocab_size:
        raise ValueError(
            f"{model_dir}/tokenizer.json: {tokenizer.get_vocab_size()} tokens; "
            f"allowed: at most config.json's vocab_size {model.config.vocab_size}"
        )
    train = pack_split(slice_dir, "train", tokenizer, spec.window)
    return Material(model, train, dev_text(slice_dir, tokenizer, spec.window))


def _arguments(spec: EpochTraining, material: Material, work_dir: Path, decay_share: float) -> TrainingArguments:
    steps = total_steps(spec, len(material.train))
    micro = micro_batch(spec.batch_size, spec.window, material.model.config.vocab_size)
    return TrainingArguments(
        output_dir=str(work_dir),
        max_steps=steps,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=spec.batch_size // micro,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": _decay_steps(steps, decay_share), "decay_type": "linear"},
        warmup_steps=_warmup_steps(steps),
        weight_decay=0.0,
        seed=spec.seed,
        use_cpu=True,
        bf16=has_bf16(isa_flags()),
        # TimedCheckpoints decides. Two checkpoints are kept, because the newest may be incomplete after a kill. The
        # Trainer writes them with torch.save and reads them with torch.load(weights_only=True): optimizer, schedule
        # and random state are tensors and plain values, so that reading them cannot run code.
        save_strategy="no",
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=max(1, steps // _LOSS_POINTS),
        include_num_input_tokens_seen="all",
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def _warmup_steps(steps: int) -> int:
    return int(_RATE_WARMUP_SHARE * steps)


def _decay_steps(steps: int, share: float) -> int:
    return min(steps - _warmup_steps(steps), math.ceil(share * steps))


def _trainer(arguments: TrainingArguments, material: Material, callbacks: Sequence[TrainerCallback]) -> Trainer:
    trainer = Trainer(
        model=material.model,
        args=arguments,
        train_dataset=list(material.train),
        eval_dataset=list(material.dev.windows),
        data_collator=_collate,
        callbacks=[*callbacks, TimedCheckpoints(_CHECKPOINT_MINUTES), ProgressReport()],
    )
    trainer.remove_callback(PrinterCallback)
    if not arguments.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LossBar)
    return trainer


def _collate(windows: Sequence[NDArray[np.int32]]) -> dict[str, torch.Tensor]:
    tokens = torch.from_numpy(np.stack(windows).astype(np.int64))
    return {"input_ids": tokens, "labels": tokens}


def _run(trainer: Trainer, checkpoint: Path | None) -> Notes:
    tokens_before = _seen_tokens(checkpoint) if checkpoint else 0
    metrics = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    dev_loss = trainer.evaluate()["eval_loss"]
    if not math.isfinite(dev_loss):
        raise FloatingPointError(f"dev loss {dev_loss}: lower learning_rate {trainer.args.learning_rate}")
    # The log is part of every checkpoint, so that it covers the whole training, also before it was resumed.
    curve = [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry]
    tokens = trainer.state.num_input_tokens_seen
    return {
        "train_loss": float(np.mean([loss for _, loss in curve])),
        "dev_loss": dev_loss,
        "train_tokens_per_s": (tokens - tokens_before) / metrics["train_runtime"],
        "steps": trainer.state.global_step,
        "tokens": tokens,
        "bf16": trainer.args.bf16,
        "loss_curve": curve,
    }


def _seen_tokens(checkpoint: Path) -> int:
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return int(state.num_input_tokens_seen)
