"""CTranslate2: the export is the checkpoint's model, loads with the library alone, and completes by the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from slimline.tasks.engines.base import CompletionEngine, load_engine
from slimline.tasks.export import ctranslate2_export
from slimline.tasks.export.ctranslate2_export import export_ctranslate2
from slimline.tasks.export.parity import logits_parity
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.quantization.dynamic_int8 import quantize_linear_only
from slimline.tasks.runtime.host import usable_weight_bits
from slimline.tasks.specs import Decoding, Engine, ExportCtranslate2
from tests.command import run_program
from tests.tasks.gpt2_models import POSITIONS, STOP, VOCABULARY, prompts, random_gpt2, save, trained_gpt2

PROGRAMS = Path(__file__).with_name("programs")
GREEDY = Decoding(max_new_tokens=12)
NAMED = VOCABULARY - 2  # the last two ids have no token, as after padding a vocabulary


def checkpoint_of(model: Any, directory: Path) -> Path:
    save(model, directory)
    vocabulary = {f"t{index}": index for index in range(NAMED)} | {"tokens beyond the model": 500}
    Tokenizer(WordLevel(vocabulary, unk_token="t0")).save(str(directory / "tokenizer.json"))
    return directory


def export(checkpoint: Path, target: Path, precision: Literal["float32", "int8"] = "float32") -> dict[str, Any]:
    return export_ctranslate2(checkpoint, target, ExportCtranslate2(precision=precision))


def load(directory: Path) -> CompletionEngine:
    return load_engine(Engine(name="ctranslate2"), directory, 1)


@pytest.fixture(scope="module", params=["random", "trained"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_gpt2() if request.param == "random" else trained_gpt2()
    directory = checkpoint_of(model, tmp_path_factory.mktemp(request.param))
    export(directory, directory / "float32")
    export(directory, directory / "int8", "int8")
    return directory


@pytest.fixture(scope="module")
def torch_engine(checkpoint: Path) -> CompletionEngine:
    return load_engine(Engine(name="torch"), checkpoint, 1)


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> CompletionEngine:
    return load(checkpoint / "float32")


def tokens(engine: CompletionEngine, batch: list[list[int]], decoding: Decoding = GREEDY) -> list[list[int]]:
    return [completion.tokens for completion in engine.complete(batch, STOP, decoding)]


def test_greedy_tokens_are_torchs(torch_engine: CompletionEngine, engine: CompletionEngine) -> None:
    batch = prompts(200)
    found = tokens(engine, batch)
    assert found == [row for start in range(0, 200, 8) for row in tokens(torch_engine, batch[start : start + 8])]
    assert any(len(row) < 12 for row in found) and any(len(row) == 12 for row in found)
    assert found == [tokens(engine, [prompt])[0] for prompt in batch]


def test_int8_is_close(checkpoint: Path, torch_engine: CompletionEngine) -> None:
    int8 = load(checkpoint / "int8")
    parity = logits_parity(torch_engine, int8, prompts(20), new_tokens=1)
    assert parity.max_abs > 0
    assert parity.greedy_agreement > 0.7
    # How close depends on the processor: without VNNI, weights have seven bits.
    for prompt in prompts(20):
        assert np.corrcoef(torch_engine.logits(prompt), int8.logits(prompt))[0, 1] > 0.9


def test_fixed_new_tokens_ignores_stop_tokens(engine: CompletionEngine, torch_engine: CompletionEngine) -> None:
    decoding = Decoding(fixed_new_tokens=9)
    completions = engine.complete(prompts(8), range(VOCABULARY), decoding)
    assert [completion.tokens for completion in completions] == tokens(torch_engine, prompts(8), decoding)
    assert all(completion.prefill_s > 0 and completion.decode_s > 0 for completion in completions)


def test_stop_tokens_end_a_completion_and_are_not_part_of_it(engine: CompletionEngine) -> None:
    assert [c.tokens for c in engine.complete([[7], [8, 9]], range(VOCABULARY), GREEDY)] == [[], []]
    assert engine.complete([], STOP, GREEDY) == []


def test_prompts_fit_exactly_or_are_refused(engine: CompletionEngine, torch_engine: CompletionEngine) -> None:
    full = [5] * (POSITIONS - 12)
    assert engine.complete([full], (), GREEDY)[0].tokens == torch_engine.complete([full], (), GREEDY)[0].tokens
    with pytest.raises(ValueError, match=rf"prompt 1 .*{len(full) + 1}.*{len(full)}"):
        engine.complete([full, [*full, 5]], (), GREEDY)
    with pytest.raises(ValueError, match=rf"prompt 0 .*97.*{VOCABULARY - 1}"):
        engine.logits([3, 97])


def test_beams_are_refused(engine: CompletionEngine) -> None:
    with pytest.raises(ValueError, match=r"beams.*5.*1"):
        engine.complete([[3]], STOP, Decoding(beams=5))


CHANGES: list[dict[str, Any]] = [
    {},
    {"n_head": 1},
    {"n_head": 8},
    {"n_embd": 30, "n_head": 3, "n_inner": 50},
    {"n_embd": 7, "n_head": 7, "n_inner": 1},
    {"scale_attn_weights": False},
    {"layer_norm_epsilon": 1e-2},
    {"tie_word_embeddings": False},
    {"bos_token_id": None, "eos_token_id": 50256},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_export_honours_the_configuration(changes: dict[str, Any], tmp_path: Path) -> None:
    directory = checkpoint_of(random_gpt2(**changes), tmp_path)
    reference = load_engine(Engine(name="torch"), directory, 1)
    notes = export(directory, tmp_path / "float32")
    tied = changes.get("tie_word_embeddings", True)
    assert notes == {"matmuls": 9, "int8_matmuls": 0, "compute_type": "float32", "tied_head": tied}
    assert logits_parity(reference, load(tmp_path / "float32"), prompts(3), new_tokens=4).max_abs < 1e-4
    notes = export(directory, tmp_path / "int8", "int8")
    of_int8 = {"compute_type": "int8_float32", "weight_bits": usable_weight_bits()}
    assert notes == {"matmuls": 9, "int8_matmuls": 9, "tied_head": tied} | of_int8
    assert logits_parity(reference, load(tmp_path / "int8"), prompts(3), new_tokens=1).max_abs < 2


def test_the_directory_holds_what_is_needed_and_a_tied_table_once(checkpoint: Path) -> None:
    projections, tables, positions = 2 * 12 * 32 * 32, VOCABULARY * 32, POSITIONS * 32
    norms, biases = (4 + 1) * 2 * 32, 2 * 9 * 32
    fp32 = 4 * (projections + tables + positions + norms + biases)
    int8 = projections + tables + 2 * (positions + norms + biases) + 4 * (2 * 9 * 32 + VOCABULARY)
    for precision, expected in (("float32", fp32), ("int8", int8)):
        files = {path.name: path.stat().st_size for path in (checkpoint / precision).iterdir()}
        assert set(files) == {"model.bin", "config.json", "vocabulary.json", "tokenizer.json"}
        assert expected < files["model.bin"] < expected + 6000  # names and shapes
        assert files["vocabulary.json"] < 8 * NAMED + 50


def test_both_worlds_read_the_configuration(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "int8" / "config.json").read_text())
    assert json.loads((checkpoint / "config.json").read_text()).items() <= config.items()
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("t0", "t1", "t1")
    vocabulary = json.loads((checkpoint / "int8" / "vocabulary.json").read_text())
    assert vocabulary[:2] + vocabulary[-2:] == ["t0", "t1", "<|unused 95|>", "<|unused 96|>"]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_library_alone_runs_it(precision: str, checkpoint: Path) -> None:
    output = run_program(PROGRAMS / "use_ctranslate2.py", checkpoint / precision).stdout
    assert json.loads(output) == tokens(load(checkpoint / precision), [[3, 4, 5], [9]])


def test_it_works_alone_and_ends_cleanly_in_a_fresh_process(checkpoint: Path) -> None:
    finished = run_program(PROGRAMS / "use_engine.py", "ctranslate2", checkpoint / "int8", 1)
    assert finished.stderr == ""
    found = json.loads(finished.stdout)
    assert not {"torch", "transformers", "tokenizers", "prefect"} & set(found["modules"])
    np.testing.assert_allclose(found["logits"], load(checkpoint / "int8").logits([3, 4, 5]), atol=1e-5)


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llama"}, r"model_type.*'llama'.*'gpt2'"),
    ({"activation_function": "relu"}, r"activation_function.*'relu'.*'gelu_new'"),
    ({"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx.*True"),
    ({"vocab_size": 98}, r"wte\.weight is \[97, 32\]; config.json allows \[98, 32\]"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_a_bad_configuration_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    directory = checkpoint_of(random_gpt2(), tmp_path)
    config = json.loads((directory / "config.json").read_text()) | fields
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        export(directory, tmp_path / "target")


def test_a_bad_checkpoint_is_refused(tmp_path: Path) -> None:
    directory = checkpoint_of(random_gpt2(), tmp_path / "model")
    quantize_linear_only(directory, tmp_path / "int8")
    with pytest.raises(CheckpointError, match="quantized by dynamic-int8"):
        export(tmp_path / "int8", tmp_path / "target")
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        export(directory, tmp_path / "target")
    weights = load_file(directory / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.bias"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"h\.1\.mlp\.c_fc\.bias"):
        export(directory, tmp_path / "target")
    (directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        export(directory, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_what_the_library_cannot_load_is_refused(tmp_path: Path) -> None:
    directory = checkpoint_of(random_gpt2(), tmp_path)
    with pytest.raises(CheckpointError, match=r"vocabulary\.json.*export-ctranslate2"):
        load(directory)
    export(directory, tmp_path / "made")
    for damage in ("[", "[]", "{}"):
        (tmp_path / "made" / "vocabulary.json").write_text(damage)
        with pytest.raises(CheckpointError, match=r"vocabulary\.json"):
            load(tmp_path / "made")
    export(directory, tmp_path / "made")
    whole = (tmp_path / "made" / "model.bin").read_bytes()
    for kept in (0, 10, 20_000):
        (tmp_path / "made" / "model.bin").write_bytes(whole[:kept])
        with pytest.raises(CheckpointError, match="ctranslate2"):
            load(tmp_path / "made")


@pytest.mark.parametrize(("bits", "largest"), [(7, 63), (8, 127)])
def test_weights_keep_to_the_bits_that_are_asked_for(
    bits: Literal[7, 8], largest: int, checkpoint: Path, torch_engine: CompletionEngine, tmp_path: Path
) -> None:
    stored: list[Any] = []

    class Recorded(ctranslate2_export.TransformerDecoderModelSpec):  # type: ignore[misc]
        def save(self, directory: str) -> None:
            stored.extend(value for name, value in self.variables().items() if name.endswith("/weight"))
            super().save(directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctranslate2_export, "TransformerDecoderModelSpec", Recorded)
        spec = ExportCtranslate2(precision="int8", weight_bits=bits)
        assert export_ctranslate2(checkpoint, tmp_path, spec)["weight_bits"] == bits
    matrices = [value.numpy() for value in stored if not isinstance(value, str)]
    assert {int(np.abs(each.astype(int)).max()) for each in matrices} == {largest}
    for prompt in prompts(5):
        assert np.corrcoef(torch_engine.logits(prompt), load(tmp_path).logits(prompt))[0, 1] > 0.9


def test_bits_of_a_weight_are_for_int8_only() -> None:
    with pytest.raises(ValueError, match="weight_bits"):
        ExportCtranslate2(weight_bits=7)
