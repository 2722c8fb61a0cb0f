"""Byte-pair tokenizers of code, with CodeXGLUE's placeholders as special tokens, and completions back to text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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

    # Only tokens that it has: others would be added, and the model has no rows for them.
    roles = {"bos_token": START, "eos_token": END, "sep_token": EOL, "pad_token": PAD, "unk_token": UNKNOWN}
    known = {role: token for role, token in roles.items() if tokenizer.token_to_id(token) is not None}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=n_positions, clean_up_tokenization_spaces=False, **known
    ).save_pretrained(directory)


def load_tokenizer(directory: Path) -> Tokenizer:
    """The fast tokenizer of a model or ONNX artifact.

    Raises:
        ValueError: there is none, or it lacks one of the special tokens line completion needs.
    """
    tokenizer = read_tokenizer(directory / "tokenizer.json")
    missing = [token for token in (START, END, EOL) if tokenizer.token_to_id(token) is None]
    if missing:
        raise ValueError(f"{directory}: the tokenizer lacks {', '.join(missing)}")
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, without the truncation and padding that it may have been saved with.

    Both are settings of a training, and would cut prompts and fill them up in silence.

    Raises:
        ValueError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        with _panics_as_errors():
            tokenizer = Tokenizer.from_str(path.read_text("utf-8-sig"))
    except Exception as error:  # tokenizers has no class of its own
        raise ValueError(f"{path}: not a readable tokenizer ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """A bug of the library in Rust ends in an exception that nothing catches: it is no Exception, and has no name."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizer fails on a text: {error}") from None


def entries(tokenizer: Tokenizer) -> int:
    """The number of ids up to the largest: how many rows an embedding needs."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)


def changed_lines(tokenizer: Tokenizer, lines: Iterable[str]) -> list[tuple[str, str]]:
    """The lines that a tokenizer does not give back, each with what it gives: no model can complete them.

    Raises:
        ValueError: it fails on one.
    """
    with _panics_as_errors():
        given = {line: decode_line(tokenizer, tokenizer.encode(line, add_special_tokens=False).ids) for line in lines}
    return [(line, back) for line, back in given.items() if line != back]


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """A completion ends at the end of the line, or of the file."""
    return [index for token in (EOL, END) if (index := tokenizer.token_to_id(token)) is not None]


def encode_prompts(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Token ids of each text, its last `limit` ones: CodeXGLUE keeps the end of a context that is too long."""
    return [encoding.ids[-limit:] for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def decode_line(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of a completion, with CodeXGLUE's blanks around number literals and none around string literals.

    A tokenizer may count those blanks to the special tokens, to the text beside them, or to both.
    """
    specials = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
    line, plain = _Line(), []
    for index in [*ids, None]:
        if index is not None and index not in specials:
            plain.append(index)
            continue
        if plain:
            line.add(tokenizer.decode(plain, skip_special_tokens=False))
            plain = []
        if index is not None:
            line.add_special(specials[index])
    return line.text.strip()


class _Line:
    """Text that grows, with one blank where two meet."""

    def __init__(self) -> None:
        self.text = ""
        self._ends_in_string = False  # in a string literal's token, after which no blank belongs

    def add(self, text: str) -> None:
        is_double = self.text.endswith(" ") or self._ends_in_string
        self.text += text[1:] if is_double and text.startswith(" ") else text
        self._ends_in_string = False

    def add_special(self, token: str) -> None:
        if not token.startswith("<STR_LIT"):
            self.add(f" {token} ")
            return
        self.text = self.text.rstrip(" ") + token
        self._ends_in_string = True
