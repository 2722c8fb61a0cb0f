"""Vocabulary trimming: only the first entries of a byte-pair vocabulary, and their rows of the embedding, remain.

A byte-pair tokenizer applies its merges in the order in which they were learnt, and a merge joins only results of
earlier merges. So the first merges are a complete tokenizer (Sennrich et al. 2016): every text can still be encoded, if
necessary byte by byte, and decoded again. Each entry of the full vocabulary is a fixed sequence of entries of the
trimmed one, so that a teacher with the full vocabulary can be distilled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import GPT2LMHeadModel

from slimline.tasks.data.tokenizer import load_tokenizer
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.specs import TrimVocabulary

_TOKEN_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id")


class TrimmedTokenizer(NamedTuple):
    """A trimmed tokenizer, and for each of its entries the id in the full vocabulary, [entries]."""

    tokenizer: Tokenizer
    rows: list[int]


def trim_vocabulary(source: Path, target: Path, spec: TrimVocabulary) -> dict[str, Any]:
    """Write the checkpoint `source` with the first `spec.tokens` entries of its vocabulary to `target`.

    Returns:
        Notes for provenance: vocabulary (number of entries), merges, parameters.

    Raises:
        ValueError: the tokenizer is not a byte-pair encoder, or cannot become that small.
    """
    model, full = load_gpt2(source), load_tokenizer(source)
    trimmed = trim_tokenizer(full, spec.tokens)
    _take_rows(model, trimmed.rows)
    ids = {name: getattr(model.config, name, None) for name in _TOKEN_FIELDS}
    for name, index in ids.items():
        if index is not None:
            setattr(model.config, name, trimmed.rows.index(index))
            setattr(model.generation_config, name, getattr(model.config, name))
    save_gpt2(model, source, target)
    (target / "tokenizer.json").write_text(_compact(trimmed.tokenizer), "utf8")
    merges = len(json.loads(trimmed.tokenizer.to_str())["model"]["merges"])
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"vocabulary": len(trimmed.rows), "merges": merges, "parameters": parameters}


def trim_tokenizer(full: Tokenizer, entries: int) -> TrimmedTokenizer:
    """The tokenizer with only its first merges and `entries` ids, whose order does not change.

    Raises:
        ValueError: it is not a byte-pair encoder, or has more than `entries` bytes and special tokens.
    """
    content = json.loads(full.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise ValueError(f"tokenizer.json: model.type is {model['type']}; allowed for trim-vocabulary: BPE")
    by_id = {index: token for token, index in full.get_vocab(with_added_tokens=True).items()}
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    excess = max(0, len(by_id) - entries)
    if excess > len(merges):
        fewest = len(by_id) - len(merges)
        raise ValueError(f"tokens: {entries}; allowed: at least {fewest}, its bytes and special tokens")
    first, last = merges[: len(merges) - excess], merges[len(merges) - excess :]
    removed = {"".join(merge) for merge in last} - {"".join(merge) for merge in first}
    removed -= {token["content"] for token in content["added_tokens"]}
    rows = [index for index in sorted(by_id) if by_id[index] not in removed]
    new_ids = {by_id[index]: number for number, index in enumerate(rows)}
    model["merges"] = [list(merge) for merge in first]
    model["vocab"] = {token: new_ids[token] for token in model["vocab"] if token in new_ids}
    for token in content["added_tokens"]:
        token["id"] = new_ids[token["content"]]
    return TrimmedTokenizer(Tokenizer.from_str(json.dumps(content)), rows)


def _compact(tokenizer: Tokenizer) -> str:
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))


def _take_rows(model: GPT2LMHeadModel, rows: list[int]) -> None:
    with torch.no_grad():
        table = model.transformer.wte.weight[rows].clone()
        head = model.lm_head.weight[rows].clone()
    tied = model.config.tie_word_embeddings
    model.config.vocab_size = len(rows)
    model.transformer.wte = nn.Embedding.from_pretrained(table, freeze=False)
    model.lm_head = nn.Linear(table.shape[1], len(rows), bias=False)
    model.lm_head.weight = model.transformer.wte.weight if tied else nn.Parameter(head)
