"""A model and a slice of a synthetic language that train in a second: each word is followed by one of two."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel

WORDS = 48
TRAIN = Path(__file__).with_name("programs") / "train.py"
SPECIAL = ["<s>", "</s>", "<unk>"]


def write_model(directory: Path, words: int = WORDS, tokenizer: bool = True) -> Path:
    """A 2-layer GPT-2 with a vocabulary of `words` + 3, which 4 does not divide by default."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=words + len(SPECIAL),
        n_positions=32,
        n_embd=32,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=1,
    )
    GPT2LMHeadModel(config).save_pretrained(directory)
    if tokenizer:
        _write_tokenizer(directory, words)
    return directory


def _write_tokenizer(directory: Path, words: int) -> None:
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *(f"w{i}" for i in range(words))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, lstrip=True, rstrip=True) for token in SPECIAL])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def write_slice(directory: Path, train_files: int = 40, dev_files: int = 4) -> Path:
    """train.parquet and dev.parquet with files of 32 tokens."""
    choose = random.Random(0)
    for split, count in (("train", train_files), ("dev", dev_files)):
        codes = [f"<s> {' '.join(_sentence(choose))} </s>" for _ in range(count)]
        table = pa.table({"name": [f"{split}/{i}.py" for i in range(count)], "code": pa.array(codes, pa.string())})
        pq.write_table(table, directory / f"{split}.parquet")
    return directory


def _sentence(choose: random.Random) -> list[str]:
    word, sentence = choose.randrange(WORDS), []
    for _ in range(30):
        sentence.append(f"w{word}")
        word = (word * 5 + choose.choice((1, 7))) % WORDS
    return sentence


def kill_after_first_checkpoint(command: list[str], work_dir: Path) -> None:
    """Run a training in a second process and SIGKILL it once `work_dir` holds a whole checkpoint."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment) as process:
        try:
            deadline = time.monotonic() + 600
            while not list(work_dir.glob("checkpoint-*/complete")):
                assert process.poll() is None, "the training ended before its first checkpoint"
                assert time.monotonic() < deadline, "no checkpoint in 10 minutes"
                time.sleep(0.02)
        finally:
            process.kill()
