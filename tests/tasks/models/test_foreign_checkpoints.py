"""Checkpoints that people bring: read as what they are, or refused by the name of the field or tensor.

Each kind is made from one checkpoint of slimline's, and compared with what transformers itself computes of it.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from transformers import GPT2LMHeadModel

from slimline.tasks.data.parquet import write_rows
from slimline.tasks.data.samples import Sample
from slimline.tasks.data.tokenizer import load_tokenizer
from slimline.tasks.export.onnx_export import export_onnx
from slimline.tasks.models.bases import make_base
from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.specs import HubBase, PathBase

PROMPT = torch.arange(3, 40)[None]
WEIGHTS = "model.safetensors"
LINES = ["for i in range ( <NUM_LIT:10> ) :", "return '<STR_LIT:name>' % x", "x = <NUM_LIT>"]


@pytest.fixture
def given(bpe_model_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint with a tokenizer that completes lines, to be changed."""
    return shutil.copytree(bpe_model_dir, tmp_path / "given")


@pytest.fixture
def slice_dir(tmp_path: Path) -> Path:
    """Lines to complete."""
    samples = [Sample(number, "f.py", "<s>", line) for number, line in enumerate(LINES)]
    (tmp_path / "slice").mkdir()
    write_rows(tmp_path / "slice" / "samples.parquet", samples)
    return tmp_path / "slice"


@pytest.fixture(params=["path", "hub"])
def made(request: pytest.FixtureRequest, given: Path, slice_dir: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes the base of the checkpoint, by its path, or by an id that is a directory."""

    def make() -> Path:
        base = PathBase(directory=given) if request.param == "path" else HubBase(id=str(given))
        (tmp_path / "base").mkdir()
        notes = make_base(base, slice_dir, tmp_path / "base")
        assert not notes["random_weights"]
        return tmp_path / "base"

    return make


def logits(directory: Path) -> torch.Tensor:
    with torch.no_grad():
        return GPT2LMHeadModel.from_pretrained(directory).eval()(PROMPT).logits


def edit_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "config.json"
    fields = json.loads(path.read_text("utf8"))
    change(fields)
    path.write_text(json.dumps(fields), "utf8")


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor] | None]) -> None:
    tensors = load_file(directory / WEIGHTS)
    changed = change(tensors) or tensors
    save_file({name: tensor.contiguous() for name, tensor in changed.items()}, directory / WEIGHTS)


def edit_tokenizer(directory: Path, change: Callable[[Tokenizer], object]) -> Tokenizer:
    path = directory / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    change(tokenizer)
    tokenizer.save(str(path))
    return tokenizer


def to_pickle(directory: Path) -> None:
    torch.save(load_file(directory / WEIGHTS), directory / "pytorch_model.bin")
    (directory / WEIGHTS).unlink()


def to_shards(directory: Path, end: str) -> None:
    tensors = list(load_file(directory / WEIGHTS).items())
    (directory / WEIGHTS).unlink()
    places = {}
    for number, part in enumerate((tensors[::2], tensors[1::2])):
        file = f"part-{number}{end}"
        places |= {name: file for name, _ in part}
        write = save_file if end == ".safetensors" else torch.save
        write(dict(part), directory / file)
    stem = "model" if end == ".safetensors" else "pytorch_model"
    (directory / f"{stem}{end}.index.json").write_text(json.dumps({"weight_map": places}))


def rename(pattern: str) -> Callable[[Path], None]:
    return lambda at: edit_weights(at, lambda old: {pattern.format(name): value for name, value in old.items()})


def to_aliases(fields: dict[str, Any]) -> None:
    aliases = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    for alias, name in (aliases | {"max_position_embeddings": "n_positions"}).items():
        fields[alias] = fields.pop(name)


def add_masks(tensors: dict[str, torch.Tensor]) -> None:
    for layer in range(2):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 96, 96).tril().bool()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


SAME: dict[str, Callable[[Path], object]] = {
    "as it is": lambda at: None,
    "torch.compile's names": rename("_orig_mod.{}"),
    "DataParallel's names": rename("module.{}"),
    "both": rename("module._orig_mod.{}"),
    "another model's part": rename("decoder.{}"),
    "names without transformer": lambda at: edit_weights(
        at, lambda old: {name.removeprefix("transformer."): value for name, value in old.items()}
    ),
    "a pickle of weights": to_pickle,
    "shards": lambda at: to_shards(at, ".safetensors"),
    "shards in pickles": lambda at: to_shards(at, ".bin"),
    "masks": lambda at: edit_weights(at, add_masks),
    "the head stored too": lambda at: edit_weights(
        at, lambda old: old | {"lm_head.weight": old["transformer.wte.weight"].clone()}
    ),
    "aliases of fields": lambda at: edit_config(at, to_aliases),
    "no model_type": lambda at: edit_config(at, lambda fields: fields.pop("model_type")),
    "a byte order mark": lambda at: (at / "config.json").write_bytes(
        b"\xef\xbb\xbf" + (at / "config.json").read_bytes()
    ),
    "several ends": lambda at: edit_config(at, lambda fields: fields.update(eos_token_id=[2, 50256])),
    "an end that is no token": lambda at: edit_config(at, lambda fields: fields.update(eos_token_id=50256)),
    "no special tokens": lambda at: edit_config(
        at, lambda fields: [fields.pop("bos_token_id"), fields.pop("eos_token_id")]
    ),
    "gelu by another name": lambda at: edit_config(at, lambda fields: fields.update(activation_function="gelu_fast")),
    "torch's gelu by tanh": lambda at: edit_config(
        at, lambda fields: fields.update(activation_function="gelu_pytorch_tanh")
    ),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_model_in_another_form_is_read_as_the_same(
    kind: str, given: Path, bpe_model_dir: Path, made: Callable[[], Path]
) -> None:
    expected = logits(bpe_model_dir)
    SAME[kind](given)
    base = made()
    assert torch.allclose(logits(base), expected, atol=1e-5)
    config = json.loads((base / "config.json").read_text("utf8"))
    assert [config[f"{role}_token_id"] for role in ("bos", "eos", "pad")] == [0, 2, 1]
    assert read_gpt2_config(base)["activation_function"] == "gelu_new"
    assert sorted(load_file(base / WEIGHTS)) == sorted(load_file(bpe_model_dir / WEIGHTS))


@pytest.mark.parametrize("steps", ["{}.half()", "{}.double()", "{}.bfloat16()"])
def test_any_floating_point_becomes_fp32(
    steps: str, given: Path, bpe_model_dir: Path, made: Callable[[], Path]
) -> None:
    expected = logits(bpe_model_dir)
    kind = getattr(torch, {"half": "half", "double": "double", "bfloat16": "bfloat16"}[steps[3:-2]])
    edit_weights(given, lambda old: {name: value.to(kind) for name, value in old.items()})
    base = made()
    assert {tensor.dtype for tensor in load_file(base / WEIGHTS).values()} == {torch.float32}
    assert torch.allclose(logits(base), expected, atol=0.05)


def test_the_scale_by_layer_becomes_a_part_of_the_weights(
    given: Path, made: Callable[[], Path], tmp_path: Path
) -> None:
    edit_config(given, lambda fields: fields.update(scale_attn_by_inverse_layer_idx=True))
    expected = logits(given)
    base = made()
    assert not read_gpt2_config(base)["scale_attn_by_inverse_layer_idx"]
    assert torch.allclose(logits(base), expected, atol=1e-5)
    export_onnx(base, tmp_path / "graph")


def test_a_head_of_its_own_is_kept_whatever_the_configuration_says(given: Path, made: Callable[[], Path]) -> None:
    def add_head(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 0.5

    edit_weights(given, add_head)
    head = load_file(given / WEIGHTS)["lm_head.weight"]
    base = made()
    assert read_gpt2_config(base)["tie_word_embeddings"] is False
    assert torch.equal(load_file(base / WEIGHTS)["lm_head.weight"], head)
    assert torch.equal(GPT2LMHeadModel.from_pretrained(base).lm_head.weight, head)


def put_nan(name: str, value: float) -> Callable[[Path], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[7] = value

    return lambda at: edit_weights(at, change)


def drop(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


FC = "transformer.h.0.mlp.c_fc.weight"
REFUSED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "NaN": (put_nan(FC, float("nan")), [FC, "1 of its 4096"]),
    "infinity": (put_nan("transformer.ln_f.bias", float("-inf")), ["transformer.ln_f.bias"]),
    "NaN in the embedding": (put_nan("transformer.wte.weight", float("nan")), ["transformer.wte.weight"]),
    "a tensor less": (lambda at: edit_weights(at, lambda old: drop(old, FC)), [FC, "missing"]),
    "a tensor more": (
        lambda at: edit_weights(at, lambda old: old | {"transformer.h.0.lora_a": torch.ones(2)}),
        ["transformer.h.0.lora_a"],
    ),
    "another shape": (
        lambda at: edit_weights(at, lambda old: old | {FC: torch.ones(32, 64)}),
        [FC, "[32, 64]", "[32, 128]"],
    ),
    "integers": (
        lambda at: edit_weights(at, lambda old: old | {FC: torch.ones(32, 128, dtype=torch.int8)}),
        [FC, "int8", "equantize"],
    ),
    "foreign names": (rename("layers.{}.x"), ["transformer.wte.weight"]),
    "no head, untied": (
        lambda at: edit_config(at, lambda fields: fields.update(tie_word_embeddings=False)),
        ["lm_head.weight", "tie_word_embeddings"],
    ),
    "quantized": (
        lambda at: edit_config(at, lambda fields: fields.update(quantization_config={"quant_method": "gptq"})),
        ["quantization_config", "gptq", "dequantize"],
    ),
    "neither model_type nor architectures": (
        lambda at: edit_config(at, lambda fields: [fields.pop("model_type"), fields.pop("architectures")]),
        ["config.json", '"model_type": "gpt2"'],
    ),
    "two names of a field that differ": (
        lambda at: edit_config(at, lambda fields: fields.update(hidden_size=64)),
        ["hidden_size", "64", "n_embd", "32"],
    ),
    "a list for a field": (lambda at: edit_config(at, lambda fields: fields.update(n_layer=[2])), ["n_layer", "[2]"]),
    "an activation that nobody knows": (
        lambda at: edit_config(at, lambda fields: fields.update(activation_function="gelu_neu")),
        ["activation_function", "'gelu_neu'", "gelu_new"],
    ),
    "a dropout that is no number": (
        lambda at: edit_config(at, lambda fields: fields.update(resid_pdrop="0.1")),
        ["resid_pdrop", "'0.1'"],
    ),
    "deep JSON": (lambda at: (at / "config.json").write_text("[" * 100_000), ["config.json", "not JSON"]),
    "a pickle that runs code": (
        lambda at: [to_pickle(at), (at / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")],
        ["pytorch_model.bin", "weights only"],
    ),
    "a pickle that is cut": (
        lambda at: [
            to_pickle(at),
            (at / "pytorch_model.bin").write_bytes((at / "pytorch_model.bin").read_bytes()[:9000]),
        ],
        ["pytorch_model.bin"],
    ),
    "a pickle of a training": (
        lambda at: [to_pickle(at), torch.save({"model": {}, "step": 3}, at / "pytorch_model.bin")],
        ["pytorch_model.bin", "'model'", "state_dict"],
    ),
    "a shard that is missing": (
        lambda at: [to_shards(at, ".safetensors"), (at / "part-1.safetensors").unlink()],
        ["index.json", "part-1.safetensors"],
    ),
    "a shard elsewhere": (
        lambda at: [
            to_shards(at, ".safetensors"),
            (at / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}'),
        ],
        ["index.json", "../x.safetensors"],
    ),
    "a tokenizer that is larger": (
        lambda at: edit_tokenizer(at, lambda tokenizer: tokenizer.add_tokens([f"word{n}" for n in range(10)])),
        ["910 tokens", "900 rows"],
    ),
    "a tokenizer that changes text": (
        lambda at: edit_tokenizer(
            at, lambda tokenizer: setattr(tokenizer, "normalizer", normalizers.Replace("x", "y"))
        ),
        ["does not give back 2 of 3 lines", "' % x\"", "' % y\""],
    ),
    "no tokenizer": (lambda at: [path.unlink() for path in at.glob("tokenizer*")], ["tokenizer.json"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_another_model_is_refused_by_name(kind: str, given: Path, made: Callable[[], Path]) -> None:
    harm, words = REFUSED[kind]
    harm(given)
    with pytest.raises(ValueError, match=r"(?s).") as refused:
        made()
    message = str(refused.value)
    assert all(word in message for word in words), message
    assert len(message) < 600 and "\n" not in message


# ------------------------------------------------------------------------------------------------------- tokenizers


def test_truncation_and_padding_that_were_saved_with_a_tokenizer_are_left_out(
    given: Path, bpe_model_dir: Path, made: Callable[[], Path]
) -> None:
    def change(tokenizer: Tokenizer) -> None:
        tokenizer.enable_truncation(8)
        tokenizer.enable_padding(length=12)

    edit_tokenizer(given, change)
    text = "<s> import os <EOL> def f ( x ) : <EOL> return x + <NUM_LIT:1> <EOL> print ( f )"
    expected = load_tokenizer(bpe_model_dir).encode(text, add_special_tokens=False).ids
    saved = Tokenizer.from_file(str(made() / "tokenizer.json"))
    assert saved.encode(text, add_special_tokens=False).ids == expected
    assert saved.truncation is None and saved.padding is None


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", None])
@pytest.mark.parametrize("completes", [True, False])
def test_a_foreign_tokenizer_gives_the_ids_of_its_own_file(
    kind: str | None, completes: bool, given: Path, made: Callable[[], Path]
) -> None:
    tokenizer = edit_tokenizer(
        given, lambda each: setattr(each, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True))
    )
    if not completes:
        (given / "tokenizer.json").write_text((given / "tokenizer.json").read_text().replace("<EOL>", "<LINE>"))
    settings = {"tokenizer_class": kind} if kind else {}
    (given / "tokenizer_config.json").write_text(json.dumps(settings))
    text = "x = os . path ( y )"
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    assert load_tokenizer(made()).encode(text, add_special_tokens=False).ids == expected


def test_blanks_around_special_tokens_that_are_no_part_of_them_come_back_once(
    given: Path, made: Callable[[], Path]
) -> None:
    path = given / "tokenizer.json"
    content = json.loads(path.read_text("utf8"))
    for token in content["added_tokens"]:
        token["lstrip"] = token["rstrip"] = False
    path.write_text(json.dumps(content), "utf8")
    made()  # which compares the lines of the slice with what the tokenizer makes of them


def test_rows_that_no_token_has_are_cut(given: Path, bpe_model_dir: Path, made: Callable[[], Path]) -> None:
    expected = logits(bpe_model_dir)
    edit_config(given, lambda fields: fields.update(vocab_size=960))
    edit_weights(
        given,
        lambda old: old | {"transformer.wte.weight": torch.cat([old["transformer.wte.weight"], torch.ones(60, 32)])},
    )
    base = made()
    assert read_gpt2_config(base)["vocab_size"] == 900
    assert torch.allclose(logits(base), expected, atol=1e-5)


def test_a_tokenizer_of_two_files_is_read(given: Path, made: Callable[[], Path]) -> None:
    content = json.loads((given / "tokenizer.json").read_text("utf8"))
    added = {token["content"] for token in content["added_tokens"]}
    words = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    vocabulary = {token: number for number, token in enumerate(words)}
    (given / "vocab.json").write_text(json.dumps(vocabulary))
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in content["model"]["merges"]]
    (given / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    for path in given.glob("tokenizer*"):
        path.unlink()
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<|UNKNOWN|>"}
    (given / "tokenizer_config.json").write_text(json.dumps(roles))
    tokenizer = load_tokenizer(made())
    assert tokenizer.encode("<EOL>", add_special_tokens=False).ids == [tokenizer.token_to_id("<EOL>")]
    assert added <= tokenizer.get_vocab().keys()


def test_a_special_token_that_is_an_ordinary_word_of_a_foreign_tokenizer_keeps_its_row(
    given: Path, made: Callable[[], Path]
) -> None:
    edit_tokenizer(given, lambda each: each.add_special_tokens([AddedToken("<pad>", special=True)]))
    assert read_gpt2_config(made())["vocab_size"] == 900


def test_an_export_that_is_not_the_same_is_refused(given: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        read_gpt2_config(given / "nowhere")
