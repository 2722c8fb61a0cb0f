"""What cannot be run is refused before anything is copied, by the name of the file, field, input or tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from slimline.tasks.external.adoption import adopt
from slimline.tasks.specs import External
from tests.tasks.external.exported import converted, edit_graph, edit_json, export_of, rename

Change = Callable[[Path], object]


def on_graph(change: Callable[[onnx.GraphProto], object]) -> Change:
    return lambda given: edit_graph(given / "model.onnx", change)


def without(graph: onnx.GraphProto, field: str, name: str) -> None:
    values = getattr(graph, field)
    values.remove(next(value for value in values if value.name == name))


def no_cache(graph: onnx.GraphProto) -> None:
    for value in [value for value in graph.input if value.name.startswith("past")]:
        graph.input.remove(value)
        graph.initializer.append(helper.make_tensor(value.name, TensorProto.FLOAT, [1, 2, 0, 8], []))


def with_input(name: str) -> Callable[[onnx.GraphProto], object]:
    return lambda graph: graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "n"]))


def with_nan(graph: onnx.GraphProto) -> None:
    tensor = next(each for each in graph.initializer if each.name == "transformer.wpe.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[3, 1] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def fixed_length(graph: onnx.GraphProto) -> None:
    next(each for each in graph.input if each.name == "input_ids").type.tensor_type.shape.dim[1].dim_value = 8


def external_to(location: str) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value

    return on_graph(change)


def cut(name: str, size: int) -> Change:
    return lambda given: (given / name).write_bytes((given / name).read_bytes()[:size])


def remove(name: str) -> Change:
    return lambda given: (given / name).unlink()


def linked(name: str) -> Change:
    def change(given: Path) -> None:
        outside = given.with_name("outside")
        (given / name).rename(outside)
        (given / name).symlink_to(outside)

    return change


def edit(name: str, **fields: Any) -> Change:
    return lambda given: edit_json(given / name, **fields)


def genai(**fields: Any) -> Change:
    def change(given: Path) -> None:
        model = json.loads((given / "genai_config.json").read_text("utf8"))["model"]
        edit_json(given / "genai_config.json", model=model | fields)

    return change


def other_tokens(given: Path) -> None:
    """A tokenizer without an end of the line."""
    text = (given / "tokenizer.json").read_text("utf8").replace("<EOL>", "<NEWLINE>")
    (given / "tokenizer.json").write_text(text, "utf8")


def larger_tokenizer(given: Path) -> None:
    tokenizer = Tokenizer.from_file(str(given / "tokenizer.json"))
    tokenizer.add_tokens(["another"])
    tokenizer.save(str(given / "tokenizer.json"))


def tensors(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(given: Path) -> None:
        found = load_file(given / "model.safetensors")
        change(found)
        save_file(found, given / "model.safetensors", metadata={"format": "pt"})

    return apply


def nan_weight(found: dict[str, Any]) -> None:
    found["transformer.wpe.weight"][2, 2] = np.nan


def pickled(given: Path) -> None:
    (given / "model.safetensors").rename(given / "pytorch_model.bin")


def with_index(place: str) -> Change:
    def change(given: Path) -> None:
        (given / "model.safetensors").rename(given / "weights")
        (given / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": place}}))

    return change


def without_state(given: Path) -> None:
    """An OpenVINO model of the same inputs and outputs that keeps nothing."""
    op = openvino.opset15
    ids = op.parameter([-1, -1], np.int64, "input_ids")
    ids.output(0).set_names({"input_ids"})
    logits = op.gather(op.constant(np.zeros((300, 300), np.float32)), ids, op.constant(np.int64(0)))
    logits.output(0).set_names({"logits"})
    openvino.save_model(openvino.Model([op.result(logits)], [ids]), given / "openvino_model.xml", False)


REFUSED: list[tuple[str, Change, str]] = [
    ("optimum", remove("tokenizer.json"), r"tokenizer\.json is missing; copy it from the checkpoint"),
    ("optimum", other_tokens, r"the tokenizer lacks <EOL>"),
    ("optimum", larger_tokenizer, r"the tokenizer has 301 tokens, but the model only 300"),
    ("optimum", edit("config.json", n_positions=None), r"config\.json has no number of positions.*give n_positions"),
    ("optimum", on_graph(no_cache), r"model\.onnx: no inputs of a key/value cache"),
    ("optimum", on_graph(with_input("token_type_ids")), r"inputs token_type_ids are not known; allowed: input_ids"),
    ("optimum", on_graph(with_input("encoder_hidden_states")), r"encoder_hidden_states is of an encoder-decoder"),
    (
        "optimum",
        on_graph(lambda graph: without(graph, "output", "present.1.key")),
        r"output present\.1\.key is missing",
    ),
    ("optimum", on_graph(lambda graph: without(graph, "output", "logits")), r"output logits is missing"),
    ("optimum", on_graph(lambda graph: rename(graph, "input_ids", "ids")), r"inputs ids are not known"),
    ("optimum", on_graph(with_nan), r"transformer\.wpe\.weight is NaN or infinite at 1 of its 1024"),
    ("optimum", on_graph(fixed_length), r"input_ids has a fixed length of 8"),
    ("optimum", cut("model.onnx", 9_000), r"model\.onnx: not an ONNX graph"),
    ("optimum", cut("model.onnx", 0), r"model\.onnx: not an ONNX graph"),
    ("optimum", linked("model.onnx"), r"model\.onnx is a link to .*outside"),
    ("optimum", linked("tokenizer.json"), r"tokenizer\.json is a link to .*outside"),
    ("genai", remove("model.onnx.data"), r"model\.onnx\.data is missing; model\.onnx has the weight"),
    ("genai", cut("model.onnx.data", 1_000), r"model\.onnx\.data: 1000 bytes, but model\.onnx describes"),
    ("genai", external_to("../outside"), r"'\.\./outside' is not a file of the directory"),
    ("genai", external_to("/etc/passwd"), r"'/etc/passwd' is not a file of the directory"),
    ("genai", remove("model.onnx"), r"model\.onnx is missing"),
    ("genai", genai(decoder={"filename": "../model.onnx"}), r"'\.\./model\.onnx' is not a file of the directory"),
    ("genai", genai(decoder={}), r"model\.decoder has no filename"),
    ("genai", genai(vision={}), r"model\.vision is there; allowed: a decoder only"),
    ("openvino", remove("openvino_model.bin"), r"openvino_model\.bin is missing"),
    ("openvino", cut("openvino_model.bin", 1_000), r"openvino_model\.bin: 1000 bytes"),
    ("openvino", cut("openvino_model.xml", 1_000), r"not a whole openvino graph"),
    ("openvino", without_state, r"no key/value cache, neither a state nor inputs"),
    ("checkpoint", pickled, r"model\.safetensors is missing; pytorch_model\.bin is a pickle.*save_pretrained"),
    ("checkpoint", tensors(nan_weight), r"transformer\.wpe\.weight is NaN or infinite at 1 of its 1024"),
    ("checkpoint", cut("model.safetensors", 5_000), r"model\.safetensors: truncated or damaged"),
    ("checkpoint", remove("config.json"), r"config\.json is missing"),
    ("checkpoint", edit("config.json", model_type="thing"), r"model_type is 'thing'; transformers has no such one"),
    ("checkpoint", edit("config.json", model_type="thing", auto_map={"a": "b"}), r"needs code of its own"),
    ("checkpoint", edit("config.json", is_encoder_decoder=True), r"is_encoder_decoder is true"),
    ("checkpoint", edit("config.json", architectures=["GPT2ForTokenClassification"]), r"allowed: GPT2LMHeadModel"),
    (
        "checkpoint",
        edit("config.json", quantization_config={"bits": 4}),
        r"quantization_config: the weights are quantized",
    ),
    ("checkpoint", with_index("../outside.safetensors"), r"'\.\./outside\.safetensors' is not a file of the directory"),
    ("checkpoint", with_index("gone.safetensors"), r"gone\.safetensors is missing; model\.safetensors\.index\.json"),
    ("ctranslate2", remove("vocabulary.json"), r"vocabulary\.json is missing"),
    ("ctranslate2", cut("model.bin", 20_000), r"model\.bin: truncated or damaged"),
    ("ctranslate2", cut("model.bin", 3), r"model\.bin: truncated or damaged"),
    ("ctranslate2", remove("tokenizer.json"), r"tokenizer\.json is missing"),
    ("ctranslate2", remove("config.json"), r"config\.json is missing"),
]


@pytest.fixture(scope="module")
def ctranslate2_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ctranslate2")
    return converted(export_of("checkpoint", folder / "checkpoint"), folder / "converted")


@pytest.mark.parametrize(("export", "change", "reason"), REFUSED, ids=[reason for _, _, reason in REFUSED])
def test_it_is_said_what_is_missing(
    export: str, change: Change, reason: str, tmp_path: Path, ctranslate2_directory: Path
) -> None:
    given, target = tmp_path / "given", tmp_path / "target"
    target.mkdir()
    if export == "ctranslate2":
        shutil.copytree(ctranslate2_directory, given)
    else:
        export_of(export, given)
    change(given)
    with pytest.raises(ValueError, match=reason) as refused:
        adopt(External(directory=given), target)
    assert "\n" not in str(refused.value) and not list(target.iterdir())


def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(tmp_path: Path) -> None:
    blobs, snapshot = export_of("checkpoint", tmp_path / "model" / "blobs"), tmp_path / "model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    (tmp_path / "target").mkdir()
    adopt(External(directory=snapshot), tmp_path / "target")
    assert not any(path.is_symlink() for path in (tmp_path / "target").iterdir())


def test_positions_are_at_most_those_of_the_model(tmp_path: Path) -> None:
    given = export_of("optimum", tmp_path / "given")
    (tmp_path / "target").mkdir()
    with pytest.raises(ValueError, match="n_positions: 65; allowed: at most the model's 64"):
        adopt(External(directory=given, n_positions=65), tmp_path / "target")
    assert adopt(External(directory=given, n_positions=32), tmp_path / "target")["n_positions"] == 32
