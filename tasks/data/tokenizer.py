"""Byte-pair tokenizers of code, with CodeXGLUE's placeholders as special tokens, and completions back to text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from slimline.tasks.data.lexer import END, EOL, PAD, START, UNKNOWN, literal_tokens

VOCABULARY_SIZE = 8192


def special_tokens() -> list[AddedToken]:
    """CodeXGLUE's special tokens.

    Blanks around them are absorbed, as its tokenizer of 2020 did, and restored by `decode_line`.
    """
    return [
        AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=True)
        for token in (START, PAD, END, UNKNOWN, EOL, *literal_tokens())
    ]


def train_tokenizer(codes: Iterable[str], vocabulary: int = VOCABULARY_SIZE) -> Tokenizer:
    """Learn a byte-level BPE (Sennrich et al. 2016; GPT-2's bytes) of `vocabulary` entries, placeholders included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special_tokens(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
    )
    tokenizer.train_from_iterator(codes, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, n_positions: int) -> None:
    """Write the files `AutoTokenizer.from_pretrained` reads."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        sep_token=EOL,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=n_positions,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(directory)


def load_tokenizer(directory: Path) -> Tokenizer:
    """The fast tokenizer of a model or ONNX artifact.

    Raises:
        ValueError: there is none, or it lacks one of the special tokens line completion needs.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    tokenizer = Tokenizer.from_file(str(path))
    missing = [token for token in (START, END, EOL) if tokenizer.token_to_id(token) is None]
    if missing:
        raise ValueError(f"{directory}: the tokenizer lacks {', '.join(missing)}")
    return tokenizer


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """A completion ends at the end of the line, or of the file."""
    return [index for token in (EOL, END) if (index := tokenizer.token_to_id(token)) is not None]


def encode_prompts(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Token ids of each text, its last `limit` ones: CodeXGLUE keeps the end of a context that is too long."""
    return [encoding.ids[-limit:] for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def decode_line(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of a completion, with CodeXGLUE's blanks around number literals and none around string literals."""
    specials = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
    text, plain = "", []
    for index in [*ids, None]:
        if index is not None and index not in specials:
            plain.append(index)
            continue
        text = _join(text, tokenizer.decode(plain, skip_special_tokens=False) if plain else "")
        plain = []
        if index is not None:
            text += specials[index] if specials[index].startswith("<STR_LIT") else f" {specials[index]} "
    return text.strip()


def _join(text: str, addition: str) -> str:
    return text + (addition[1:] if text.endswith(" ") and addition.startswith(" ") else addition)
