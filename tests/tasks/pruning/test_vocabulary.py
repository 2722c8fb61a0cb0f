from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from slimline.tasks.data.lexer import END, EOL, PAD, START, lex_line
from slimline.tasks.data.tokenizer import load_tokenizer
from slimline.tasks.models.bases import bundled_model
from slimline.tasks.pruning.vocabulary import TrimmedTokenizer, trim_tokenizer, trim_vocabulary
from slimline.tasks.specs import TrimVocabulary
from tests.tasks.bpe_models import ROOT, VOCABULARY, lexed_files

KEPT = 600


@pytest.fixture(scope="module")
def trimmed_dir(bpe_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("trimmed")
    notes = trim_vocabulary(bpe_model_dir, target, TrimVocabulary(tokens=KEPT))
    assert notes["vocabulary"] == KEPT
    return target


@pytest.fixture(scope="module")
def bundled() -> TrimmedTokenizer:
    return trim_tokenizer(load_tokenizer(bundled_model()), 2048)


def round_trip(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)


def files() -> list[Path]:
    return sorted([*ROOT.glob("flows/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("storage/**/*.py")])


def test_any_python_file_comes_back_as_it_was(bundled: TrimmedTokenizer) -> None:
    assert len(files()) > 50
    for path in files():
        text = path.read_text("utf8")
        if "<STR_LIT" not in text and "<s>" not in text and "<EOL>" not in text and "<unk" not in text:
            assert round_trip(bundled.tokenizer, text) == text


def test_lexed_lines_decode_as_with_the_full_tokenizer(bundled: TrimmedTokenizer) -> None:
    full = load_tokenizer(bundled_model())
    for path in files()[:20]:
        line = lex_line(path.read_text("utf8"))
        assert round_trip(bundled.tokenizer, line) == round_trip(full, line)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60).filter(lambda text: "<" not in text))
def test_any_text_comes_back_as_it_was(bundled: TrimmedTokenizer, text: str) -> None:
    assert round_trip(bundled.tokenizer, text) == text


def test_every_full_token_is_a_sequence_of_kept_ones(bpe_model_dir: Path, trimmed_dir: Path) -> None:
    """The trimmed encoding refines the full one: what distillation across vocabularies rests on."""
    from slimline.tasks.training.distill import map_tokens

    full, small = load_tokenizer(bpe_model_dir), load_tokenizer(trimmed_dir)
    token_map = map_tokens(full, small)
    for text in lexed_files()[:10]:
        tokens = full.encode(text, add_special_tokens=False).ids
        starts, ends = token_map.starts[tokens], (token_map.starts + token_map.lengths)[tokens]
        pieces = np.concatenate([token_map.flat[start:end] for start, end in zip(starts, ends, strict=True)])
        assert pieces.tolist() == small.encode(text, add_special_tokens=False).ids


def test_rows_follow_their_tokens(bpe_model_dir: Path, trimmed_dir: Path) -> None:
    full, small = load_tokenizer(bpe_model_dir), load_tokenizer(trimmed_dir)
    before = AutoModelForCausalLM.from_pretrained(bpe_model_dir).transformer.wte.weight
    model = AutoModelForCausalLM.from_pretrained(trimmed_dir)
    assert model.config.vocab_size == small.get_vocab_size() == KEPT
    for token, index in small.get_vocab(with_added_tokens=True).items():
        assert torch.equal(model.transformer.wte.weight[index], before[full.token_to_id(token)])
    assert model.lm_head.weight is model.transformer.wte.weight


def test_placeholders_and_their_ids_survive(bpe_model_dir: Path, trimmed_dir: Path) -> None:
    small = AutoTokenizer.from_pretrained(trimmed_dir)
    config = json.loads((trimmed_dir / "config.json").read_text())
    assert [small.convert_ids_to_tokens(config[f"{name}_token_id"]) for name in ("bos", "eos", "pad")] == [
        START,
        END,
        PAD,
    ]
    assert small.encode(f"{START} x = 1 {EOL}", add_special_tokens=False)[-1] == small.convert_tokens_to_ids(EOL)
    assert (trimmed_dir / "tokenizer.json").stat().st_size < (bpe_model_dir / "tokenizer.json").stat().st_size / 2


def test_ids_keep_their_order_and_the_whole_vocabulary_is_a_trimmed_one(bpe_model_dir: Path) -> None:
    full = load_tokenizer(bpe_model_dir)
    assert trim_tokenizer(full, VOCABULARY).rows == list(range(VOCABULARY))
    assert trim_tokenizer(full, 10**6).tokenizer.get_vocab() == full.get_vocab()
    rows = trim_tokenizer(full, KEPT).rows
    assert rows == sorted(rows) and len(rows) == KEPT


def test_placeholders_added_after_the_vocabulary_move_down_with_it(bpe_model_dir: Path) -> None:
    """As in a hub tokenizer that CodeXGLUE's tokens were added to: their ids come last."""
    full = load_tokenizer(bpe_model_dir)
    full.add_special_tokens(["<LATE>"])
    late = full.token_to_id("<LATE>")
    trimmed = trim_tokenizer(full, KEPT)
    assert trimmed.tokenizer.token_to_id("<LATE>") == KEPT - 1
    assert trimmed.rows[-1] == late == VOCABULARY


def test_fewer_than_bytes_and_placeholders_is_refused(bpe_model_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"tokens.*480.*\d+"):
        trim_tokenizer(load_tokenizer(bpe_model_dir), 480)


def test_another_kind_of_tokenizer_is_refused() -> None:
    from tokenizers.models import WordLevel

    with pytest.raises(ValueError, match="WordLevel"):
        trim_tokenizer(Tokenizer(WordLevel({"a": 0}, unk_token="a")), 600)
