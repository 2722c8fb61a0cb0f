"""A tiny GPT-2 with a byte-pair vocabulary learnt from this project's own sources, and a slice of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from slimline.tasks.data.lexer import lex_line
from slimline.tasks.data.tokenizer import save_tokenizer, train_tokenizer

VOCABULARY = 900
ROOT = Path(__file__).parents[2]


def lexed_files() -> list[str]:
    """This project's own files, in PY150's format."""
    paths = sorted([*ROOT.glob("tasks/**/*.py"), *ROOT.glob("storage/*.py")])
    return [lex_line(path.read_text("utf8")) for path in paths]


def write_bpe_model(directory: Path, **shape: Any) -> Path:
    """2 layers x 32 wide, 4 heads, 96 positions."""
    directory.mkdir(parents=True, exist_ok=True)
    save_tokenizer(train_tokenizer(lexed_files(), VOCABULARY), directory, 96)
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 4} | shape
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(**sizes, **dropout, bos_token_id=0, eos_token_id=2, pad_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


def write_bpe_slice(directory: Path) -> Path:
    """The project's files as train.parquet and dev.parquet."""
    codes = lexed_files()
    for split, chosen in (("train", codes[4:]), ("dev", codes[:4])):
        table = pa.table({"name": [f"{i}.py" for i in range(len(chosen))], "code": pa.array(chosen, pa.string())})
        pq.write_table(table, directory / f"{split}.parquet")
    return directory
