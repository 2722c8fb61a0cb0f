"""Tiny GPT-2 checkpoints for the engines' tests: of random weights, and one that has learned something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY = 97
POSITIONS = 64
STOP = {0, 1}


def random_gpt2(**changes: Any) -> GPT2LMHeadModel:
    """2 layers x 32 wide; weights large enough for the next token to depend on all before it."""
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 4}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = {"bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2} | shape | dropout | changes
    model = GPT2LMHeadModel(GPT2Config(**config)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def trained_gpt2(steps: int = 60) -> GPT2LMHeadModel:
    """Knows that numbers count up by 3 and that each run of them ends in token 0 or 1."""
    model = random_gpt2(initializer_range=0.02).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        tokens = torch.tensor([counting(rng, 24) for _ in range(16)])
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def counting(rng: np.random.Generator, length: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < length:
        start = int(rng.integers(2, 30))
        tokens += [start + 3 * step for step in range(int(rng.integers(3, 9)))] + [int(rng.integers(0, 2))]
    return tokens[:length]


def save(model: GPT2LMHeadModel, directory: Path) -> Path:
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text("{}")
    return directory


def prompts(count: int, longest: int = 40, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, int(rng.integers(1, longest + 1))).tolist() for _ in range(count)]
