"""Exports of one checkpoint by others' tools compute what transformers computes of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from slimline.tasks.engines.base import CompletionEngine
from slimline.tasks.external.adoption import adopt
from slimline.tasks.models.external import limits_of, read_layout
from slimline.tasks.specs import Decoding, EngineName, External
from tests.command import run_program
from tests.tasks.external.exported import ENGINES, EXPORTS, adopted, converted, edit_graph, engine_of, export_of, rename

PROMPTS = [[3, 4, 5, 6], [7], [9] * 20, list(range(5, 55))]
STOP = {2, 4}
USE_ENGINE = Path(__file__).parents[1] / "engines" / "programs" / "use_engine.py"


def completions(engine: CompletionEngine, beams: int = 1) -> list[list[int]]:
    decoding = Decoding(max_new_tokens=8, beams=beams)
    return [each.tokens for each in engine.complete(PROMPTS, STOP, decoding)]


def expect_equal(found: CompletionEngine, expected: CompletionEngine, beams: tuple[int, ...] = (1, 3)) -> None:
    for prompt in PROMPTS:
        np.testing.assert_allclose(found.logits(prompt), expected.logits(prompt), atol=1e-4)
    for each in beams:
        assert completions(found, each) == completions(expected, each)


def checkpoint_of(export: str, folder: Path) -> CompletionEngine:
    source = "llama" if export == "genai" else "checkpoint"
    return engine_of(export_of(source, folder / "reference"), folder / "reference-made", "torch")


@pytest.mark.parametrize("export", ["optimum", "genai", "openvino"])
def test_an_export_is_its_checkpoint(export: str, tmp_path: Path) -> None:
    engine = engine_of(export_of(export, tmp_path / "given"), tmp_path / "made", ENGINES[export])
    expect_equal(engine, checkpoint_of(export, tmp_path))


def test_what_ctranslate2_converts_is_its_checkpoint(tmp_path: Path) -> None:
    given = export_of("checkpoint", tmp_path / "given")
    engine = engine_of(converted(given, tmp_path / "converted"), tmp_path / "made", "ctranslate2")
    assert limits_of(tmp_path / "made") == (64, 300)
    expect_equal(engine, engine_of(given, tmp_path / "reference", "torch"), beams=(1,))


def test_the_checkpoint_of_others_is_that_of_slimline(tmp_path: Path) -> None:
    from slimline.tasks.engines.base import load_engine
    from slimline.tasks.specs import Engine

    given = export_of("checkpoint", tmp_path / "given")
    expect_equal(engine_of(given, tmp_path / "made", "torch"), load_engine(Engine(name="torch"), given, 1))


def test_names_of_onnxruntimes_own_exporter_are_known(tmp_path: Path) -> None:
    """`genai_config.json` renames inputs, and says the size that the graph leaves open."""
    given = export_of("genai", tmp_path / "given")
    config = json.loads((given / "genai_config.json").read_text("utf8"))
    config["model"]["decoder"]["inputs"]["input_ids"] = "ids"
    (given / "genai_config.json").write_text(json.dumps(config), "utf8")
    edit_graph(given / "model.onnx", lambda graph: rename(graph, "input_ids", "ids"))
    expect_equal(engine_of(given, tmp_path / "made", "onnxruntime"), checkpoint_of("genai", tmp_path))
    layout = read_layout(tmp_path / "made")
    assert layout.inputs and layout.inputs.tokens.name == "ids"
    assert layout.cache[0].shape == (1, 1, 0, 16)


def test_a_merged_decoder_is_told_when_it_has_a_cache(tmp_path: Path) -> None:
    given = export_of("optimum", tmp_path / "given")
    (given / "model.onnx").rename(given / "decoder_model_merged.onnx")

    def add_branch(graph: onnx.GraphProto) -> None:
        graph.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
        graph.node.append(helper.make_node("Cast", ["use_cache_branch"], ["unused"], to=TensorProto.FLOAT))

    edit_graph(given / "decoder_model_merged.onnx", add_branch)
    expect_equal(engine_of(given, tmp_path / "made", "onnxruntime"), checkpoint_of("optimum", tmp_path))
    assert read_layout(tmp_path / "made").graph == "decoder_model_merged.onnx"


def test_a_graph_of_its_own_for_the_first_run(tmp_path: Path) -> None:
    """A pair, of which the first graph has no cache among its inputs: here, an empty constant in its place."""
    given = export_of("optimum", tmp_path / "given")
    (given / "decoder_with_past_model.onnx").write_bytes((given / "model.onnx").read_bytes())
    (given / "model.onnx").rename(given / "decoder_model.onnx")

    def drop_past(graph: onnx.GraphProto) -> None:
        pasts = [value for value in graph.input if value.name.startswith("past")]
        for value in pasts:
            graph.input.remove(value)
            graph.initializer.append(helper.make_tensor(value.name, TensorProto.FLOAT, [1, 2, 0, 8], []))

    edit_graph(given / "decoder_model.onnx", drop_past)
    expect_equal(engine_of(given, tmp_path / "made", "onnxruntime"), checkpoint_of("optimum", tmp_path))
    assert read_layout(tmp_path / "made").first_graph == "decoder_model.onnx"


def test_half_precision_in_weights_and_cache(tmp_path: Path) -> None:
    given = export_of("optimum", tmp_path / "given")
    onnx.save_model(convert_float_to_float16(onnx.load_model(given / "model.onnx")), given / "model.onnx")
    engine, expected = engine_of(given, tmp_path / "made", "onnxruntime"), checkpoint_of("optimum", tmp_path)
    assert {port.dtype for port in read_layout(tmp_path / "made").cache} == {"float16"}
    for prompt in PROMPTS:
        np.testing.assert_allclose(engine.logits(prompt), expected.logits(prompt), atol=0.1)
    assert engine.complete(PROMPTS, STOP, Decoding(max_new_tokens=8, beams=2))


def test_of_quantized_weights_no_parameters_are_counted(tmp_path: Path) -> None:
    given, target = export_of("optimum", tmp_path / "given"), tmp_path / "made"
    quantize_dynamic(given / "model.onnx", given / "model_quantized.onnx", weight_type=QuantType.QInt8)
    target.mkdir()
    assert adopt(External(directory=given, file="model_quantized.onnx"), target) == {
        "format": "onnx",
        "n_positions": 64,
    }
    assert (target / "model_quantized.onnx").is_file() and not (target / "model.onnx").exists()


def test_a_graph_in_a_folder_and_by_name(tmp_path: Path) -> None:
    given = export_of("optimum", tmp_path / "given")
    (given / "onnx").mkdir()
    (given / "model.onnx").rename(given / "onnx" / "model_fp32.onnx")
    (given / "onnx" / "model_q4.onnx").write_bytes(b"")
    made = adopted(given, tmp_path / "made", file="onnx/model_fp32.onnx")
    assert (made / "onnx" / "model_fp32.onnx").is_file() and not (made / "onnx" / "model_q4.onnx").exists()


@pytest.mark.parametrize(("export", "engine"), ENGINES.items())
def test_only_what_inference_needs_is_copied_and_counted(export: str, engine: EngineName, tmp_path: Path) -> None:
    given = export_of(export, tmp_path / "given")
    (given / "training_args.json").write_text("{}")
    (tmp_path / "made").mkdir()
    notes = adopt(External(directory=given), tmp_path / "made")
    copied = {path.name for path in (tmp_path / "made").iterdir()} - {"external.json"}
    assert copied == {path.name for path in (EXPORTS / export).iterdir()} | {"tokenizer.json"}
    assert limits_of(tmp_path / "made") == (64, 300)
    expected = 15_312 if export in ("llama", "genai") else 12_384
    assert notes["n_positions"] == 64 and notes["parameters"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("export", ["optimum", "openvino"])
def test_only_the_engines_libraries_are_imported(export: str, tmp_path: Path) -> None:
    made = adopted(export_of(export, tmp_path / "given"), tmp_path / "made")
    found = json.loads(run_program(USE_ENGINE, ENGINES[export], made, 2).stdout)
    others = {"torch", "transformers", "prefect", "onnx", "onnxruntime", "openvino"} - {ENGINES[export]}
    assert not others & set(found["modules"])
