"""Engines and the exporter on tiny models: both engines are the same model, alone or in a batch, greedy, by beams or
with drafts; and the graph alone, under onnxruntime, is that model too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from slimline.tasks.engines import onnx_engine
from slimline.tasks.engines.base import CompletionEngine, load_engine
from slimline.tasks.export.onnx_export import export_onnx
from slimline.tasks.export.parity import logits_parity, reference_logits
from slimline.tasks.models.checkpoint import CheckpointError, check_weights, read_gpt2_config
from slimline.tasks.quantization.dynamic_int8 import quantize_linear_only
from slimline.tasks.quantization.onnx_int8 import quantize_onnx
from slimline.tasks.specs import Decoding, Engine, EngineName
from tests.command import run_program
from tests.tasks.gpt2_models import POSITIONS, STOP, VOCABULARY, prompts, random_gpt2, save, trained_gpt2

PROGRAMS = Path(__file__).with_name("programs")
GREEDY = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module", params=["random", "trained"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_gpt2() if request.param == "random" else trained_gpt2()
    return save(model, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    target = checkpoint / "onnx"
    export_onnx(checkpoint, target)
    return target


@pytest.fixture(scope="module")
def engines(checkpoint: Path, exported: Path) -> dict[str, CompletionEngine]:
    return {
        "torch": load_engine(Engine(name="torch"), checkpoint, 1),
        "onnxruntime": load_engine(Engine(name="onnxruntime"), exported, 1),
    }


def tokens(engine: CompletionEngine, batch: list[list[int]], decoding: Decoding = GREEDY) -> list[list[int]]:
    return [completion.tokens for completion in engine.complete(batch, STOP, decoding)]


def test_logits_are_those_of_transformers(checkpoint: Path, engines: dict[str, CompletionEngine]) -> None:
    model = load_engine(Engine(name="torch"), checkpoint, 1)._model  # type: ignore[attr-defined]
    for prompt in prompts(10, longest=POSITIONS):
        expected = model(torch.tensor([prompt])).logits[0, -1].detach().numpy()
        for engine in engines.values():
            np.testing.assert_allclose(engine.logits(prompt), expected, atol=1e-4)


def test_greedy_tokens_are_equal_for_every_engine_and_batch_size(engines: dict[str, CompletionEngine]) -> None:
    batch = prompts(21)
    single = [tokens(engines["torch"], [prompt])[0] for prompt in batch]
    assert any(len(row) < 12 for row in single)
    for engine in engines.values():
        assert [tokens(engine, [prompt])[0] for prompt in batch] == single
        assert [row for start in range(0, 21, 7) for row in tokens(engine, batch[start : start + 7])] == single


def test_greedy_tokens_are_those_of_torch_on_many_prompts(engines: dict[str, CompletionEngine]) -> None:
    many = prompts(200, seed=7)
    expected = [row for start in range(0, 200, 50) for row in tokens(engines["torch"], many[start : start + 50])]
    assert tokens(engines["onnxruntime"], many) == expected


@pytest.mark.parametrize("drafts", [1, 4, 32])
def test_drafts_change_no_token(drafts: int, exported: Path, engines: dict[str, CompletionEngine]) -> None:
    drafting = load_engine(Engine(name="onnxruntime", draft_tokens=drafts), exported, 1)
    fixed, beams = Decoding(fixed_new_tokens=20), Decoding(beams=3, max_new_tokens=6)
    for batch in (prompts(25, seed=3), [[5], [7] * 30, [*range(30), *range(12)]]):
        for decoding in (GREEDY, fixed, beams):
            assert tokens(drafting, batch, decoding) == tokens(engines["onnxruntime"], batch, decoding)
    full = [*range(POSITIONS - 20)]
    assert tokens(drafting, [full], fixed) == tokens(engines["onnxruntime"], [full], fixed)


@pytest.mark.parametrize("chunk", [2, 7, 16])
def test_prompts_read_in_chunks_give_the_same_logits(
    chunk: int, engines: dict[str, CompletionEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, batch = engines["onnxruntime"], prompts(8, longest=POSITIONS, seed=5)
    whole = [engine.logits(prompt) for prompt in batch]
    monkeypatch.setattr(onnx_engine, "_CHUNK", chunk)
    for prompt, expected in zip(batch, whole, strict=True):
        np.testing.assert_allclose(engine.logits(prompt), expected, atol=1e-5)


def test_nothing_is_left_of_the_completion_before(exported: Path) -> None:
    used, short = load("onnxruntime", exported), [3, 4]
    tokens(used, [[9] * (POSITIONS - 12)])
    np.testing.assert_array_equal(used.logits(short), load("onnxruntime", exported).logits(short))
    kept = used.logits(short)
    used.logits([8, 8])
    np.testing.assert_array_equal(kept, used.logits(short))


def test_beams_are_equal_for_every_engine(engines: dict[str, CompletionEngine]) -> None:
    decoding = Decoding(beams=5, max_new_tokens=10)
    batch = prompts(6, seed=1)
    together = tokens(engines["torch"], batch, decoding)
    assert together == tokens(engines["onnxruntime"], batch, decoding)
    assert together == [tokens(engines["onnxruntime"], [prompt], decoding)[0] for prompt in batch]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_fixed_new_tokens_ignores_stop_tokens(name: str, beams: int, engines: dict[str, CompletionEngine]) -> None:
    decoding = Decoding(beams=beams, fixed_new_tokens=9)
    completions = engines[name].complete(prompts(4), range(VOCABULARY), decoding)
    assert [len(completion.tokens) for completion in completions] == [9] * 4
    assert all(completion.prefill_s > 0 and completion.decode_s > 0 for completion in completions)


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_a_stop_token_at_once_is_an_empty_completion(name: str, engines: dict[str, CompletionEngine]) -> None:
    completions = engines[name].complete(prompts(3), range(VOCABULARY), GREEDY)
    assert [completion.tokens for completion in completions] == [[], [], []]
    assert engines[name].complete([], STOP, GREEDY) == []


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_prompts_fit_exactly_or_are_refused(name: str, engines: dict[str, CompletionEngine]) -> None:
    engine = engines[name]
    full = [5] * (POSITIONS - 12)
    assert len(engine.complete([full], (), GREEDY)[0].tokens) == 12
    with pytest.raises(ValueError, match=rf"prompt 1 .*{len(full) + 1}.*{len(full)}"):
        engine.complete([full, [*full, 5]], (), GREEDY)
    with pytest.raises(ValueError, match=r"prompt 0 .*0 tokens"):
        engine.complete([[]], (), GREEDY)
    with pytest.raises(ValueError, match=rf"prompt 0 .*97.*{VOCABULARY - 1}"):
        engine.logits([3, 97])


def test_parity(engines: dict[str, CompletionEngine]) -> None:
    parity = logits_parity(engines["torch"], engines["onnxruntime"], prompts(5), new_tokens=4)
    assert parity.max_abs < 1e-4
    assert parity.greedy_agreement == 1.0


CHANGES: list[dict[str, Any]] = [
    {"n_head": 1},
    {"n_inner": 50},
    {"scale_attn_weights": False},
    {"layer_norm_epsilon": 1e-2},
    {"tie_word_embeddings": False},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_export_honours_the_configuration(changes: dict[str, Any], tmp_path: Path) -> None:
    directory = save(random_gpt2(**changes), tmp_path)
    notes = export_onnx(directory, tmp_path / "onnx")
    assert notes["matmuls"] == 9
    reference, other = (
        load_engine(Engine(name="torch"), directory, 1),
        load_engine(Engine(name="onnxruntime"), tmp_path / "onnx", 1),
    )
    assert logits_parity(reference, other, prompts(3), new_tokens=4).max_abs < 1e-4


def test_the_tied_embedding_is_stored_once(checkpoint: Path, exported: Path) -> None:
    weights = (exported / "model.onnx.data").stat().st_size
    assert weights < (checkpoint / "model.safetensors").stat().st_size + 20_000
    assert (exported / "model.onnx").stat().st_size < 20_000
    onnx.checker.check_model(str(exported / "model.onnx"))
    files = {path.name for path in exported.iterdir()}
    assert files == {"model.onnx", "model.onnx.data", "config.json", "tokenizer.json"}


def test_exporting_again_replaces_the_weights(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    for _ in range(2):
        export_onnx(checkpoint, tmp_path)
    assert (tmp_path / "model.onnx.data").stat().st_size == (exported / "model.onnx.data").stat().st_size


def test_the_tokenizer_loses_its_blanks_and_nothing_else(tmp_path: Path) -> None:
    directory = save(random_gpt2(), tmp_path)
    tokenizer = Tokenizer(WordLevel({"<unk>": 0, "é": 1, " ": 2}, unk_token="<unk>"))
    tokenizer.save(str(directory / "tokenizer.json"))
    export_onnx(directory, tmp_path / "onnx")
    assert Tokenizer.from_file(str(tmp_path / "onnx" / "tokenizer.json")).to_str() == tokenizer.to_str()
    assert b"\n" not in (tmp_path / "onnx" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("int8", [False, True])
def test_onnxruntime_alone_gives_the_reference_logits(int8: bool, exported: Path, tmp_path: Path) -> None:
    artifact = tmp_path if int8 else exported
    if int8:
        quantize_onnx(exported, artifact, per_channel=True)
    reference = reference_logits(load("onnxruntime", artifact))
    printed = run_program(PROGRAMS / "use_onnxruntime.py", artifact, *reference["prompt"]).stdout
    logits = np.array(json.loads(printed))
    np.testing.assert_allclose(logits[reference["tokens"]], reference["logits"], atol=1e-5)


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llama"}, r"model_type.*'llama'.*'gpt2'"),
    ({"n_layer": 0}, r"n_layer.*0"),
    ({"n_embd": "32"}, r"n_embd.*'32'"),
    ({"n_head": 5}, r"n_head.*5.*n_embd.*32"),
    ({"activation_function": "relu"}, r"activation_function.*'relu'.*'gelu_new'"),
    ({"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx.*True"),
    ({"add_cross_attention": True}, "add_cross_attention is True"),
    ({"n_head": 8}, "n_embd / n_head is 4; export-onnx allows multiples of 8"),
    ({"vocab_size": 98}, r"transformer\.wte\.weight.*\[97, 32\].*\[98, 32\]"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_a_bad_configuration_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    directory = save(random_gpt2(), tmp_path)
    config = json.loads((directory / "config.json").read_text()) | fields
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        export_onnx(directory, tmp_path / "onnx")


def test_absent_fields_take_the_defaults_of_transformers(tmp_path: Path) -> None:
    shape = {"model_type": "gpt2", "vocab_size": 9, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    (tmp_path / "config.json").write_text(json.dumps(shape | {"n_inner": None}))
    config = read_gpt2_config(tmp_path)
    assert config["n_inner"] == 64
    assert config["layer_norm_epsilon"] == 1e-5
    assert config["tie_word_embeddings"]


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_an_unreadable_configuration_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        read_gpt2_config(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_gpt2_config(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 200, 20_000])
def test_truncated_weights_are_refused(kept: int, tmp_path: Path) -> None:
    directory = save(random_gpt2(), tmp_path)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    for use in (check_weights, lambda path: export_onnx(path, tmp_path / "onnx"), lambda path: load("torch", path)):
        with pytest.raises(CheckpointError, match="truncated"):
            use(directory)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load("torch", directory)


def load(name: EngineName, directory: Path) -> CompletionEngine:
    return load_engine(Engine(name=name), directory, 1)


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    directory = save(random_gpt2(), tmp_path)
    weights = load_file(directory / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.bias"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"h\.1\.mlp\.c_fc\.bias"):
        load("torch", directory)
    with pytest.raises(CheckpointError, match=r"h\.1\.mlp\.c_fc\.bias.*missing"):
        export_onnx(directory, tmp_path / "onnx")


def test_each_engine_names_what_it_loads(tmp_path: Path) -> None:
    directory = save(random_gpt2(), tmp_path)
    with pytest.raises(ValueError, match=r"threads.*0"):
        load_engine(Engine(name="torch"), directory, 0)
    with pytest.raises(CheckpointError, match=r"model\.onnx is missing"):
        load("onnxruntime", directory)
    (directory / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="onnxruntime"):
        load("onnxruntime", directory)


def test_a_dynamic_int8_checkpoint_cannot_be_exported(tmp_path: Path) -> None:
    quantize_linear_only(save(random_gpt2(), tmp_path / "model"), tmp_path / "int8")
    with pytest.raises(CheckpointError, match="quantized by dynamic-int8"):
        export_onnx(tmp_path / "int8", tmp_path / "onnx")


def test_onnxruntime_works_alone_and_gives_the_same_logits_in_a_fresh_process(
    exported: Path, engines: dict[str, CompletionEngine]
) -> None:
    found = json.loads(run_program(PROGRAMS / "use_engine.py", "onnxruntime", exported, 2).stdout)
    assert not {"torch", "transformers", "prefect", "onnx"} & set(found["modules"])
    np.testing.assert_allclose(found["logits"], engines["torch"].logits([3, 4, 5]), atol=1e-4)
