"""Lexed files to training windows: encoded, joined end to end, cut without padding.

As CodeXGLUE's fine-tuning data set (microsoft/CodeXGLUE, Code-Code/CodeCompletion-token/code/dataset.py,
`finetuneDataset`): a window may begin and end inside a file, and the ragged end of the corpus is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from slimline.tasks.data.parquet import read_codes

Windows = NDArray[np.int32]

# Keeps the encodings of one batch, some 100 bytes a token, well below the memory of the model itself.
_FILES_AT_ONCE = 256


def pack(codes: Iterable[str], tokenizer: Tokenizer, window: int) -> Windows:
    """Windows of consecutive tokens, in the order of `codes` ("<s> ... </s>" each).

    Returns:
        Token ids, int32 [windows, window].

    Raises:
        ValueError: there are fewer tokens than one window.
    """
    if window < 1:
        raise ValueError(f"window: {window}, allowed: at least 1 token")
    parts = list(_encode(codes, tokenizer))
    tokens = np.concatenate(parts) if parts else np.empty(0, np.int32)
    count = len(tokens) // window
    if not count:
        raise ValueError(f"window: {window} tokens, but the text has only {len(tokens)}; allowed: at most that many")
    return tokens[: count * window].reshape(count, window)


def pack_split(slice_dir: Path, split: str, tokenizer: Tokenizer, window: int) -> Windows:
    """The packed windows of a slice's `<split>.parquet`.

    Raises:
        ValueError: the file is too small; the message names it.
    """
    path = slice_dir / f"{split}.parquet"
    codes = read_codes(slice_dir, split)
    if not codes:
        raise ValueError(f"{path}: no files in it; allowed: at least one window of {window} tokens")
    try:
        return pack(codes, tokenizer, window)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def bytes_per_token(codes: Sequence[str], tokenizer: Tokenizer) -> float:
    """Mean length of a token in bytes of UTF-8: what losses of different vocabularies are compared by."""
    return sum(len(code.encode()) for code in codes) / sum(map(len, _encode(codes, tokenizer)))


def _encode(codes: Iterable[str], tokenizer: Tokenizer) -> Iterator[Windows]:
    remaining = iter(codes)
    while batch := list(islice(remaining, _FILES_AT_ONCE)):
        # The files carry their own <s> and </s>: a tokenizer's template must not add a second pair.
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield np.asarray(encoding.ids, np.int32)


def calibration_windows(slice_dir: Path, tokenizer: Tokenizer, count: int, window: int, field: str) -> Windows:
    """Windows of the training split, for calibration.

    Args:
        slice_dir: The slice.
        tokenizer: Of the model that they are for.
        count: How many.
        window: Their length in tokens.
        field: Of a spec, what asks for so many; an error names it.

    Returns:
        Token ids, int32 [count, window].

    Raises:
        ValueError: the slice has fewer windows.
    """
    codes = read_codes(slice_dir, "train")
    order = np.random.default_rng(0).permutation(len(codes))
    chosen: list[str] = []
    length = 0
    for index in order:
        chosen.append(codes[index])
        length += len(codes[index].split())  # never more than its tokens
        if length >= count * window:
            break
    windows = pack(chosen, tokenizer, window)[:count]
    if len(windows) < count:
        raise ValueError(
            f"{field}: {count} windows of {window} tokens, but the training split has only {len(windows)}; "
            "allowed: at most that many, or raise data.train_files"
        )
    return windows
