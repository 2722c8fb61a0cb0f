"""The model a study starts from: of the hub, of a directory, bundled, or of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from storage import BUNDLED_MODEL
from tasks.corpus.lexing import END, EOL, PAD, START, UNKNOWN
from tasks.corpus.parquet import read_codes
from tasks.specs import Base, BundledBase, HubBase, PathBase, RandomBase
from tasks.training.architectures import ARCHITECTURES
from tasks.training.checkpoint import load_gpt2
from tasks.training.tokenizer import save_tokenizer, special_tokens, train_tokenizer

transformers_logging.disable_progress_bar()


def make_base(base: Base, slice_dir: Path, target: Path) -> dict[str, Any]:
    """Write the base as an fp32 checkpoint with its tokenizer; returns notes for the provenance.

    Raises:
        ValueError: the source is missing, or is no GPT-2; the message names the field.
    """
    if isinstance(base, RandomBase):
        return _random(base, slice_dir, target)
    if isinstance(base, HubBase):
        return _from_hub(base, target)
    directory = base.directory if isinstance(base, PathBase) else BUNDLED_MODEL
    if not (directory / "config.json").is_file():
        raise ValueError(f"base.directory: {directory} has no config.json; a GPT-2 checkpoint directory is needed")
    return _copied(directory, target)


def _copied(directory: Path, target: Path) -> dict[str, Any]:
    model = load_gpt2(directory)
    model.save_pretrained(target)
    _copy_tokenizer(directory, target, model)
    return {"parameters": sum(weight.numel() for weight in model.parameters()), "random_weights": False}


def _copy_tokenizer(directory: Path, target: Path, model: GPT2LMHeadModel) -> None:
    if not (directory / "tokenizer.json").is_file():
        _save_hub_tokenizer(AutoTokenizer.from_pretrained(directory, local_files_only=True), target, model)
        return
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            shutil.copyfile(directory / name, target / name)


def _from_hub(base: HubBase, target: Path) -> dict[str, Any]:
    model = AutoModelForCausalLM.from_pretrained(base.id, revision=base.revision, dtype=torch.float32)
    if model.config.model_type != "gpt2":
        raise ValueError(f"base.id: {base.id} is a {model.config.model_type} model, allowed: gpt2")
    tokenizer = AutoTokenizer.from_pretrained(base.id, revision=base.revision)
    _save_hub_tokenizer(tokenizer, target, model)
    model.save_pretrained(target)
    return {"parameters": sum(weight.numel() for weight in model.parameters()), "random_weights": False}


def _save_hub_tokenizer(tokenizer: Any, target: Path, model: GPT2LMHeadModel) -> None:
    """Add CodeXGLUE's special tokens, as its run_lm.py does, and give the new ones rows of the embedding."""
    tokenizer.add_special_tokens(
        {"bos_token": START, "eos_token": END, "sep_token": EOL, "pad_token": PAD, "unk_token": UNKNOWN}
    )
    tokenizer.add_tokens(special_tokens(), special_tokens=True)
    if len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    tokenizer.save_pretrained(target)


def _random(base: RandomBase, slice_dir: Path, target: Path) -> dict[str, Any]:
    shape = ARCHITECTURES[base.architecture]
    torch.manual_seed(base.seed)
    config = GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    if base.tokenizer == "train":
        tokenizer = train_tokenizer(read_codes(slice_dir, "train"), shape["vocab_size"])
        save_tokenizer(tokenizer, target, shape["n_positions"])
        config.bos_token_id, config.eos_token_id = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
        config.pad_token_id = tokenizer.token_to_id(PAD)
    else:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(BUNDLED_MODEL / name, target / name)
        special = json.loads((BUNDLED_MODEL / "config.json").read_text("utf8"))
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, key, special[key])
    model = GPT2LMHeadModel(config)
    model.save_pretrained(target)
    return {"parameters": sum(weight.numel() for weight in model.parameters()), "random_weights": True}


__all__ = ["BundledBase", "make_base"]
