"""Tokenizers of code: placeholders stay whole, and a line comes back as it was."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from slimline.tasks.data.lexer import EOL, START, lex_line, literal_tokens
from slimline.tasks.data.tokenizer import (
    decode_line,
    encode_prompts,
    load_tokenizer,
    save_tokenizer,
    special_tokens,
    stop_ids,
    train_tokenizer,
)
from slimline.tasks.models.bases import bundled_model

BUNDLED = load_tokenizer(bundled_model())
WORDS = st.sampled_from(["x", "=", "(", ")", "foo_bar", ".", ",", "é", "'<STR_LIT:name>'", "<NUM_LIT:1>", "<NUM_LIT>"])


@given(st.lists(WORDS, min_size=1, max_size=20))
def test_a_line_survives_encoding(words: list[str]) -> None:
    ids = BUNDLED.encode(" ".join(words), add_special_tokens=False).ids
    assert decode_line(BUNDLED, ids).split() == words


def test_placeholders_are_single_tokens() -> None:
    for token in literal_tokens():
        assert len(BUNDLED.encode(token, add_special_tokens=False).ids) == 1


def test_real_files_survive_line_by_line() -> None:
    code = lex_line(Path(__file__).read_text("utf8"))
    for line in code.removeprefix(f"{START} ").removesuffix(" </s>").split(f" {EOL} "):
        assert decode_line(BUNDLED, BUNDLED.encode(line, add_special_tokens=False).ids).split() == line.split()


def test_prompts_keep_their_end() -> None:
    (whole,) = encode_prompts(BUNDLED, [f"{START} import os {EOL} x = os ."], 100)
    (short,) = encode_prompts(BUNDLED, [f"{START} import os {EOL} x = os ."], 3)
    assert short == whole[-3:] and len(whole) > 3


def test_training_learns_a_vocabulary_transformers_reads(tmp_path: Path) -> None:
    trained = train_tokenizer([f"{START} alpha = beta + {n} {EOL} gamma </s>" for n in range(50)], 600)
    save_tokenizer(trained, tmp_path, 128)
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    text = f"{START} alpha = beta {EOL} gamma"
    assert ours.encode(text, add_special_tokens=False).ids == theirs(text)["input_ids"]
    assert stop_ids(ours) == [theirs.sep_token_id, theirs.eos_token_id]
    assert ours.get_vocab_size() <= 600 and len(special_tokens()) == 238


def test_a_tokenizer_without_line_ends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)
    plain = Tokenizer.from_str(BUNDLED.to_str().replace(EOL, "<LINE>"))
    plain.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="lacks <EOL>"):
        load_tokenizer(tmp_path)
